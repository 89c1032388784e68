"""The ConfigProto of a version's session, from the settings that reach TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format

from ladle.protos.services import pool
from ladle.protos.tensorflow_pb import ConfigProto, OptimizerOptions, RewriterConfig
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.regular_file import read_text

_MAX_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """How sessions are made. What is left at its default is as `config_file` says."""

    config_file: Path | None = None
    """A ConfigProto in protobuf's text format."""
    config: ConfigProto | None = None
    """What the file would say, where there is none."""
    intra_op_threads: int = 0
    """Threads within one operation; 0 leaves them to TensorFlow."""
    inter_op_threads: int = 0
    """Threads between operations; 0 and 1 run them in the caller's own thread."""
    gpu_memory_fraction: float = 0.0
    """The part of each GPU's memory that may be taken; 0 is all."""
    xla_on_cpu: bool = False
    xla_on_gpu: bool = False
    bfloat16: bool = False
    """Run parts of the graph in bfloat16."""


def session_config(options: SessionOptions) -> ConfigProto:
    """Return the configuration, in ladle's own message; needs no TensorFlow.

    Raises:
        InvalidArgument: The file can't be read, or is no ConfigProto.
    """
    config = ConfigProto()
    if options.config_file:
        config = _read(options.config_file)
    elif options.config:
        config.CopyFrom(options.config)
    if options.intra_op_threads:
        config.intra_op_parallelism_threads = options.intra_op_threads
    if options.inter_op_threads:
        config.inter_op_parallelism_threads = options.inter_op_threads
    if options.gpu_memory_fraction:
        config.gpu_options.per_process_gpu_memory_fraction = options.gpu_memory_fraction
    if options.xla_on_cpu or options.xla_on_gpu:
        config.graph_options.optimizer_options.global_jit_level = OptimizerOptions.ON_2
        config.graph_options.optimizer_options.cpu_global_jit = options.xla_on_cpu
    if options.bfloat16:
        rewrites = config.graph_options.rewrite_options
        rewrites.auto_mixed_precision_onednn_bfloat16 = RewriterConfig.ON
    return config


def _read(file: Path) -> ConfigProto:
    try:
        text = read_text(file, _MAX_BYTES)
        return text_format.Parse(text, ConfigProto(), descriptor_pool=pool())
    except InvalidArgument as error:
        reason = error.message
    except text_format.ParseError as error:
        reason = f"no ConfigProto in text format: {error}"
    raise InvalidArgument(f"{file}: {reason}")
