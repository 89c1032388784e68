"""The blocking client."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING

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
from ladle.client.transport.driver import IODriver

if TYPE_CHECKING:
    from ladle.client.streaming.streams import Scope


class Client(IODriver):
    """Calls models on ladle's servers or TensorFlow Serving's; closed by `with` or `close()`.

    With `protocol="v2"` it calls servers of the Open Inference Protocol, such as Triton, KServe and
    MLServer. There a model has one signature and no card, a `label` is sent as the text of the
    version, and methods that the protocol has no request for raise Unimplemented.

    Thread-safe: one client is enough for a process. Its calls share its connections. The first call
    opens them, and broken connections are opened again. Every method blocks until the answer has
    come or its `timeout`, in seconds, has passed.

    Every method raises a subclass of LadleError, one for each cause, and ValueError once the client
    is closed. Calls that no server processed are retried within the timeout; see `Retry`.
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
        metadata: CallMetadata | None = None,
    ) -> Prediction:
        """Run a model on `inputs`: a dict of arrays by name, or the array of the only input.

        An input for images also takes pictures, one or a list: PIL images, the bytes of image
        files, or their paths, as text too. Pictures are rotated as their EXIF orientation says,
        converted to grey or colour, and resized. So are uint8 arrays of images,
        [batch, height, width(, channels)], of another size. That needs Pillow:
        `pip install 'ladle[images]'`.

        The version is the one given, the one with that label, or the server's choice. `signature`
        defaults to `serving_default`, `outputs` to all outputs. `timeout` covers the whole
        prediction with its retries.

        uint8 arrays for an input of floats, and pictures, count as raw pixels. `normalize` says how
        they are normalised. "client" normalises them in this process, as the card of the version
        that answers says. "server" sends them to the signature for raw pixels, ladle's
        `serving_uint8`, in a quarter of the bytes. "auto" is "server" if there is such a signature
        and no `signature` is named, else "client". The answers are the same. A Normalization is
        applied in this process. None sends the numbers as they are. A signature of uint8 gets raw
        pixels unchanged.

        Names, dtypes and shapes are checked against the signature before anything is sent. The
        signature is fetched once for each version. Floats are cast to floats of another width,
        integers to integers and to floats that hold their values exactly; there is no other cast.
        If another version answers than was expected, and needs its inputs prepared in another
        way, the call is made again.

        `metadata` is sent with each request of the call, retries included, as gRPC metadata:
        `{"x-user-id": "7"}` is a key by which a roll-out splits. Names go in lower case, values are
        printable ASCII. Predictions with different metadata never share a request.

        Raises:
            InvalidInput: The inputs don't fit the signature; the message names the input, what
                was expected and what was given. Or the server refused them.
            FailedPrecondition: The model has no such signature.
            NotFound: The model is not served, or not in that version.
            LadleError: Another cause; see `ladle.client.errors`.
        """
        call = self._predict_call(
            model, inputs, version, label, signature, outputs, normalize, metadata
        )
        if self._coalescer is not None:
            key = coalescing_key(call, self._known.find(call.target))
            if key is not None:
                return self._coalescer.predict(call, key, self._timeout_s(timeout))
        return self._predict(call, timeout)

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
        metadata: CallMetadata | None = None,
        window: int = 16,
        ordered: bool = True,
        on_error: OnError | None = None,
    ) -> Iterator[Prediction]:
        """Predict each of `inputs`, any iterable; yields results while further inputs are read.

        Each input is what `predict` takes, with a `timeout` of its own; `metadata` is that of all
        inputs. At most `window` inputs are
        read whose results were not yielded yet. Results come in the order of the inputs or, with
        `ordered=False`, in the order of completion; `index` is the number of the input. An input
        that no server processed is sent again until its timeout, so no input is lost if a server
        comes back in time. A ladle server gets all inputs on one call, which is opened again when
        it breaks. Other servers get one call for each input.

        The first input that fails ends the stream with its error. With `on_error` the stream goes
        on: `on_error` is called with the index and the error, in the thread that consumes the
        stream.

        Inputs are read when the next result is requested, in that same thread. Closing the iterator
        cancels the calls in flight. (`aclose()` closes an async iterator; `contextlib.aclosing`
        calls it.)

        Raises:
            LadleError: As `predict`, of the first input that fails.
        """
        from ladle.client.streaming import (
            streams,
        )  # imported here, because most programs don't stream

        requests.servable(
            model, version, label
        )  # bad arguments raise here, not at the first result

        def predict(inputs: Inputs, scope: Scope) -> Prediction:
            call = self._predict_call(
                model, inputs, version, label, signature, outputs, normalize, metadata
            )
            flow = flows.predict(call, self._known)
            return self._finish(self._retry_loop(flow, timeout, patient=True), scope)

        return streams.stream(
            predict,
            inputs,
            scope=self._scope(self._stream_pool(checked(metadata))),
            window=StreamWindow(window, ordered=ordered),
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
        metadata: CallMetadata | None = None,
    ) -> Iterator[Prediction]:
        """Predict as `predict`, and yield the outputs in parts of their rows, in order.

        For an answer that is too large for one message, or for the memory. A ladle server runs the
        model once and sends parts of about 4 MB. Another server gets a request for each part, and
        one version answers them all; that needs a signature whose inputs and outputs all have an
        open first dimension. Without one there is one part.

        `timeout` covers the whole iteration, with the time that the consumer takes. A part that
        fails ends the iteration with its error. Nothing is retried once rows were yielded.

        Raises:
            LadleError: As `predict`; InvalidAnswer if parts don't fit together.
        """
        call = self._predict_call(
            model, inputs, version, label, signature, outputs, normalize, metadata
        )
        return self._in_chunks(call, self._timeout_s(timeout))

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
        metadata: CallMetadata | None = None,
    ) -> Classification:
        """Classify examples, each a dict of features; see `Features`.

        `context` holds features that all examples share. The signature's method has to be
        `tensorflow/serving/classify`. `metadata` is sent with the call; see `predict`.

        Raises:
            InvalidInput: An Example can't hold a feature's values, or the model refused them.
            LadleError: Another cause; see `ladle.client.errors`.
        """
        call = self._examples_call("classify()", model, examples, version, label, context, metadata)
        return self._run(flows.classify(call, signature), timeout)

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
        metadata: CallMetadata | None = None,
    ) -> Regression:
        """Get a number for each example; as `classify`, for `tensorflow/serving/regress`.

        Raises:
            InvalidInput: An Example can't hold a feature's values, or the model refused them.
            LadleError: Another cause; see `ladle.client.errors`.
        """
        call = self._examples_call("regress()", model, examples, version, label, context, metadata)
        return self._run(flows.regress(call, signature), timeout)

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
        metadata: CallMetadata | None = None,
    ) -> dict[str, Classification | Regression]:
        """Run several signatures over the same examples in one call; returns results by signature.

        `tasks` maps each signature to "classify" or "regress".

        Raises:
            InvalidInput: An Example can't hold a feature's values, or the model refused them.
            LadleError: Another cause; see `ladle.client.errors`.
        """
        call = self._examples_call(
            "multi_inference()", model, examples, version, label, context, metadata
        )
        return self._run(flows.multi_inference(call, tasks), timeout)

    def metadata(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
    ) -> ModelMetadata:
        """Return the signatures and the model card of a model.

        Raises:
            NotFound: The model is not served, or not in that version.
            Unimplemented: The server has no metadata.
            LadleError: Another cause; see `ladle.client.errors`.
        """
        return self._run(
            flows.metadata(requests.servable(model, version, label), self._protocol), timeout
        )

    def status(
        self, model: str, *, version: int | None = None, timeout: float | None = None
    ) -> tuple[VersionStatus, ...]:
        """Return the states of a model's versions in ascending order, or of one version.

        Raises:
            NotFound: The server has no such model or version.
            LadleError: Another cause; see `ladle.client.errors`.
        """
        return self._run(
            server_flows.status(requests.servable(model, version), self._protocol), timeout
        )

    def models(
        self, name: str | None = None, *, timeout: float | None = None
    ) -> tuple[ServedModel, ...]:
        """List the models that a ladle server is configured to serve, or the one with that name.

        Of several servers one answers; `models_everywhere` lists those of all.

        Raises:
            Unimplemented: The server is not ladle's, and has no model repository of the Open
                Inference Protocol; `status` works on TensorFlow Serving, for one model.
            LadleError: Another cause; see `ladle.client.errors`.
        """
        return self._run(self._protocol.models(name or ""), timeout)

    def reload(self, configs: ModelConfigs, *, timeout: float | None = None) -> None:
        """Replace the models that a server serves, and wait until they are loaded.

        `configs` maps each model's name to its base path on the server, or is TensorFlow Serving's
        ModelServerConfig. The server unloads every model that is not in
        `configs`; `load` and `unload` change one model. Of several servers one gets the call;
        `reload_everywhere` calls all.

        Raises:
            LadleError: The server refused, or a model couldn't be loaded; the message says why.
        """
        self._run(self._protocol.reload(configs), timeout)

    def load(
        self,
        name: str,
        base_path: str | PathLike[str] | None = None,
        *,
        timeout: float | None = None,
    ) -> ServedModel:
        """Have a ladle server serve one more model, and wait until a version is available.

        Other models stay as they are; a model of that name is replaced. `base_path` is a folder on
        the server. Without `base_path` the server looks at the model's base path again, now, and
        tries versions again that failed to load; it does not wait for them. The change lasts until
        the next `reload`, or until the server's configuration file changes. Of several servers one
        gets the call.

        Raises:
            NotFound: There is no `base_path`, and the server has no such model.
            Unimplemented: The server is not ladle's.
            LadleError: No version could be loaded; the message says why.
        """
        return self._run(self._protocol.load(name, base_path), timeout)

    def unload(self, name: str, *, timeout: float | None = None) -> None:
        """Have a ladle server stop serving a model; other models stay as they are.

        Returns at once. Requests in flight finish first, then the server unloads the model. Of
        several servers one gets the call.

        Raises:
            NotFound: The server has no such model.
            Unimplemented: The server is not ladle's.
        """
        self._run(self._protocol.unload(name), timeout)

    def health(self, service: str = "", *, timeout: float | None = None) -> bool:
        """Return whether the server, or one of its services, takes calls.

        Of several servers one answers; `health_everywhere` calls all.

        Raises:
            NotFound: The server has no such service.
            Unimplemented: The server has no health checks; TensorFlow Serving may have none.
            LadleError: Another cause; see `ladle.client.errors`.
        """
        return self._run(self._protocol.health(service), timeout)

    def models_everywhere(
        self, name: str | None = None, *, timeout: float | None = None
    ) -> dict[str, tuple[ServedModel, ...]]:
        """Call `models` at every address; returns results by address.

        The calls run in parallel, each with the `timeout`. An address that stands for several
        servers counts as one.

        Raises:
            FleetError: Some servers failed; it has their errors, and the results of the others.
        """
        return self._everywhere("models", lambda: self._protocol.models(name or ""), timeout)

    def reload_everywhere(
        self, configs: ModelConfigs, *, timeout: float | None = None
    ) -> dict[str, None]:
        """Call `reload` at every address; as `models_everywhere`.

        A server that fails does not undo the reload of others.

        Raises:
            FleetError: Some servers failed; it has their errors, and the results of the others.
        """
        return self._everywhere("reload", lambda: self._protocol.reload(configs), timeout)

    def health_everywhere(
        self, service: str = "", *, timeout: float | None = None
    ) -> dict[str, bool]:
        """Call `health` at every address; as `models_everywhere`.

        Raises:
            FleetError: Some servers failed; it has their errors, and the results of the others.
        """
        return self._everywhere("health", lambda: self._protocol.health(service), timeout)

    def wait_until_ready(
        self,
        model: str | None = None,
        *,
        version: int | None = None,
        timeout: float | None = None,
    ) -> None:
        """Wait until the server takes calls or, if `model` is given, until the model is available.

        Raises:
            DeadlineExceeded: The timeout passed first; the message says what was missing.
            LadleError: The server answered with another error; see `ladle.client.errors`.
        """
        target = None if model is None else requests.servable(model, version)
        self._run(server_flows.wait_until_ready(target, self._protocol), timeout, once=True)

    def close(self) -> None:
        """Close the connections; calls in flight fail with Cancelled. May be called again."""
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
