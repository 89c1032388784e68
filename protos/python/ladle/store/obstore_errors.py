"""Makes one sentence of what obstore raises: its own texts have many lines, and may hold tokens."""

from __future__ import annotations

import re

from ladle.store.errors import (
    Absent,
    Changed,
    Denied,
    Misconfigured,
    StoreError,
    Taken,
    Unreachable,
)

_STATUS = re.compile(r"non-2xx status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z]{1,64})</Code>")

_BY_CODE: dict[str, tuple[type[StoreError], str]] = {
    "NoSuchBucket": (Absent, "there is no such bucket"),
    "ContainerNotFound": (Absent, "there is no such container"),
    "RequestTimeTooSkewed": (
        Denied,
        "the store refuses requests because the clock of this machine is wrong",
    ),
    "ExpiredToken": (Denied, "the credentials have expired"),
    "InvalidAccessKeyId": (Denied, "the store does not know the access key"),
    "SignatureDoesNotMatch": (Denied, "the secret does not belong to the access key"),
    "AuthorizationHeaderMalformed": (
        Misconfigured,
        "the bucket is in another region; set AWS_REGION to it",
    ),
    "PermanentRedirect": (Misconfigured, "the bucket is in another region; set AWS_REGION to it"),
    "SlowDown": (Unreachable, "the store asks for fewer requests (SlowDown)"),
}


def as_store_error(error: Exception, where: str, credentials: str) -> StoreError:
    """Return what an exception of obstore's means.

    Args:
        error: the exception.
        where: the URL, for the message.
        credentials: which ones were found, in words.
    """
    text = str(error)
    kind = type(error).__name__
    code = _CODE.search(text)
    status = int(found[1]) if (found := _STATUS.search(text)) else 0
    if kind == "AlreadyExistsError":
        return Taken(f"{where}: expected no object there, found one")
    if kind == "PreconditionError" or status == 412:
        return Changed(f"{where}: the object has changed meanwhile")
    if code is not None and code[1] in _BY_CODE:
        made, sentence = _BY_CODE[code[1]]
        return made(f"{where}: {sentence}{f' ({credentials})' if made is Denied else ''}")
    answered = f"the store answered {status}{f' {code[1]}' if code else ''}"
    if isinstance(error, FileNotFoundError) or status == 404:
        return Absent(f"{where}: there is no such object")
    if status in (401, 403) or kind in ("PermissionDeniedError", "UnauthenticatedError"):
        return Denied(f"{where}: the store refuses access ({credentials}): {answered}")
    if status == 429 or status >= 500:
        return Unreachable(f"{where}: {answered}")
    if status == 416:
        return Changed(f"{where}: the object is smaller than its listing says")
    if status:
        return Misconfigured(f"{where}: {answered}")
    return _without_status(text, where, credentials)


def _without_status(text: str, where: str, credentials: str) -> StoreError:
    lower = text.lower()
    if "redirect without location" in lower:
        return Misconfigured(
            f"{where}: the bucket is in another region or not at this endpoint; "
            "set AWS_REGION, or AWS_ENDPOINT_URL"
        )
    if "certificate" in lower:
        return Misconfigured(f"{where}: the TLS certificate of the store can't be verified")
    if "dns error" in lower or "failed to lookup" in lower:
        return Unreachable(f"{where}: the name of the store's host can't be resolved")
    if "connection refused" in lower:
        return Unreachable(f"{where}: the store can't be reached: connection refused")
    if "timedout" in lower or "timed out" in lower:
        return Unreachable(f"{where}: the store does not answer in time")
    if "credential" in lower or "169.254.169.254" in lower or "metadata.google" in lower:
        return Denied(f"{where}: no credentials were found ({credentials})")
    if "body error" in lower or "range" in lower:
        return Unreachable(f"{where}: the answer of the store was cut off")
    if "builder error" in lower or "badscheme" in lower:
        return Misconfigured(f"{where}: the address of the store is wrong: expected https://HOST")
    return Unreachable(f"{where}: the store can't be reached")
