"""How a version is loaded: by TensorFlow unless told otherwise, warmed up, and with its queue."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from ladle.protos.files.integrity import model_folder
from ladle.server.config import Config
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.errors import FailedPrecondition, InvalidArgument
from ladle.server.core.machine.cpus import cpus
from ladle.server.core.observation import Loading, Observer
from ladle.server.core.servable import Model
from ladle.server.core.servable_id import ServableId
from ladle.server.rpc.profiler import Recorder
from ladle.server.settings.batching_parameters import BatchingLoader
from ladle.server.settings.platform_config import PlatformConfig
from ladle.server.warmup.compiling import CompilingAsBefore
from ladle.server.warmup.replay import WarmupOptions, warm_up
from ladle.server.wiring import triton
from ladle.server.wiring.startup import StartupError, batching_config

ModelLoader: TypeAlias = "Callable[[ServableId, Path], Model]"
"""Loads a version from its folder; blocks, and raises ServingError."""


def batching_loader(
    config: Config, platform: PlatformConfig, load: ModelLoader, observer: Observer
) -> BatchingLoader:
    """Return what `load` is a part of: warm-up, the batch queue, and telling the observer."""

    def batch_options(servable_id: ServableId, path: Path) -> BatchOptions | None:
        return batching.decide(servable_id.name, path).options

    load = _with_signature(load)
    if config.enable_model_warmup:
        load = _warmed(load, config, batch_options, observer)
    load = _observed(CompilingAsBefore(load), observer)
    batching = BatchingLoader(load, batching_config(config, platform), observer=observer)
    return batching


def saved_model_loader(config: Config, platform: PlatformConfig) -> ModelLoader:
    """Return what loads SavedModels; imports TensorFlow, which takes seconds.

    Raises:
        StartupError: `--tensorflow_session_config_file` is of no use, or a module of
            `--import_modules` can't be imported.
    """
    from ladle.server.saved_model.custom_operations import import_modules
    from ladle.server.saved_model.loading import TFLITE_FILE, LoadOptions, load_saved_model
    from ladle.server.saved_model.runtime import tensorflow
    from ladle.server.saved_model.session_config import SessionOptions, session_config
    from ladle.server.saved_model.tflite import load_tflite

    try:
        import_modules(config.modules)
    except FailedPrecondition as error:
        raise StartupError(f"--import_modules: {error.message}") from error
    both = config.tensorflow_session_parallelism
    file = config.tensorflow_session_config_file
    session = SessionOptions(
        config_file=Path(file) if file else None,
        config=platform.session,
        intra_op_threads=both or config.tensorflow_intra_op_parallelism or _intra_op_part(config),
        inter_op_threads=both or config.tensorflow_inter_op_parallelism,
        gpu_memory_fraction=config.per_process_gpu_memory_fraction,
        xla_on_cpu=config.xla_cpu_compilation_enabled,
        xla_on_gpu=config.xla_gpu_compilation_enabled,
        bfloat16=config.mixed_precision == "bfloat16",
    )
    try:
        options = LoadOptions(tags=config.tags, config=session_config(session))
    except InvalidArgument as error:
        raise StartupError(f"--tensorflow_session_config_file {error.message}") from error
    if config.loads_on_demand:
        tensorflow()  # now, and not while the first request waits
    interpreters = config.num_tflite_pools * config.num_tflite_interpreters_per_pool

    def load(servable_id: ServableId, path: Path) -> Model:
        card = triton.card(path.parent)
        if config.prefer_tflite_model and (path / TFLITE_FILE).is_file():
            return load_tflite(
                servable_id, path, interpreters=interpreters, threads=session.intra_op_threads
            )
        return load_saved_model(servable_id, model_folder(path), options, card)

    return load


def _intra_op_part(config: Config) -> int:
    """Return how many threads an operation has where nothing says it; 0: TensorFlow decides.

    It would take all processors, in each of several workers.
    """
    has_file = config.tensorflow_session_config_file or config.platform_config_file
    return cpus() if config.workers > 1 and not has_file else 0


def _with_signature(load: ModelLoader) -> ModelLoader:
    def load_with_signature(servable_id: ServableId, path: Path) -> Model:
        servable = load(servable_id, path)
        try:
            triton.set_signature(path.parent, servable)
        except BaseException:
            servable.close()
            raise
        return servable

    return load_with_signature


def profiler(config: Config) -> Recorder | None:
    """Return what records TensorFlow's work; None if it is not to be recorded."""
    if not config.enable_profiler:
        return None
    from ladle.server.saved_model.profiler import TensorFlowProfiler

    return TensorFlowProfiler()


def _observed(load: ModelLoader, observer: Observer) -> ModelLoader:
    def load_observed(servable_id: ServableId, path: Path) -> Model:
        started = time.monotonic()
        failure: Exception | None = None
        try:
            return load(servable_id, path)
        except Exception as error:
            failure = error
            raise
        finally:
            took_s = time.monotonic() - started
            observer.load_ended(Loading(servable_id, path, took_s, failure))

    return load_observed


def _warmed(
    load: ModelLoader,
    config: Config,
    batch_options: Callable[[ServableId, Path], BatchOptions | None],
    observer: Observer,
) -> ModelLoader:
    def load_warmed(servable_id: ServableId, path: Path) -> Model:
        batches = batch_options(servable_id, path)
        options = WarmupOptions(
            iterations=config.num_request_iterations_for_warmup or 1,
            batch_sizes=(1, *batches.allowed_batch_sizes) if batches else (),
            check_method_names=config.enable_signature_method_name_check,
            longest_s=config.warmup_seconds,
        )
        servable = load(servable_id, path)
        try:
            warm_up(servable_id, model_folder(path), servable, options, observer)
            triton.warm_up(servable_id, path, servable, observer)
        except BaseException:
            servable.close()
            raise
        return servable

    return load_warmed
