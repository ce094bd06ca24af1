"""How an OpenSSH server is set up for a host that may add objects and do nothing else to what is there."""

from __future__ import annotations

from pathlib import Path

from trinity_snap.targets.settings import TargetSettings
from trinity_snap.targets.sftp_address import split_sftp_url

__all__ = ["server_settings"]

_HOST_MAY = "open,close,read,write,lstat,stat,fstat,opendir,readdir,mkdir,hardlink,fsync,statvfs,limits"
_BASE = "/srv/trinity-snap"
_KEYS = "/etc/ssh/trinity-snap"


def server_settings(settings: TargetSettings, *, control: bool) -> dict[str, object]:
    """What to write on the server, and what that does not do, for this host or for the control node.

    `prepare` are commands, `sshd_config` goes into the file of that name, `authorized_keys` into the file that it names.
    Raise ValueError for a target that is no SFTP server.
    """
    address = split_sftp_url(settings.url)
    user = address.user or "USER"
    directory = f"{_BASE}/{user}/{address.path.strip('/')}".removesuffix("/.")
    command = "internal-sftp -d /" if control else f"internal-sftp -d / -p {_HOST_MAY}"
    return {
        "prepare": [
            f"useradd --system --no-create-home --shell /usr/sbin/nologin {user}",
            f"install -d -o root -g root -m 755 {_BASE} {_BASE}/{user} {_KEYS}",
            f"install -d -o {user} -m 700 {directory}",
        ],
        "sshd_config": "\n".join(
            (
                f"Match User {user}",
                f"    ChrootDirectory {_BASE}/%u",
                f"    AuthorizedKeysFile {_KEYS}/%u",
                "    AuthenticationMethods publickey",
                "    DisableForwarding yes",
                "    PermitTTY no",
            )
        ),
        "authorized_keys_file": f"{_KEYS}/{user}",
        "authorized_keys": f'restrict,command="{command}" {_public_key(settings.ssh_key_file, control)}',
        "notes": _notes(control),
    }


def _public_key(path: Path | None, control: bool) -> str:
    """The public half of this host's key, if it lies beside the private one."""
    if path is not None and not control:
        try:
            lines = path.with_name(f"{path.name}.pub").read_text("utf-8").splitlines()
        except (OSError, ValueError):
            lines = []
        if lines and lines[0].isprintable():
            return lines[0].strip()
    return "ssh-ed25519 AAAA…"


def _notes(control: bool) -> list[str]:
    if control:
        return [
            "This key may do everything in that directory: keep it away from the hosts.",
            "What it puts there also clears up .tmp, which hosts without the right to remove cannot.",
        ]
    return [
        "OpenSSH refuses all that is not in the list after -p. Objects have mode 0400, and no modes can be changed, so they are",
        "never written to again; nor can the host rename, remove or replace them, or set their times.",
        "It may still fill the disk: give the user a quota. It leaves names in .tmp, which take up no room, until the control",
        "node puts something there.",
        "Whoever is root on that server can do everything: snapshots of its filesystem, or a second repository, help there.",
        "Without -p an SFTP user can delete whatever it can write.",
    ]
