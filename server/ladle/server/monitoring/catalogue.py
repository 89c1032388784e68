"""Every metric that requests, runs and loads are counted in: upstream's names first, then ours."""

from __future__ import annotations

from collections.abc import Iterable

from ladle.server.core.observation import UNKNOWN_INFERENCE
from ladle.server.monitoring.families import Counters, Family, Histograms, exponential

_SERVING = ":tensorflow:serving:"
_BATCHING = ":tensorflow:serving:batching_session:"
_SAVED_MODEL = ":tensorflow:cc:saved_model:"
_CORE = ":tensorflow:core:"

_MICROS = 1e6
# Upstream's: from 10 µs, and for the batch queue from 100 µs.
_LATENCY_US = exponential(10, 1.8, 33)
_QUEUING_US = exponential(100, 1.2, 52)
_SIZES = exponential(1, 2, 15)

_SECONDS = exponential(0.00005, 2, 21)  # to 52 s
_BYTES = exponential(64, 4, 13)  # to 1 GiB
_DIFFERENCES = exponential(1e-7, 10, 11)  # to 1000
_LOAD_SECONDS = exponential(0.05, 2, 14)  # to 7 minutes

_WHICH = ("model", "version", "signature")

_INFERENCE = {
    "Predict": "tensorflow_serving",
    "Classify": "tensorflow_serving",
    "Regress": "tensorflow_serving",
    "MultiInference": "tensorflow_serving",
    "PredictStream": "ladle",
    "PredictInChunks": "ladle",
    "ModelInfer": "open_inference",
    "ModelStreamInfer": "open_inference",
    "infer": "open_inference",
}
_OVER_REST = frozenset(name.lower() for name in _INFERENCE)
_OTHER = {
    "GetModelMetadata": "tensorflow_serving",
    "GetModelStatus": "tensorflow_serving",
    "HandleReloadConfigRequest": "tensorflow_serving",
    "ListModels": "ladle",
    "LoadModel": "ladle",
    "UnloadModel": "ladle",
    "RescanModel": "ladle",
    "Profile": "tensorflow",
    "Terminate": "tensorflow",
    "Check": "grpc",
    "Watch": "grpc",
    "ServerReflectionInfo": "grpc",
    **{
        name: "open_inference"
        for method in (
            "ServerLive",
            "ServerReady",
            "ModelReady",
            "ServerMetadata",
            "ModelMetadata",
            "ModelConfig",
            "ModelStatistics",
            "RepositoryIndex",
            "RepositoryModelLoad",
            "RepositoryModelUnload",
            "SystemSharedMemoryStatus",
            "SystemSharedMemoryRegister",
            "SystemSharedMemoryUnregister",
            "CudaSharedMemoryStatus",
            "CudaSharedMemoryRegister",
            "CudaSharedMemoryUnregister",
            "TraceSetting",
            "LogSettings",
        )
        for name in (method, method.lower())  # over gRPC, over REST
    },
    UNKNOWN_INFERENCE: "open_inference",
}

COUNTED_BY_UPSTREAM = {**dict.fromkeys(_INFERENCE, True), **dict.fromkeys(_OTHER, False)}
"""For every method name, whether upstream's request_count has the method's requests."""


def require_metrics(paths: Iterable[str]) -> None:
    """Refuse a method that nobody has decided how to count.

    Raises:
        KeyError: The name of the first such method.
    """
    for path in paths:
        COUNTED_BY_UPSTREAM[path.rpartition("/")[2]]


def protocol_of(method: str) -> str:
    """Return whose protocol a method belongs to, as the label `protocol` has it.

    The methods of TensorFlow Serving's REST interface have names of their own.
    """
    return _INFERENCE.get(method) or _OTHER.get(method) or "tensorflow_serving"


def runs_models(method: str) -> bool:
    """Whether requests of a method run a model; over REST methods have names in lower case."""
    return method in _INFERENCE or method in _OVER_REST


class TFServingMetrics:
    """What tensorflow_model_server has, with its names, labels, units and buckets."""

    def __init__(self) -> None:
        self.request_count = Counters(_SERVING + "request_count", "model_name", "status")
        self.request_latency = Histograms(
            _SERVING + "request_latency",
            _LATENCY_US,
            *("model_name", "API", "entrypoint"),
            scale=_MICROS,
        )
        self.runtime_latency = Histograms(
            _SERVING + "runtime_latency",
            _LATENCY_US,
            *("model_name", "API", "runtime"),
            scale=_MICROS,
        )
        self.example_counts = Histograms(_SERVING + "request_example_counts", _SIZES, "model")
        self.example_count_total = Counters(_SERVING + "request_example_count_total", "model")
        self.request_log_count = Counters(
            _SERVING + "request_log_count", "model_name", "status_code"
        )
        self.warmup_latency = Histograms(
            _SERVING + "model_warmup_latency",
            _LATENCY_US,
            *("model_path", "status"),
            scale=_MICROS,
        )
        self.warmup_records = Counters(
            _SERVING + "model_warmup_records_read", "model_path", "status"
        )
        self.queuing_latency = Histograms(
            _BATCHING + "queuing_latency", _QUEUING_US, "thread_pool_name", scale=_MICROS
        )
        self.wrapped_runs = Counters(_BATCHING + "wrapped_run_count")
        self.padding = Histograms(_BATCHING + "padding_size", _SIZES, "execution_batch_size")
        self.input_batch = Histograms(_BATCHING + "input_batch_size", _SIZES)
        self.processed_batch = Histograms(_BATCHING + "processed_batch_size", _SIZES)
        self.load_attempts = Counters(_SAVED_MODEL + "load_attempt_count", "model_path", "status")
        self.load_latency = Counters(_SAVED_MODEL + "load_latency", "model_path")
        self.graph_runs = Counters(_CORE + "graph_runs")
        self.graph_run_usecs = Counters(_CORE + "graph_run_time_usecs")
        self.session_runs = Counters(_CORE + "direct_session_runs")


class LadleMetrics:
    """What upstream leaves out: by version and signature, what waits and what was refused."""

    def __init__(self) -> None:
        self.requests = Counters(
            "ladle_requests_total",
            *(*_WHICH, "method", "entrypoint", "protocol", "code"),
            about="Requests that have ended, each message of a stream being one.",
        )
        self.latency = Histograms(
            "ladle_request_seconds",
            _SECONDS,
            *(*_WHICH, "method", "entrypoint", "protocol", "outcome"),
            about="From a request's arrival to its answer, or its refusal.",
        )
        self.decode = Histograms(
            "ladle_decode_seconds",
            _SECONDS,
            *_WHICH,
            about="From a request's arrival to its place in the queue.",
        )
        self.queue = Histograms(
            "ladle_queue_seconds",
            _SECONDS,
            *_WHICH,
            about="What requests have waited for their batch.",
        )
        self.encode = Histograms(
            "ladle_encode_seconds", _SECONDS, *_WHICH, about="What making answers has taken."
        )
        self.request_rows = Histograms(
            "ladle_request_rows", _SIZES, *_WHICH, about="Rows of each request."
        )
        self.request_bytes = Histograms(
            "ladle_request_bytes", _BYTES, *_WHICH, about="Size of each request, decompressed."
        )
        self.response_bytes = Histograms(
            "ladle_response_bytes", _BYTES, *_WHICH, about="Size of each answer."
        )
        self.rejected = Counters(
            "ladle_rejected_requests_total",
            *("model", "reason"),
            about="Requests that were refused whatever they asked for, and why.",
        )
        self.batch_rows = Histograms(
            "ladle_batch_rows", _SIZES, *_WHICH, about="Rows in each run of the model."
        )
        self.batch_requests = Histograms(
            "ladle_batch_requests", _SIZES, *_WHICH, about="Requests in each run of the model."
        )
        self.batch_padding = Counters(
            "ladle_batch_padding_rows_total",
            *_WHICH,
            about="Rows added to reach an allowed batch size.",
        )
        self.batch_assembly = Histograms(
            "ladle_batch_assembly_seconds",
            _SECONDS,
            *_WHICH,
            about="What making one input of many requests' has taken.",
        )
        self.compute = Histograms(
            "ladle_compute_seconds", _SECONDS, *_WHICH, about="What runs of the model have taken."
        )
        self.failed_runs = Counters(
            "ladle_failed_runs_total",
            *_WHICH,
            about="Runs of the model that raised; those of several requests are run again.",
        )
        self.load = Histograms(
            "ladle_load_seconds",
            _LOAD_SECONDS,
            *("model", "code"),
            about="What loading versions has taken, warm-up included.",
        )
        self.warmup = Histograms(
            "ladle_warmup_seconds",
            _LOAD_SECONDS,
            *("model", "code"),
            about="What warm-up has taken.",
        )
        self.downloads = Counters(
            "ladle_downloads_total",
            *("model", "outcome"),
            about="Versions that were brought into the cache: downloaded, cached already, failed.",
        )
        self.download_bytes = Counters(
            "ladle_download_bytes_total", "model", about="Bytes of versions that stores have sent."
        )
        self.download_seconds = Histograms(
            "ladle_download_seconds",
            _LOAD_SECONDS,
            *("model", "outcome"),
            about="What bringing a version into the cache has taken, checksums included.",
        )
        self.failed_looks = Counters(
            "ladle_store_failures_total", "model", about="Looks at a store that have failed."
        )
        self.changed_versions = Counters(
            "ladle_version_changed_total",
            "model",
            about="Versions in a store that were overwritten while they were served.",
        )
        self.shadow_requests = Counters(
            "ladle_shadow_requests_total",
            *("model", "version", "code"),
            about="Requests that have run on a shadow after stable had answered them.",
        )
        self.shadow_dropped = Counters(
            "ladle_shadow_dropped_total",
            *("model", "reason"),
            about="Requests that were to run on a shadow and did not, and why.",
        )
        self.shadow_seconds = Histograms(
            "ladle_shadow_seconds",
            _SECONDS,
            *("model", "version"),
            about="What runs on a shadow have taken.",
        )
        self.shadow_rows = Counters(
            "ladle_shadow_rows_total",
            *("model", "version"),
            about="Rows of a shadow's answers that were compared.",
        )
        self.shadow_disagreeing_rows = Counters(
            "ladle_shadow_disagreeing_rows_total",
            *("model", "version", "output"),
            about="Rows of an output that came out otherwise than from stable.",
        )
        self.shadow_problems = Counters(
            "ladle_shadow_problems_total",
            *("model", "version", "output", "problem"),
            about="Answers whose output is missing, has another dtype or shape, or other NaN.",
        )
        self.shadow_differences = Histograms(
            "ladle_shadow_largest_difference",
            _DIFFERENCES,
            *("model", "version", "output"),
            about="The largest difference in each answer's floats.",
        )
        self.model_loads = Counters(
            "ladle_model_loads_total",
            "cause",
            about="Models that were loaded on demand: at the start, by a request, by a call.",
        )
        self.model_evictions = Counters(
            "ladle_model_evictions_total",
            "reason",
            about="Models that were unloaded: to make room, as nobody asked, with their files.",
        )
        self.model_load_wait = Histograms(
            "ladle_model_load_wait_seconds",
            _LOAD_SECONDS,
            about="What requests have waited for a model that was not loaded.",
        )
        self.priority_requests = Counters(
            "ladle_priority_requests_total",
            *("priority", "outcome"),
            about="Requests that have waited for a batch, or were refused a place, by priority.",
        )
        self.priority_queue = Histograms(
            "ladle_priority_queue_seconds",
            _SECONDS,
            "priority",
            about="What requests have waited for their batch, by priority.",
        )
        self.dropped_logs = Counters(
            "ladle_dropped_log_records_total",
            *("log", "reason"),
            about="Records of the access log or of request logs that were given up.",
        )


def families_of(kept: TFServingMetrics | LadleMetrics) -> list[Family]:
    """Return all families that are kept there, in their order."""
    return [value for value in vars(kept).values() if isinstance(value, Counters | Histograms)]
