"""The connection to an S3 store: address, credentials, certificates. Everything here imports boto3 only when called."""

from __future__ import annotations

import configparser
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trinity_snap.credentials import S3, decrypt, given, is_encrypted
from trinity_snap.errors import KeyFileError, TargetDenied, TargetError
from trinity_snap.targets.settings import TargetSettings

__all__ = ["SYSTEMD_CREDENTIAL", "Credentials", "find_credentials", "make_client", "read_credentials"]

SYSTEMD_CREDENTIAL = S3
_CONNECT_SECONDS = 10
_READ_SECONDS = 60
_SPARE_CONNECTIONS = 4
_MAX_FILE_BYTES = 64 * 1024
_FORM = "It has the form of ~/.aws/credentials: [default], aws_access_key_id = …, aws_secret_access_key = …."


@dataclass(frozen=True)
class Credentials:
    """What proves who we are. Never shown: `repr` has none of it."""

    access_key: str
    secret_key: str
    token: str | None

    def __repr__(self) -> str:
        return "Credentials(…)"


def find_credentials(settings: TargetSettings) -> Credentials | None:
    """Those of `credentials_file`, else of the systemd credential `trinity-snap-s3`. None: as the AWS tools find them.

    Raise TargetDenied for a file that cannot be used.
    """
    if settings.credentials_file is not None:
        return read_credentials(settings.credentials_file)
    path = given(SYSTEMD_CREDENTIAL)
    return None if path is None else read_credentials(path)


def read_credentials(path: Path) -> Credentials:
    """The credentials in a file like ~/.aws/credentials, section `default`. Raise TargetDenied."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            data = os.read(descriptor, _MAX_FILE_BYTES) if stat.S_ISREG(status.st_mode) else b""
        finally:
            os.close(descriptor)
    except OSError as error:
        raise TargetDenied(f"The credentials file {path} cannot be read: {error.strerror}.", next_step=_FORM) from error
    if status.st_mode & 0o077:
        raise TargetDenied(
            f"The credentials file {path} can be used by others than its owner "
            f"(mode {stat.S_IMODE(status.st_mode):04o}).",
            next_step=f"Run `chmod 600 {path}`; if others have had access to this host, make new credentials.",
        )
    if is_encrypted(data):
        try:
            data = decrypt(path, SYSTEMD_CREDENTIAL)
        except KeyFileError as error:
            raise TargetDenied(error.message, next_step=error.next_step) from None
    parser = configparser.ConfigParser(interpolation=None, default_section="\0")
    try:
        parser.read_string(data.decode("utf-8"))
        section = parser["default"]
        return Credentials(
            section["aws_access_key_id"].strip(),
            section["aws_secret_access_key"].strip(),
            section.get("aws_session_token"),
        )
    except (configparser.Error, KeyError, ValueError):
        # Not chained: what configparser and the codec say quotes the file.
        raise TargetDenied(f"{path} is no credentials file.", next_step=_FORM) from None


def make_client(settings: TargetSettings) -> Any:  # boto3 makes the class of its clients at run time
    """A client for several threads, that tries nothing twice on its own. Raise TargetDenied, TargetError."""
    import boto3.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    credentials = find_credentials(settings)
    style = settings.endpoint is not None if settings.path_style is None else settings.path_style
    config = Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        max_pool_connections=settings.requests + _SPARE_CONNECTIONS,
        proxies=None if settings.proxy is None else {"http": settings.proxy, "https": settings.proxy},
        request_checksum_calculation="when_required",  # more than a store may know; Content-MD5 does it everywhere
        response_checksum_validation="when_required",
        retries={"total_max_attempts": 1},
        s3={"addressing_style": "path" if style else "virtual"},
        signature_version="s3v4",
        tcp_keepalive=True,
    )
    if settings.ca_file is not None and not settings.ca_file.is_file():
        raise TargetError(f"The file {settings.ca_file} (target.ca_file) is not there.")
    try:
        session = boto3.session.Session(
            aws_access_key_id=credentials.access_key if credentials else None,
            aws_secret_access_key=credentials.secret_key if credentials else None,
            aws_session_token=credentials.token if credentials else None,
        )
        return session.client(
            "s3",
            region_name=settings.region or session.region_name or "us-east-1",
            endpoint_url=settings.endpoint,
            verify=None if settings.ca_file is None else str(settings.ca_file),
            config=config,
        )
    except (BotoCoreError, ValueError) as error:
        raise TargetError(
            f"The settings for {settings.url} make no sense to boto3 ({type(error).__name__}).",
            next_step="See `target` in the policy, and AWS_… in the environment and in ~/.aws.",
        ) from error
