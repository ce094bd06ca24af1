"""The restore role with grants: over a real sshd, watched for every place where a key could be left.

The whole play and the whole sshd run under strace, which notes each write and to what; the arguments and environments of all
processes are sampled meanwhile; afterwards every file that was left is searched. Nothing may hold a key of the grant, nor
a secret that it comes from, nor a signed address, in raw bytes, hex or base64.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.engine.test_grants import forms
from tests.faults.ports import free_port, wait_for_port
from tests.faults.proxy import Proxy, proxy_before
from tests.faults.stores import rclone_server, settings_for, write_credentials
from tests.fleet.conftest import ANSIBLE, ROOT
from trinity_snap.backup.engine import backup_tree
from trinity_snap.repository.identity import save_host_key, save_identity
from trinity_snap.repository.keys import generate_host_secret, generate_identity
from trinity_snap.repository.repository import Repository
from trinity_snap.restore.granting import grant_restore
from trinity_snap.targets.s3 import S3Target

pytestmark = pytest.mark.fleet

SSHD = "/usr/sbin/sshd"


@dataclass
class Site:
    """A control node with the keys, a store, and a host that has none of them, all on this machine."""

    directory: Path
    control: Path
    host: Path
    port: int
    proxy: Proxy
    secrets: dict[str, bytes]
    tree: Path


@contextmanager
def under_strace(trace: Path, *command: str, **settings: object) -> Iterator[subprocess.Popen[bytes]]:
    watch = ["strace", "-f", "--seccomp-bpf", "-y", "-xx", "-s", "1000000", "-qq"]
    watch += ["-e", "trace=write,pwrite64,writev,pwritev", "-e", "signal=none", "-o", str(trace)]
    process = subprocess.Popen([*watch, *command], **settings)  # type: ignore[call-overload]  # passed on
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    for needed in ("strace", SSHD, "ssh-keygen", "ssh"):
        if shutil.which(needed) is None:
            pytest.skip(f"needs {needed}")
    directory = tmp_path_factory.mktemp("site")
    control, host, store = (directory / name for name in ("control", "host", "store"))
    for each in (control, host, store / "bucket"):
        each.mkdir(parents=True)
    (control / "collections/ansible_collections/trinity").mkdir(parents=True)
    (control / "collections/ansible_collections/trinity/snap").symlink_to(ROOT)
    with rclone_server(store) as endpoint, proxy_before(endpoint) as proxy:
        secrets, tree = make_repository(directory, control, proxy)
        with sshd(directory) as port:
            yield Site(directory, control, host, port, proxy, secrets, tree)


def make_repository(directory: Path, control: Path, proxy: Proxy) -> tuple[dict[str, bytes], Path]:
    """A repository with one point, the control node's policy for it, and all secrets by name."""
    identity, secret = generate_identity("operator"), generate_host_secret()
    target = S3Target(settings_for(proxy.address, write_credentials(control), "s3://bucket/host1"))
    Repository.create(target, secret, [identity.recipient])
    tree = directory / "tree"
    tree.mkdir()
    for number in range(20):
        (tree / f"file-{number}").write_bytes(os.urandom(30_000))
    repository = Repository.open(target, host=secret, identity=identity)
    point = repository.read_point(backup_tree(repository, directory / "cache", tree, agent="web").id)
    save_identity(control / "identity.key", identity, "operator")
    save_host_key(control / "host.key", secret)
    document = {
        "target": {
            "url": "s3://bucket/host1", "endpoint": proxy.address, "region": "us-east-1",
            "credentials_file": "s3-credentials",
        }
    }  # fmt: skip
    (control / "host1.yml").write_text(json.dumps(document))
    grant = grant_restore(repository, point, valid_seconds=60)
    secrets = {f"pack key {name[:8]}": pack.key for name, pack in grant.packs.items()}
    secrets |= {
        "session key": repository.session_key(point.session_id), "host secret": secret.secret,
        "identity": identity.seed, "chunk id key": secret.chunk_id_key,
    }  # fmt: skip
    return secrets, tree


@contextmanager
def sshd(directory: Path) -> Iterator[int]:
    """An sshd of our own on this machine, in the foreground and traced, that root's key `directory/key` opens."""
    for name in ("host-key", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True)
    port = free_port()
    Path("/run/sshd").mkdir(exist_ok=True)
    (directory / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {directory}/host-key\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {directory}/key.pub\nStrictModes no\nPermitRootLogin prohibit-password\nLogLevel DEBUG3\n"
    )
    log = (directory / "sshd.log").open("wb")
    command = [SSHD, "-D", "-e", "-f", str(directory / "sshd_config")]
    with log, under_strace(directory / "sshd.trace", *command, stderr=log, start_new_session=True) as server:
        wait_for_port(port, lambda: server.poll() is None, (directory / "sshd.log").read_text)
        yield port


class Sampler(threading.Thread):
    """Reads the arguments and the environment of every process, again and again."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: set[bytes] = set()
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.02):
            for process in os.scandir("/proc"):
                if process.name.isdigit() and int(process.name) != os.getpid():
                    for what in ("cmdline", "environ"):
                        try:
                            self.seen.add(Path(process.path, what).read_bytes())
                        except OSError:
                            continue

    def stop(self) -> bytes:
        self.over.set()
        self.join()
        return b"\n".join(self.seen)


def play(site: Site, *options: str, traced: bool = True, **variables: object) -> tuple[int, bytes]:
    """Run the playbook `restore` from the control node. Exit code and output, with everything that it can be made to say."""
    environment = {
        **os.environ, "ANSIBLE_COLLECTIONS_PATH": str(site.control / "collections"), "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_PIPELINING": "0", "ANSIBLE_KEEP_REMOTE_FILES": "1", "ANSIBLE_DEBUG": "1", "ANSIBLE_HOST_KEY_CHECKING": "0",
        "ANSIBLE_LOG_PATH": str(site.control / "ansible.log"), "ANSIBLE_CACHE_PLUGIN": "jsonfile",
        "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(site.control / "facts"), "ANSIBLE_LOCAL_TEMP": str(site.control / "local-tmp"),
        "ANSIBLE_REMOTE_TEMP": str(site.host / "remote-tmp"), "ANSIBLE_SSH_CONTROL_PATH_DIR": str(site.control / "cp"),
    }  # fmt: skip
    command = Path(sys.executable).with_name("trinity-snap")
    given = {
        "ansible_port": site.port, "ansible_user": "root", "ansible_ssh_private_key_file": str(site.directory / "key"),
        "ansible_ssh_common_args": "-o UserKnownHostsFile=/dev/null -o ControlMaster=no -o IdentitiesOnly=yes",
        "ansible_python_interpreter": "/usr/bin/python3", "trinity_snap_link": str(command),
        "trinity_snap_policy": str(site.host / "policy.yml"), "trinity_snap_restore_grant": True,
        "trinity_snap_restore_grant_policy": str(site.control / "host1.yml"),
        "trinity_snap_restore_grant_command": str(command),
        **variables,
    }  # fmt: skip
    (site.host / "policy.yml").write_text(json.dumps({"state": {"directory": str(site.host / "state")}}))
    argv = [str(ANSIBLE), "playbooks/restore.yml", "-i", "127.0.0.1,", *options, "-e", json.dumps(given)]
    if not traced:
        done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, check=False, timeout=300)
        return done.returncode, done.stdout + done.stderr
    with (
        (site.control / "output").open("w+b") as output,
        under_strace(
            site.directory / "control.trace", *argv, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        ) as ansible,
    ):  # fmt: skip
        code = ansible.wait(300)
        output.seek(0)
        return code, output.read()


def unescaped(text: bytes) -> bytes:
    """Bytes as strace -xx writes them."""
    return bytes.fromhex(text.replace(b"\\x", b"").decode())


def written(trace: Path) -> tuple[dict[str, bytearray], bytearray]:
    """What was written to each file, and all that went through pipes and sockets, as a trace says."""
    files: dict[str, bytearray] = {}
    pipes = bytearray()
    for line in trace.read_bytes().splitlines():
        begin, found, rest = line.partition(b">, ")
        if not found or b"write" not in begin:
            continue
        place = unescaped(begin.rpartition(b"<")[2])
        data = b"".join(unescaped(text) for text in rest.split(b'"')[1::2])
        if place.startswith(b"/"):
            files.setdefault(os.fsdecode(place), bytearray()).extend(data)
        else:
            pipes += data
    return files, pipes


def left_behind(site: Site, since: float) -> Iterator[Path]:
    """Every file that there was no cause to leave a key in."""
    keys = {site.control / "identity.key", site.control / "host.key"}
    for top in (site.control, site.host, Path("/dev/shm"), Path("/var/log"), Path("/root/.ansible")):
        for path in top.rglob("*"):
            if path.is_file() and not path.is_symlink() and path not in keys and path.stat().st_mtime >= since - 1:
                yield path
    yield site.directory / "sshd.log"


def test_no_key_is_anywhere_but_in_the_pipes(site: Site) -> None:
    since = time.time()
    sampler = Sampler()
    sampler.start()
    code, output = play(
        site, "-vvvvv", "--diff", trinity_snap_restore_agents=["*"], trinity_snap_restore_to=str(site.host / "back")
    )
    processes = sampler.stop()
    assert code == 0, output[-4000:].decode("utf-8", "replace")
    (restored,) = (site.host / "back").iterdir()
    assert {path.name: path.read_bytes() for path in restored.iterdir()} == {
        path.name: path.read_bytes() for path in site.tree.iterdir()
    }
    signatures = {request.path[-64:] for request in site.proxy.requests if "X-Amz-Signature" in request.path}
    secrets = dict(site.secrets) | {f"signature {one[:8]}": bytes.fromhex(one) for one in signatures}
    assert signatures

    files: dict[str, bytearray] = {}
    pipes = bytearray()
    for trace in ("control.trace", "sshd.trace"):
        here, through = written(site.directory / trace)
        files |= here
        pipes += through
    pack_keys = [key for name, key in secrets.items() if name.startswith("pack key")]
    assert all(key in pipes for key in pack_keys), "this test sees what is written"
    assert b"--grant" in processes and b"AnsiballZ" in b" ".join(name.encode() for name in files)
    assert str(site.host / "remote-tmp") in "".join(files)

    haystacks = {f"written to {name}": bytes(data) for name, data in files.items()}
    haystacks |= {f"left in {path}": path.read_bytes() for path in left_behind(site, since)}
    haystacks |= {"arguments and environments": processes, "output": output}
    assert len(output) > 10_000 and f"left in {site.control / 'ansible.log'}" in haystacks
    found = [
        f"{name} is {place}"
        for name, secret in secrets.items()
        for place, data in haystacks.items()
        if any(form in data for form in forms(secret))
    ]
    assert found == []
    # Compiled modules, which a first run writes, hold the two names, and nothing that was made in this test.
    everywhere = b"".join(data for place, data in haystacks.items() if "/__pycache__/" not in place)
    assert not any(name in everywhere for name in (b"X-Amz-Signature=", b"TSNAPGR"))


def test_check_mode_plans_with_a_grant_and_changes_nothing(site: Site) -> None:
    code, output = play(
        site, "--check", "--diff", traced=False, trinity_snap_restore_agents="web", trinity_snap_restore_to=str(site.host / "no")
    )  # fmt: skip
    assert code == 0, output.decode()
    assert b"Restore web from recovery point" in output
    assert not (site.host / "no").exists()


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"trinity_snap_restore_agents": "wep"}, b"No grant on the control node: The repository has no recovery point"),
        (
            {"trinity_snap_restore_agents": "web", "trinity_snap_restore_grant_repository_id": "0" * 32},
            b"which is another one",
        ),
        ({"trinity_snap_restore_agents": "web", "trinity_snap_restore_grant_command": "/none"}, b"cannot be run"),
        ({"trinity_snap_restore_agents": "web", "trinity_snap_link": "/none"}, b"trinity.snap.install"),
        ({"trinity_snap_restore_agents": "web", "ansible_ssh_common_args": "-tt"}, b"without a terminal"),
        ({"trinity_snap_restore_agents": "web", "ansible_become_method": "su"}, b"with `sudo` or as root"),
    ],
    ids=str,
)
def test_what_goes_wrong_is_said(site: Site, variables: dict[str, object], words: bytes) -> None:
    code, output = play(site, traced=False, **{"trinity_snap_restore_to": str(site.host / "no"), **variables})
    assert code == 2, output.decode()
    assert words in b" ".join(output.split())
    assert not (site.host / "no").exists()
