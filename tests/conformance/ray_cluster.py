"""A cluster of Ray with two nodes on this machine, and ladle on it.

Usage, by the Python of an environment with Ray: ray_cluster.py MODEL BASE_PATH CONFIG

MODEL is a model's name, CONFIG the file of configuration whose form Ray is to check. Prints the
address of the gRPC port once the application runs. Then each line on stdin deploys it anew, which a
line on stdout confirms, and the end of stdin ends all.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import yaml

TIMEOUT_S = 30.0


def main() -> None:
    """Run until stdin ends."""
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster
    from ray.serve.schema import ServeDeploySchema

    model, base_path, config = sys.argv[1:]
    ServeDeploySchema.parse_obj(yaml.safe_load(Path(config).read_text()))
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "include_dashboard": False},
    )
    cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address)
    grpc_port, http_port = free_ports()
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": "127.0.0.1", "port": http_port},
        grpc_options={
            "port": grpc_port,
            "grpc_servicer_functions": ["ladle.ray:add_services"],
            "request_timeout_s": TIMEOUT_S,
        },
    )
    deploy(model, base_path)
    say(f"127.0.0.1:{grpc_port}")
    for _ in sys.stdin:
        deploy(model, base_path)
        say("deployed")
    serve.shutdown()
    ray.shutdown()
    cluster.shutdown()


def deploy(model: str, base_path: str) -> None:
    """Deploy the model on two replicas, one for each node; blocks until they run."""
    from ray import serve

    from ladle.ray import app

    flags: dict[str, Any] = {"drain_grace_seconds": 5, "file_system_poll_wait_seconds": 0.2}
    serve.run(
        app(
            model_name=model,
            model_base_path=base_path,
            num_replicas=2,
            num_cpus=1,
            request_timeout_s=TIMEOUT_S,
            **flags,
        )
    )


def free_ports() -> tuple[int, int]:
    """Return two ports that nobody has just now."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def say(what: str) -> None:
    """Print a line that the test waits for: Ray's workers print to stdout, too."""
    print(f"\nray_cluster: {what}", flush=True)


if __name__ == "__main__":
    main()
