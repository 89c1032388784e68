"""The URL of a place in a store: s3://BUCKET/PATH, gs://BUCKET/PATH, az://CONTAINER/PATH."""

from __future__ import annotations

import re
from dataclasses import dataclass

SCHEMES = ("s3", "gs", "az")

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,221}")
# Stores take any characters. These would mean something else to a shell, a log or a file system.
_UNFIT = re.compile(r"[\x00-\x1f\x7f?#\\\ud800-\udfff]")
# What stands between a user, a password and a host, and before what is percent-encoded.
_OF_USERS = frozenset(":@%")
_LONGEST = 1024


@dataclass(frozen=True, order=True)
class StoreUrl:
    """A place in a store: an object, or what begins with its path and a slash."""

    scheme: str
    bucket: str
    path: str
    """Without a slash at either end; empty for the whole bucket."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.path}".rstrip("/")

    def __truediv__(self, name: str) -> StoreUrl:
        """Return the place of that name below this one."""
        return StoreUrl(self.scheme, self.bucket, f"{self.path}/{name}".strip("/"))

    @property
    def name(self) -> str:
        """The last part of the path; the bucket's name where there is no path."""
        return self.path.rpartition("/")[2] or self.bucket

    @property
    def parent(self) -> StoreUrl:
        """The place above; of a bucket, itself."""
        return StoreUrl(self.scheme, self.bucket, self.path.rpartition("/")[0])


def is_url(text: str) -> bool:
    """Whether a text is meant as a URL, be it one of a store's or not.

    `s3:/models` is meant as one; `./s3:/models` is a folder.
    """
    return "://" in text or text.startswith(tuple(f"{scheme}:" for scheme in SCHEMES))


def parse_url(text: str) -> StoreUrl:
    """Return the place that a URL names.

    Raises:
        ValueError: It names none; the message does not repeat what may be a secret.
    """
    scheme, is_whole, rest = text.partition("://")
    forms = "s3://BUCKET/PATH, gs://BUCKET/PATH or az://CONTAINER/PATH"
    if not is_whole:
        raise ValueError(f"expected {forms}, got no '://'; a folder of such a name is ./NAME")
    if scheme not in SCHEMES:
        shown = scheme if scheme.isidentifier() else "something else"
        raise ValueError(f"expected {forms}, got {shown}://")
    bucket, _, path = rest.partition("/")
    is_bucket = _BUCKET.fullmatch(bucket) is not None
    # Not only before the first slash is an @ one after a password: those of AWS hold slashes.
    if "?" in rest or "#" in rest or (not is_bucket and _OF_USERS & set(rest)):
        raise ValueError(
            f"expected {forms}, without a user, a query or a fragment: "
            "credentials belong in the environment"
        )
    shown = f"{scheme}://..." if "@" in rest else repr(text[:100])
    path = path.rstrip("/")
    if not is_bucket:
        raise ValueError(f"expected {forms}, got {shown}")
    if _UNFIT.search(path) or len(path.encode()) > _LONGEST:
        raise ValueError(
            f"expected a path of at most {_LONGEST} bytes, without control characters and "
            f"backslashes, got {shown}"
        )
    if path and any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError(f"expected a path without empty parts, '.' and '..', got {shown}")
    return StoreUrl(scheme, bucket, path)
