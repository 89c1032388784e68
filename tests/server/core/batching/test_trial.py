"""Signatures that nobody vouches for: compared off the callers' path, and batched only if alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fakes import DOUBLE, TIMEOUT_S, FakeAlike, FakeClock, FakeServable, spec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.batching.trust import PROOF, Standing
from ladle.server.core.errors import ResourceExhausted, ServingError
from ladle.server.core.servable import Arrays, Signature
from ladle.server.core.servable_id import ServableId

Answer = Future[dict[str, NDArray[Any]]]
NAME = DOUBLE.name
ROWS = Signature(NAME, {"x": spec(-1, 3)}, {"y": spec(-1, 3)})
PAIR = Signature(NAME, {"x": spec(-1, 2), "k": spec(-1)}, {"y": spec(-1, 2)})


def send(batching: BatchingServable, signature: Signature, **inputs: NDArray[Any]) -> Answer:
    future: Answer = Future()

    def done(outcome: dict[str, NDArray[Any]] | Exception) -> None:
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    batching.submit(signature, inputs, tuple(signature.outputs), done)
    return future


class Harness:
    """A batcher that nobody vouches for, around a function."""

    def __init__(
        self,
        function: Callable[[Arrays], dict[str, NDArray[Any]]],
        signature: Signature = DOUBLE,
        options: BatchOptions | None = None,
        said_by: str = "",
        signatures: tuple[Signature, ...] = (),
    ) -> None:
        self.model = FakeServable(function, signatures or (signature,))
        self.signature = signature
        self.function = function
        self.batching = BatchingServable(
            self.model,
            options or BatchOptions(),
            FakeClock(),
            max_threads=4,
            said_by=said_by,
            servable_id=ServableId("m", 1),
        )
        self.random = np.random.default_rng(7)

    def rows(self, count: int) -> NDArray[np.float32]:
        width = (self.signature.inputs["x"].shape or (0, 0))[1]
        return self.random.normal(size=(count, width)).astype(np.float32)

    def burst(self, *requests: Arrays) -> None:
        """Send requests at a time at which all of them wait; check that each has its own answer."""
        self.model.hold()
        answers = [send(self.batching, self.signature, **inputs) for inputs in requests]
        self.model.release()
        for inputs, answer in zip(requests, answers, strict=True):
            expected = self.function(inputs)
            for alias, array in answer.result(TIMEOUT_S).items():
                assert array.shape == expected[alias].shape
                np.testing.assert_allclose(array, expected[alias], rtol=1e-4, atol=1e-6)
        assert self.batching.wait_until_idle(TIMEOUT_S)

    def bursts(self, count: int, requests: int = 8) -> None:
        for _ in range(count):
            sizes = self.random.integers(1, 4, requests)
            self.burst(*({"x": self.rows(int(size))} for size in sizes))

    def standing(self) -> Standing:
        return self.batching.standings()[self.signature.name].standing


Make = Callable[..., Harness]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Harness] = []

    def make(*arguments: Any, **named: Any) -> Harness:
        made.append(Harness(*arguments, **named))
        return made[-1]

    yield make
    for harness in made:
        harness.model.release()
        harness.batching.close()


def row_wise(inputs: Arrays) -> dict[str, NDArray[Any]]:
    return {"y": np.tanh(inputs["x"] * 2)}


def centered(inputs: Arrays) -> dict[str, NDArray[Any]]:
    return {"y": inputs["x"] - inputs["x"].mean(axis=0)}


def test_requests_of_a_row_wise_signature_run_alone_until_it_has_proved_itself(make: Make) -> None:
    harness = make(row_wise)
    harness.bursts(1)
    assert harness.standing() is Standing.ON_TRIAL
    harness.bursts(3 * PROOF)

    assert harness.standing() is Standing.BATCHED
    before = len(harness.model.batches)
    harness.bursts(1)
    assert len(harness.model.batches) - before < 8, "they ran together"


def test_requests_of_a_mixing_signature_never_share_a_run_that_a_caller_sees(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    harness = make(centered)
    harness.bursts(20)

    assert harness.standing() is Standing.ALONE
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "model=m version=1 signature=serving_default" in warning
    assert "output 'y' was " in warning
    assert "batching_params.pbtxt" in warning
    compared = harness.batching.comparisons
    harness.bursts(5)
    assert harness.batching.comparisons == compared, "what is known is not tried again"


def test_a_mix_that_shows_late_is_found_by_the_share_that_is_still_compared(make: Make) -> None:
    mixes: list[bool] = []

    def late(inputs: Arrays) -> dict[str, NDArray[Any]]:
        return centered(inputs) if mixes else row_wise(inputs)

    harness = make(late)
    harness.bursts(3 * PROOF)
    assert harness.standing() is Standing.BATCHED
    mixes.append(True)
    for _ in range(200):
        harness.model.hold()
        answers = [send(harness.batching, DOUBLE, x=harness.rows(1)) for _ in range(8)]
        harness.model.release()
        for answer in answers:
            answer.result(TIMEOUT_S)
        assert harness.batching.wait_until_idle(TIMEOUT_S)

    assert harness.standing() is Standing.ALONE
    harness.bursts(3)


def test_it_is_found_in_batches_of_requests_that_come_as_one(make: Make) -> None:
    mixes: list[bool] = []

    def late(inputs: Arrays) -> dict[str, NDArray[Any]]:
        return centered(inputs) if mixes else row_wise(inputs)

    harness = make(late)
    harness.bursts(3 * PROOF)
    mixes.append(True)
    for _ in range(200):
        inputs = [{"x": harness.rows(2)} for _ in range(8)]
        group = FakeAlike(inputs)
        if not harness.batching.submit_alike(DOUBLE, inputs[0], ("y",), group):
            break
        assert group.overs.acquire(timeout=TIMEOUT_S)
        assert harness.batching.wait_until_idle(TIMEOUT_S)

    assert harness.standing() is Standing.ALONE


def test_a_mix_that_shows_only_in_larger_batches_never_reaches_a_caller(make: Make) -> None:
    """Callers get no larger batches than have been compared."""

    def large(inputs: Arrays) -> dict[str, NDArray[Any]]:
        return centered(inputs) if len(inputs["x"]) > 40 else row_wise(inputs)

    harness = make(large)
    for _ in range(6 * PROOF):
        harness.burst(*({"x": harness.rows(1)} for _ in range(64)))

    status = harness.batching.standings()[NAME]
    assert status.standing is Standing.ALONE
    assert "output 'y' was " in status.reason


def test_batches_grow_with_what_callers_send_up_to_the_most(make: Make) -> None:
    harness = make(row_wise, options=BatchOptions(max_batch_size=50))
    for _ in range(6 * PROOF):
        harness.burst(*({"x": harness.rows(1)} for _ in range(5)))
    assert harness.standing() is Standing.BATCHED
    assert max(harness.model.batches) <= 16, "nobody sends more at a time"

    for _ in range(6 * PROOF):
        harness.burst(*({"x": harness.rows(1)} for _ in range(80)))

    assert harness.standing() is Standing.BATCHED
    assert max(harness.model.batches) == 50


def test_equal_requests_make_no_batch_larger(make: Make) -> None:
    harness = make(row_wise)
    harness.bursts(3 * PROOF)
    assert harness.standing() is Standing.BATCHED
    most = max(harness.model.batches)
    same = {"x": harness.rows(1)}
    for _ in range(PROOF):
        harness.burst(*[same] * 200)

    assert max(harness.model.batches) <= most


@pytest.mark.parametrize("failure", [ServingError("at most 20"), ResourceExhausted("no memory")])
def test_where_a_larger_batch_fails_batches_stay_as_large_as_they_were(
    make: Make, caplog: pytest.LogCaptureFixture, failure: ServingError
) -> None:
    caplog.set_level("INFO")

    def small(inputs: Arrays) -> dict[str, NDArray[Any]]:
        if len(inputs["x"]) > 20:
            raise failure
        return row_wise(inputs)

    harness = make(small)
    for _ in range(6 * PROOF):
        harness.burst(*({"x": harness.rows(1)} for _ in range(40)))

    assert harness.standing() is Standing.BATCHED
    assert sum(rows > 20 for rows in harness.model.batches) == 1
    assert caplog.text.count("batches stay as large as they are") == 1


def test_each_signature_has_its_own_share_of_comparisons(make: Make) -> None:
    """Else signatures that take turns could be compared never."""
    mixes: list[bool] = []

    def late(inputs: Arrays) -> dict[str, NDArray[Any]]:
        return centered(inputs) if mixes else row_wise(inputs)

    other = replace(DOUBLE, name="other")
    harness = make(late, signatures=(DOUBLE, other))
    for signature in (DOUBLE, other):
        harness.signature = signature
        harness.bursts(3 * PROOF)
    mixes.append(True)
    for _ in range(100):
        for signature in (DOUBLE, other):
            harness.model.hold()
            answers = [send(harness.batching, signature, x=harness.rows(1)) for _ in range(8)]
            harness.model.release()
            for answer in answers:
                answer.result(TIMEOUT_S)
            assert harness.batching.wait_until_idle(TIMEOUT_S)

    standings = harness.batching.standings()
    assert {standings[name].standing for name in (NAME, "other")} == {Standing.ALONE}


def test_an_output_with_other_rows_marks_a_signature_at_once(make: Make) -> None:
    """Its rows are not those of the request, though they may be as many by chance."""
    harness = make(lambda inputs: {"y": inputs["x"][inputs["x"][:, 0] > 0]})
    harness.burst({"x": np.array([[1, 2], [-1, 2]], np.float32)})

    status = harness.batching.standings()[NAME]
    assert status == (
        Standing.ALONE,
        "output 'y': expected 2 rows for a batch of as many, got shape [1, 2]",
    )


def test_what_waits_when_nobody_vouches_any_more_runs_alone(make: Make) -> None:
    harness = make(centered, said_by="batching_params.pbtxt")
    harness.model.hold()
    first = send(harness.batching, DOUBLE, x=harness.rows(1))
    harness.model.wait_until_running()
    requests = [harness.rows(2) for _ in range(4)]
    answers = [send(harness.batching, DOUBLE, x=x) for x in requests]
    harness.batching.configure(BatchOptions(), "")
    harness.model.release()

    first.result(TIMEOUT_S)
    for x, answer in zip(requests, answers, strict=True):
        np.testing.assert_allclose(answer.result(TIMEOUT_S)["y"], centered({"x": x})["y"])


def test_equal_requests_prove_nothing(make: Make) -> None:
    """A mean over equal rows is each row."""
    harness = make(centered)
    same = {"x": harness.rows(1)}
    for _ in range(4 * PROOF):
        harness.burst(same, same, same)

    assert harness.batching.comparisons >= PROOF
    assert harness.standing() is Standing.ON_TRIAL


def test_an_input_that_never_varied_keeps_a_signature_on_trial(make: Make) -> None:
    """The first value of `k` is used for all rows: with one `k` for all, nobody sees it."""

    def scaled(inputs: Arrays) -> dict[str, NDArray[Any]]:
        return {"y": inputs["x"] * inputs["k"][:1, None]}

    harness = make(scaled, PAIR)
    one = np.ones(1, np.float32)
    for _ in range(3 * PROOF):
        harness.burst(*({"x": harness.rows(1), "k": one} for _ in range(4)))
    assert harness.standing() is Standing.ON_TRIAL

    for n in range(20):
        harness.burst(*({"x": harness.rows(1), "k": one * (n + m)} for m in range(4)))
    assert harness.standing() is Standing.ALONE


def test_inputs_of_unequal_rows_mark_a_signature_at_once(make: Make) -> None:
    def paired(inputs: Arrays) -> dict[str, NDArray[Any]]:
        return {"y": inputs["x"] * inputs["k"].sum()}

    harness = make(paired, PAIR)
    harness.burst({"x": harness.rows(2), "k": np.ones(5, np.float32)})

    status = harness.batching.standings()[NAME]
    assert status.standing is Standing.ALONE
    assert status.reason == "inputs of one request had unequal rows: {'x': 2, 'k': 5}"


def test_a_request_that_the_model_refuses_marks_nothing(make: Make) -> None:
    """Else any caller could slow down all others."""
    harness = make(lambda inputs: {"y": inputs["x"] * inputs["k"][:, None]}, PAIR)
    refused = send(harness.batching, PAIR, x=harness.rows(2), k=np.ones(5, np.float32))

    assert refused.exception(TIMEOUT_S) is not None
    assert harness.batching.wait_until_idle(TIMEOUT_S)
    assert harness.standing() is Standing.ON_TRIAL


def test_a_stateful_signature_runs_each_request_exactly_once(make: Make) -> None:
    harness = make(row_wise, replace(DOUBLE, stateful="operation AssignAdd"))
    harness.bursts(20)

    assert harness.standing() is Standing.ALONE
    assert harness.batching.comparisons == 0
    assert len(harness.model.batches) == 20 * 8


def test_a_batch_of_a_stateful_signature_that_is_vouched_for_fails_without_a_second_run(
    make: Make,
) -> None:
    counted = 0

    def counting(inputs: Arrays) -> dict[str, NDArray[Any]]:
        nonlocal counted
        counted += len(inputs["x"])
        if np.isnan(inputs["x"]).any():
            raise ServingError("got NaN")
        return {"y": inputs["x"]}

    stateful = replace(DOUBLE, stateful="operation AssignAdd")
    harness = make(counting, stateful, said_by="--enable_batching")
    failed = 0
    for _ in range(50):
        harness.model.hold()
        requests = [harness.rows(1) for _ in range(8)]
        requests[5][:] = np.nan
        answers = [send(harness.batching, stateful, x=x) for x in requests]
        harness.model.release()
        failed += sum(answer.exception(TIMEOUT_S) is not None for answer in answers)

    assert counted == 400
    assert failed >= 50
    assert harness.standing() is Standing.VOUCHED


def test_lost_rows_of_a_stateful_signature_are_an_error_once_and_lone_runs_later(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    stateful = replace(DOUBLE, stateful="operation AssignAdd")
    harness = make(lambda inputs: {"y": inputs["x"][:1]}, stateful, said_by="--enable_batching")
    harness.model.hold()
    first = send(harness.batching, stateful, x=harness.rows(1))
    harness.model.wait_until_running()
    answers = [send(harness.batching, stateful, x=harness.rows(1)) for _ in range(4)]
    harness.model.release()

    first.result(TIMEOUT_S)
    for answer in answers:
        with pytest.raises(ServingError, match="expected 4 rows for a batch of as many"):
            answer.result(TIMEOUT_S)
    assert harness.model.batches == [1, 4]
    assert caplog.text.count("an output lacks rows in a batch") == 1
    harness.bursts(1)
    assert harness.standing() is Standing.ALONE


def test_a_signature_that_is_vouched_for_is_batched_from_the_start_and_never_compared(
    make: Make,
) -> None:
    harness = make(row_wise, said_by="--enable_batching")
    harness.bursts(20)

    assert harness.standing() is Standing.VOUCHED
    assert harness.batching.comparisons == 0
    assert len(harness.model.batches) < 20 * 8


def test_a_file_that_appears_vouches_for_what_was_alone(make: Make) -> None:
    harness = make(centered)
    harness.bursts(20)
    assert harness.standing() is Standing.ALONE

    harness.batching.configure(BatchOptions(), "batching_params.pbtxt")
    assert harness.standing() is Standing.VOUCHED
    harness.batching.configure(BatchOptions(), "")
    assert harness.standing() is Standing.ALONE
    harness.batching.configure(None, "--unbatched_models")
    assert harness.batching.standings()[NAME] == (Standing.ALONE, "--unbatched_models")


def test_the_batch_on_trial_is_padded_as_those_of_callers_would_be(make: Make) -> None:
    """What is added to reach an allowed size must not change an answer, either."""
    sizes: list[int] = []

    def counts_to_eight(inputs: Arrays) -> dict[str, NDArray[Any]]:
        sizes.append(len(inputs["x"]))
        return {"y": inputs["x"] * (2 if len(inputs["x"]) in (16, 64) else 1)}

    harness = make(
        counts_to_eight,
        options=BatchOptions(max_batch_size=64, allowed_batch_sizes=(16, 64)),
    )
    harness.bursts(4)

    assert {16, 64} & set(sizes)
    assert harness.standing() is Standing.ALONE


def test_a_batch_that_fails_where_lone_runs_do_not_is_a_difference(make: Make) -> None:
    def small(inputs: Arrays) -> dict[str, NDArray[Any]]:
        if len(inputs["x"]) > 3:
            raise ServingError("at most 3")
        return {"y": inputs["x"]}

    harness = make(small)
    harness.bursts(12)

    status = harness.batching.standings()[NAME]
    assert status == (Standing.ALONE, "what ran alone failed in a batch: at most 3")


def test_a_lack_of_memory_shows_nothing(make: Make) -> None:
    def no_room(inputs: Arrays) -> dict[str, NDArray[Any]]:
        if len(inputs["x"]) > 3:
            raise ResourceExhausted("no memory")
        return {"y": inputs["x"]}

    harness = make(no_room)
    harness.bursts(12)

    assert harness.standing() is Standing.ON_TRIAL


def test_callers_have_their_answers_before_the_batch_on_trial_runs(make: Make) -> None:
    harness = make(row_wise)
    harness.model.hold()
    answers = [send(harness.batching, DOUBLE, x=harness.rows(1)) for _ in range(2)]
    for _ in answers:
        harness.model.wait_until_running()
    harness.model.release()
    for answer in answers:
        answer.result(TIMEOUT_S)
    harness.model.wait_until_running()  # the comparison
    assert harness.batching.wait_until_idle(TIMEOUT_S)

    assert sorted(harness.model.batches) == [1, 1, 2]


def test_a_comparison_under_way_ends_before_the_model_is_closed() -> None:
    harness = Harness(row_wise)
    harness.bursts(1, requests=2)

    harness.batching.close()

    assert harness.model.closed.is_set()


ROW_WISE: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "double": lambda x: x * 2,
    "relu": lambda x: np.maximum(x, 0),
    "shift": lambda x: x + 1,
    "softmax of a row": lambda x: np.exp(x - x.max(1, keepdims=True)),
    "reverse columns": lambda x: x[:, ::-1],
    "cumulate a row": lambda x: np.cumsum(x, axis=1),
    "sign": np.sign,
}
MIXING: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "softmax of a column": lambda x: np.exp(x) / np.exp(x).sum(0),
    "center": lambda x: x - x.mean(axis=0),
    "cumulate a column": lambda x: np.cumsum(x, axis=0),
    "sort a column": lambda x: np.sort(x, axis=0),
    "reverse rows": lambda x: x[::-1],
    "the largest": lambda x: np.broadcast_to(x.max(axis=0), x.shape),
    "the first": lambda x: np.broadcast_to(x[:1], x.shape),
    "count rows": lambda x: x / len(x),
    "if any": lambda x: x + (x > 2).any(),
    "if many": lambda x: x + (len(x) > 20),
    "if even": lambda x: x + (len(x) % 2 == 0),
    "drop half": lambda x: x[: (len(x) + 1) // 2],
    "one": lambda x: x.sum(axis=0, keepdims=True),
}
STEPS = st.lists(st.sampled_from([*ROW_WISE, *MIXING]), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS, pads=st.booleans())
def test_no_mixed_answer_reaches_a_caller_whatever_the_model_does(
    steps: list[str], pads: bool
) -> None:
    def function(inputs: Arrays) -> dict[str, NDArray[Any]]:
        x = np.clip(inputs["x"], -50, 50)
        for step in steps:
            x = np.clip((ROW_WISE | MIXING)[step](x), -50, 50)
        return {"y": x}

    options = BatchOptions(max_batch_size=32, allowed_batch_sizes=(4, 32)) if pads else None
    harness = Harness(function, ROWS, options)
    try:
        harness.bursts(2 * PROOF)
        if not set(steps) & set(MIXING):
            assert harness.standing() is not Standing.ALONE, "rounding is no reason"
    finally:
        harness.batching.close()
