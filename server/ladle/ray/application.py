"""The application that Ray Serve deploys."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal

from ladle.ray.replica import Ladle
from ladle.server.config import Config

if TYPE_CHECKING:
    from ray.serve import Application

NAME = "Ladle"
"""The deployment's name, by which a file of configuration changes its options."""
AUTOSCALING: Mapping[str, Any] = {
    "min_replicas": 1,
    "max_replicas": 100,
    # What a replica has under way where batches fill; Ray's own default, 2, leaves them empty.
    "target_ongoing_requests": 64,
}
"""How many replicas there are with `num_replicas="auto"`."""
_MAX_ONGOING = 256
_MAX_QUEUED = 4096
# Ray takes a replica away once nothing runs in it; unloading takes about a second more.
_UNLOAD_S = 5.0


def app(
    *,
    num_replicas: int | Literal["auto"] = 1,
    num_cpus: float = 1.0,
    num_gpus: float = 0.0,
    request_timeout_s: float = 60.0,
    **flags: Any,
) -> Application:
    """Return an application for `ray.serve.run`, with its models behind one deployment, `Ladle`.

    All models of a cluster belong into one application: with two, Ray asks callers to name one,
    which clients of TensorFlow Serving don't. Keep the route prefix "/", without which Ray finds no
    application.

    Args:
        num_replicas: how many replicas there are; "auto" for as many as `AUTOSCALING` says.
        num_cpus: the CPUs of a replica. Ray only counts them; ladle holds TensorFlow to them.
        num_gpus: the GPUs of a replica.
        request_timeout_s: as `request_timeout_s` of Ray's `grpc_options`, in seconds. Deadlines of
            callers don't reach a replica, so this is how long a request may wait there.
        flags: fields of `ladle.server.Config`, such as `model_base_path`, `model_name` and
            `model_config_file`. Base paths have to be the same on every node, as URLs are.

    Raises:
        ValueError: A flag is unknown, or has a wrong value.
        ModuleNotFoundError: Ray Serve is not installed.
    """
    from ray import serve

    flags = checked_flags(flags, num_cpus)
    drain_s = float(Config(**flags).drain_grace_seconds)
    options: dict[str, Any] = {"num_replicas": num_replicas}
    if num_replicas == "auto":
        options = {"autoscaling_config": dict(AUTOSCALING)}
    deployment = serve.deployment(
        name=NAME,
        ray_actor_options={"num_cpus": num_cpus, "num_gpus": num_gpus},
        # Ray's default of 5 would never fill a batch.
        max_ongoing_requests=_MAX_ONGOING,
        max_queued_requests=_MAX_QUEUED,
        # A new replica is there before an old one goes: loading takes long.
        max_surge_percent=100,
        graceful_shutdown_timeout_s=drain_s + _UNLOAD_S,
        # Else each request has a line of its own.
        logging_config={"enable_access_log": False},
        **options,
    )
    application: Application = deployment(Ladle).bind(flags, request_timeout_s)
    return application


def app_from_args(args: dict[str, Any]) -> Application:
    """Return `app(**args)`, for `import_path: ladle.ray:app_from_args` in a file of configuration.

    Raises:
        ValueError: As `app`.
    """
    return app(**args)


def checked_flags(flags: Mapping[str, Any], num_cpus: float) -> dict[str, Any]:
    """Return the fields of a Config, with what a replica's CPUs mean for TensorFlow.

    Raises:
        ValueError: A flag is unknown, or has a wrong value.
    """
    known = {field.name for field in fields(Config)}
    unknown = sorted(set(flags) - known)
    if unknown:
        raise ValueError(f"expected flags of ladle serve, got {', '.join(unknown)}")
    threads = {"tensorflow_intra_op_parallelism", "tensorflow_session_parallelism"}
    found = dict(flags)
    if not threads & set(found):
        found["tensorflow_intra_op_parallelism"] = max(1, math.ceil(num_cpus))
    Config(**found)
    return found
