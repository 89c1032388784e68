"""What `ladle serve` can be asked for, under the names that tensorflow_model_server gives it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def _flag(default: Any, help_text: str) -> Any:
    """A field that is a command line flag too; the text is what --help says of it."""
    return field(default=default, metadata={"help": help_text})


def _cpus() -> int:
    """Return how many CPUs this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True)
class Config:
    """A server's settings, checked; nothing is read or opened here.

    Raises:
        ValueError: A value is out of its range, or two contradict each other.
    """

    port: int | None = _flag(
        8500, "TCP port for gRPC, on all interfaces; 0 for none, auto for a free one (printed)"
    )
    grpc_socket_path: str = _flag("", "also listen on a Unix socket at this path")
    model_name: str = _flag("default", "the name that requests ask for")
    model_base_path: str = _flag("", "the folder that holds the numbered versions")
    file_system_poll_wait_seconds: float = _flag(
        1.0, "seconds between looks for new versions; 0 looks once, less than 0 never"
    )
    saved_model_tags: str = _flag("serve", "comma-separated tags of the graph to load")
    enable_batching: bool = _flag(True, "run rows of concurrent requests together")
    grpc_max_threads: int = _flag(
        max(16, 4 * _cpus()), "threads that take requests: so many are answered at a time"
    )
    tensorflow_session_parallelism: int = _flag(
        0, "TensorFlow threads, within and between operations; 0 leaves it to TensorFlow"
    )
    tensorflow_intra_op_parallelism: int = _flag(0, "threads within one operation; 0 = automatic")
    tensorflow_inter_op_parallelism: int = _flag(
        0, "threads between operations; 0 or 1 runs them in the request's own thread"
    )
    enable_serialization_as_tensor_content: bool = _flag(
        False, "answer Predict in tensor_content, which is faster to read than typed fields"
    )
    drain_grace_seconds: float = _flag(
        30.0, "how long a stop waits for the requests under way to finish"
    )

    def __post_init__(self) -> None:
        if self.port is not None and not 0 <= self.port <= 65535:
            raise ValueError(f"--port: expected 0 to 65535 or auto, got {self.port}")
        if self.port == 0 and not self.grpc_socket_path:
            raise ValueError("--port=0 switches TCP off: expected --grpc_socket_path beside it")
        if not self.model_base_path:
            raise ValueError("--model_base_path: expected the folder of a model's versions")
        if not self.model_name:
            raise ValueError("--model_name: expected a name, got an empty one")
        if self.grpc_max_threads < 1:
            raise ValueError(f"--grpc_max_threads: expected 1 or more, got {self.grpc_max_threads}")
        if self.drain_grace_seconds < 0:
            raise ValueError(
                f"--drain_grace_seconds: expected 0 or more, got {self.drain_grace_seconds}"
            )
        for name in ("session", "intra_op", "inter_op"):
            threads = getattr(self, f"tensorflow_{name}_parallelism")
            if threads < 0:
                raise ValueError(
                    f"--tensorflow_{name}_parallelism: expected 0 or more, got {threads}"
                )
        if self.tensorflow_session_parallelism and (
            self.tensorflow_intra_op_parallelism or self.tensorflow_inter_op_parallelism
        ):
            raise ValueError(
                "--tensorflow_session_parallelism sets both of --tensorflow_intra_op_parallelism "
                "and --tensorflow_inter_op_parallelism: expected the one or the others"
            )

    @property
    def base_path(self) -> Path:
        """The base path, absolute."""
        return Path(self.model_base_path).absolute()

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags of the graph to load."""
        return tuple(tag.strip() for tag in self.saved_model_tags.split(",") if tag.strip())
