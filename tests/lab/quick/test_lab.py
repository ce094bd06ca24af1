"""The quick lab itself."""

import os
import subprocess


def test_the_kernel_has_device_mapper_and_disks_of_its_own():
    targets = subprocess.run(["dmsetup", "targets"], check=True, capture_output=True, text=True).stdout
    assert {"snapshot", "thin", "thin-pool", "flakey", "log-writes"} <= {
        line.split()[0] for line in targets.splitlines()
    }
    assert os.path.exists("/dev/ubdf")


def test_the_machine_cannot_be_changed_from_in_there():
    assert os.statvfs("/").f_flag & os.ST_RDONLY
    assert os.statvfs("/run").f_flag & os.ST_RDONLY == 0
