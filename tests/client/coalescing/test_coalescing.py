"""Predictions that share a request: who may, who gets what, and both clients doing it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from client.fakes import FakeServing, Refused, Version, image_version, listening
from numpy.typing import NDArray

from ladle.client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    LadleError,
    ModelMetadata,
    Prediction,
    Signature,
    TensorSpec,
    Unavailable,
)
from ladle.client.calls.flows import PredictCall
from ladle.client.coalescing import coalescers, groups
from ladle.client.coalescing.groups import (
    MAX_MEMBERS,
    OpenGroups,
    coalescing_key,
    merge,
    rows_of,
    split,
)
from ladle.client.errors import InvalidInput, MessageTooLarge, NotFound, ServerError
from ladle.client.inputs.arrays import as_arrays
from ladle.client.messages.requests import Servable

FLOAT = 1
TWO_INPUTS = {"x": np.zeros((2, 3), np.float32), "y": np.zeros((2,), np.float32)}


def wanted(given: Any, **changes: Any) -> PredictCall:
    return replace(PredictCall(target=Servable("m"), inputs=as_arrays(given)), **changes)


def metadata(*inputs: tuple[int, ...] | None, output: tuple[int, ...] | None = (-1,)) -> Any:
    specs = {f"input {n}": TensorSpec(FLOAT, shape) for n, shape in enumerate(inputs)}
    signature = Signature(inputs=specs, outputs={"out": TensorSpec(FLOAT, output)})
    return ModelMetadata("m", 1, {"serving_default": signature})


OPEN = metadata((-1, 3))


class TestMoulds:
    def test_rows_of_equal_shape_share(self) -> None:
        one, many = np.zeros((1, 3), np.float32), np.zeros((5, 3), np.float32)
        assert coalescing_key(wanted(one), OPEN) == coalescing_key(wanted(many), OPEN) is not None

    @pytest.mark.parametrize(
        "other",
        [
            wanted(np.zeros((1, 4), np.float32)),
            wanted(np.zeros((1, 3), np.float64)),
            wanted({"x": np.zeros((1, 3), np.float32)}),
            wanted(np.zeros((1, 3), np.float32), target=Servable("m", 2)),
            wanted(np.zeros((1, 3), np.float32), outputs=("out",)),
            wanted(np.zeros((1, 3), np.float32), normalize=None),
            wanted(np.zeros((1, 3), np.float32), metadata=(("x-user-id", "7"),)),
            wanted(np.zeros((1, 3), np.float32), signature="serving_default"),
        ],
    )
    def test_what_differs_does_not_share(self, other: PredictCall) -> None:
        assert coalescing_key(other, OPEN) != coalescing_key(
            wanted(np.zeros((1, 3), np.float32)), OPEN
        )

    @pytest.mark.parametrize(
        "known",
        [
            None,
            ModelMetadata("m", None, {}),
            metadata((1, 3)),
            metadata((-1, 3), (3,)),
            metadata((-1, 3), output=()),
            metadata((-1, 3), output=(1,)),
            metadata(None),
        ],
    )
    def test_a_signature_that_is_not_by_row_is_not_shared(self, known: Any) -> None:
        assert coalescing_key(wanted(np.zeros((1, 3), np.float32)), known) is None

    @pytest.mark.parametrize(
        "given", [3.0, np.zeros((0, 3)), {"x": np.zeros(2), "y": np.zeros(3)}, {}]
    )
    def test_inputs_that_have_no_common_rows_are_not_shared(self, given: Any) -> None:
        assert coalescing_key(wanted(given), OPEN) is None


class TestSharing:
    def test_rows_go_one_after_the_other(self) -> None:
        merged = merge([wanted(np.full((n, 3), n)) for n in (1, 2)])
        assert isinstance(merged.inputs, np.ndarray)
        assert merged.inputs[:, 0].tolist() == [1, 2, 2]
        both = merge([wanted(TWO_INPUTS), wanted(TWO_INPUTS)])
        assert isinstance(both.inputs, dict)
        assert {name: array.shape for name, array in both.inputs.items()} == {
            "x": (4, 3),
            "y": (4,),
        }
        assert rows_of(both) == 4

    def test_each_gets_its_own_rows(self) -> None:
        shared = Prediction({"out": np.arange(6).reshape(6, 1)}, "m", 3, "serving_default", ("a",))
        shares = split(shared, [1, 3, 2])
        for share, rows in zip(shares, ([0], [1, 2, 3], [4, 5]), strict=True):
            assert isinstance(share, Prediction)
            assert share["out"].ravel().tolist() == rows
            assert (share.version, share.labels) == (3, ("a",))

    @pytest.mark.parametrize("out", [np.zeros(3), np.float32(1), np.zeros((1, 2))])
    def test_outputs_that_are_not_by_row_are_asked_for_anew(self, out: Any) -> None:
        shared = Prediction({"out": np.asarray(out)}, "m", 3, "serving_default")
        assert split(shared, [1, 1]) == [None, None]

    @pytest.mark.parametrize("kind", [InvalidInput, MessageTooLarge, DeadlineExceeded, ServerError])
    def test_what_one_may_be_to_blame_for_is_asked_for_anew(self, kind: type[LadleError]) -> None:
        assert split(kind("oh"), [1, 1]) == [None, None]

    @pytest.mark.parametrize("kind", [Unavailable, NotFound])
    def test_what_nobody_here_is_to_blame_for_is_everybodys(self, kind: type[LadleError]) -> None:
        first, second = split(kind("oh", details="its words"), [1, 1])
        assert type(first) is type(second) is kind
        assert first is not second
        assert isinstance(first, LadleError)
        assert (str(first), first.details) == ("oh", "its words")


class TestGathering:
    def test_a_closed_group_lets_nobody_in(self) -> None:
        gathering: OpenGroups[int] = OpenGroups()
        first = gathering.join("key", 1)
        assert gathering.join("key", 2) is first
        assert gathering.join("other", 3) is not first
        gathering.close(first)
        second = gathering.join("key", 4)
        gathering.close(first)
        assert gathering.join("key", 5) is second
        assert (first.members, second.members) == ([1, 2], [4, 5])

    def test_a_group_is_bounded(self) -> None:
        gathering: OpenGroups[int] = OpenGroups()
        groups = [gathering.join("key", member) for member in range(MAX_MEMBERS + 1)]
        assert groups[MAX_MEMBERS - 1] is groups[0]
        assert groups[MAX_MEMBERS] is not groups[0]


Predict = Callable[[int], Any]


def image(value: int) -> NDArray[np.uint8]:
    return np.full((1, 2, 2), value, np.uint8)


def by_threads(address: str, values: list[int], timeout: float = 30) -> list[Any]:
    """Predict all at once, each from its own thread; errors come as results."""
    ready = threading.Barrier(len(values))
    with (
        Client(address, coalesce_ms=200) as client,
        ThreadPoolExecutor(len(values)) as executor,
    ):
        client.predict("m", image(0))

        def predict(value: int) -> Any:
            ready.wait(30)
            try:
                return client.predict("m", image(value), timeout=timeout)
            except LadleError as error:
                return error

        return [*executor.map(predict, values)]


def by_tasks(address: str, values: list[int], timeout: float = 30) -> list[Any]:
    async def main() -> list[Any]:
        async with AsyncClient(address, coalesce_ms=200) as client:
            await client.predict("m", image(0))
            return await asyncio.gather(
                *(client.predict("m", image(value), timeout=timeout) for value in values),
                return_exceptions=True,
            )

    return asyncio.run(main())


both = pytest.mark.parametrize("by", [by_threads, by_tasks])
By = Callable[..., list[Any]]


@both
def test_predictions_made_at_once_go_in_one_request(by: By) -> None:
    server = FakeServing({1: image_version(255)})
    with listening(server) as address:
        predictions = by(address, [*range(0, 240, 10)])
    means = [float(prediction["scores"][0, 0]) for prediction in predictions]
    np.testing.assert_allclose(means, np.arange(0, 240, 10) / 255, atol=1e-6)
    assert all(prediction["scores"].shape == (1, 2) for prediction in predictions)
    assert len(server.predicted) < 1 + 24 / 3


@both
def test_one_bad_input_fails_alone(by: By) -> None:
    version = image_version(255)
    run = version.run

    def picky(inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        scores = run(inputs)
        if np.any(scores["scores"][:, 0] > 0.5):
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "too bright")
        return scores

    version.run = picky
    with listening(FakeServing({1: version})) as address:
        results = by(address, [10, 20, 200, 30])
    assert [type(result) for result in results] == [
        Prediction,
        Prediction,
        InvalidInput,
        Prediction,
    ]
    assert float(results[3]["scores"][0, 0]) == pytest.approx(30 / 255)


@both
def test_a_failure_that_is_nobodys_fault_reaches_all_after_one_request(by: By) -> None:
    class Gone(FakeServing):
        def predict(self, request: Any) -> Any:
            if self.predicted:
                self.predicted.append(request)
                raise Refused(grpc.StatusCode.PERMISSION_DENIED, "no more")
            return super().predict(request)

    server = Gone({1: image_version(255)})
    with listening(server) as address:
        results = by(address, [1, 2, 3, 4])
    assert [result.code.name for result in results] == ["PERMISSION_DENIED"] * 4
    assert len(server.predicted) < 1 + 4


@both
def test_the_timeout_holds_while_others_are_waited_for(by: By) -> None:
    class OnlyTheFirst(FakeServing):
        stopped = threading.Event()

        def predict(self, request: Any) -> Any:
            if self.predicted:
                self.stopped.wait(60)
            return super().predict(request)

        def stop(self) -> None:
            self.stopped.set()

    with listening(OnlyTheFirst({1: image_version(255)})) as address:
        results = by(address, [1, 2], timeout=0.1)
    assert [type(result) for result in results] == [DeadlineExceeded] * 2


CALLERS = 64


class TestAsFewRequestsAsCan:
    """A full group leaves at once; here it is full with all callers, who would wait for minutes."""

    GATHER_S = 600.0

    @pytest.fixture(autouse=True)
    def full(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (coalescers, groups):
            monkeypatch.setattr(module, "MAX_MEMBERS", CALLERS)

    def test_64_threads_send_one_request(self) -> None:
        requests: list[int] = []

        def predict(wanted: PredictCall, timeout_s: float) -> Prediction:
            assert isinstance(wanted.inputs, np.ndarray)
            requests.append(len(wanted.inputs))
            return Prediction({"out": wanted.inputs[:, 0]}, "m", 1, "serving_default")

        coalescer = coalescers.Coalescer(predict, self.GATHER_S)

        def one(value: int) -> float:
            row = wanted(np.full((1, 3), value, np.float32))
            return float(coalescer.predict(row, "coalescing_key", 60)["out"][0])

        with ThreadPoolExecutor(CALLERS) as executor:
            for _ in range(3):
                assert [*executor.map(one, range(CALLERS))] == [*range(CALLERS)]
        assert requests == [CALLERS] * 3

    def test_64_tasks_send_one_request(self) -> None:
        requests: list[int] = []

        async def predict(wanted: PredictCall, timeout_s: float) -> Prediction:
            assert isinstance(wanted.inputs, np.ndarray)
            requests.append(len(wanted.inputs))
            return Prediction({"out": wanted.inputs[:, 0]}, "m", 1, "serving_default")

        async def main() -> None:
            coalescer = coalescers.AsyncCoalescer(predict, self.GATHER_S)

            async def one(value: int) -> float:
                row = wanted(np.full((1, 3), value, np.float32))
                return float((await coalescer.predict(row, "coalescing_key", 60))["out"][0])

            for _ in range(3):
                assert await asyncio.gather(*map(one, range(CALLERS))) == [*range(CALLERS)]

        asyncio.run(main())
        assert requests == [CALLERS] * 3


@both
def test_signatures_that_are_not_by_row_are_asked_one_by_one(by: By) -> None:
    version = Version()
    version.signatures["serving_default"].outputs["scores"].tensor_shape.dim[0].size = 1
    version.signatures["serving_default"].inputs["images"].dtype = 4  # uint8
    server = FakeServing({1: version})
    with listening(server) as address:
        assert len(by(address, [1, 2, 3])) == 3
    assert len(server.predicted) == 4


def test_a_cancelled_task_leaves_the_others_alone() -> None:
    async def main(address: str) -> float:
        async with AsyncClient(address, coalesce_ms=100) as client:
            await client.predict("m", image(0))
            first = asyncio.ensure_future(client.predict("m", image(51)))
            second = asyncio.ensure_future(client.predict("m", image(102)))
            third = asyncio.ensure_future(client.predict("m", image(153)))
            await asyncio.sleep(0)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            assert float((await second)["scores"][0, 0]) == pytest.approx(0.4)
            return float((await third)["scores"][0, 0])

    server = FakeServing({1: image_version(255)})
    with listening(server) as address:
        assert asyncio.run(main(address)) == pytest.approx(0.6)
    assert len(server.predicted) == 2


def test_a_cancellation_is_not_lost_to_an_answer_that_comes_with_it() -> None:
    async def main() -> list[object]:
        def cancel() -> None:
            for task in tasks:
                task.cancel()

        async def predict(call: PredictCall, timeout_s: float) -> Prediction:
            assert isinstance(call.inputs, np.ndarray)
            # Runs once the outcomes are set, and before anybody has woken.
            asyncio.get_running_loop().call_soon(cancel)
            return Prediction({"out": call.inputs}, "m", 1, "serving_default")

        coalescer = coalescers.AsyncCoalescer(predict, 0.001)
        one = wanted(np.zeros((1, 3), np.float32))
        tasks = [asyncio.ensure_future(coalescer.predict(one, "key", 30.0)) for _ in range(2)]
        return [type(outcome) for outcome in await asyncio.gather(*tasks, return_exceptions=True)]

    assert asyncio.run(main()) == [asyncio.CancelledError] * 2


@pytest.mark.parametrize("coalesce_ms", [-1, 1001, float("nan")])
def test_the_wait_is_bounded(coalesce_ms: float) -> None:
    with pytest.raises(ValueError, match="coalesce_ms: expected 0 to 1000"):
        Client("localhost:1", coalesce_ms=coalesce_ms)
