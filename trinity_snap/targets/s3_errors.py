"""What S3 stores say when something is wrong, in words for an operator, and whether it passes by itself."""

from __future__ import annotations

import re

from trinity_snap.errors import ObjectMissing, TargetDenied, TargetError, TargetFull

__all__ = ["code_of", "status_of", "target_error"]

_FULL = {
    "InsufficientStorage",
    "InsufficientStorageSpace",
    "QuotaExceeded",
    "StorageCapExceeded",
    "XMinioAdminBucketQuotaExceeded",
    "XMinioStorageFull",
}
_CREDENTIALS = {
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSecurity",
    "InvalidToken",
    "NotSignedUp",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
_REGION = {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"}
_CLOCK = {"RequestTimeTooSkewed", "RequestExpired"}
_TRANSIENT = {
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InternalError",
    "OperationAborted",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "XAmzContentSHA256Mismatch",
}
_TRANSIENT_STATUS = {408, 429, 500, 502, 503, 504}
_NO_CREDENTIALS = {
    "CredentialRetrievalError",
    "NoAuthTokenError",
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "RefreshWithMFAUnsupportedError",
    "SSOTokenLoadError",
    "TokenRetrievalError",
    "UnauthorizedSSOTokenError",
}
_WHERE_CREDENTIALS = "Name a file with them in `target.credentials_file`, or give them as docs/operations.md says."


def code_of(error: BaseException) -> str:
    """The code of a store's answer, such as `NoSuchKey`; empty if it is none. What a store may not say is left out."""
    response = getattr(error, "response", None)
    details = response.get("Error") if isinstance(response, dict) else None
    code = str(details.get("Code", "")) if isinstance(details, dict) else ""
    return code if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", code) else ""


def status_of(error: BaseException) -> int:
    """The HTTP status of a store's answer; 0 if it is none."""
    response = getattr(error, "response", None)
    metadata = response.get("ResponseMetadata") if isinstance(response, dict) else None
    status = metadata.get("HTTPStatusCode") if isinstance(metadata, dict) else None
    return status if isinstance(status, int) else 0


def target_error(error: BaseException, doing: str, place: str, *, of_object: bool = True) -> TargetError:
    """The error of this package for what boto3 raised. `doing` begins the sentence, `place` is the URL of the target.

    `of_object` says that 404 means the object, and not that nobody knows what was asked for.
    """
    code, status = code_of(error), status_of(error)
    if status:
        return _answered(code, status, doing, place, of_object)
    return _unanswered(error, doing, place)


def _answered(code: str, status: int, doing: str, place: str, of_object: bool) -> TargetError:
    said = f"{status}{f' {code}' if code and code != str(status) else ''}"
    if code in _FULL or status == 507:
        return TargetFull(
            f"{doing}: the store has no room left ({said}).",
            untouched="Nothing of it is left there.",
            next_step="Make room, or have the quota raised.",
        )
    if code == "NoSuchBucket":
        return TargetError(
            f"{doing}: there is no bucket {_bucket(place)}.",
            next_step="Make it, with versioning and object lock if the store has them, or correct `target.url`.",
        )
    if code in _REGION or status == 301:
        return _elsewhere(doing, place, said)
    if code in _CLOCK:
        return TargetError(
            f"{doing}: the clock of this host is not the store's ({code}).",
            next_step="Set the clock (`timedatectl`); the store refuses requests that are minutes off.",
        )
    if code in _CREDENTIALS or status == 401:
        return TargetDenied(
            f"{doing}: the store does not accept the credentials ({said}).",
            next_step=f"See whether they are those of this store and still valid. {_WHERE_CREDENTIALS}",
        )
    if code in _TRANSIENT or status in _TRANSIENT_STATUS:
        return TargetError(
            f"{doing}: the store could not do it just now ({said}).",
            next_step="Try again later; see how the store is.",
            transient=True,
        )
    if status == 403:
        return TargetDenied(
            f"{doing}: the store refused permission ({said}).",
            next_step="See what the policy of the bucket and of these credentials allows below that prefix.",
        )
    if status == 404 and of_object:
        return ObjectMissing(f"{doing}: there is no such object.")
    return TargetError(
        f"{doing}: the store answered {said}.", next_step="See whether `target.endpoint` is the address of an S3 store."
    )


def _elsewhere(doing: str, place: str, said: str) -> TargetError:
    return TargetError(
        f"{doing}: the bucket {_bucket(place)} is in another region ({said}).",
        next_step="Set `target.region` in the policy, and `target.endpoint` if the store has one for each region.",
    )


def _bucket(place: str) -> str:
    return place.removeprefix("s3://").partition("/")[0]


def _unanswered(error: BaseException, doing: str, place: str) -> TargetError:
    kind = type(error).__name__
    if kind in _NO_CREDENTIALS:
        return TargetDenied(f"{doing}: there are no credentials for it ({kind}).", next_step=_WHERE_CREDENTIALS)
    if kind == "RecursionError":  # what boto3 makes of a store that says so and does not say where
        return _elsewhere(doing, place, "it did not say which")
    reason = _innermost(error)
    if "CERTIFICATE_VERIFY_FAILED" in str(error) or ("hostname" in reason and "SSL" in kind):
        return TargetError(
            f"{doing}: the certificate of the store cannot be trusted.",
            untouched="Nothing was sent.",
            next_step="Name the certificate of its authority with `target.ca_file`, or see who answers at that address.",
        )
    if kind in ("ProxyConnectionError", "ProxyError"):
        return TargetError(
            f"{doing}: the proxy cannot be reached ({reason}).",
            next_step="See `target.proxy` in the policy and HTTPS_PROXY in the environment.",
            transient=True,
        )
    if kind == "ValueError":
        return TargetError(f"{doing}: the answer of the store makes no sense.", next_step="See how the store is.")
    if kind in ("ParamValidationError", "InvalidProxiesConfigError", "UnsupportedSignatureVersionError"):
        return TargetError(f"{doing}: the settings of the target are wrong ({kind}).")
    return TargetError(
        f"{doing}: the store cannot be reached, or the connection broke ({reason}).",
        next_step="See `target.endpoint` and `target.region` in the policy, and the network.",
        transient=True,
    )


def _innermost(error: BaseException) -> str:
    """What the system said, if it said something, else the kind of the error. Never a URL, which may hold a password."""
    reason = type(error).__name__
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        one = waiting.pop(0)
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, OSError) and one.strerror:
            return one.strerror
        waiting += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
        waiting += list(getattr(one, "kwargs", {}).values())
    return reason
