"""Who may call what: a pure decision, the same for every transport."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from functools import lru_cache

from ladle.server.core.batching.plan import Priority
from ladle.server.core.errors import InvalidArgument, PermissionDenied, Unauthenticated

# What proxies and sidecars add to the requests that they pass on: the caller may be anywhere.
_FORWARDING_HEADERS = (
    "x-forwarded-for",
    "forwarded",
    "via",
    "x-real-ip",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-envoy-external-address",
    "x-envoy-internal",
)


def is_forwarded(metadata: Callable[[str], str | None]) -> bool:
    """Whether a proxy has passed the call on; `metadata` returns a header's value by its name."""
    return any(metadata(name) is not None for name in _FORWARDING_HEADERS)


PRIORITY_KEY = "ladle-priority"
"""The metadata, or the HTTP header, in which a caller says how urgent a request is."""
_PRIORITIES = {priority.name.lower(): priority for priority in Priority}


def read_priority(text: str) -> Priority:
    """Return the priority of this name.

    Raises:
        InvalidArgument: There is none.
    """
    priority = _PRIORITIES.get(text.strip().lower())
    if priority is None:
        raise InvalidArgument(f"{PRIORITY_KEY}: expected high, normal or low, got {text[:64]!r}")
    return priority


class Kind(Enum):
    """What a method does. Each method and route of the server is of one kind."""

    OPEN = "open"
    """Says whether the server is well; probes call it, which have no token."""
    PREDICT = "predict"
    """Runs a model."""
    METADATA = "metadata"
    """Tells of models and of the server."""
    ADMIN = "admin"
    """Changes what is served."""


@dataclass(frozen=True)
class Grant:
    """What a token is good for."""

    name: str
    """What the token is called in logs, which never show itself."""
    kinds: frozenset[Kind]
    """The methods."""
    models: tuple[str, ...] = ("*",)
    """The models, as patterns in which `*` stands for any text."""
    highest: Priority = Priority.HIGH
    """The highest priority that its requests may have."""

    @property
    def every_model(self) -> bool:
        """Whether it is good for whatever there is."""
        return "*" in self.models

    def require_kind(self, kind: Kind | None) -> None:
        """Raise PermissionDenied unless it is good for methods of this kind; None is any."""
        if kind is None or kind is Kind.OPEN or kind in self.kinds:
            return
        raise PermissionDenied(
            f"the token {self.name!r} is for {_listed(k.value for k in self.kinds)} methods: "
            f"this is one of {kind.value}"
        )

    def require_models(self, names: Collection[str] | None) -> None:
        """Raise PermissionDenied unless it is good for each of them; None is all models."""
        if self.every_model:
            return
        refused = "all models" if names is None else self._first_refused(names)
        if refused is not None:
            raise PermissionDenied(
                f"the token {self.name!r} is for models named {_listed(self.models)}: "
                f"the request is about {refused}"
            )

    def _first_refused(self, names: Iterable[str]) -> str | None:
        for name in names:
            if not any(fnmatchcase(name, _as_glob(pattern)) for pattern in self.models):
                return repr(name)
        return None


ANYBODY = Grant("", frozenset(Kind))
"""What all callers have where there are no tokens."""


class Tokens:
    """The tokens that a server knows, by their SHA-256 digests. Immutable."""

    def __init__(self, grants: Mapping[bytes, Grant]) -> None:
        self._grants = tuple(grants.items())

    def find(self, token: str) -> Grant | None:
        """Return what a token is good for, in a time that does not depend on the known tokens."""
        digest = digest_of(token)
        found = None
        for known, grant in self._grants:  # to the end, whichever it is
            if hmac.compare_digest(known, digest):
                found = grant
        return found


def digest_of(token: str) -> bytes:
    """Return the 32 bytes by which a token is known."""
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()


class Access:
    """Decides on callers. Thread-safe."""

    def __init__(self, tokens: Tokens | None = None, *, allow_remote_admin: bool = False) -> None:
        """Without `tokens` everybody may call, and admin methods only who is on this machine.

        Args:
            tokens: with them nobody may do what no token of theirs is good for, local or not.
            allow_remote_admin: whether, without tokens, admin methods are everybody's.
        """
        self._tokens = tokens
        self._allow_remote_admin = allow_remote_admin

    @property
    def by_token(self) -> bool:
        """Whether callers need tokens; it does not change."""
        return self._tokens is not None

    def replace(self, tokens: Tokens) -> None:
        """Put others in place of the tokens there were, at once."""
        assert self.by_token, "the server was started without tokens"
        self._tokens = tokens

    def capped(self, metadata: Callable[[str], str | None]) -> Callable[[str], str | None]:
        """Return `metadata` with the priority that the caller's token allows in place of a higher.

        Without tokens it is returned as it is.
        """
        if self._tokens is None:
            return metadata

        def capped(key: str) -> str | None:
            value = metadata(key)
            tokens = self._tokens
            if key != PRIORITY_KEY or tokens is None:
                return value
            grant = tokens.find(_token_in(metadata("authorization"))) or ANYBODY
            asked = Priority.NORMAL if value is None else read_priority(value)
            return max(asked, grant.highest).name.lower()

        return capped

    def admit(self, kind: Kind | None, authorization: str | None, *, local: bool) -> Grant:
        """Return what the caller of a method may do, models aside.

        Args:
            kind: the method's; None where there is no such method, which any token may learn.
            authorization: the header of that name, `Bearer TOKEN`.
            local: whether the caller is on this machine, and no proxy between.

        Raises:
            Unauthenticated: A token is needed, and there is none that is known.
            PermissionDenied: Not with this token, or not from another machine.
        """
        tokens = self._tokens
        if tokens is not None:
            if kind is Kind.OPEN:
                return ANYBODY
            grant = tokens.find(_token_in(authorization))
            if grant is None:
                raise Unauthenticated("the token is none of those that the server knows")
            grant.require_kind(kind)
            return grant
        if kind is Kind.ADMIN and not local and not self._allow_remote_admin:
            raise PermissionDenied(
                "what is served can be changed from the server's own machine only: through its "
                "Unix socket or a loopback address, and through no proxy. --auth_tokens_file lets "
                "holders of a token do it from elsewhere, --allow_remote_admin everybody"
            )
        return ANYBODY


@lru_cache(maxsize=1024)
def _as_glob(pattern: str) -> str:
    """Return the glob that means the pattern: to a glob `?` and `[` are special too."""
    return re.sub(r"[?[]", r"[\g<0>]", pattern)


def _token_in(authorization: str | None) -> str:
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated('expected a token, as "authorization: Bearer TOKEN", and got none')
    return token.strip()


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
