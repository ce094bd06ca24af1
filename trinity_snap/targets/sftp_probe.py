"""What an SFTP server lets the key of this host do to files that are there, found out by trying on files of its own."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from trinity_snap.targets.probe import Protection
from trinity_snap.targets.sftp import SftpTarget
from trinity_snap.targets.sftp_client import SftpClient
from trinity_snap.targets.sftp_put import TEMPORARY, below
from trinity_snap.targets.sftp_session import Refused
from trinity_snap.targets.sftp_wire import CREATE, EXCLUSIVE, TRUNCATE, WRITING

__all__ = ["SftpProtection", "probe_sftp"]


@dataclass(frozen=True)
class SftpProtection(Protection):
    """What a server refuses to this host. `may_change`: content, modes and times of files; `may_delete`: or rename.

    Snapshots of the server's filesystem are not to be seen from here.
    """

    may_change: bool = True
    may_delete: bool = True

    def to_json(self) -> dict[str, object]:
        """As `--json` shows it."""
        return super().to_json() | {"may_change": self.may_change, "may_delete": self.may_delete}

    def consequences(self) -> list[str]:
        """What that means, in whole sentences."""
        said = []
        if not self.refuses_overwriting:
            said.append(
                "The server gives a name that is taken to another file. No honest run gives a name twice, so backups are safe"
                " from each other."
            )
        if self.may_change or self.may_delete:
            can = " and ".join(what for what, may in (("change", self.may_change), ("delete", self.may_delete)) if may)
            said.append(
                f"Whoever has this host's SSH key can {can} every recovery point there. Let the server refuse that"
                " (`trinity-snap target policy` prints how, for OpenSSH), or keep snapshots of that filesystem, out of reach"
                " of this key."
            )
        else:
            said.append(
                "The server lets this host add objects and read them, and refuses to change, rename or remove what is there:"
                " who has this host's SSH key can destroy no recovery point. Whoever administers that server can."
            )
        return said


def probe_sftp(target: SftpTarget) -> SftpProtection:
    """Try on three small files in `.tmp`, and remove them if that is allowed. Raise TargetDenied, TargetError."""
    return target.run(f"Nothing can be stored in {target.url}", lambda client: _probe(client, target.root))


def _probe(client: SftpClient, root: str) -> SftpProtection:
    client.forget(client.mkdir(below(root, TEMPORARY), 0o700))
    one, other, name, elsewhere = (below(root, f"{TEMPORARY}/{secrets.token_hex(16)}") for _ in range(4))
    for path in (one, other):
        handle = client.handle(client.open(path, WRITING | CREATE | EXCLUSIVE, 0o400))
        client.answer(client.write(handle, 0, memoryview(b"trinity-snap probe\n")))
        client.close_file(handle)
    linked = _allowed(client, client.hardlink(one, name))
    if not linked:
        client.answer(client.rename(one, name))
    refuses = not _allowed(client, client.hardlink(other, name) if linked else client.rename(other, name))
    may_change = _allowed(client, client.chmod(name, 0o400))
    may_change |= _opened(client, client.open(name, WRITING | TRUNCATE))
    may_change |= _allowed(client, client.replace(other, name))
    may_delete = _allowed(client, client.rename(name, elsewhere))
    may_delete |= _allowed(client, client.remove(elsewhere if may_delete else name))
    for number in [client.remove(path) for path in (one, other, name, elsewhere)]:
        _allowed(client, number)
    return SftpProtection(refuses, None, None, None, local=False, may_change=may_change, may_delete=may_delete)


def _allowed(client: SftpClient, number: int) -> bool:
    """Whether the server did it."""
    try:
        client.answer(number)
    except Refused:
        return False
    return True


def _opened(client: SftpClient, number: int) -> bool:
    try:
        client.drop(client.handle(number))
    except Refused:
        return False
    return True
