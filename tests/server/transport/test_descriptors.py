from __future__ import annotations

import subprocess
import sys

import pytest

from ladle.server.transport.descriptors import (
    affordable_connections,
    affordable_grpc_connections,
)


@pytest.mark.parametrize(
    ("most", "limit", "connections"),
    [(4096, 1 << 20, 4096), (4096, 4096, 3008), (4096, 256, 64), (10, 1024, 10), (5, 1, 1)],
)
def test_connections_leave_descriptors_for_the_rest(
    most: int, limit: int, connections: int
) -> None:
    assert affordable_connections(most, limit) == connections


def test_the_soft_limit_becomes_the_hard_one() -> None:
    program = """
import resource
from ladle.server.transport.descriptors import raise_limit
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
hard = 512 if hard == resource.RLIM_INFINITY else min(hard, 512)
resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
print(raise_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


@pytest.mark.parametrize(
    ("limit", "connections"),
    [(1 << 20, 783_312), (65_536, 46_032), (4096, 768), (1024, 384), (256, 96), (64, 1), (8, 1)],
)
def test_grpc_has_most_of_the_descriptors_that_http_leaves(limit: int, connections: int) -> None:
    http = affordable_connections(4096, limit)
    assert affordable_grpc_connections(http, limit) == connections
