"""What can't be served by several processes, and why."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from ladle.server.config import Config


def problem(
    config: Config,
    *,
    platform: str = sys.platform,
    environment: Mapping[str, str] = os.environ,
    devices: Path = Path("/dev"),
) -> str:
    """Return why `--workers` can't be had, in one line; empty if it can.

    Args:
        config: the settings.
        platform: the system, as `sys.platform` names it.
        environment: its variables.
        devices: where the system's devices are.
    """
    if platform != "linux":
        return f"--workers: expected 1 on {platform}, which gives one process all connections"
    if config.grpc_socket_path:
        return "--workers: expected no --grpc_socket_path beside it: no two workers can have it"
    if config.loads_on_demand:
        return (
            "--workers: expected 1 beside --model_root, --max_loaded_models, --max_loaded_bytes "
            "and --model_idle_seconds: workers do not agree on what is loaded"
        )
    hidden = environment.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if not hidden and any(devices.glob("nvidia[0-9]*")):
        return (
            "--workers: expected 1 on a machine with a GPU, whose memory each worker would take; "
            "CUDA_VISIBLE_DEVICES=-1 serves from the CPU"
        )
    return ""
