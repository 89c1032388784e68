"""The client that blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from threading import Event
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import grpc

from ladle.client import flows, requests
from ladle.client.base import BaseClient, failure
from ladle.client.calls import Conversation, Failure, Outcome, Send
from ladle.client.coalescing import mould
from ladle.client.connection import ChannelOptions
from ladle.client.errors import Cancelled, LadleError
from ladle.client.examples import Classification, Examples, Features, Regression
from ladle.client.flows import Flow, Pause
from ladle.client.inputs import Inputs, Normalize
from ladle.client.models import ModelMetadata, ServedModel, VersionStatus
from ladle.client.prediction import Prediction
from ladle.client.requests import ModelConfigs, Task
from ladle.client.window import OnError, Window

if TYPE_CHECKING:
    from ladle.client.coalescers import Coalescer
    from ladle.client.streams import Scope

T = TypeVar("T")


class Client(BaseClient):
    """Calls the models of servers, ladle's or TensorFlow's; closed by `with` or `close()`.

    Thread-safe: one client serves a whole process, and its calls share its connections, which are
    made with the first call and made again when they break. Every method blocks until the answer
    is there or its `timeout`, in seconds, is over.

    Every method raises LadleError, in the class that tells the cause, and ValueError once the
    client is closed. Calls that no server could take are made again within the timeout; see
    `Retry`.
    """

    def predict(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str | None = None,
        outputs: str | Sequence[str] | None = None,
        timeout: float | None = None,
        normalize: Normalize = "auto",
    ) -> Prediction:
        """Run a model on `inputs`: a dict of arrays by name, or the array of the only input.

        For images, pictures do as well, one or a list: PIL images, image files' bytes, or paths,
        as text too. They are turned as the camera was, greyed or coloured, and resized. That takes
        Pillow: `pip install 'ladle[images]'`.

        The version is the one given, the one with that label, or the server's choice; `signature`
        defaults to `serving_default` and `outputs` to all. `timeout` is for the whole prediction,
        whatever it takes.

        uint8 arrays for an input of floats, and pictures, are taken for raw pixels. `normalize`
        tells what becomes of them. "client" normalises them here, as is recorded with the version
        that answers; "server" sends them to its signature for raw pixels, ladle's
        `serving_uint8`, which takes a quarter of the bytes; "auto" does that where there is one
        and no `signature` is named, and else the former. The answers are the same. A Normalization
        is applied here, and None sends the numbers as they are. A signature of uint8 gets raw
        pixels untouched.

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
        wanted = self._wanted(model, inputs, version, label, signature, outputs, normalize)
        if self._coalescer is not None:
            key = mould(wanted, self._known.find(wanted.asked))
            if key is not None:
                return self._coalescer.predict(wanted, key, self._timeout_s(timeout))
        return self._predict(wanted, timeout)

    def stream(
        self,
        model: str,
        inputs: Iterable[Inputs],
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str | None = None,
        outputs: str | Sequence[str] | None = None,
        timeout: float | None = None,
        normalize: Normalize = "auto",
        window: int = 16,
        ordered: bool = True,
        on_error: OnError | None = None,
    ) -> Iterator[Prediction]:
        """Predict each of `inputs`, any iterable; yields results while further inputs are read.

        An input is what `predict` takes, and `timeout` is for each. Up to `window` of them are
        read and not yet answered or handed over, and no more are read ahead. Results come in the
        order of the inputs or, unless `ordered`, as soon as they are there; their `index` tells
        which input they are of. Inputs that no server could take are sent again until their
        timeout, so a server that comes back in time loses none.

        The first input that fails ends the stream with its error. With `on_error` it doesn't: that
        is called with the index and the error instead, in the thread that consumes the stream.

        Inputs are read when results are asked for, in that same thread. Closing the iterator, or
        leaving it, cancels what is under way. (An async iterator is left for good by its
        `aclose()`, as `contextlib.aclosing` calls it.)

        Raises:
            LadleError: As `predict`, of the first input that fails.
        """
        from ladle.client import streams  # here, since it brings what others don't need

        requests.servable(model, version, label)  # mistaken ones are told at once

        def predict(given: Inputs, scope: streams.Scope) -> Prediction:
            wanted = self._wanted(model, given, version, label, signature, outputs, normalize)
            flow = flows.predict(wanted, self._known)
            return self._finish(self._conversation(flow, timeout, patient=True), scope)

        return streams.stream(
            predict,
            inputs,
            window=Window(window, ordered=ordered),
            max_workers=window,
            on_error=on_error,
        )

    def classify(
        self,
        model: str,
        examples: Examples,
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str | None = None,
        context: Features | None = None,
        timeout: float | None = None,
    ) -> Classification:
        """Have a model classify examples, each a dict of features; see `Features`.

        `context` holds features that all examples share. The model's signature must be made for
        Classify (`tensorflow/serving/classify`).

        Raises:
            InvalidInput: A feature is of no kind that an Example holds, or not what the model
                takes.
            LadleError: Another cause; see `ladle.client.errors`.
        """
        wanted = self._on_examples(model, examples, version, label, context)
        return self._run(flows.classify(wanted, signature), timeout)

    def regress(
        self,
        model: str,
        examples: Examples,
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str | None = None,
        context: Features | None = None,
        timeout: float | None = None,
    ) -> Regression:
        """Have a model give each example a number; as `classify`, for `tensorflow/serving/regress`.

        Raises:
            InvalidInput: A feature is of no kind that an Example holds, or not what the model
                takes.
            LadleError: Another cause; see `ladle.client.errors`.
        """
        wanted = self._on_examples(model, examples, version, label, context)
        return self._run(flows.regress(wanted, signature), timeout)

    def multi_inference(
        self,
        model: str,
        examples: Examples,
        tasks: Mapping[str, Task],
        *,
        version: int | None = None,
        label: str | None = None,
        context: Features | None = None,
        timeout: float | None = None,
    ) -> dict[str, Classification | Regression]:
        """Run several signatures over the same examples at once; results come by signature.

        `tasks` tells for each signature whether to "classify" or to "regress".

        Raises:
            InvalidInput: A feature is of no kind that an Example holds, or not what the model
                takes.
            LadleError: Another cause; see `ladle.client.errors`.
        """
        wanted = self._on_examples(model, examples, version, label, context)
        return self._run(flows.multi_inference(wanted, tasks), timeout)

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

    def models(
        self, name: str | None = None, *, timeout: float | None = None
    ) -> tuple[ServedModel, ...]:
        """Ask a ladle server which models it is to serve, or only about the one of that name.

        Raises:
            Unimplemented: The server is not ladle's; `status` tells of one model there.
            LadleError: Another cause; see `ladle.client.errors`.
        """
        return self._run(flows.models(name or ""), timeout)

    def reload(self, configs: ModelConfigs, *, timeout: float | None = None) -> None:
        """Have the server serve these models instead of its own, and wait until it does.

        `configs` gives each model's base path by its name, as the server sees it, or is TensorFlow
        Serving's ModelServerConfig. Models left out are unloaded. Of several servers one is told.

        Raises:
            LadleError: The server refused, or a model couldn't be loaded; the message says why.
        """
        self._run(flows.reload(configs), timeout)

    def health(self, service: str = "", *, timeout: float | None = None) -> bool:
        """Ask whether the server takes calls, or one of its services; of several servers, one.

        Raises:
            NotFound: The server knows no such service.
            Unimplemented: It has no health checks, as TensorFlow Serving may not.
            LadleError: Another cause; see `ladle.client.errors`.
        """
        return self._run(flows.health(service), timeout)

    def wait_until_ready(
        self,
        model: str | None = None,
        *,
        version: int | None = None,
        timeout: float | None = None,
    ) -> None:
        """Wait until the server takes calls or, where one is named, serves the model.

        Raises:
            DeadlineExceeded: It did not within the timeout; the message says what was missing.
            LadleError: The server is there and can't be asked; see `ladle.client.errors`.
        """
        asked = None if model is None else requests.servable(model, version)
        self._run(flows.wait_until_ready(asked), timeout)

    def close(self) -> None:
        """Cut the connections; calls that are under way fail as cancelled. May be called again."""
        self._is_closed = True
        self._closing.set()
        for channels in self._channels:
            for channel in channels:
                channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _predict(self, wanted: flows.Wanted, timeout: float | None) -> Prediction:
        return self._run(flows.predict(wanted, self._known), timeout)

    def _set_up(self) -> None:
        self._coalescer: Coalescer | None = None
        if self._gather_s:
            from ladle.client.coalescers import Coalescer

            self._coalescer = Coalescer(self._predict, self._gather_s)
        self._closing = Event()
        self._channels = [
            [self._open(address, options) for _ in range(self._connections)]
            for address, options in zip(self._fleet.addresses, self._channel_options, strict=True)
        ]
        # Without serialisers, bytes go in and come out as they are.
        self._calls: list[list[dict[str, grpc.UnaryUnaryMultiCallable[bytes, bytes]]]] = [
            [{method: channel.unary_unary(method) for method in requests.METHODS} for channel in to]
            for to in self._channels
        ]

    def _open(self, address: str, options: ChannelOptions) -> grpc.Channel:
        if self._credentials is None:
            return grpc.insecure_channel(address, options, self._compression)
        return grpc.secure_channel(address, self._credentials, options, self._compression)

    def _run(self, flow: Flow[T], timeout: float | None) -> T:
        return self._finish(self._conversation(flow, timeout))

    def _finish(self, conversation: Conversation[T], scope: Scope | None = None) -> T:
        try:
            effect = next(conversation)
            while True:
                effect = conversation.send(self._perform(effect, scope))
        except StopIteration as finished:
            result: T = finished.value
            return result

    def _perform(self, effect: Send | Pause, scope: Scope | None) -> Outcome:
        """Do what a conversation wants; `scope` is where the call can be cancelled from."""
        if isinstance(effect, Pause):
            ending = self._closing if scope is None else scope.cancelled
            if ending.wait(effect.seconds):
                raise Cancelled(f"{self}: closed while a call waited to be made again")
            return None
        try:
            metadata = self._metadata()
            if effect.second is not None:
                return self._race(effect, metadata)
            method, body = self._method(effect.address, effect), effect.request.body
            if scope is None:
                return method(body, timeout=effect.timeout_s, metadata=metadata)
            call = method.future(body, timeout=effect.timeout_s, metadata=metadata)
            return scope.wait_for(call)
        except grpc.RpcError as error:
            failed = failure(error, effect.asked)
            if self._is_closed and failed.error.code is grpc.StatusCode.CANCELLED:
                raise failed.error from error  # not the server's doing: nothing to be retried
            return failed
        except grpc.FutureCancelledError as error:
            raise Cancelled(f"{effect.asked}: given up") from error
        except LadleError as error:
            return Failure(error)
        except ValueError as error:
            if not self._is_closed:
                raise
            # gRPC's own way to tell of a channel that is closed between two calls.
            raise Cancelled(f"{effect.asked}: the client was closed") from error

    def _method(self, address: int, send: Send) -> grpc.UnaryUnaryMultiCallable[bytes, bytes]:
        return self._calls[address][self._connection()][send.request.method]

    def _race(self, send: Send, metadata: tuple[tuple[str, str], ...]) -> Outcome:
        """Make a call, and a second one where the first takes long; the first answer counts."""
        from queue import Empty, SimpleQueue  # here, for the many who never hedge

        assert send.second is not None
        done: SimpleQueue[grpc.Future[bytes]] = SimpleQueue()
        started: list[grpc.Future[bytes]] = []

        def start(address: int, timeout_s: float) -> None:
            call = self._method(address, send).future(
                send.request.body, timeout=timeout_s, metadata=metadata
            )
            started.append(call)
            call.add_done_callback(done.put)

        after_s = send.second.after_s
        try:
            start(send.address, send.timeout_s)
            try:
                ended = done.get(timeout=after_s)
            except Empty:
                if send.timeout_s > after_s and send.second.allow():
                    start(send.second.address, send.timeout_s - after_s)
                ended = done.get()
            waiting = len(started) - 1
            while waiting and ended.exception() is not None:
                ended = done.get()
                waiting -= 1
            return ended.result()
        finally:
            for call in started:
                call.cancel()
