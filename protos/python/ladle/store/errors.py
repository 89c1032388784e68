"""What can go wrong with a store, each in one sentence that names the URL and holds no secret."""

from __future__ import annotations


class StoreError(Exception):
    """A store did not do what it was asked for."""

    is_final = True
    """Whether waiting alone won't change that."""


class Absent(StoreError):
    """There is no such object or bucket."""


class Denied(StoreError):
    """The store does not let these credentials do that."""


class Changed(StoreError):
    """The object is not the one that was seen before."""

    is_final = False


class Taken(StoreError):
    """There is an object already where one was to be made."""


class Misconfigured(StoreError):
    """The store can't be used as it is set up here."""


class Unreachable(StoreError):
    """The store did not answer, or has no time just now."""

    is_final = False
