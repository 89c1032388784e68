"""A settings file: read at the start, and again whenever its text is another."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from ladle.server.core.clock import Clock
from ladle.server.core.errors import InvalidArgument, ServingError
from ladle.server.core.polling import Poller
from ladle.server.core.regular_file import read_text
from ladle.store.errors import StoreError
from ladle.store.opening import open_store
from ladle.store.store import Store, read_small
from ladle.store.url import StoreUrl

logger = logging.getLogger(__name__)

T = TypeVar("T")


class PolledFile(Generic[T]):
    """Polls a file, and hands on what it says; a text that is refused is tried again each time.

    Order of calls: `read`, then `start` and `stop`. `step` is what the thread does at each poll.
    """

    def __init__(
        self,
        path: Path | StoreUrl,
        parse: Callable[[str], T],
        replace: Callable[[T], object],
        *,
        name: str,
        max_bytes: int,
        poll_wait_s: float,
        clock: Clock | None = None,
        open_store: Callable[[StoreUrl], Store] = open_store,
    ) -> None:
        """Take what to do with the text.

        Args:
            path: the file, or the place of an object in a store.
            parse: makes of the text what it says, or raises InvalidArgument.
            replace: puts that in place, or raises ServingError.
            name: what the file holds, for the log.
            max_bytes: a larger file is refused.
            poll_wait_s: between looks; 0 never polls.
            clock: the time.
            open_store: returns the bucket of a URL.
        """
        self._path = path
        self._open_store = open_store
        self._parse = parse
        self._replace = replace
        self._name = name
        self._max_bytes = max_bytes
        self._applied: str | None = None
        self._problem = ""
        self._is_polled = poll_wait_s > 0
        self._poller = Poller(self.step, name=f"{name} file", wait_s=poll_wait_s, clock=clock)

    def read(self) -> T:
        """Return what the file says, for the start.

        Raises:
            InvalidArgument: It can't be read, or is wrong.
        """
        self._applied = text = self._text()
        return self._parsed(text)

    @property
    def is_blank(self) -> bool:
        """Whether there was nothing but white space in the text that was read last."""
        return self._applied is not None and not self._applied.strip()

    def start(self) -> None:
        """Poll from now on, in a thread."""
        if self._is_polled:
            self._poller.start()

    def stop(self) -> None:
        """End polling."""
        self._poller.stop()

    def step(self) -> None:
        """Read the file, and put what it says in place if its text has changed."""
        try:
            text = self._text()
            if text == self._applied:
                self._problem = ""
                return
            self._replace(self._parsed(text))
        except ServingError as error:
            if self._problem != error.message:
                self._problem = error.message
                logger.error("%s left unchanged: %s", self._name, error.message)
            return
        self._applied, self._problem = text, ""
        logger.info("%s changed path=%s", self._name, self._path)

    def _parsed(self, text: str) -> T:
        try:
            return self._parse(text)
        except InvalidArgument as error:
            raise InvalidArgument(f"{self._path}: {error.message}") from None

    def _text(self) -> str:
        if isinstance(self._path, StoreUrl):
            return self._object_text(self._path)
        try:
            return read_text(self._path, self._max_bytes)
        except InvalidArgument as error:
            raise InvalidArgument(f"{self._path}: {error.message}") from None

    def _object_text(self, url: StoreUrl) -> str:
        try:
            _, data = read_small(self._open_store(url), url.path, most=self._max_bytes)
            return data.decode("utf-8-sig").replace("\r\n", "\n")
        except StoreError as error:
            raise InvalidArgument(str(error)) from None
        except UnicodeDecodeError:
            raise InvalidArgument(f"{url}: can't be read: it is no text in UTF-8") from None
        except ValueError as error:
            raise InvalidArgument(f"{url}: {error}") from None
