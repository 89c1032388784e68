"""The asyncio client."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from os import PathLike
from types import TracebackType

from ladle.client.calls import flows, server_flows
from ladle.client.coalescing.groups import coalescing_key
from ladle.client.inputs.arrays import Inputs
from ladle.client.inputs.conversion import Normalize
from ladle.client.inputs.examples import Examples, Features
from ladle.client.messages import requests
from ladle.client.messages.metadata import CallMetadata, checked
from ladle.client.messages.requests import ModelConfigs, Task
from ladle.client.models import ModelMetadata, ServedModel, VersionStatus
from ladle.client.prediction import Classification, Prediction, Regression
from ladle.client.streaming.window import OnError, StreamWindow
from ladle.client.transport.async_driver import AsyncIODriver


class AsyncClient(AsyncIODriver):
    """A `Client` with coroutine methods; closed by `async with` or `await close()`.

    It can be made outside an event loop. Its first call binds it to the running event loop. All
    tasks share its connections. Cancelling a task cancels its call at the server too.
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
        metadata: CallMetadata | None = None,
    ) -> Prediction:
        """As `Client.predict`."""
        call = self._predict_call(
            model, inputs, version, label, signature, outputs, normalize, metadata
        )
        self._bind()
        if self._coalescer is not None:
            key = coalescing_key(call, self._known.find(call.target))
            if key is not None:
                return await self._coalescer.predict(call, key, self._timeout_s(timeout))
        return await self._predict(call, timeout)

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
        metadata: CallMetadata | None = None,
        window: int = 16,
        ordered: bool = True,
        on_error: OnError | None = None,
    ) -> AsyncIterator[Prediction]:
        """As `Client.stream`, of any iterable or async iterable; an async iterator itself."""
        from ladle.client.streaming import (
            async_streams,
        )  # imported here, because most programs don't stream

        requests.servable(
            model, version, label
        )  # bad arguments raise here, not at the first result

        scope = async_streams.Scope(self._stream_pool(checked(metadata)))

        async def predict(inputs: Inputs) -> Prediction:
            call = self._predict_call(
                model, inputs, version, label, signature, outputs, normalize, metadata
            )
            flow = flows.predict(call, self._known)
            return await self._finish(self._retry_loop(flow, timeout, patient=True), scope)

        return async_streams.stream(
            predict,
            inputs,
            scope=scope,
            window=StreamWindow(window, ordered=ordered),
            on_error=on_error,
        )

    def predict_chunks(
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
        metadata: CallMetadata | None = None,
    ) -> AsyncIterator[Prediction]:
        """As `Client.predict_chunks`; an async iterator."""
        call = self._predict_call(
            model, inputs, version, label, signature, outputs, normalize, metadata
        )
        return self._in_chunks(call, self._timeout_s(timeout))

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
        metadata: CallMetadata | None = None,
    ) -> Classification:
        """As `Client.classify`."""
        call = self._examples_call("classify()", model, examples, version, label, context, metadata)
        return await self._run(flows.classify(call, signature), timeout)

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
        metadata: CallMetadata | None = None,
    ) -> Regression:
        """As `Client.regress`."""
        call = self._examples_call("regress()", model, examples, version, label, context, metadata)
        return await self._run(flows.regress(call, signature), timeout)

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
        metadata: CallMetadata | None = None,
    ) -> dict[str, Classification | Regression]:
        """As `Client.multi_inference`."""
        call = self._examples_call(
            "multi_inference()", model, examples, version, label, context, metadata
        )
        return await self._run(flows.multi_inference(call, tasks), timeout)

    async def metadata(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
    ) -> ModelMetadata:
        """As `Client.metadata`."""
        return await self._run(
            flows.metadata(requests.servable(model, version, label), self._protocol), timeout
        )

    async def status(
        self, model: str, *, version: int | None = None, timeout: float | None = None
    ) -> tuple[VersionStatus, ...]:
        """As `Client.status`."""
        return await self._run(
            server_flows.status(requests.servable(model, version), self._protocol), timeout
        )

    async def models(
        self, name: str | None = None, *, timeout: float | None = None
    ) -> tuple[ServedModel, ...]:
        """As `Client.models`."""
        return await self._run(self._protocol.models(name or ""), timeout)

    async def reload(self, configs: ModelConfigs, *, timeout: float | None = None) -> None:
        """As `Client.reload`."""
        await self._run(self._protocol.reload(configs), timeout)

    async def load(
        self,
        name: str,
        base_path: str | PathLike[str] | None = None,
        *,
        timeout: float | None = None,
    ) -> ServedModel:
        """As `Client.load`."""
        return await self._run(self._protocol.load(name, base_path), timeout)

    async def unload(self, name: str, *, timeout: float | None = None) -> None:
        """As `Client.unload`."""
        await self._run(self._protocol.unload(name), timeout)

    async def health(self, service: str = "", *, timeout: float | None = None) -> bool:
        """As `Client.health`."""
        return await self._run(self._protocol.health(service), timeout)

    async def models_everywhere(
        self, name: str | None = None, *, timeout: float | None = None
    ) -> dict[str, tuple[ServedModel, ...]]:
        """As `Client.models_everywhere`."""
        return await self._everywhere("models", lambda: self._protocol.models(name or ""), timeout)

    async def reload_everywhere(
        self, configs: ModelConfigs, *, timeout: float | None = None
    ) -> dict[str, None]:
        """As `Client.reload_everywhere`."""
        return await self._everywhere("reload", lambda: self._protocol.reload(configs), timeout)

    async def health_everywhere(
        self, service: str = "", *, timeout: float | None = None
    ) -> dict[str, bool]:
        """As `Client.health_everywhere`."""
        return await self._everywhere("health", lambda: self._protocol.health(service), timeout)

    async def wait_until_ready(
        self,
        model: str | None = None,
        *,
        version: int | None = None,
        timeout: float | None = None,
    ) -> None:
        """As `Client.wait_until_ready`."""
        target = None if model is None else requests.servable(model, version)
        await self._run(server_flows.wait_until_ready(target, self._protocol), timeout, once=True)

    async def close(self) -> None:
        """As `Client.close`."""
        await self._cut()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
