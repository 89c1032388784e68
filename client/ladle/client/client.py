"""The client that blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from ladle.client import flows, requests
from ladle.client.coalescing import mould
from ladle.client.examples import Classification, Examples, Features, Regression
from ladle.client.inputs import Inputs
from ladle.client.models import ModelMetadata, ServedModel, VersionStatus
from ladle.client.prediction import Prediction
from ladle.client.requests import ModelConfigs, Task
from ladle.client.shell import Shell
from ladle.client.steps import Normalize
from ladle.client.window import OnError, Window

if TYPE_CHECKING:
    from ladle.client.streams import Scope


class Client(Shell):
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
        as text too. They are turned as the camera was, greyed or coloured, and resized; and so are
        uint8 arrays of images, [batch, height, width(, channels)], that are not as the model wants
        them. That takes Pillow: `pip install 'ladle[images]'`.

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
        timeout, so a server that comes back in time loses none. A ladle server gets them on one
        call, which breaks when it does and is made anew; others get a call for each.

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

        def predict(given: Inputs, scope: Scope) -> Prediction:
            wanted = self._wanted(model, given, version, label, signature, outputs, normalize)
            flow = flows.predict(wanted, self._known)
            return self._finish(self._conversation(flow, timeout, patient=True), scope)

        return streams.stream(
            predict,
            inputs,
            scope=self._scope(self._lines()),
            window=Window(window, ordered=ordered),
            max_workers=window,
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
    ) -> Iterator[Prediction]:
        """Predict as `predict`, and yield the outputs in parts of their rows, one after the other.

        For an answer that would be too large as one, or that need not be in memory as a whole. A
        ladle server runs the model once and sends parts of about 4 MB. Another server is asked for
        some rows at a time, all of one version, as many as make such a part; that takes a signature
        whose inputs and outputs all have an open first dimension, and else there is one part.

        `timeout` is for all of it, the time that the consumer takes included. A part that doesn't
        come ends the iteration with its error: nothing is asked for twice once rows were yielded.

        Raises:
            LadleError: As `predict`; InvalidAnswer where parts don't fit together.
        """
        wanted = self._wanted(model, inputs, version, label, signature, outputs, normalize)
        return self._in_chunks(wanted, self._timeout_s(timeout))

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

        Of several servers one is asked; `models_everywhere` asks all.

        Raises:
            Unimplemented: The server is not ladle's; `status` tells of one model there.
            LadleError: Another cause; see `ladle.client.errors`.
        """
        return self._run(flows.models(name or ""), timeout)

    def reload(self, configs: ModelConfigs, *, timeout: float | None = None) -> None:
        """Have the server serve these models instead of its own, and wait until it does.

        `configs` gives each model's base path by its name, as the server sees it, or is TensorFlow
        Serving's ModelServerConfig. Models left out are unloaded. Of several servers one is told;
        `reload_everywhere` tells all.

        Raises:
            LadleError: The server refused, or a model couldn't be loaded; the message says why.
        """
        self._run(flows.reload(configs), timeout)

    def health(self, service: str = "", *, timeout: float | None = None) -> bool:
        """Ask whether the server takes calls, or one of its services.

        Of several servers one is asked; `health_everywhere` asks all.

        Raises:
            NotFound: The server knows no such service.
            Unimplemented: It has no health checks, as TensorFlow Serving may not.
            LadleError: Another cause; see `ladle.client.errors`.
        """
        return self._run(flows.health(service), timeout)

    def models_everywhere(
        self, name: str | None = None, *, timeout: float | None = None
    ) -> dict[str, tuple[ServedModel, ...]]:
        """Ask the server at every address as `models` does; results come by address.

        They are asked all at once, and `timeout` is for each. An address that stands for several
        servers counts as one.

        Raises:
            FleetError: Some failed; it has their errors, and what the others answered.
        """
        return self._everywhere("models", lambda: flows.models(name or ""), timeout)

    def reload_everywhere(
        self, configs: ModelConfigs, *, timeout: float | None = None
    ) -> dict[str, None]:
        """Tell the server at every address what `reload` tells one; as `models_everywhere`.

        Those that could do it have done it, whatever became of others.

        Raises:
            FleetError: Some failed; it has their errors, and who succeeded in its results.
        """
        return self._everywhere("reload", lambda: flows.reload(configs), timeout)

    def health_everywhere(
        self, service: str = "", *, timeout: float | None = None
    ) -> dict[str, bool]:
        """Ask the server at every address as `health` does; as `models_everywhere`.

        Raises:
            FleetError: Some can't be reached, or can't tell; it has their errors, and what the
                others answered.
        """
        return self._everywhere("health", lambda: flows.health(service), timeout)

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
        self._run(flows.wait_until_ready(asked), timeout, once=True)

    def close(self) -> None:
        """Cut the connections; calls that are under way fail as cancelled. May be called again."""
        self._cut()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
