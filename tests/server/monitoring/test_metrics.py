from __future__ import annotations

import re
from pathlib import Path

import pytest

from ladle.server.core.errors import Code, NotFound, ServingError
from ladle.server.core.observation import Fanout, Loading, Observation, Run, Unobserved
from ladle.server.core.servable_id import ServableId
from ladle.server.monitoring.families import text
from ladle.server.monitoring.metrics import SEVERAL, Metrics


def loaded(version: int, error: Exception | None = None) -> Loading:
    return Loading(ServableId("m", version), Path(f"/m/{version}"), 0.5, error)


def ended(metrics: Metrics, version: int = 1, signatures: tuple[str, ...] = ("s",)) -> None:
    seen = Observation("Predict", "GRPC", b"12345")
    seen.served_by(ServableId("m", version))
    seen.signatures = signatures
    seen.rows, seen.queued = 1, seen.began
    run = Run(ServableId("m", version), signatures, [seen], 1, 3, seen.began)
    run.failed = False
    run.end(seen.began, metrics)
    seen.end(b"answer", metrics)


def shown(metrics: Metrics) -> str:
    with metrics.lock:
        metrics.count()
        return text(metrics.families())


def test_loads_and_warm_ups_are_counted_by_how_they_ended() -> None:
    metrics = Metrics()
    metrics.load_ended(loaded(1))
    metrics.load_ended(loaded(2, NotFound("no such file")))
    metrics.load_ended(loaded(2, ZeroDivisionError()))
    metrics.warmup_ended(loaded(1), 7)

    told = shown(metrics)
    assert (
        ':tensorflow:cc:saved_model:load_attempt_count{model_path="/m/1",status="success"} 1\n'
        in told
    )
    assert (
        ':tensorflow:cc:saved_model:load_attempt_count{model_path="/m/2",status="fail"} 2\n' in told
    )
    assert ':tensorflow:cc:saved_model:load_latency{model_path="/m/1"} 500000\n' in told
    assert 'ladle_load_seconds_count{model="m",code="NOT_FOUND"} 1\n' in told
    assert 'ladle_load_seconds_count{model="m",code="INTERNAL"} 1\n' in told
    assert (
        ':tensorflow:serving:model_warmup_records_read{model_path="/m/1",status="OK"} 7\n' in told
    )
    assert 'ladle_warmup_seconds_sum{model="m",code="OK"} 0.5\n' in told


def test_the_series_of_very_old_versions_go_and_upstreams_stay() -> None:
    metrics = Metrics()
    for version in range(1, 101):
        metrics.load_ended(loaded(version))
        ended(metrics, version)
        shown(metrics)
    metrics.load_ended(loaded(101))

    told = shown(metrics)
    assert 'version="37"' not in told
    assert 'version="38"' in told
    assert 'model_path="/m/37"' not in told
    assert ':tensorflow:serving:request_count{model_name="m",status="OK"} 100\n' in told


def test_a_version_that_serves_is_remembered_however_many_come_and_go() -> None:
    metrics = Metrics(is_served=lambda name, version: version <= 80)
    for version in range(1, 201):
        metrics.load_ended(loaded(version))
        ended(metrics, version)
        shown(metrics)

    told = shown(metrics)
    assert 'version="1"' in told
    assert 'version="80"' in told
    assert 'version="81"' not in told, "64 would have been kept, and 80 are needed"
    assert 'version="200"' in told


def test_a_version_that_is_loaded_again_is_no_longer_the_oldest() -> None:
    metrics = Metrics()
    for version in (*range(1, 65), 1, 65):
        metrics.load_ended(loaded(version))

    told = shown(metrics)
    assert 'model_path="/m/1"' in told
    assert 'model_path="/m/2"' not in told


def test_models_that_never_loaded_are_forgotten_once_they_are_not_configured() -> None:
    configured: set[str] = set()
    metrics = Metrics(lambda: configured)
    for number in range(1100):
        configured = {"kept", f"m{number}"}
        for name in configured:
            seen = Observation("Predict", "GRPC", b"12345")
            seen.model = name
            seen.end(NotFound("on its way"), metrics)
        with metrics.lock:
            metrics.count()

    told = shown(metrics)
    assert 'model="kept"' in told
    assert 'model="m1099"' in told
    assert 'model="m0"' not in told
    assert len(metrics.recent) == 1024


def test_models_in_stores_that_never_loaded_are_forgotten_too() -> None:
    configured: set[str] = set()
    metrics = Metrics(lambda: configured)
    for number in range(1100):
        configured = {"kept", f"m{number}"}
        for name in configured:
            metrics.stores.look_failed(name)
            metrics.stores.fetched(name, 5, 0.1, "failed")
            metrics.stores.version_changed(name)

    told = shown(metrics)
    for family in ("ladle_store_failures_total", "ladle_download_bytes_total"):
        assert f'{family}{{model="kept"}}' in told
        assert f'{family}{{model="m1099"}}' in told
        assert f'{family}{{model="m0"}}' not in told
    assert len(metrics.own.failed_looks.values) == 1024


def test_a_run_of_several_signatures_is_one_series_whatever_their_order() -> None:
    metrics = Metrics()
    ended(metrics, signatures=("a", "b"))
    ended(metrics, signatures=("b", "a"))

    told = shown(metrics)
    assert f'ladle_batch_rows_count{{model="m",version="1",signature="{SEVERAL}"}} 2\n' in told
    assert (
        f'ladle_batch_padding_rows_total{{model="m",version="1",signature="{SEVERAL}"}} 6\n' in told
    )
    assert (
        ':tensorflow:serving:batching_session:padding_size_sum{execution_batch_size="4"} 6\n'
        in told
    )


def test_one_observer_that_fails_keeps_no_other_from_hearing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(Unobserved):
        def request_ended(self, request: Observation) -> None:
            raise ZeroDivisionError

        def load_ended(self, load: Loading) -> None:
            raise ZeroDivisionError

    metrics = Metrics()
    both = Fanout([Unobserved(), Failing(), metrics])
    seen = Observation("Predict", "GRPC", b"")
    seen.served_by(ServableId("m", 1))
    seen.end(b"", both)
    both.load_ended(loaded(1))

    assert 'ladle_requests_total{model="m",version="1"' in shown(metrics)
    assert "ladle_load_seconds_count" in shown(metrics)
    assert [record.message for record in caplog.records] == ["an observer failed"] * 2


@pytest.mark.parametrize("counts", [[2], [1, 7], [3, 1, 3000], [2] * 60, [1, 5] * 60])
@pytest.mark.parametrize("refused", [False, True])
def test_requests_that_were_answered_as_one_are_counted_as_so_many(
    counts: list[int], refused: bool
) -> None:
    def answered(number: int, count: int = 1) -> Observation:
        seen = Observation("Predict", "GRPC", b"")
        seen.served_by(ServableId("m", 1))
        seen.signatures = ("s",)
        seen.request_bytes, seen.response_bytes, seen.rows = 100, 50, 2
        # Sums of these are exact.
        seen.began, seen.queued, seen.encoding = 8.0, 8.25, 9.5
        seen.ended = 9.75 + number / 8
        seen.run = Run(ServableId("m", 1), ("s",), [], 2, 0, 8.5)
        seen.run.assembled, seen.run.computed = 8.75, 9.25 + number / 64
        seen.count = count
        if refused:
            seen.error = ServingError("too much", Code.RESOURCE_EXHAUSTED)
            seen.error.reason = "request_size"
        return seen

    one_by_one, at_once = Metrics(), Metrics()
    for number, count in enumerate(counts):
        for _ in range(count):
            one_by_one.request_ended(answered(number))
        at_once.requests_ended(answered(number, count))

    assert shown(at_once) == shown(one_by_one)
    assert at_once.statistics() == one_by_one.statistics()
    for now in (9.0, 10.0, 11.0):
        first, second = at_once.recent["m"], one_by_one.recent["m"]
        assert first.per_s(now, 1) == second.per_s(now, 1)
        assert first.latencies_s(now, [0.5]) == second.latencies_s(now, [0.5])


def test_of_many_models_the_last_have_series_of_their_own_and_no_request_is_lost() -> None:
    names = [f"m{number}" for number in range(200)]
    metrics = Metrics(lambda: names, max_models=5)

    def use(name: str) -> None:
        metrics.load_ended(Loading(ServableId(name, 1), Path(f"/{name}/1"), 0.1, None))
        for served in (True, True, False):  # one is refused before it has a version
            request = Observation("Predict", "GRPC", b"xx")
            request.model = name
            if served:
                request.served_by(ServableId(name, 1))
                request.signatures = ("s",)
            request.end(b"y", metrics)

    for name in names:
        use(name)
        with metrics.lock:
            metrics.count()
            assert len(metrics.recent) <= 5
    text = shown(metrics)
    named = set(re.findall(r'[{,]model="([^"]*)"', text))
    assert named == {"other", *names[-5:]}
    counts = re.findall(r"^ladle_requests_total\{.*\} (\d+)$", text, re.MULTILINE)
    assert sum(map(int, counts)) == 3 * len(names)
    loads = re.findall(r"^ladle_load_seconds_count\{.*\} (\d+)$", text, re.MULTILINE)
    assert sum(map(int, loads)) == len(names)
    assert len(text.splitlines()) < 1000

    use(names[0])
    assert f'ladle_requests_total{{model="{names[0]}",version="1"' in shown(metrics)
    assert f'model="{names[-5]}"' not in shown(metrics), "it was used the longest ago"
