"""The core of a server, without ports."""

from __future__ import annotations

from types import TracebackType

from ladle.embedded.calls import LocalCalls
from ladle.embedded.client import EmbeddedClient
from ladle.server.call import Methods
from ladle.server.config import Config
from ladle.server.core.observation import Observer
from ladle.server.server import Server
from ladle.server.wiring.loading import ModelLoader


class Embedded:
    """Models in this process, served as a server serves them, to callers in this process alone.

        with Embedded(Config(model_name="digits", model_base_path="models/digits")) as embedded:
            prediction = embedded.client.predict("digits", images)

    Base paths, files of models and roll-outs are looked at again as by a server: new versions come
    and go while requests run, and no request fails for it. Requests of several threads share
    batches. What a Config says of ports, TLS and HTTP has no effect. With `auth_tokens_file`, calls
    have to bring a token, which `client` does not.

    Order of calls: `start`; then any, in any thread; then `stop`. A `with` block does both.
    """

    def __init__(
        self,
        config: Config,
        *,
        load: ModelLoader | None = None,
        observer: Observer | None = None,
    ) -> None:
        """Take the settings; nothing is loaded yet.

        Args:
            config: the settings, as a server's.
            load: makes a servable of a version's folder; by default TensorFlow does.
            observer: hears of requests, runs and loads.

        Raises:
            StartupError: A file that the config names is of no use.
        """
        self._server = Server(config, load=load, observer=observer, listens=False)
        self.calls = LocalCalls(self._server.methods)
        """Calls methods with the bytes of their messages, as engines with ports of their own do."""
        self.client = EmbeddedClient(self.calls)
        """Predicts numpy arrays, and all else that a `ladle.client.Client` does."""

    @property
    def methods(self) -> Methods:
        """What a server answers over gRPC, by full method path."""
        return self._server.methods

    def start(self) -> None:
        """Load, and return once every model is up or has failed; blocks until then.

        Raises:
            StartupError: The single model's base path holds no version, or none that can be loaded;
                or the model config file is wrong. Nothing is left running then.
        """
        self._server.start()

    def is_healthy(self) -> bool:
        """Whether a model answers, and every configured one has come up or failed."""
        return self._server.is_healthy()

    def metrics(self) -> bytes:
        """Return all metrics in Prometheus's text format; takes some milliseconds."""
        return self._server.exposition()

    def stop(self) -> bool:
        """Refuse further calls, let those under way finish, and unload; blocks; may be repeated.

        That takes the config's `drain_grace_seconds` at most, and a second for unloading. Returns
        False if something was still running when the time was over.
        """
        self.calls.stop()
        return self._server.stop(lame_duck=False)

    def __enter__(self) -> Embedded:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
