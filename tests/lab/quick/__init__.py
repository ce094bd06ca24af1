"""The quick lab: commands and tests inside a User Mode Linux kernel that has device-mapper.

It boots in two seconds on this machine's own root, read-only over hostfs, with some empty disks (`/dev/ubda`, …). `/run` is its
own and in memory; `TMPDIR` lies there. Every test in this directory runs in there, all of them in one boot, and each
is reported as if it ran here:

    python -m pytest tests/lab/quick
    python -m tests.lab.quick lvm version          any command
"""
