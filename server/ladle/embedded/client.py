"""A client whose server is in its process: the same methods and errors, and no connection."""

from __future__ import annotations

from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as NotInTime
from typing import NoReturn

import grpc

from ladle.client import Client, Retry
from ladle.client.calls.effects import Failure, Outcome, Send
from ladle.client.errors import Cancelled, DeadlineExceeded, from_status
from ladle.client.streaming.streams import Scope
from ladle.embedded.calls import LocalCalls
from ladle.server.core.errors import ServingError

_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_WHERE = "this process"


class EmbeddedClient(Client):
    """A `Client` of the models in this process; made by `Embedded`, and thread-safe.

    What it takes, returns and raises is what a `Client` does that is connected to a server with the
    same models. Each input of a stream is a request of its own.
    """

    def __init__(
        self, calls: LocalCalls, *, timeout: float = 30.0, retry: Retry | None = None
    ) -> None:
        """Take what makes the calls, and how, as of a `Client`."""
        self._local_calls = calls
        super().__init__(f"unix:{_WHERE}", timeout=timeout, retry=retry)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({_WHERE})" + (" (closed)" if self._is_closed else "")

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled.

        Raises:
            TypeError: Always; another process has no models of this one.
        """
        raise TypeError(f"{self}: its models are in this process, so it can't be pickled or copied")

    def _set_up(self) -> None:
        self._addresses = (_WHERE,)  # for messages
        super()._set_up()
        self._unary_only, self._chunkless = {0}, {0}

    def _send(self, send: Send, scope: Scope | None) -> Outcome:
        if self._is_closed:
            return Failure(Cancelled(f"{send.what}: the client was closed"))
        answer = self._local_calls.call(
            send.request.method,
            send.request.body,
            timeout_s=send.timeout_s,
            metadata=dict(self._metadata(send.request.metadata)),
        )
        if scope is not None:
            scope.add(answer)
        try:
            return answer.result(send.timeout_s)
        except ServingError as error:
            wait_s = error.retry_after_s
            code = _BY_NUMBER.get(int(error.code), grpc.StatusCode.UNKNOWN)
            return Failure(
                from_status(code, error.message, send.what),
                None if wait_s is None else str(round(wait_s * 1000)),
            )
        except NotInTime:
            answer.cancel()  # the request leaves its queue
            return Failure(
                DeadlineExceeded(f"{send.what}: no answer within {send.timeout_s:.3g} s")
            )
        except CancelledError:
            return Failure(Cancelled(f"{send.what}: cancelled"))
        finally:
            if scope is not None:
                scope.discard(answer)
