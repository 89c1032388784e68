"""Versions that come and go, and servers that stop, while requests come steadily."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from e2e.serving import ServerProcess
from e2e.steady import SteadyLoad, p99_ms
from fakes import TIMEOUT_S
from grpc_health.v1 import health_pb2, health_pb2_grpc

pytestmark = pytest.mark.e2e

SWAPS = 20
FAST = "--file_system_poll_wait_seconds=0.1"


@pytest.fixture(scope="session")
def version(written_models: Path) -> Path:
    """The folder of a version that is quick to load."""
    return written_models / "half_plus_two_tf2" / "1"


@pytest.fixture
def base_path(version: Path, tmp_path: Path) -> Path:
    """A base path with version 1."""
    shutil.copytree(version, tmp_path / "m" / "1")
    return tmp_path / "m"


def publish(version: Path, base_path: Path, number: int) -> None:
    """Put a version in place in one step, as `ladle export` does."""
    shutil.copytree(version, base_path / "staged")
    (base_path / "staged").rename(base_path / str(number))


def copy_slowly(source: Path, target: Path, between: Callable[[], object]) -> None:
    """Copy file by file, each in three parts, calling `between` after each part."""
    target.mkdir()
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes()
        third = -(-len(data) // 3)
        with copy.open("wb") as file:
            for at in range(0, len(data), third):
                file.write(data[at : at + third])
                file.flush()
                between()


def test_swaps_under_steady_load_fail_no_request(
    version: Path, base_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ServerProcess("m", base_path, FAST) as server, SteadyLoad(server.address, "m") as load:
        load.wait_for_version(1)
        calm = len(load.answers)
        load.wait_for_more(1000)
        begun = len(load.answers)
        for number in range(2, 2 + SWAPS):
            publish(version, base_path, number)
            load.wait_for_version(number)
        load.stop()
        swapping = load.answers[begun:]
        before = load.answers[calm:begun]
        code, log = server.stop()

    assert load.failures == []
    assert {answer.version for answer in swapping} == set(range(1, 2 + SWAPS))
    assert "not loaded" not in log
    assert code == 0
    with capsys.disabled():
        print(
            f"\np99 during {SWAPS} swaps: {p99_ms(swapping):.1f} ms of {len(swapping)} requests, "
            f"without: {p99_ms(before):.1f} ms of {len(before)}"
        )


def test_a_version_copied_slowly_under_load_gives_no_error_and_no_failed_load(
    version: Path, base_path: Path
) -> None:
    with ServerProcess("m", base_path, FAST) as server, SteadyLoad(server.address, "m") as load:
        load.wait_for_version(1)

        # Some 50 ms between two parts: many are seen by a poll or more.
        copy_slowly(version, base_path / "2", lambda: load.wait_for_more(20))
        load.wait_for_version(2)

        load.stop()
        code, log = server.stop()

    assert load.failures == []
    assert "not loaded" not in log
    assert "its files are still changing" in log
    assert code == 0


def test_sigterm_under_load_fails_no_accepted_request(base_path: Path) -> None:
    grace_s = 9.0
    with (
        ServerProcess("m", base_path, f"--drain_grace_seconds={grace_s}") as server,
        SteadyLoad(server.address, "m") as polite,
        SteadyLoad(server.address, "m", threads=2) as rude,
        grpc.insecure_channel(server.address) as channel,
        ThreadPoolExecutor(1) as pool,
    ):
        polite.wait_for_version(1)
        watch: Any = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=2 * TIMEOUT_S
        )
        while next(watch).status != health_pb2.HealthCheckResponse.SERVING:
            pass
        begun = time.monotonic()
        stopped = pool.submit(server.stop)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        polite.wait_for_more(50)  # a load balancer takes a moment
        polite.stop()
        code, log = stopped.result(2 * TIMEOUT_S)
        took_s = time.monotonic() - begun
        rude.stop()

    assert polite.failures == []
    codes = Counter(failure.partition(":")[0] for failure in rude.failures)
    # gRPC itself cancels a call that reaches the socket in the moment in which it closes: no more
    # than one on each of the two connections.
    assert codes.pop("CANCELLED", 0) <= 2
    assert set(codes) == {"UNAVAILABLE"}
    first_refused_s = min(answer.sent_s for answer in rude.answers if answer.failure)
    assert first_refused_s - begun > 2, "new requests are taken for a third of the grace"
    assert all(answer.failure for answer in rude.answers if answer.sent_s > first_refused_s + 1)
    assert took_s < grace_s + 5
    assert code == 0
    assert "Traceback" not in log


def test_a_config_file_serves_good_models_beside_bad_ones(
    version: Path, base_path: Path, tmp_path: Path
) -> None:
    corrupt = tmp_path / "corrupt" / "1"
    corrupt.mkdir(parents=True)
    (corrupt / "saved_model.pb").write_bytes(b"not a SavedModel")
    # Its shape is right, and its content is not: only loading tells.
    broken = shutil.copytree(version, tmp_path / "broken" / "1")
    (broken / "saved_model.pb").write_bytes(b"\x08\x01\x12\x00")
    config = tmp_path / "models.config"
    names = ("m", "corrupt", "broken", "missing")
    config.write_text(
        "model_config_list {"
        + "".join(
            f'config {{ name: "{name}" base_path: "{tmp_path / name}" '
            'model_platform: "tensorflow" }'
            for name in names
        )
        + "}"
    )
    flags = (FAST, f"--model_config_file={config}", "--max_num_load_retries=1")
    with ServerProcess("m", base_path, *flags) as server:
        with SteadyLoad(server.address, "m") as load:
            load.wait_for_version(1)
            publish(version, base_path, 2)
            load.wait_for_version(2)
        with SteadyLoad(server.address, "corrupt", threads=1) as mended:
            shutil.copy(version / "saved_model.pb", corrupt)
            shutil.copytree(version / "variables", corrupt / "variables")
            mended.wait_for_more(1)
            while mended.answers[-1].failure:
                mended.wait_for_more(1)
        code, log = server.stop()

    assert load.failures == []
    assert code == 0
    assert "Traceback" not in log
