"""The URLs that are answered: one table, with who is meant to call each."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple
from urllib.parse import unquote

from ladle.server.core.access import Kind
from ladle.server.rest.encodings import Encodings
from ladle.server.rest.request import Endpoint
from ladle.server.rest.status_codes import HttpError

# What a name in a URL may be made of, before it is percent-decoded (upstream's http_rest_api_util).
_PARTS = {
    "model": "[^/:]+",
    "label": "[^/:]+",
    "version": "[0-9]+",
}
# How long a path is at most whose route is remembered, and how many are.
_MOST_REMEMBERED = 256
_MOST_FOUND = 1024


@dataclass(frozen=True)
class Route:
    """One method on one form of URL."""

    method: str
    """`GET` or `POST`; where GET is answered, so is HEAD."""
    path: str
    """With `{model}`, `{version}` and `{label}` for the names in it."""
    kind: Kind
    """Who may call it. A route about models without a name in its path is about all models."""
    endpoint: Endpoint
    summary: str = ""
    """What it does, for `/openapi.json`; empty for what is no part of it."""
    encodings: Encodings = field(default_factory=Encodings)
    """How its bodies may be compressed."""

    @cached_property
    def api(self) -> str:
        """What metrics call it, as upstream's do; empty for what is not asked of a model."""
        if "{model}" not in self.path:
            return ""
        _, _, verb = self.path.partition(":")
        return verb or ("metadata" if self.path.endswith("/metadata") else "status")

    def about(self, names: Mapping[str, str]) -> Collection[str] | None:
        """Return the models that a request with these names in its URL is about; None for all."""
        model = names.get("model")
        return None if model is None else [model]

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """What the whole path has to be; upstream tells cases apart in the verb alone."""
        stem, colon, verb = self.path.partition(":")
        # Texts and names take turns.
        texts_and_names = re.split(r"\{(\w+)\}", stem)
        named = "".join(
            f"(?P<{part}>{_PARTS[part]})" if number % 2 else re.escape(part)
            for number, part in enumerate(texts_and_names)
        )
        return re.compile(f"(?i:{named}){colon}{re.escape(verb)}", re.ASCII)


class Match(NamedTuple):
    """The route of a request, and what its URL names."""

    route: Route
    names: Mapping[str, str]


class Routes:
    """Finds the route of a request. Lives in one event loop."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes: Sequence[Route] = tuple(routes)
        """All of them."""
        self._found: dict[tuple[str, str], Match] = {}  # callers ask for the same again and again

    def find(self, method: str, path: str) -> Match:
        """Return the route.

        Args:
            method: in upper case; HEAD is answered as GET.
            path: as it was sent, percent-encoded, without the query.

        Raises:
            HttpError: There is none.
        """
        found = self._found.get((method, path))
        if found is None:
            found = self._look_for(method, path)
            if len(path) <= _MOST_REMEMBERED:
                if len(self._found) >= _MOST_FOUND:
                    self._found.clear()
                self._found[method, path] = found
        return found

    def _look_for(self, method: str, path: str) -> Match:
        wanted = "GET" if method == "HEAD" else method
        allowed = []
        for route in self.routes:
            match = route.pattern.fullmatch(path)
            if match is None:
                continue
            if route.method == wanted:
                names = {name: unquote(value) for name, value in match.groupdict().items()}
                return Match(route, names)
            allowed.append(route.method)
        if path[:4].lower() == "/v1/":
            # Upstream has no 404 and no 405 here.
            raise HttpError(400, f"Malformed request: {method} {path}")
        if is_open_inference(path):
            # Triton's words, which its callers know.
            if allowed:
                headers = {"allow": ", ".join(allowed)}
                raise HttpError(405, "Method Not Allowed", headers)
            raise HttpError(404, f"Not Found: {path}")
        if allowed:
            raise HttpError(405, f"{path} takes {allowed[0]}", {"allow": ", ".join(allowed)})
        raise HttpError(404, f"there is nothing at {path}")


def is_open_inference(path: str) -> bool:
    """Whether a path is one of the Open Inference Protocol, whatever is there."""
    return path == "/v2" or path.startswith("/v2/")


def taken(route: Route, others: Iterable[Route]) -> bool:
    """Whether one of the others answers at the route's path, which has no names in it."""
    return any(route.method == o.method and o.pattern.fullmatch(route.path) for o in others)


def of_model(method: str, suffix: str, kind: Kind, endpoint: Endpoint, summary: str) -> list[Route]:
    """Return the routes of what can be asked of a model, of a version, and of a label's version."""
    forms = ("", "/versions/{version}", "/labels/{label}")
    return [
        Route(method, f"/v1/models/{{model}}{form}{suffix}", kind, endpoint, summary)
        for form in forms
    ]
