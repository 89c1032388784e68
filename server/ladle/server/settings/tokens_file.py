"""The file of `--auth_tokens_file`: read at the start, and again whenever its text is another.

One token a line, as a JSON object; empty lines, and those that begin with `#`, count for nothing:

    # openssl rand -hex 32
    {"token": "5b0e…", "name": "web", "models": ["digits", "fashion*"], "kinds": ["predict"]}
    {"sha256": "9f86…", "name": "deploy", "kinds": ["predict", "metadata", "admin"]}

`sha256` stands for the token's digest, so that the file need not hold the token. Without `models` a
token is for all of them, without `kinds` for predict and metadata, and its name is its line.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ladle.server.core.access import Grant, Kind, Tokens, digest_of, read_priority
from ladle.server.core.batching.plan import Priority
from ladle.server.core.clock import Clock
from ladle.server.core.errors import InvalidArgument
from ladle.server.settings.polled_file import PolledFile

_MAX_BYTES = 1 << 20
_POLL_WAIT_S = 1.0
# Shorter ones can be guessed by trying.
_LEAST_CHARACTERS = 16
_MOST_NAME_CHARACTERS = 100
_FIELDS = {"token", "sha256", "name", "models", "kinds", "priority"}
_KINDS = {kind.value: kind for kind in Kind if kind is not Kind.OPEN}


def parse(text: str) -> Tokens:
    """Return the tokens of a file's text.

    Raises:
        InvalidArgument: It says which line is wrong and why, and shows no token.
    """
    grants: dict[bytes, Grant] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            digest, grant = _entry(line, f"line {number}")
        except InvalidArgument as error:
            raise InvalidArgument(f"line {number}: {error.message}") from None
        if digest in grants:
            raise InvalidArgument(f"line {number}: the token of {grants[digest].name!r} once more")
        grants[digest] = grant
    if not grants:
        raise InvalidArgument("expected at least one token, got none")
    return Tokens(grants)


def _entry(line: str, name: str) -> tuple[bytes, Grant]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict):
        raise InvalidArgument('expected a JSON object, such as {"sha256": "…", "name": "web"}')
    if unknown := entry.keys() - _FIELDS:
        raise InvalidArgument(f"expected {sorted(_FIELDS)}, got {sorted(unknown)}")
    name = entry.get("name", name)
    if not isinstance(name, str) or not name.isprintable() or len(name) > _MOST_NAME_CHARACTERS:
        raise InvalidArgument(
            f"name: expected printable text of at most {_MOST_NAME_CHARACTERS} characters"
        )
    models = _texts(entry, "models", ["*"])
    kinds = _texts(entry, "kinds", ["predict", "metadata"])
    if unknown := set(kinds) - _KINDS.keys():
        raise InvalidArgument(f"kinds: expected some of {sorted(_KINDS)}, got {sorted(unknown)}")
    priority = entry.get("priority", "high")
    if not isinstance(priority, str):
        raise InvalidArgument(f"priority: expected high, normal or low, got {priority!r}")
    return _digest(entry), Grant(
        name,
        frozenset(_KINDS[kind] for kind in kinds),
        tuple(models),
        _priority(priority),
    )


def _priority(text: str) -> Priority:
    try:
        return read_priority(text)
    except InvalidArgument:
        raise InvalidArgument(f"priority: expected high, normal or low, got {text!r}") from None


def _digest(entry: dict[str, Any]) -> bytes:
    token, sha256 = entry.get("token"), entry.get("sha256")
    if (token is None) == (sha256 is None):
        raise InvalidArgument("expected either token or sha256")
    if token is not None:
        if not (isinstance(token, str) and token.isascii() and token.isprintable()):
            raise InvalidArgument("token: expected printable ASCII")
        if len(token) < _LEAST_CHARACTERS or " " in token:
            raise InvalidArgument(
                f"token: expected {_LEAST_CHARACTERS} characters or more, and no blank"
            )
        return digest_of(token)
    try:
        digest = bytes.fromhex(str(sha256))
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise InvalidArgument("sha256: expected the 64 hexadecimal digits of the token's digest")
    return digest


def _texts(entry: dict[str, Any], field: str, default: list[str]) -> list[str]:
    texts = entry.get(field, default)
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        raise InvalidArgument(f"{field}: expected a list of at least one text")
    return texts


class TokensFile(PolledFile[Tokens]):
    """Polls the file once a second, and hands its tokens on."""

    def __init__(
        self, path: Path, replace: Callable[[Tokens], object], *, clock: Clock | None = None
    ) -> None:
        """Take `replace`, which puts tokens in place."""
        super().__init__(
            path,
            parse,
            replace,
            name="tokens",
            max_bytes=_MAX_BYTES,
            poll_wait_s=_POLL_WAIT_S,
            clock=clock,
        )
