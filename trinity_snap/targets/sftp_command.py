"""How OpenSSH's client is called: as the operator configured it, asking nobody anything, trusting no new host key."""

from __future__ import annotations

import re
from pathlib import Path

from trinity_snap.errors import KeyFileError, UsageError
from trinity_snap.targets.settings import TargetSettings
from trinity_snap.targets.sftp_address import SftpAddress

__all__ = ["known_hosts_of", "ssh_command"]

_ALWAYS = (
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "UpdateHostKeys=no",
    "ControlMaster=no",  # a connection shared with others would end with theirs, and make one of several
    "ControlPath=none",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "RequestTTY=no",
    "Compression=no",  # what is sealed does not compress
    "LogLevel=ERROR",
    "ConnectTimeout=20",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=4",
)


def ssh_command(settings: TargetSettings, address: SftpAddress) -> list[str]:
    """The command whose standard input and output are the SFTP server.

    Raise KeyFileError for a key that ssh would pass over, UsageError for files that it cannot name.
    """
    command = ["ssh"]
    for option in _ALWAYS:
        command += ["-o", option]
    if settings.ssh_key_file is not None:
        _check_key(settings.ssh_key_file)
        command += ["-o", f"IdentityFile={_quoted(settings.ssh_key_file)}", "-o", "IdentitiesOnly=yes"]
    if settings.known_hosts_file is not None:
        command += ["-o", f"UserKnownHostsFile={_quoted(settings.known_hosts_file)}", "-o", "GlobalKnownHostsFile=none"]
    if address.user is not None:
        command += ["-l", address.user]
    if address.port is not None:
        command += ["-p", str(address.port)]
    return [*command, "-s", "--", address.host, "sftp"]


def known_hosts_of(settings: TargetSettings) -> str:
    """The file in which the server's host key should be."""
    return "~/.ssh/known_hosts" if settings.known_hosts_file is None else str(settings.known_hosts_file)


def _check_key(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise KeyFileError(
            f"The SSH key {path} cannot be used: {error.strerror}.",
            next_step="See `target.ssh_key_file` in the policy.",
        ) from error
    if mode & 0o077:
        raise KeyFileError(f"Others may read the SSH key {path}.", next_step=f"Run `chmod 600 {path}`.")


def _quoted(path: Path) -> str:
    """A path that ssh reads as it is: it splits at blanks, and replaces `%` and `${…}`."""
    if re.search(r'["$\\]', str(path)):
        raise UsageError(
            f"ssh cannot use a file named {path}.", next_step="Name one without quotes, backslashes and $."
        )
    return '"' + str(path).replace("%", "%%") + '"'
