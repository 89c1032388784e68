"""What hostile bodies of JSON cost a real server: memory in proportion to what was sent."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from e2e.memory import resident
from e2e.serving import ServerProcess
from fakes import TIMEOUT_S

pytestmark = pytest.mark.e2e

MEBIBYTE = 1 << 20
MOST_SENT = MEBIBYTE // 4
AT_A_TIME = 8
ROUNDS = 1
MOST_BYTES_FOR_ONE = 64  # an empty object takes 3 bytes of JSON, and becomes one of Python's
# What threads, and TensorFlow at its first large request, take once and for all.
CONSTANT = 64 * MEBIBYTE


def json_of(head: bytes, item: bytes, tail: bytes) -> bytes:
    """A body of as many items as there is place for."""
    count = (MOST_SENT - len(head) - len(tail)) // (len(item) + 1)
    return head + b",".join([item] * count) + tail


def predict(item: bytes, first: bytes = b"") -> Callable[[], bytes]:
    return lambda: json_of(b'{"instances": [' + first, item, b"]}")


EXAMPLES = b'{"signature_name": "classify_x_to_y", "examples": ['
BODIES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "lists": ("predict", predict(b"[]")),
    "objects": ("predict", predict(b"{}")),
    "decimals": ("predict", predict(b"0.1")),
    "decimals and no number": ("predict", predict(b"0.1", b"NaN,")),
    "a long text and numbers": ("predict", predict(b"1", b'"' + b"x" * (MOST_SENT // 2) + b'",')),
    "texts": ("predict", predict(b'""')),
    "deep lists": ("predict", lambda: b"[" * MOST_SENT),
    "deep lists after no number": ("predict", lambda: b"[NaN," + b"[" * MOST_SENT),
    "a long signature": (
        "predict",
        lambda: b'{"instances": [1], "signature_name": "' + b"s" * MOST_SENT + b'"}',
    ),
    "empty examples": ("classify", lambda: json_of(EXAMPLES, b"{}", b"]}")),
    "empty features": ("classify", lambda: json_of(EXAMPLES, b'{"":[]}', b"]}")),
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_hostile_bodies_cost_no_more_than_a_constant_and_what_they_bring(
    written_models: Path,
) -> None:
    path = written_models / "half_plus_two"
    flags = "--rest_api_port=auto", f"--max_request_bytes={2 * MOST_SENT}"
    with (
        ServerProcess("half_plus_two", path, *flags) as server,
        ThreadPoolExecutor(AT_A_TIME) as pool,
        httpx.Client(base_url=server.url, timeout=4 * TIMEOUT_S) as http,
    ):

        def send(verb: str, body: bytes, encoding: str = "identity") -> int:
            response = http.post(
                f"/v1/models/half_plus_two:{verb}",
                content=body,
                headers={"content-encoding": encoding},
            )
            assert "Traceback" not in response.text
            return response.status_code

        assert send("predict", b'{"instances": [1]}') == 200
        before = resident(server.pid, "VmHWM")
        for name, (verb, make) in BODIES.items():
            bodies = [make()] * ROUNDS * AT_A_TIME
            statuses = set(pool.map(lambda body: send(verb, body), bodies))  # noqa: B023
            assert statuses <= {200, 400, 429, 503}, (name, statuses)
            grown = (resident(server.pid, "VmHWM") - before) // MEBIBYTE
            print(f"{verb} {name}: {len(bodies[0])} bytes, {statuses}, peak +{grown} MiB")
        bomb = gzip.compress(bytes(64 * MEBIBYTE), 9)
        bombs = [bomb] * ROUNDS * AT_A_TIME
        assert set(pool.map(lambda body: send("predict", body, "gzip"), bombs)) <= {413, 429}
        grown = resident(server.pid, "VmHWM") - before
        print(f"peak +{grown // MEBIBYTE} MiB")
        assert send("predict", b'{"instances": [1]}') == 200
    assert grown < CONSTANT + AT_A_TIME * MOST_SENT * MOST_BYTES_FOR_ONE
