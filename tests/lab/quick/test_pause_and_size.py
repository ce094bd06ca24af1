"""How long a snapshot takes, which is what LVM adds to a pause, does not depend on how much data there is.

`TRINITY_SNAP_LARGE_MEGABYTES` says how much is compared with 1 MB (up to 1200).
"""

import logging
import os
import statistics
import time

import pytest

from tests.lab.quick.test_lvm import prepared, source
from tests.lab.quick.volumes import volume_group
from trinity_snap.snapshot import Deadline

LARGE = int(os.environ.get("TRINITY_SNAP_LARGE_MEGABYTES", "150"))
ATTEMPTS = 3
log = logging.getLogger(__name__)


@pytest.fixture(params=["lvm", "lvm-thin"])
def place(request, tmp_path):
    """Where a volume of the provider is mounted."""
    size = f"{LARGE + 300}M"
    with volume_group("lab-2", "/dev/ubdd", tmp_path / "group") as made:
        if request.param == "lvm-thin":
            made.pool("pool", size)
            yield made.thin("live", "xfs", size)
        else:
            yield made.thick("live", "ext4", size)


@pytest.mark.timeout(500)
def test_the_time_of_a_snapshot_does_not_depend_on_the_size_of_the_data(place, tmp_path):
    one = source(place / "volume")
    times: dict[int, list[float]] = {}
    for megabytes in (1, LARGE):
        with open(one.path / "file", "wb") as file:
            for _ in range(megabytes):
                file.write(os.urandom(1 << 20))
        os.sync()
        for attempt in range(ATTEMPTS):
            (one.path / "small").write_bytes(os.urandom(10_000))
            (provider,), journal = prepared(tmp_path / "state", [one], run_id=f"run-{megabytes}-{attempt}")
            for _ in range(2):
                provider.flush()
            began = time.monotonic()
            provider.snapshot(Deadline())
            times.setdefault(megabytes, []).append(time.monotonic() - began)
            provider.release()
            assert journal.end()
    log.info("%s: %s", provider.name, {size: [round(each, 2) for each in sorted(all_)] for size, all_ in times.items()})
    assert statistics.median(times[LARGE]) < 3 * statistics.median(times[1]) + 0.5, times
