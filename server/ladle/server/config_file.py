"""The model config file: read at the start, and again whenever its text is another."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from ladle.server.core.clock import Clock, MonotonicClock
from ladle.server.core.errors import InvalidArgument, ServingError
from ladle.server.core.model_config import ModelConfig, read_text

logger = logging.getLogger(__name__)

_MAX_BYTES = 64 << 20


class ConfigFile:
    """Polls the file, and hands its models on; a text that is refused is tried again each time.

    Order of calls: `read`, then `start` and `stop`. `step` is what the thread does at each poll.
    """

    def __init__(
        self,
        path: Path,
        replace: Callable[[tuple[ModelConfig, ...]], object],
        *,
        poll_wait_s: float,
        clock: Clock | None = None,
    ) -> None:
        """Take `replace`, which puts models in place or raises ServingError; 0 never polls."""
        self._path = path
        self._replace = replace
        self._poll_wait_s = poll_wait_s
        self._clock = clock or MonotonicClock()
        self._wake = threading.Condition()
        self._applied = ""
        self._problem = ""
        self._stopped = False
        self._thread: threading.Thread | None = None

    def read(self) -> tuple[ModelConfig, ...]:
        """Return the models of the file, for the start.

        Raises:
            InvalidArgument: It can't be read, or is no legal ModelServerConfig.
        """
        self._applied = self._text()
        return self._models(self._applied)

    def start(self) -> None:
        """Poll from now on, in a thread."""
        if self._poll_wait_s > 0:
            self._thread = threading.Thread(target=self._run, name="model config file", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End polling."""
        with self._wake:
            self._stopped = True
            self._wake.notify_all()

    def step(self) -> None:
        """Read the file, and put its models in place if its text has changed."""
        try:
            text = self._text()
            if text == self._applied:
                return
            self._replace(self._models(text))
        except ServingError as error:
            if self._problem != error.message:
                self._problem = error.message
                logger.error("model config left as it was: %s", error.message)
            return
        self._applied, self._problem = text, ""

    def _models(self, text: str) -> tuple[ModelConfig, ...]:
        try:
            return read_text(text)
        except InvalidArgument as error:
            raise InvalidArgument(f"{self._path}: {error.message}") from None

    def _text(self) -> str:
        try:
            with self._path.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
            if len(data) > _MAX_BYTES:
                raise InvalidArgument(f"{self._path}: expected at most {_MAX_BYTES} bytes")
            return data.decode()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"{self._path}: can't be read: {error}") from None

    def _run(self) -> None:
        while True:
            with self._wake:
                if not self._stopped:
                    self._clock.wait(self._wake, self._poll_wait_s)
                if self._stopped:
                    return
            self.step()
