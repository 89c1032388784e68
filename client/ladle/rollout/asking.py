"""Asks servers over HTTP how they do."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

_MAX_BYTES = 64 << 20
_AT_ONCE = 16


def status_url(server: str) -> str:
    """Return where a server says how it does.

    Raises:
        ValueError: It is no address.
    """
    url = server if "://" in server else f"http://{server}"
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or port is None
        or parts.path not in ("", "/")
        or parts.query
        or parts.username
    ):
        raise ValueError(f"expected host:port or http(s)://host:port, got {server!r}")
    return f"{parts.scheme}://{parts.netloc}/status.json"


def ask_all(
    urls: Mapping[str, str], *, timeout_s: float, token: str, tls: ssl.SSLContext | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what each server says, and why those say nothing that could not be asked. Blocks.

    Args:
        urls: by server.
        timeout_s: of each request.
        token: a bearer token; empty for none.
        tls: how https servers are known; None for the system's way.
    """
    answers: dict[str, Any] = {}
    failures: dict[str, str] = {}
    opener = build_opener(ProxyHandler({}), HTTPSHandler(context=tls))

    def ask(server: str) -> None:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        try:
            with opener.open(Request(urls[server], headers=headers), timeout=timeout_s) as answer:
                body = answer.read(_MAX_BYTES + 1)
            if len(body) > _MAX_BYTES:
                raise ValueError(f"expected at most {_MAX_BYTES} bytes")
            answers[server] = json.loads(body)
        except HTTPError as error:
            with error:
                advice = "; it needs a token: --token-file" if error.code in (401, 403) else ""
            failures[server] = f"HTTP {error.code}{advice}"
        except (OSError, HTTPException) as error:
            failures[server] = str(getattr(error, "reason", error)) or type(error).__name__
        except (ValueError, RecursionError) as error:
            failures[server] = f"expected JSON of a ladle server: {error}"

    with ThreadPoolExecutor(min(len(urls), _AT_ONCE)) as threads:
        list(threads.map(ask, urls))
    return {server: answers[server] for server in urls if server in answers}, failures


def tls_context(ca: str | None) -> ssl.SSLContext | None:
    """Return how https servers are known; None for the system's authorities.

    Raises:
        OSError: The file of authorities can't be read.
    """
    if ca is None:
        return None
    try:
        return ssl.create_default_context(cafile=ca)
    except ssl.SSLError as error:
        raise ValueError(f"--ca: {ca}: expected authorities in PEM: {error.reason}") from None


def read_token(file: str | None) -> str:
    """Return the token in a file; empty without one.

    Raises:
        OSError: The file can't be read.
        ValueError: It holds no token.
    """
    if file is None:
        return ""
    token = Path(file).read_text().strip()
    if not token or not token.isascii() or not token.isprintable():
        raise ValueError(f"--token-file: {file}: expected one line of text")
    return token
