"""What `ladle serve` can be asked for, under the names that tensorflow_model_server gives it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from ladle.server.core.machine.cpus import cpus
from ladle.server.core.models.names import is_name
from ladle.store.url import StoreUrl, is_url, parse_url

# A year: a wait without end is none that a system has.
_MOST_SECONDS = 365 * 86400
_MOST_WORKERS = 64


def flag(
    default: Any,
    help_text: str,
    *,
    least: float | None = None,
    choices: tuple[str, ...] | None = None,
    without_effect: str = "",
) -> Any:
    """A field that is a command line flag too; the text is what --help says of it.

    Args:
        default: tensorflow_model_server's; where ladle has another, the text says so.
        help_text: one line.
        least: the smallest number that means anything.
        choices: the only texts that mean anything.
        without_effect: why a flag of tensorflow_model_server's does nothing here.
    """
    return field(
        default=default,
        metadata={
            "help": help_text,
            "least": least,
            "choices": choices,
            "without_effect": without_effect,
        },
    )


def ignored(default: Any, reason: str) -> Any:
    """A flag of tensorflow_model_server's that does nothing here, and why."""
    return flag(default, f"accepted, and does nothing: {reason}", without_effect=reason)


def _check(checked: Field[Any], value: Any) -> None:
    """Hold a value to what was said of its field.

    Raises:
        ValueError: It is out of the field's range.
    """
    least, choices = checked.metadata["least"], checked.metadata["choices"]
    if isinstance(checked.default, float) and not abs(value) <= _MOST_SECONDS:
        raise ValueError(f"--{checked.name}: expected a number up to {_MOST_SECONDS}, got {value}")
    if least is not None and not value >= least:
        raise ValueError(f"--{checked.name}: expected {least} or more, got {value}")
    if choices is not None and value not in choices:
        raise ValueError(
            f"--{checked.name}: expected one of {', '.join(map(repr, choices))}, got {value!r}"
        )


@dataclass(frozen=True, kw_only=True)
class Config:
    """A server's settings, checked; nothing is read or opened here.

    Raises:
        ValueError: A value is out of its range, or two contradict each other.
    """

    # Where to listen
    port: int | None = flag(
        8500, "TCP port for gRPC, on all interfaces; 0 for none, auto for a free one (printed)"
    )
    grpc_socket_path: str = flag("", "also listen on a Unix socket at this path")
    ssl_config_file: str = flag("", "SSLConfig in text format: serve over TLS")
    auth_tokens_file: str = flag(
        "", "take calls only with a token of this file, one JSON object a line; see SECURITY.md"
    )
    allow_remote_admin: bool = flag(
        False,
        "without tokens, let other machines change what is served (tensorflow_model_server: true)",
    )
    transport: str = flag(
        "auto",
        "what serves gRPC: native, in Rust, from the package ladle-native; grpcio; or auto, "
        "which takes native where it is installed and knows the --grpc_channel_arguments",
        choices=("auto", "native", "grpcio"),
    )
    grpc_channel_arguments: str = flag("", "gRPC's own options, as name=value,name=value")
    grpc_compressed_requests: bool = flag(
        False,
        "take compressed requests over gRPC; each may grow a thousandfold while it is read",
    )
    grpc_max_threads: int = flag(
        max(16, 4 * cpus()),
        "threads for calls that block; 128 of any kind are under way for each",
        least=1,
    )

    enable_open_inference: bool = flag(
        True,
        "serve the Open Inference Protocol (V2), which KServe's and Triton's clients speak, beside "
        "TensorFlow Serving's API, on the same ports",
    )

    rest_api_port: int | None = flag(
        0,
        "TCP port for HTTP: REST and the status page; 0 for none, auto for a free one (printed)",
    )
    rest_api_num_threads: int = flag(
        4 * cpus(), "threads that read and write large bodies of JSON", least=1
    )
    rest_api_timeout_in_ms: int = flag(
        30_000, "how long a request over HTTP may take, with the time to send it", least=1
    )
    rest_api_enable_cors_support: bool = flag(
        False, "let pages of other origins use the REST interface"
    )

    rest_api_max_connections: int = flag(
        4096,
        "connections over HTTP at a time, idle ones included, as far as the limit of open files "
        "goes; on more only probes are answered",
        least=1,
    )
    workers: int = flag(
        1,
        "processes that serve on the same ports, each with the models in its own memory; the "
        "processors are shared out among them, all other limits are for each",
        least=1,
    )
    workers_barrier_seconds: float = flag(
        10.0,
        "with several workers, how long a version waits in one of them for the others to have "
        "loaded it, before it is available, or to want it no more, before it goes",
        least=0,
    )
    reuse_port: bool = flag(
        False, "share both ports with other servers on this machine that do the same"
    )
    allowed_hosts: str = flag(
        "",
        "comma-separated names that a request over HTTP may have in its Host header, *.name for "
        "those below one; without it any. Probes may use any name",
    )

    # Metrics and logs
    monitoring_config_file: str = flag(
        "",
        "MonitoringConfig in text format: whether metrics are served on the REST port, and at "
        "which path; without a file they are, at /monitoring/prometheus/metrics",
    )

    metrics_models: int = flag(
        0,
        "models that have series of their own in the metrics, those used last; all others are "
        'counted under model="other". 0 is all, and 100 where models are loaded on demand',
        least=0,
    )
    log_format: str = flag(
        "text", "how the log is written: text, or json, a line each", choices=("text", "json")
    )
    access_log: str = flag(
        "", "write a line for each request to this file, or with - to the standard error"
    )
    request_log_max_file_bytes: int = flag(
        64 << 20, "size from which a model's request log goes on in another file", least=1
    )
    request_log_max_files: int = flag(
        10, "files of each request log that are kept; the oldest go", least=1
    )

    max_request_bytes: int = flag(
        256 << 20, "the largest request that is taken, after decompression", least=1
    )
    max_inflight_bytes: int = flag(
        1 << 30,
        "bytes of all requests under way; past it new ones are refused, and past the half of it "
        "those to a model with as much in its queue",
        least=1,
    )

    # What to serve
    model_name: str = flag("default", "the name that requests ask for")
    model_base_path: str = flag(
        "", "the folder that holds the numbered versions, or its URL: s3://, gs:// or az://"
    )
    model_config_file: str = flag(
        "",
        "ModelServerConfig in text format, a file or a URL: many models, instead of --model_name "
        "and its path",
    )
    model_repository: str = flag(
        "",
        "a folder of models in Triton's layout, each a folder with numbered versions and perhaps "
        "a config.pbtxt, instead of --model_name and its path; see ladle triton --help",
    )
    model_root: str = flag(
        "",
        "a folder of models, or its URL: each folder in it that holds numbered versions is a model "
        "of that name, loaded when a request asks for it; instead of --model_name and its path",
    )
    model_control_mode: str = flag(
        "none",
        "which models of --model_repository are served: none, all that there are at the start; "
        "poll, also later ones; explicit, those of --load_model, and what callers load",
        choices=("none", "poll", "explicit"),
    )
    load_model: str = flag(
        "", "comma-separated models that --model_control_mode=explicit loads at the start; * is all"
    )
    model_config_file_poll_wait_seconds: float = flag(
        0.0, "seconds between looks at --model_config_file; 0 reads it once", least=0
    )
    file_system_poll_wait_seconds: float = flag(
        1.0, "seconds between looks for new versions; 0 looks once, less than 0 never"
    )
    remote_poll_wait_seconds: float = flag(
        15.0, "seconds between looks at a base path in a store, a fifth more or less", least=1
    )
    remote_settle_seconds: float = flag(
        30.0,
        "seconds for which a version in a store has to stay the same if it has no manifest",
        least=0,
    )
    require_remote: bool = flag(
        False, "refuse to serve what the cache has if a store can't be asked at the start"
    )
    model_cache_dir: str = flag(
        "",
        "the folder that keeps versions of stores; servers may share it. Without it "
        "$XDG_CACHE_HOME/ladle or ~/.cache/ladle",
    )
    model_cache_bytes: int = flag(
        0, "how much may lie there; 0 is half of the disk's free space at the start", least=0
    )
    num_download_threads: int = flag(
        4, "parts of 16 MiB that are fetched at a time, of each version", least=1
    )
    allow_version_labels_for_unavailable_models: bool = flag(
        False, "let a reload put a new label on a version that is not available yet"
    )
    rollout_file: str = flag(
        "",
        "RolloutConfig in text format, a file or a URL: how the requests to a model are split "
        "between two labelled versions; rewritten, it takes effect at once",
    )
    saved_model_tags: str = flag("serve", "comma-separated tags of the graph to load")
    import_modules: str = flag(
        "",
        "comma-separated Python modules that register operations which models need, imported "
        "before any model loads: tensorflow_text,tensorflow_decision_forests",
    )
    prefer_tflite_model: bool = flag(False, "load model.tflite where a version brings one")
    num_tflite_pools: int = flag(cpus(), "pools of TensorFlow Lite interpreters", least=1)
    num_tflite_interpreters_per_pool: int = flag(1, "interpreters in each pool", least=1)

    # How versions come and go
    aspired_version_policy: str = flag(
        "availability_preserving",
        "availability_preserving loads the new version before the old one goes, "
        "resource_preserving after",
        choices=("availability_preserving", "resource_preserving"),
    )
    num_load_threads: int = flag(
        0,
        "versions that load at the same time, of all models; 0 is 4 for each CPU, and 1 where "
        "models are loaded on demand",
        least=0,
    )
    max_num_load_retries: int = flag(
        5, "how often a version that failed to load is tried again", least=0
    )
    load_retry_interval_micros: int = flag(
        60_000_000,
        "longest wait between such tries: the first comes after 1 s, each later one after twice "
        "as long; less than 0 tries at once",
    )
    enable_model_warmup: bool = flag(
        True, "run a version's warm-up requests before it is made available"
    )
    num_request_iterations_for_warmup: int = flag(
        0, "how often each warm-up request runs; 0 is once", least=0
    )

    warmup_seconds: float = flag(
        0.0,
        "after so long the warm-up of a version begins no further request; 0 runs all, the first "
        "one runs in any case",
        least=0,
    )

    # How many models are loaded
    max_loaded_models: int = flag(
        0,
        "models that are loaded at a time; one more is loaded when a request asks for it, and the "
        "least recently used one goes. 0 loads all, except those of --model_root",
        least=0,
    )
    max_loaded_bytes: int = flag(
        0,
        "memory that loaded versions may take, as far as it can be measured; the least recently "
        "used go before one more is loaded. 0 sets no limit",
        least=0,
    )
    model_idle_seconds: float = flag(
        0.0, "unload a model that nobody has asked for so long; 0 never does", least=0
    )
    pinned_models: str = flag(
        "", "comma-separated models that are always loaded, where others come and go"
    )

    # How requests run
    enable_batching: bool | None = flag(
        None,
        "true runs rows of concurrent requests together, false never does; without the flag a "
        "signature does once its model card, or a comparison with lone runs, shows that no answer "
        "changes (tensorflow_model_server: false)",
    )
    batching_parameters_file: str = flag(
        "", "BatchingParameters in text format; rewritten, it takes effect at once"
    )
    enable_per_model_batching_parameters: bool = flag(
        False,
        "batch only versions with a batching_params.pbtxt of their own, by what it says; without "
        "any flag for batching that file is read too",
    )
    unbatched_models: str = flag("", "comma-separated models whose requests never run together")
    low_priority_max_wait_seconds: float = flag(
        5.0,
        "after so long in a queue a request that its caller calls low (ladle-priority: low) counts "
        "as normal, and a normal one as high",
        least=0.001,
    )
    enable_signature_method_name_check: bool = flag(
        False, "refuse requests to a signature whose method_name is another kind's"
    )
    enable_serialization_as_tensor_content: bool = flag(
        False, "answer Predict in tensor_content, which is faster to read than typed fields"
    )
    tensorflow_session_parallelism: int = flag(
        0, "TensorFlow threads, within and between operations; 0 leaves it to TensorFlow", least=0
    )
    tensorflow_intra_op_parallelism: int = flag(
        0, "threads within one operation; 0 is automatic", least=0
    )
    tensorflow_inter_op_parallelism: int = flag(
        0, "threads between operations; 0 or 1 runs them in the request's own thread", least=0
    )
    tensorflow_session_config_file: str = flag("", "tensorflow.ConfigProto in text format")
    platform_config_file: str = flag(
        "",
        "PlatformConfigMap in text format: how models are loaded and batched; where it sets a "
        "field, the field's flag does not count",
    )
    per_process_gpu_memory_fraction: float = flag(
        0.0, "the part of each GPU's memory that TensorFlow may take; 0 is all", least=0
    )
    mixed_precision: str = flag(
        "", "bfloat16 runs parts of the graph in it", choices=("", "bfloat16")
    )
    xla_cpu_compilation_enabled: bool = flag(False, "compile graphs with XLA on CPUs")
    xla_gpu_compilation_enabled: bool = flag(False, "compile graphs with XLA on GPUs")

    enable_profiler: bool = flag(
        True, "answer ProfilerService, for TensorBoard's and tf.profiler's traces of this server"
    )

    # How it starts and stops
    strict_readiness: bool | None = flag(
        None,
        "true: the server is ready while every model has a version that answers; false: as soon as "
        "it takes requests; without the flag once every model is up or has failed, and one is up",
    )
    wait_for_models: bool = flag(
        False, "open the port only once every model is available or has failed"
    )
    drain_grace_seconds: float = flag(
        30.0, "how long a stop waits for the requests under way to finish", least=0
    )

    # What means nothing here
    enable_grpc_healthcheck_service: bool = ignored(False, "the health service is always on")
    num_unload_threads: int = ignored(0, "each version unloads in a thread of its own")
    flush_filesystem_caches: bool = ignored(True, "the page cache is left to the system")
    remove_unused_fields_from_bundle_metagraph: bool = ignored(
        True, "only signatures are kept of a graph's description"
    )
    thread_pool_factory_config_file: str = ignored("", "thread pools are TensorFlow's own")
    use_alts_credentials: bool = ignored(False, "ALTS exists inside Google's cloud alone")
    skip_initialize_tpu: bool = ignored(False, "there is no TPU support")

    def __post_init__(self) -> None:
        for checked in fields(self):
            _check(checked, getattr(self, checked.name))
        if self.port is not None and not 0 <= self.port <= 65535:
            raise ValueError(f"--port: expected 0 to 65535 or auto, got {self.port}")
        if self.rest_api_port is not None and not 0 <= self.rest_api_port <= 65535:
            raise ValueError(
                f"--rest_api_port: expected 0 to 65535 or auto, got {self.rest_api_port}"
            )
        if self.workers > _MOST_WORKERS:
            raise ValueError(f"--workers: expected {_MOST_WORKERS} at most, got {self.workers}")
        if self.port and self.port == self.rest_api_port:
            raise ValueError(f"--rest_api_port: expected another port than --port, got {self.port}")
        if self.port == 0 and not self.grpc_socket_path:
            raise ValueError("--port=0 switches TCP off: expected --grpc_socket_path beside it")
        if not (
            self.model_base_path
            or self.model_config_file
            or self.model_repository
            or self.model_root
        ):
            raise ValueError(
                "--model_base_path: expected the folder of a model's versions, "
                "or --model_config_file instead"
            )
        if is_url(self.model_repository):
            raise ValueError(
                "--model_repository: expected a folder that is mounted here, got a URL; "
                "base paths of single models may be URLs"
            )
        if self.model_repository and (self.model_base_path or self.model_config_file):
            raise ValueError(
                "--model_repository: expected it without --model_base_path and --model_config_file"
            )
        if self.model_root and (self.model_base_path or self.model_repository):
            other = "model_base_path" if self.model_base_path else "model_repository"
            raise ValueError(
                f"--model_root: expected it without --{other}; --model_config_file may state "
                "some of its models otherwise"
            )
        if self.pinned and not self.loads_on_demand:
            raise ValueError(
                "--pinned_models needs --model_root, --max_loaded_models, --max_loaded_bytes or "
                "--model_idle_seconds: without them all models are always loaded"
            )
        if self.max_loaded_models and len(self.pinned) >= self.max_loaded_models:
            raise ValueError(
                f"--max_loaded_models: expected more than the {len(self.pinned)} of "
                f"--pinned_models, got {self.max_loaded_models}"
            )
        if not self.model_repository and self.model_control_mode != "none":
            raise ValueError("--model_control_mode needs --model_repository")
        if self.load_model and self.model_control_mode != "explicit":
            raise ValueError("--load_model needs --model_control_mode=explicit")
        for name in ("model_base_path", "model_config_file", "model_root", "rollout_file"):
            if is_url(getattr(self, name)):
                try:
                    parse_url(getattr(self, name))
                except ValueError as error:
                    raise ValueError(f"--{name}: {error}") from None
        for name in self.modules:
            if not all(part.isidentifier() for part in name.split(".")):
                raise ValueError(f"--import_modules: expected module names, got {name!r}")
        if not is_name(self.model_name):
            raise ValueError(
                f"--model_name: expected a name, text in UTF-8, got {self.model_name!r}"
            )
        if self.batching_parameters_file and self.enable_batching is False:
            raise ValueError("--batching_parameters_file needs --enable_batching")
        if self.tensorflow_session_parallelism and (
            self.tensorflow_intra_op_parallelism or self.tensorflow_inter_op_parallelism
        ):
            raise ValueError(
                "--tensorflow_session_parallelism sets both of --tensorflow_intra_op_parallelism "
                "and --tensorflow_inter_op_parallelism: expected the one or the others"
            )
        _ = self.channel_arguments

    @property
    def base_path(self) -> Path | StoreUrl:
        """The base path: a folder, absolute, or a place in a store."""
        if is_url(self.model_base_path):
            return parse_url(self.model_base_path)
        return Path(self.model_base_path).absolute()

    @property
    def loaded_models(self) -> frozenset[str] | None:
        """The models of the repository that are served from the start; None for all."""
        names = frozenset(n.strip() for n in self.load_model.split(",") if n.strip())
        return None if self.model_control_mode != "explicit" or "*" in names else names

    @property
    def config_file(self) -> Path | StoreUrl:
        """The model config file: a file, or an object in a store."""
        return _file(self.model_config_file)

    @property
    def root(self) -> Path | StoreUrl:
        """The folder of models, absolute, or the place in a store; where there is none, any."""
        location = _file(self.model_root)
        if isinstance(location, StoreUrl) or not self.model_root:
            return location
        return location.absolute()

    @property
    def polls_models(self) -> bool:
        """Whether what states the models is read again when it changes."""
        return self.model_control_mode == "poll" or bool(
            self.model_config_file and self.model_config_file_poll_wait_seconds
        )

    @property
    def loads_on_demand(self) -> bool:
        """Whether models are loaded when requests ask for them, and not all at the start."""
        return bool(
            self.model_root
            or self.max_loaded_models
            or self.max_loaded_bytes
            or self.model_idle_seconds
        )

    @property
    def pinned(self) -> frozenset[str]:
        """The names of the models that are always loaded where others come and go."""
        return frozenset(n.strip() for n in self.pinned_models.split(",") if n.strip())

    @property
    def rollouts(self) -> Path | StoreUrl:
        """The file of roll-outs: a file, or an object in a store."""
        return _file(self.rollout_file)

    @property
    def cache_dir(self) -> Path:
        """The folder that keeps versions of stores, absolute."""
        if self.model_cache_dir:
            return Path(self.model_cache_dir).absolute()
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        if home.startswith("~"):  # nobody knows where this user is at home
            home = "/var/cache"
        return Path(home).absolute() / "ladle"

    @property
    def unbatched(self) -> frozenset[str]:
        """The names of the models whose requests never run together."""
        return frozenset(n.strip() for n in self.unbatched_models.split(",") if n.strip())

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags of the graph to load."""
        return tuple(tag.strip() for tag in self.saved_model_tags.split(",") if tag.strip())

    @property
    def modules(self) -> tuple[str, ...]:
        """The Python modules to import before any model loads."""
        return tuple(name.strip() for name in self.import_modules.split(",") if name.strip())

    @property
    def channel_arguments(self) -> tuple[tuple[str, int | str], ...]:
        """What `--grpc_channel_arguments` gives, numbers where they can be, and `--reuse_port`.

        Raises:
            ValueError: One has no `=`.
        """
        pairs = [pair for pair in self.grpc_channel_arguments.split(",") if pair.strip()]
        if wrong := [pair for pair in pairs if "=" not in pair]:
            raise ValueError(f"--grpc_channel_arguments: expected name=value, got {wrong[0]!r}")
        given = [
            (name.strip(), _number(value)) for name, _, value in (p.partition("=") for p in pairs)
        ]
        shared = [("grpc.so_reuseport", 1)] * self.reuse_port
        return (*shared, *given)

    @property
    def hosts(self) -> tuple[str, ...]:
        """What `--allowed_hosts` lists, in lower case."""
        names = (name.strip().lower() for name in self.allowed_hosts.split(","))
        return tuple(name for name in names if name)

    @property
    def without_effect(self) -> Mapping[str, str]:
        """The flags that were given another value than their default, and do nothing: why."""
        return {
            given.name: given.metadata["without_effect"]
            for given in fields(self)
            if given.metadata["without_effect"] and getattr(self, given.name) != given.default
        }


def _file(text: str) -> Path | StoreUrl:
    return parse_url(text) if is_url(text) else Path(text)


def _number(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text
