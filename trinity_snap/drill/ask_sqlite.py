"""A program of its own: `ask_sqlite.py immutable|recover NAME` asks SQLite whether the database NAME of this directory is sound.

Exit code 0: it is; 3: it is not, and what SQLite says is printed; 4: this SQLite cannot tell, and why is printed.
"""

from __future__ import annotations

import os
import sys
import urllib.parse

_SOUND, _DAMAGED, _UNKNOWN = 0, 3, 4
_FINDINGS = 20
_NOT_OURS = ("no such collation sequence", "no such module", "no such function", "unsupported file format")
"""What SQLite says of a database that needs an extension which its application has, and we have not."""


def main(how: str, name: str) -> int:
    """Ask, print what is wrong, and return the exit code."""
    try:
        import sqlite3
    except ImportError:
        sys.stdout.write("This Python has no SQLite.")
        return _UNKNOWN
    quoted = urllib.parse.quote(os.fsencode(name))
    mode = "mode=ro&immutable=1" if how == "immutable" else "mode=rw"
    try:
        connection = sqlite3.connect(f"file:{quoted}?{mode}", uri=True)
        try:
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA cell_size_check = ON")
            connection.execute("PRAGMA mmap_size = 0")
            rows = connection.execute(f"PRAGMA integrity_check({_FINDINGS})").fetchall()
        finally:
            connection.close()
    except sqlite3.Error as error:
        sys.stdout.write(str(error))
        return _UNKNOWN if any(part in str(error) for part in _NOT_OURS) else _DAMAGED
    findings = [str(row[0]) for row in rows if row[0] != "ok"]
    sys.stdout.write("\n".join(findings))
    if not findings:
        return _SOUND
    return _UNKNOWN if all(any(part in one for part in _NOT_OURS) for one in findings) else _DAMAGED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
