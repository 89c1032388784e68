"""The client that blocks."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TypeVar

import grpc
from numpy.typing import ArrayLike

from ladle.client import flows, requests
from ladle.client.cache import MetadataCache
from ladle.client.errors import DeadlineExceeded, LadleError, from_rpc_error
from ladle.client.flows import Flow
from ladle.client.inputs import Normalize, as_given
from ladle.client.models import ModelMetadata, VersionStatus
from ladle.client.prediction import Prediction
from ladle.client.requests import Request

T = TypeVar("T")

ChannelOptions = Sequence[tuple[str, str | int | bool]]

# Asks ladle for arrays that can be viewed without a copy; other servers take no notice.
_METADATA = (("ladle-tensor-content", "true"),)


class Client:
    """Calls the models of one server, ladle's or TensorFlow's; closed by `with` or `close()`.

    Thread-safe: one client serves a whole process, and its calls share one connection, which is
    made with the first call and made again when it breaks. Every method blocks until the answer
    is there or its `timeout`, in seconds, is over.

    Every method raises LadleError, in the class that tells the cause, and ValueError once the
    client is closed. Nothing is retried but predictions that need other inputs (see `predict`).
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float = 30.0,
        max_message_bytes: int = requests.MAX_MESSAGE_BYTES,
        options: ChannelOptions = (),
    ) -> None:
        """Make a client of the server at `address`, such as `localhost:8500`, without connecting.

        `timeout` is for the calls that give none. `max_message_bytes` bounds requests and answers;
        the default is what protobuf can hold, 2 GiB. `options` are gRPC's channel options, and
        come before ladle's own.
        """
        self._address = address
        self._timeout = _checked_timeout(timeout)
        if not 0 < max_message_bytes <= requests.MAX_MESSAGE_BYTES:
            raise ValueError(
                f"max_message_bytes: expected 1 to {requests.MAX_MESSAGE_BYTES}, "
                f"got {max_message_bytes}"
            )
        self._max_message_bytes = max_message_bytes
        self._known = MetadataCache()
        self._is_closed = False
        own = {
            "grpc.max_receive_message_length": max_message_bytes,
            "grpc.max_send_message_length": max_message_bytes,
        }
        self._channel = grpc.insecure_channel(address, [*(own | dict(options)).items()])
        # Without serialisers, bytes go in and come out as they are.
        self._calls: dict[str, grpc.UnaryUnaryMultiCallable[bytes, bytes]] = {
            method: self._channel.unary_unary(method) for method in requests.METHODS
        }

    def predict(
        self,
        model: str,
        inputs: ArrayLike | Mapping[str, ArrayLike],
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str | None = None,
        outputs: str | Sequence[str] | None = None,
        timeout: float | None = None,
        normalize: Normalize = "auto",
    ) -> Prediction:
        """Run a model on `inputs`: a dict of arrays by name, or the array of the only input.

        The version is the one given, the one with that label, or the server's choice; `signature`
        defaults to `serving_default` and `outputs` to all. `timeout` is for the whole prediction,
        whatever it takes.

        uint8 arrays for an input of floats are taken for raw pixels. `normalize` tells what
        becomes of them: "auto" normalises as is recorded with the version that answers, a
        Normalization as it says, and None sends the numbers as they are. A signature of uint8,
        such as ladle's `serving_uint8`, gets them untouched.

        Before anything is sent, names, dtypes and shapes are checked against the signature, which
        is fetched once for each version. Floats are cast to floats of another width, integers to
        integers and floats that hold their values exactly; nothing else is. When another version
        answers than was expected, and wants its inputs prepared otherwise, the call is made anew.

        Raises:
            InvalidInput: The inputs don't fit the signature; the message names the input, what
                was expected and what was given. Or the server refused them.
            FailedPrecondition: The model has no such signature.
            NotFound: The model is not served, or not in that version.
            LadleError: Another cause; see `ladle.client.errors`.
        """
        wanted = flows.Wanted(
            asked=requests.servable(model, version, label),
            given=as_given(inputs),
            signature=signature or "",
            outputs=(outputs,) if isinstance(outputs, str) else tuple(outputs or ()),
            normalize=normalize,
            max_bytes=self._max_message_bytes,
        )
        return self._run(flows.predict(wanted, self._known), timeout)

    def metadata(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
    ) -> ModelMetadata:
        """Ask the server how a model is called, and what its owner says of it.

        Raises:
            NotFound: The model is not served, or not in that version.
            Unimplemented: The server can't tell.
            LadleError: Another cause; see `ladle.client.errors`.
        """
        return self._run(flows.metadata(requests.servable(model, version, label)), timeout)

    def status(
        self, model: str, *, version: int | None = None, timeout: float | None = None
    ) -> tuple[VersionStatus, ...]:
        """Ask for the states of a model's versions, in ascending order, or of the one given.

        Raises:
            NotFound: The server knows no such model or version.
            LadleError: Another cause; see `ladle.client.errors`.
        """
        return self._run(flows.status(requests.servable(model, version)), timeout)

    def close(self) -> None:
        """Cut the connection; calls that are under way fail as cancelled. May be called again."""
        self._is_closed = True
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f'Client("{self._address}")' + (" (closed)" if self._is_closed else "")

    def _run(self, flow: Flow[T], timeout: float | None) -> T:
        """Drive a flow to its result, all its calls within one deadline."""
        if self._is_closed:
            raise ValueError(f"{self}: a closed client makes no calls")
        timeout_s = self._timeout if timeout is None else _checked_timeout(timeout)
        deadline = time.monotonic() + timeout_s
        try:
            request = next(flow)
            while True:
                try:
                    answer = self._send(request, deadline)
                except LadleError as error:
                    request = flow.throw(error)
                else:
                    request = flow.send(answer)
        except StopIteration as finished:
            result: T = finished.value
            return result

    def _send(self, request: Request, deadline: float) -> bytes:
        asked = f"{request.method.rpartition('/')[2]} at {self._address}"
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0:  # gRPC might still find the time
            raise DeadlineExceeded(f"{asked}: the timeout had passed before it was sent")
        try:
            return self._calls[request.method](
                request.body, timeout=remaining_s, metadata=_METADATA
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error, asked) from error


def _checked_timeout(timeout: float) -> float:
    if not 0 < timeout < math.inf:
        raise ValueError(f"timeout: expected seconds, more than 0 and finite, got {timeout}")
    return timeout
