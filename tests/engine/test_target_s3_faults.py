"""What a store, and the way to it, can do wrong: nothing is lost, nothing is sent twice without need, and it is said plainly."""

from __future__ import annotations

import copy
import os
import ssl
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.engine.target_conformance import flat_name, pack_name
from tests.faults.proxy import DROP, FLIP, LOSE, TRUNCATE, Answer, Proxy, Rule, proxy_before, refusal
from tests.faults.stores import ACCESS, SECRET, moto_server, rclone_server, settings_for, write_credentials
from trinity_snap.errors import ObjectMissing, TargetDenied, TargetError, TargetFull
from trinity_snap.targets import TargetSettings, open_target
from trinity_snap.targets.probe import probe
from trinity_snap.targets.retries import Retries
from trinity_snap.targets.s3 import S3Target
from trinity_snap.targets.sending import Bandwidth

AT_ONCE = Retries(attempts=4, sleep=lambda _: None)


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_credentials(tmp_path_factory.mktemp("credentials"))


@pytest.fixture(scope="module")
def moto_proxy(credentials: Path) -> Iterator[Proxy]:
    with moto_server() as endpoint, proxy_before(endpoint) as made:
        S3Target(settings_for(endpoint, credentials)).client.create_bucket(Bucket="bucket")
        yield made


@pytest.fixture(scope="module")
def rclone_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    directory = tmp_path_factory.mktemp("rclone")
    (directory / "bucket").mkdir()
    with rclone_server(directory) as endpoint, proxy_before(endpoint) as made:
        yield made


def reset(proxy: Proxy) -> Proxy:
    proxy.rule = lambda request: None
    proxy.latency = 0.0
    proxy.forget()
    return proxy


@pytest.fixture
def proxy(moto_proxy: Proxy) -> Proxy:
    return reset(moto_proxy)


def at(proxy: Proxy, credentials: Path, **more: object) -> S3Target:
    settings = settings_for(proxy.address, credentials, f"s3://bucket/{os.urandom(8).hex()}")
    return S3Target(replace(settings, **more), retries=AT_ONCE)  # type: ignore[arg-type]  # the tests name settings


@pytest.fixture(scope="module")
def made(moto_proxy: Proxy, credentials: Path) -> S3Target:
    return at(moto_proxy, credentials)


@pytest.fixture
def target(proxy: Proxy, made: S3Target) -> S3Target:
    other = copy.copy(made)  # making a client takes longer than most tests
    other._root = f"{os.urandom(8).hex()}/"
    return other


@pytest.mark.parametrize(
    ("status", "code", "error", "words"),
    [
        (404, "NoSuchBucket", TargetError, "there is no bucket bucket"),
        (301, "PermanentRedirect", TargetError, "in another region"),
        (400, "AuthorizationHeaderMalformed", TargetError, "in another region"),
        (403, "RequestTimeTooSkewed", TargetError, "the clock of this host"),
        (403, "InvalidAccessKeyId", TargetDenied, "does not accept the credentials"),
        (403, "SignatureDoesNotMatch", TargetDenied, "does not accept the credentials"),
        (400, "ExpiredToken", TargetDenied, "does not accept the credentials"),
        (403, "AccessDenied", TargetDenied, "refused permission"),
        (403, "QuotaExceeded", TargetFull, "no room left"),
        (507, "XMinioStorageFull", TargetFull, "no room left"),
        (507, "", TargetFull, "no room left"),
        (404, "", TargetError, "answered 404"),
        (405, "MethodNotAllowed", TargetError, "answered 405 MethodNotAllowed"),
    ],
)
def test_each_refusal_has_its_own_sentence_and_is_not_tried_again(
    target: S3Target, proxy: Proxy, status: int, code: str, error: type[TargetError], words: str
) -> None:
    proxy.rule = lambda request: refusal(status, code)
    for operation in (lambda: target.put_if_absent(flat_name(), b"x"), lambda: list(target.list_prefix("points/"))):
        proxy.forget()
        with pytest.raises(TargetError) as caught:
            operation()
        assert type(caught.value) is error
        assert words in caught.value.message
        assert target.url in caught.value.message
        assert not caught.value.transient
        assert ACCESS not in str(caught.value) and SECRET not in str(caught.value)
        # boto3 itself asks where the bucket is when it is told that it is elsewhere.
        assert len([request for request in proxy.requests if request.method != "HEAD"]) <= (1 if status != 301 else 2)


@pytest.mark.parametrize(
    "fault",
    [
        refusal(503, "SlowDown"),
        refusal(500, "InternalError"),
        refusal(429, ""),
        DROP,
        LOSE,
    ],
    ids=["slow down", "internal", "429", "dropped", "answer lost"],
)
def test_what_passes_by_itself_is_tried_again(target: S3Target, proxy: Proxy, fault: Answer | str) -> None:
    name, data = pack_name(b"data"), b"data"
    for operation, result in (
        (lambda: target.put_if_absent(name, data), True),
        (lambda: target.get(name), data),
        (lambda: target.get_range(name, 1, 2), data[1:3]),
        (lambda: list(target.list_prefix("packs/")), [name]),
        (lambda: target.stat(name).size, len(data)),
        (lambda: target.delete(name), None),
    ):
        proxy.forget()
        proxy.rule = lambda request: fault if request.number < 2 else None
        assert operation() == result
        assert len(proxy.requests) > 2
    proxy.rule = lambda request: None
    assert list(target.list_prefix("")) == []


def test_a_store_that_waited_too_long_is_tried_again_though_it_calls_that_a_mistake(
    target: S3Target, proxy: Proxy
) -> None:
    proxy.rule = lambda request: refusal(400, "RequestTimeout") if request.number < 2 else None
    assert target.put_if_absent(flat_name(), b"x") is True


def test_what_does_not_pass_is_given_up(target: S3Target, proxy: Proxy) -> None:
    proxy.rule = lambda request: refusal(503, "SlowDown")
    with pytest.raises(TargetError, match="could not do it just now") as caught:
        target.get(flat_name())
    assert caught.value.transient
    assert len(proxy.requests) == AT_ONCE.attempts


def test_a_put_whose_answer_was_lost_is_not_sent_again(target: S3Target, proxy: Proxy) -> None:
    data = os.urandom(100_000)
    proxy.rule = lambda request: LOSE if request.method == "PUT" else None
    assert target.put_if_absent(pack_name(data), data) is True
    assert proxy.count("PUT") == 1
    proxy.rule = lambda request: None
    assert target.get(pack_name(data)) == data


def test_a_retry_does_not_take_the_object_of_somebody_else_for_its_own(target: S3Target, proxy: Proxy) -> None:
    name = flat_name()
    assert target.put_if_absent(name, b"theirs")
    proxy.forget()
    proxy.rule = lambda request: DROP if request.number == 0 else None
    assert target.put_if_absent(name, b"ours!!") is False
    assert target.get(name) == b"theirs"


def test_a_body_cut_short_is_fetched_again(target: S3Target, proxy: Proxy) -> None:
    data = os.urandom(100_000)
    target.put_if_absent(pack_name(data), data)
    proxy.forget()
    proxy.rule = lambda request: TRUNCATE if request.number == 0 else None
    assert target.get(pack_name(data)) == data
    assert proxy.count("GET") == 2
    proxy.rule = lambda request: TRUNCATE
    with pytest.raises(TargetError, match=r"connection broke|only in part"):
        target.get(pack_name(data))


def test_bytes_changed_on_the_way_are_noticed_by_a_store_that_checks(rclone_proxy: Proxy, credentials: Path) -> None:
    target = at(reset(rclone_proxy), credentials)
    for data in (b"", os.urandom(50_000)):
        rclone_proxy.forget()
        rclone_proxy.rule = lambda request: FLIP if request.number == 0 and request.length else None
        assert target.put_if_absent(pack_name(data), data)
        assert target.get(pack_name(data)) == data
        assert rclone_proxy.count("PUT") == (2 if data else 1)


@pytest.mark.parametrize("known", [False, True])
def test_bytes_changed_on_the_way_are_noticed_where_the_store_does_not_check(
    target: S3Target, proxy: Proxy, known: bool
) -> None:
    if known:
        target.put_if_absent(flat_name("sessions"), b"of which the tag is the MD5")
    proxy.rule = lambda request: FLIP if request.method == "PUT" else None
    for name in (flat_name(), pack_name(b"some data")):
        with pytest.raises(TargetError, match="other bytes"):
            target.put_if_absent(name, b"some data")
        proxy.rule = lambda request: None
        assert name not in list(target.list_prefix(""))
        proxy.rule = lambda request: FLIP if request.method == "PUT" else None


def test_an_object_that_the_store_took_and_does_not_list_is_no_success(target: S3Target, proxy: Proxy) -> None:
    def nothing_there(request: object) -> Answer | None:
        return Answer(200, b"<ListBucketResult/>") if getattr(request, "is_list", False) else None

    target.put_if_absent(flat_name(), b"x")
    proxy.rule = nothing_there
    with pytest.raises(TargetError, match="does not list it"):
        target.put_if_absent(flat_name(), b"x")


def test_a_store_whose_tags_say_nothing_is_read_back_once(target: S3Target, proxy: Proxy, monkeypatch) -> None:
    real = target.client.put_object
    monkeypatch.setattr(target._client, "put_object", lambda **options: {**real(**options), "ETag": '"0123"'})
    for _ in range(3):
        data = os.urandom(1000)
        assert target.put_if_absent(pack_name(data), data)
    assert sum(request.method == "GET" and not request.is_list for request in proxy.requests) == 1
    assert sum(request.is_list for request in proxy.requests) == 3


def always(answer: Answer) -> Rule:
    return lambda request: answer


def page(names: list[str], token: str) -> Answer:
    rows = "".join(f"<Contents><Key>{name}</Key><Size>1</Size><ETag>x</ETag></Contents>" for name in names)
    body = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>{rows}"
    return Answer(200, f"<?xml version='1.0'?><ListBucketResult>{body}</ListBucketResult>".encode())


def test_a_list_that_goes_round_in_circles_ends(target: S3Target, proxy: Proxy) -> None:
    names = [f"{target.root}points/{digit * 32}" for digit in "ab"]
    proxy.rule = lambda request: page(names, str(request.number))
    with pytest.raises(TargetError, match="out of order"):
        list(target.list_prefix("points/"))
    assert len(proxy.requests) == 2


def test_a_list_without_end_ends(target: S3Target, proxy: Proxy, monkeypatch) -> None:
    monkeypatch.setattr("trinity_snap.targets.s3._MAX_PAGES", 20)
    proxy.rule = lambda request: page([f"{target.root}points/{request.number:032x}"], str(request.number))
    with pytest.raises(TargetError, match="does not end"):
        list(target.list_prefix("points/"))


def test_a_list_that_breaks_off_is_not_taken_for_the_whole(target: S3Target, proxy: Proxy) -> None:
    proxy.rule = lambda request: page([f"{target.root}points/{'a' * 32}"], "")
    with pytest.raises(TargetError, match="breaks off"):
        list(target.list_prefix("points/"))


def test_an_answer_without_sense_is_an_error_of_the_store(target: S3Target, proxy: Proxy) -> None:
    for headers in ({"Last-Modified": "yesterday"}, {}, {"Last-Modified": "Mon, 23 Nov 2026 15:00:00 GMT"}):
        proxy.rule = always(Answer(200, b"", {"Content-Length": "x", **headers}))
        with pytest.raises(TargetError):
            target.stat(flat_name())
    for body in (
        b"",
        b"<",
        b"<html/>",
        b"\0" * 100,
        b"<ListBucketResult><Contents><Size>x</Size></Contents></ListBucketResult>",
    ):
        proxy.rule = always(Answer(200, body))
        try:
            assert list(target.list_prefix("points/")) == []
        except TargetError:
            pass


def test_lists_of_several_pages_are_read_whole(target: S3Target, proxy: Proxy, monkeypatch) -> None:
    names = {flat_name() for _ in range(25)}
    for name in names:
        target.put_if_absent(name, b"")
    real = target.client.list_objects_v2
    monkeypatch.setattr(target._client, "list_objects_v2", lambda **options: real(**{**options, "MaxKeys": 10}))
    proxy.forget()
    assert sorted(target.list_prefix("points/")) == sorted(names)
    assert proxy.count("GET") == 3


def test_names_that_a_store_invents_are_passed_over(target: S3Target, proxy: Proxy) -> None:
    good = f"points/{'a' * 32}"
    keys = [f"{target.root}points/../x", f"{target.root}{good}", f"{target.root}points/{'a' * 32}x", f"zzz/{good}"]
    body = page(keys, "").body.replace(b"true", b"false")
    proxy.rule = lambda request: Answer(200, body)
    assert list(target.list_prefix("points/")) == [good]


def test_an_object_larger_than_any_is_refused_before_it_is_read(target: S3Target, proxy: Proxy) -> None:
    proxy.rule = lambda request: Answer(200, b"x" * 100, {"Content-Length": str(2 << 30)})
    with pytest.raises(TargetError, match="more than any object"):
        target.get(flat_name())


def test_a_store_that_ignores_ranges_gives_no_wrong_bytes(target: S3Target, proxy: Proxy) -> None:
    proxy.rule = lambda request: Answer(200, b"0123456789")
    with pytest.raises(TargetError, match="has no 3 bytes"):
        target.get_range(flat_name(), 2, 3)


def test_a_store_that_does_not_know_the_condition_is_asked_first(target: S3Target, proxy: Proxy) -> None:
    def without(request: object) -> Answer | None:
        return refusal(501, "NotImplemented") if "If-None-Match" in getattr(request, "headers", {}) else None

    proxy.rule = without
    name = flat_name()
    assert target.put_if_absent(name, b"first") is True
    assert target.put_if_absent(name, b"second") is False
    assert target.get(name) == b"first"
    assert not probe(target).refuses_overwriting


def test_the_probe_says_what_is_in_force(target: S3Target, rclone_proxy: Proxy, credentials: Path) -> None:
    plain = probe(target)
    assert (plain.refuses_overwriting, plain.versioning, plain.object_lock_days) == (True, False, 0)
    assert "no versions and locks no objects" in " ".join(plain.consequences())
    target.client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 30}}
    target.client.put_object_lock_configuration(
        Bucket="locked", ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
    )
    locked = probe(S3Target(replace(target._settings, url="s3://locked/x")))
    assert (locked.refuses_overwriting, locked.versioning, locked.object_lock_days) == (True, True, 30)
    assert "for 30 days nobody can delete" in " ".join(locked.consequences())
    careless = probe(at(reset(rclone_proxy), credentials))
    assert careless.refuses_overwriting is False
    assert "The store overwrites objects although it is asked not to" in careless.consequences()[0]
    assert list(target.list_prefix("")) == []


def test_the_probe_says_what_it_could_not_find_out(target: S3Target, proxy: Proxy) -> None:
    def denied(request: object) -> Answer | None:
        path = getattr(request, "path", "")
        return refusal(403, "AccessDenied") if "versioning" in path or "object-lock" in path else None

    proxy.rule = denied
    found = probe(target)
    assert (found.versioning, found.object_lock_days) == (None, None)
    assert "could not be found out" in " ".join(found.consequences())


def test_the_storage_class_is_that_of_packs_only(proxy: Proxy, credentials: Path) -> None:
    target = at(proxy, credentials, storage_class="STANDARD_IA")
    for name in (pack_name(b"x"), flat_name(), "repository"):
        target.put_if_absent(name, b"x")
    classes = {
        request.path.split("/")[3]: request.headers.get("x-amz-storage-class")
        for request in proxy.requests
        if request.method == "PUT"
    }
    assert classes == {"packs": "STANDARD_IA", "points": None, "repository": None}


def test_bandwidth_is_shared_out_and_counts_what_is_sent() -> None:
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    bandwidth = Bandwidth(1000, clock=lambda: now[0], sleep=sleep)
    for _ in range(11):
        bandwidth.wait_for(500)
    assert now[0] == pytest.approx(5.0)


def test_a_limited_target_waits_for_what_it_sends_and_not_for_what_it_hashes(proxy: Proxy, credentials: Path) -> None:
    target = at(proxy, credentials, bandwidth_bytes=10 << 30)
    counted: list[int] = []
    assert target._bandwidth is not None
    target._bandwidth.wait_for = counted.append  # type: ignore[method-assign,assignment]  # to see what is asked for
    data = os.urandom(300_000)
    target.put_if_absent(pack_name(data), data)
    assert sum(counted) == len(data)


# -- credentials and certificates -----------------------------------------------------------------------------------


def test_credentials_come_from_a_file_or_from_systemd(proxy: Proxy, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    write_credentials(tmp_path).rename(tmp_path / "trinity-snap-s3")
    settings = replace(settings_for(proxy.address, tmp_path), credentials_file=None)
    target = S3Target(settings, retries=AT_ONCE)
    assert target.put_if_absent(flat_name(), b"x")
    assert all(ACCESS in request.headers["Authorization"] for request in proxy.requests)


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (f"[default]\naws_access_key_id = {ACCESS}\naws_secret_access_key = {SECRET}\n", 0o640, "used by others"),
        (f"{ACCESS}:{SECRET}\n", 0o600, "no credentials file"),
        (f"[other]\naws_access_key_id = {ACCESS}\naws_secret_access_key = {SECRET}\n", 0o600, "no credentials file"),
        (f"[default]\naws_access_key_id = {ACCESS}\n{SECRET}", 0o600, "no credentials file"),
        (None, 0o600, "cannot be read"),
    ],
)
def test_a_credentials_file_that_will_not_do_is_refused_and_not_quoted(
    tmp_path: Path, content: str | None, mode: int, words: str
) -> None:
    import traceback

    path = tmp_path / "credentials"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    with pytest.raises(TargetDenied, match=words) as caught:
        open_target(TargetSettings("s3://bucket/x", credentials_file=path))
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert SECRET not in shown


def test_without_credentials_it_says_where_they_are_looked_for(proxy: Proxy, tmp_path: Path, monkeypatch) -> None:
    for variable in [name for name in os.environ if name.startswith("AWS_")] + ["CREDENTIALS_DIRECTORY"]:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    settings = replace(settings_for(proxy.address, tmp_path), credentials_file=None)
    with pytest.raises(TargetDenied, match="there are no credentials"):
        S3Target(settings, retries=AT_ONCE).get("repository")


def certificate(directory: Path) -> tuple[Path, ssl.SSLContext]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a store of tests")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path, private = directory / "ca.pem", directory / "key.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, private)
    return path, context


def test_a_certificate_that_nobody_vouches_for_is_refused_and_ca_file_vouches(
    moto_proxy: Proxy, credentials: Path, tmp_path: Path
) -> None:
    path, context = certificate(tmp_path)
    with proxy_before(moto_proxy.store.geturl(), context) as proxy:
        with pytest.raises(TargetError, match="certificate of the store cannot be trusted") as caught:
            at(proxy, credentials).put_if_absent(flat_name(), b"x")
        assert not caught.value.transient
        assert proxy.requests == []
        target = at(proxy, credentials, ca_file=path)
        assert target.put_if_absent(flat_name(), b"x")


def test_a_store_that_is_not_there_is_said_to_be_out_of_reach(credentials: Path) -> None:
    target = S3Target(settings_for("http://127.0.0.1:9", credentials), retries=AT_ONCE)
    with pytest.raises(TargetError, match="Connection refused") as caught:
        target.get("repository")
    assert caught.value.transient
    assert not isinstance(caught.value, ObjectMissing)


def test_a_proxy_on_the_way_is_used(proxy: Proxy, credentials: Path) -> None:
    settings = settings_for("http://store.invalid", credentials)
    target = S3Target(replace(settings, proxy="http://127.0.0.1:9"), retries=AT_ONCE)
    with pytest.raises(TargetError, match="the proxy cannot be reached"):
        target.get("repository")
