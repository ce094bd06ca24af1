"""Run a command in the quick lab: `python -m tests.lab.quick COMMAND ARGUMENT …`."""

from __future__ import annotations

import os
import sys

from tests.lab.kernel import missing
from tests.lab.quick.boot import Guest


def main() -> int:
    why = missing()
    if why or len(sys.argv) < 2:
        sys.stderr.write(f"{why or __doc__}\n")
        return 2
    guest = Guest()
    try:
        guest.start(sys.argv[1:])
        code = guest.wait(float(os.environ.get("QUICK_LAB_SECONDS", "600")))
        output = guest.directory / "output"
        sys.stdout.write(guest.tail() if code is None or not output.exists() else output.read_text(errors="replace"))
        return 1 if code is None else code
    finally:
        guest.close()


if __name__ == "__main__":
    sys.exit(main())
