"""The client that awaits."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from types import TracebackType

from ladle.client import flows, requests
from ladle.client.async_shell import AsyncShell
from ladle.client.coalescing import mould
from ladle.client.examples import Classification, Examples, Features, Regression
from ladle.client.inputs import Inputs
from ladle.client.models import ModelMetadata, ServedModel, VersionStatus
from ladle.client.prediction import Prediction
from ladle.client.requests import ModelConfigs, Task
from ladle.client.steps import Normalize
from ladle.client.window import OnError, Window


class AsyncClient(AsyncShell):
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

        scope = async_streams.Scope(self._lines())

        async def predict(given: Inputs) -> Prediction:
            wanted = self._wanted(model, given, version, label, signature, outputs, normalize)
            flow = flows.predict(wanted, self._known)
            return await self._finish(self._conversation(flow, timeout, patient=True), scope)

        return async_streams.stream(
            predict,
            inputs,
            scope=scope,
            window=Window(window, ordered=ordered),
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
    ) -> AsyncIterator[Prediction]:
        """As `Client.predict_chunks`; an async iterator."""
        wanted = self._wanted(model, inputs, version, label, signature, outputs, normalize)
        return self._in_chunks(wanted, self._timeout_s(timeout))

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

    async def models_everywhere(
        self, name: str | None = None, *, timeout: float | None = None
    ) -> dict[str, tuple[ServedModel, ...]]:
        """As `Client.models_everywhere`."""
        return await self._everywhere("models", lambda: flows.models(name or ""), timeout)

    async def reload_everywhere(
        self, configs: ModelConfigs, *, timeout: float | None = None
    ) -> dict[str, None]:
        """As `Client.reload_everywhere`."""
        return await self._everywhere("reload", lambda: flows.reload(configs), timeout)

    async def health_everywhere(
        self, service: str = "", *, timeout: float | None = None
    ) -> dict[str, bool]:
        """As `Client.health_everywhere`."""
        return await self._everywhere("health", lambda: flows.health(service), timeout)

    async def wait_until_ready(
        self,
        model: str | None = None,
        *,
        version: int | None = None,
        timeout: float | None = None,
    ) -> None:
        """As `Client.wait_until_ready`."""
        asked = None if model is None else requests.servable(model, version)
        await self._run(flows.wait_until_ready(asked), timeout, once=True)

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
