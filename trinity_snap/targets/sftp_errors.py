"""What ssh and SFTP servers say when something is wrong, in words for an operator, and whether it passes by itself."""

from __future__ import annotations

import re

from trinity_snap.errors import TargetDenied, TargetError, TargetFull
from trinity_snap.targets.sftp_address import SftpAddress
from trinity_snap.targets.sftp_session import ConnectionLost, Refused
from trinity_snap.targets.sftp_wire import FilesystemState, Status

__all__ = ["connection_error", "refusal_error"]

_SLACK_BYTES = 1 << 20
_WRITE_PROTECTED, _NO_SPACE, _QUOTA = 12, 14, 15  # of later versions; some servers say them all the same
_UNSUPPORTED = 8


def connection_error(lost: ConnectionLost, doing: str, address: SftpAddress, known_hosts: str) -> TargetError:
    """The error of this package for a connection that could not be made, or broke. `known_hosts` is the file's name."""
    said, place = lost.said, _host(address)
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in said or re.search(
        r"host key .*(has changed|is revoked)", said, re.I
    ):
        return TargetDenied(
            f"{doing}: {place} has another host key than the one that is known.",
            untouched="Nothing was sent.",
            next_step=(
                "Somebody may be answering in its place. Ask whoever runs that server whether its key was changed; only then "
                f"remove the old one, `ssh-keygen -R '{_pattern(address)}' -f {known_hosts}`, and add the new one."
            ),
        )
    if "Host key verification failed" in said:
        return TargetDenied(
            f"{doing}: the host key of {place} is not known here.",
            untouched="Nothing was sent.",
            next_step=(
                "Get its fingerprint from whoever runs that server (`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` there). "
                f"Then `ssh-keyscan{_port(address)} {address.host} >> {known_hosts}`, and compare: "
                f"`ssh-keygen -lF '{_pattern(address)}' -f {known_hosts}`."
            ),
        )
    if re.search(r"Permission denied|Too many authentication failures|No more authentication methods", said):
        return TargetDenied(
            f"{doing}: {place} does not let this user in{_because(said)}.",
            next_step=(
                "See that the public key is in its `authorized_keys`, and `target.ssh_key_file` or ~/.ssh/config name the "
                "private key. Nobody is asked for a passphrase: the key has none, or an agent holds it."
            ),
        )
    if "subsystem request failed" in said:
        return TargetError(
            f"{doing}: {place} lets this user in, and offers no SFTP.",
            next_step="Its sshd_config needs the line `Subsystem sftp internal-sftp`.",
        )
    if re.search(r"Bad configuration option|terminating, \d+ bad configuration|Bad owner or permissions", said):
        return TargetError(
            f"{doing}: ssh does not take its configuration{_because(said)}.", next_step="See ~/.ssh/config."
        )
    if not lost.began and lost.reason.endswith("cannot be run: No such file or directory"):
        return TargetError(f"{doing}: there is no ssh here.", next_step="Install OpenSSH's client (openssh-client).")
    if not lost.began and lost.reason.startswith("it "):
        return TargetError(
            f"{doing}: {place} answers, but not as an SFTP server does ({lost.reason}){_because(said)}.",
            next_step="See whether something in that user's shell start-up files writes, or a forced command is in the way.",
        )
    what = "the connection to it broke" if lost.began else "it cannot be reached"
    return TargetError(
        f"{doing}: {place}: {what} ({lost.reason}){_because(said)}.",
        next_step=f"See whether `ssh{_port(address, '-p')} {_login(address)}` works as this user, and the network.",
        transient=True,
    )


def refusal_error(refused: Refused, doing: str, state: FilesystemState | None, needed: int = 0) -> TargetError:
    """The error of this package for a refusal. `state` is what the server says of the filesystem, `needed` bytes."""
    said = refused.message or f"status {refused.code}"
    if (state is not None and state.read_only) or refused.code == _WRITE_PROTECTED:
        return TargetDenied(
            f"{doing}: the filesystem there can only be read ({said}).", next_step="See why, on that server."
        )
    full = state is not None and (state.bytes_free < needed + _SLACK_BYTES or state.files_free == 0)
    if refused.code in (_NO_SPACE, _QUOTA) or (full and refused.code == Status.FAILURE):
        return TargetFull(
            f"{doing}: there is no room left ({said}).",
            untouched="Nothing of it is left there.",
            next_step="Make room on that filesystem, or have the quota raised.",
        )
    if refused.code == Status.DENIED:
        return TargetDenied(
            f"{doing}: the server refused permission ({said}).",
            next_step="See who owns that directory there, and what sshd_config and authorized_keys allow this user.",
        )
    if refused.code == Status.FAILURE:
        return TargetError(
            f"{doing}: the server could not do it, and does not say why ({said}).",
            next_step="See its disk and its logs; a quota that is used up looks like this, too.",
        )
    return TargetError(f"{doing}: the server answered: {said}.", next_step="See that server's logs.")


def _host(address: SftpAddress) -> str:
    return address.host if address.port is None else f"{address.host} port {address.port}"


def _login(address: SftpAddress) -> str:
    return address.host if address.user is None else f"{address.user}@{address.host}"


def _pattern(address: SftpAddress) -> str:
    """How known_hosts names it."""
    return address.host if address.port in (None, 22) else f"[{address.host}]:{address.port}"


def _port(address: SftpAddress, option: str = "-p") -> str:
    return "" if address.port is None else f" {option} {address.port}"


def _because(said: str) -> str:
    """The last thing that ssh wrote, if it is fit to be shown."""
    lines = [line for line in said.splitlines() if line.strip()]
    last = "".join(letter for letter in lines[-1] if letter.isprintable()).strip().rstrip(".") if lines else ""
    return f": ssh says: {last[:300]}" if last else ""
