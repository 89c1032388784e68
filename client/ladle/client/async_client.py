"""The client that awaits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
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
    from ladle.client.coalescers import AsyncCoalescer

T = TypeVar("T")


class AsyncClient(BaseClient):
    """A `Client` whose methods are awaited; closed by `async with` or `await close()`.

    Made anywhere, and used within one event loop: the one that runs when it makes its first call.
    Its tasks share its connections. Cancelling a task cancels its call at the server too.
    """

    async def predict(
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
        """As `Client.predict`."""
        wanted = self._wanted(model, inputs, version, label, signature, outputs, normalize)
        if self._coalescer is not None:
            key = mould(wanted, self._known.find(wanted.asked))
            if key is not None:
                return await self._coalescer.predict(wanted, key, self._timeout_s(timeout))
        return await self._predict(wanted, timeout)

    def stream(
        self,
        model: str,
        inputs: Iterable[Inputs] | AsyncIterable[Inputs],
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
    ) -> AsyncIterator[Prediction]:
        """As `Client.stream`, of any iterable or async iterable; an async iterator itself."""
        from ladle.client import async_streams  # here, since most need it not

        requests.servable(model, version, label)  # mistaken ones are told at once

        async def predict(given: Inputs) -> Prediction:
            wanted = self._wanted(model, given, version, label, signature, outputs, normalize)
            flow = flows.predict(wanted, self._known)
            return await self._finish(self._conversation(flow, timeout, patient=True))

        return async_streams.stream(
            predict, inputs, window=Window(window, ordered=ordered), on_error=on_error
        )

    async def classify(
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
        """As `Client.classify`."""
        wanted = self._on_examples(model, examples, version, label, context)
        return await self._run(flows.classify(wanted, signature), timeout)

    async def regress(
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
        """As `Client.regress`."""
        wanted = self._on_examples(model, examples, version, label, context)
        return await self._run(flows.regress(wanted, signature), timeout)

    async def multi_inference(
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
        """As `Client.multi_inference`."""
        wanted = self._on_examples(model, examples, version, label, context)
        return await self._run(flows.multi_inference(wanted, tasks), timeout)

    async def metadata(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
    ) -> ModelMetadata:
        """As `Client.metadata`."""
        return await self._run(flows.metadata(requests.servable(model, version, label)), timeout)

    async def status(
        self, model: str, *, version: int | None = None, timeout: float | None = None
    ) -> tuple[VersionStatus, ...]:
        """As `Client.status`."""
        return await self._run(flows.status(requests.servable(model, version)), timeout)

    async def models(
        self, name: str | None = None, *, timeout: float | None = None
    ) -> tuple[ServedModel, ...]:
        """As `Client.models`."""
        return await self._run(flows.models(name or ""), timeout)

    async def reload(self, configs: ModelConfigs, *, timeout: float | None = None) -> None:
        """As `Client.reload`."""
        await self._run(flows.reload(configs), timeout)

    async def health(self, service: str = "", *, timeout: float | None = None) -> bool:
        """As `Client.health`."""
        return await self._run(flows.health(service), timeout)

    async def wait_until_ready(
        self,
        model: str | None = None,
        *,
        version: int | None = None,
        timeout: float | None = None,
    ) -> None:
        """As `Client.wait_until_ready`."""
        asked = None if model is None else requests.servable(model, version)
        await self._run(flows.wait_until_ready(asked), timeout)

    async def close(self) -> None:
        """As `Client.close`."""
        self._is_closed = True
        for of_address in self._channels:
            for channel in of_address:
                await channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _predict(self, wanted: flows.Wanted, timeout: float | None) -> Prediction:
        return await self._run(flows.predict(wanted, self._known), timeout)

    def _set_up(self) -> None:
        self._coalescer: AsyncCoalescer | None = None
        if self._gather_s:
            from ladle.client.coalescers import AsyncCoalescer

            self._coalescer = AsyncCoalescer(self._predict, self._gather_s)
        # A channel belongs to the event loop that it is made in, so they wait for the first call.
        self._channels: list[list[grpc.aio.Channel]] = []

    def _open(self, address: str, options: ChannelOptions) -> grpc.aio.Channel:
        if self._credentials is None:
            return grpc.aio.insecure_channel(address, options, self._compression)
        return grpc.aio.secure_channel(address, self._credentials, options, self._compression)

    async def _run(self, flow: Flow[T], timeout: float | None) -> T:
        return await self._finish(self._conversation(flow, timeout))

    async def _finish(self, conversation: Conversation[T]) -> T:
        try:
            effect = next(conversation)
            while True:
                effect = conversation.send(await self._perform(effect))
        except StopIteration as finished:
            result: T = finished.value
            return result

    async def _perform(self, effect: Send | Pause) -> Outcome:
        if isinstance(effect, Pause):
            await asyncio.sleep(effect.seconds)
            return None
        if self._is_closed:
            raise Cancelled(f"{effect.asked}: the client was closed")
        try:
            metadata = self._metadata()
        except LadleError as error:
            return Failure(error)
        if effect.second is not None:
            return await self._race(effect, metadata)
        return await self._send(effect, effect.address, effect.timeout_s, metadata)

    async def _send(
        self, send: Send, address: int, timeout_s: float, metadata: tuple[tuple[str, str], ...]
    ) -> Outcome:
        call = self._method(address, send.request.method)(
            send.request.body, timeout=timeout_s, metadata=grpc.aio.Metadata(*metadata)
        )
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            return failure(error, send.asked)
        except asyncio.CancelledError:
            # gRPC tells so too of a channel that was closed, when nobody cancelled this task.
            if self._is_closed and call.cancelled() and not _is_being_cancelled():
                raise Cancelled(f"{send.asked}: the client was closed") from None
            raise

    async def _race(self, send: Send, metadata: tuple[tuple[str, str], ...]) -> Outcome:
        """Make a call, and a second one where the first takes long; the first answer counts."""
        assert send.second is not None
        after_s = send.second.after_s
        first = asyncio.ensure_future(self._send(send, send.address, send.timeout_s, metadata))
        running = {first}
        try:
            await asyncio.wait(running, timeout=after_s)
            if not first.done() and send.timeout_s > after_s and send.second.allow():
                left_s = send.timeout_s - after_s
                second = self._send(send, send.second.address, left_s, metadata)
                running.add(asyncio.ensure_future(second))
            while True:
                done, running = await asyncio.wait(running, return_when="FIRST_COMPLETED")
                for task in done:
                    outcome = task.result()
                    if isinstance(outcome, bytes) or not running:
                        return outcome
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _method(self, address: int, method: str) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
        if not self._channels:
            self._channels = [
                [self._open(address, options) for _ in range(self._connections)]
                for address, options in zip(
                    self._fleet.addresses, self._channel_options, strict=True
                )
            ]
        channel = self._channels[address][self._connection()]
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        return call


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    cancelling = getattr(task, "cancelling", None)  # since Python 3.11
    return cancelling is not None and cancelling() > 0
