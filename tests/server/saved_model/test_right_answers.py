"""Models whose first dimension is no batch: under load each caller has what it would have alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import TIMEOUT_S, FakeClock
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.batching.trust import PROOF, Standing
from ladle.server.core.errors import ServingError
from ladle.server.core.servable import Arrays, Model, Signature, TensorSpec
from ladle.server.core.servable_id import ServableId
from ladle.server.saved_model.loading import LoadOptions, load_saved_model
from ladle.server.saved_model.runtime import tensorflow
from ladle.server.saved_model.servable import SavedModelServable

pytestmark = pytest.mark.e2e

CALLERS = 16
REQUESTS = 2000

Draw = Callable[[np.random.Generator], Arrays]


def write(path: Path) -> None:
    """Write a model with a signature for each way in which rows meet, and some that keep apart."""
    import tensorflow as tf

    def function(*specs: Any) -> Any:
        return tf.function(input_signature=list(specs))

    def floats(name: str, *shape: int | None) -> Any:
        return tf.TensorSpec(shape, tf.float32, name)

    class Mixtures(tf.Module):  # type: ignore[misc] # TensorFlow has no types
        def __init__(self) -> None:
            super().__init__()
            self.weights = tf.Variable(tf.random.stateless_normal([4, 3], seed=(1, 2)))
            self.count = tf.Variable(0, dtype=tf.int64)
            self.table = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(["a", "b"], [1.0, 2.0]), -1.0
            )

        @function(floats("x", None, 4))  # type: ignore[untyped-decorator]
        def rows(self, x: Any) -> Any:
            return {"y": tf.nn.softmax(tf.tanh(x @ self.weights))}

        @function(floats("x", None))  # type: ignore[untyped-decorator]
        def scores(self, x: Any) -> Any:
            return {"y": tf.nn.softmax(x, axis=0)}

        @function(floats("query", None, 2), floats("candidates", None, 2))  # type: ignore[untyped-decorator]
        def search(self, query: Any, candidates: Any) -> Any:
            return {"y": tf.matmul(query, candidates, transpose_b=True)}

        @function(tf.TensorSpec([None], tf.string, "text"))  # type: ignore[untyped-decorator]
        def pooled(self, text: Any) -> Any:
            words = self.table.lookup(tf.strings.split(text).to_tensor("?"))
            return {"y": tf.reduce_mean(words, axis=1)}

        @function(floats("x", None, 4))  # type: ignore[untyped-decorator]
        def total(self, x: Any) -> Any:
            both = x * 2
            return {"doubled": both, "total": both / tf.reduce_sum(tf.abs(both), axis=0)}

        @function(floats("x", None))  # type: ignore[untyped-decorator]
        def counted(self, x: Any) -> Any:
            rows = tf.shape(x, out_type=tf.int64)[0]
            with tf.control_dependencies([self.count.assign_add(rows)]):
                tf.debugging.assert_non_negative(x)
                return {"y": x * 2}

        @function(tf.TensorSpec([None], tf.int64, "ignored"))  # type: ignore[untyped-decorator]
        def read_count(self, ignored: Any) -> Any:
            return {"count": ignored * 0 + self.count}

        @function(floats("x", None))  # type: ignore[untyped-decorator]
        def noise(self, x: Any) -> Any:
            return {"y": x + tf.random.uniform(tf.shape(x))}

    model = Mixtures()
    names = ["rows", "scores", "search", "pooled", "total", "counted", "read_count", "noise"]
    tf.saved_model.save(model, str(path), {name: getattr(model, name) for name in names})


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mixtures") / "1"
    write(path)
    return path


@pytest.fixture
def model(written: Path) -> Model:
    return load_saved_model(ServableId("m", 1), written, LoadOptions())


Serve = Callable[..., BatchingServable]


@pytest.fixture
def serve(model: Model) -> Iterator[Serve]:
    """Puts a queue before the model. Its clock stands still, so that comparisons take no rest."""
    made: list[BatchingServable] = []

    def serve(options: BatchOptions | None = None, said_by: str = "") -> BatchingServable:
        options = options or BatchOptions()
        made.append(
            BatchingServable(
                model, None if said_by == "off" else options, FakeClock(), said_by=said_by
            )
        )
        return made[-1]

    yield serve
    for each in made:
        each.close()


def rows(random: np.random.Generator) -> Arrays:
    return {"x": random.normal(size=(random.integers(1, 4), 4)).astype(np.float32)}


def one_list(random: np.random.Generator) -> Arrays:
    return {"x": random.normal(size=random.integers(1, 5)).astype(np.float32)}


def a_search(random: np.random.Generator) -> Arrays:
    query = random.normal(size=(2, 2)).astype(np.float32)
    return {"query": query, "candidates": random.normal(size=(2, 2)).astype(np.float32)}


def an_uneven_search(random: np.random.Generator) -> Arrays:
    candidates = random.normal(size=(random.integers(1, 6), 2)).astype(np.float32)
    return {"query": random.normal(size=(1, 2)).astype(np.float32), "candidates": candidates}


def a_text(random: np.random.Generator) -> Arrays:
    words = [random.choice([b"a", b"b", b"c"]) for _ in range(random.integers(1, 9))]
    return {"text": np.array([b" ".join(words)], object)}


def wrong_answers(served: BatchingServable, model: Model, name: str, draw: Draw) -> int:
    """Return how many of REQUESTS answers to CALLERS differ from what the model answers alone."""
    random = np.random.default_rng(3)
    signature = served.signatures[name]
    outputs = tuple(signature.outputs)
    asked = [draw(random) for _ in range(REQUESTS)]
    expected = [model.run(signature, inputs, outputs) for inputs in asked]

    def is_wrong(number: int) -> bool:
        answer = served.run(signature, asked[number], outputs)
        return any(
            array.shape != answer[alias].shape
            or not np.allclose(array, answer[alias], rtol=1e-4, atol=1e-6)
            for alias, array in expected[number].items()
        )

    with ThreadPoolExecutor(CALLERS) as callers:
        return sum(callers.map(is_wrong, range(REQUESTS)))


@pytest.mark.parametrize(
    ("name", "draw"),
    [
        ("scores", one_list),
        ("search", a_search),
        ("search", an_uneven_search),
        ("pooled", a_text),
        ("total", rows),
    ],
    ids=["scores", "search", "uneven search", "pooled", "total"],
)
def test_rows_that_belong_together_are_never_mixed_with_those_of_others(
    serve: Serve, model: Model, name: str, draw: Draw
) -> None:
    served = serve()
    assert served.standings()[name].standing is Standing.ON_TRIAL

    assert wrong_answers(served, model, name, draw) == 0

    assert served.standings()[name].standing is Standing.ALONE


@pytest.mark.parametrize("sizes", [(), (8, 64)], ids=["any size", "padded"])
@pytest.mark.parametrize(
    ("said_by", "first", "last"),
    [
        ("", Standing.ON_TRIAL, Standing.BATCHED),
        ("--enable_batching", Standing.VOUCHED, Standing.VOUCHED),
        ("off", Standing.ALONE, Standing.ALONE),
    ],
)
def test_independent_rows_have_their_own_answers_in_every_standing(
    serve: Serve,
    model: Model,
    sizes: tuple[int, ...],
    said_by: str,
    first: Standing,
    last: Standing,
) -> None:
    served = serve(BatchOptions(max_batch_size=64, allowed_batch_sizes=sizes), said_by)
    assert served.standings()["rows"].standing is first

    assert wrong_answers(served, model, "rows", rows) == 0
    if last is Standing.BATCHED:
        prove(served)
        assert wrong_answers(served, model, "rows", rows) == 0

    assert served.standings()["rows"].standing is last


def prove(served: BatchingServable) -> None:
    """Have requests compared until that is enough."""
    random = np.random.default_rng(4)
    signature = served.signatures["rows"]
    for _ in range(20 * PROOF):
        served.run(signature, rows(random), ("y",))
        assert served.wait_until_idle(TIMEOUT_S)


def test_an_output_that_mixes_nothing_is_batched_where_only_it_is_asked_for(
    serve: Serve, model: Model
) -> None:
    served = serve()
    signature = served.signatures["total"]
    random = np.random.default_rng(5)
    for _ in range(10 * PROOF):
        served.run(signature, rows(random), ("doubled",))
        assert served.wait_until_idle(TIMEOUT_S)
    assert served.standings()["total"].standing is Standing.BATCHED

    assert wrong_answers(served, model, "total", rows) == 0


def count(model: Model) -> int:
    ignored = np.zeros(1, np.int64)
    outcome = model.run(model.signatures["read_count"], {"ignored": ignored}, ("count",))
    return int(outcome["count"][0])


@pytest.mark.parametrize("said_by", ["", "--enable_batching", "off"])
def test_a_model_that_counts_counts_each_request_once_whatever_fails(
    serve: Serve, model: Model, said_by: str
) -> None:
    served = serve(said_by=said_by)
    signature = served.signatures["counted"]
    before = count(model)
    failed: list[NDArray[Any]] = []
    lock = threading.Lock()

    def call(number: int) -> None:
        x = np.array([-1.0 if number % 7 == 0 else number], np.float32)
        try:
            answer = served.run(signature, {"x": x}, ("y",))
        except ServingError:
            with lock:
                failed.append(x)
        else:
            assert answer["y"].tolist() == [2 * number]

    with ThreadPoolExecutor(CALLERS) as callers:
        list(callers.map(call, range(400)))
    assert served.wait_until_idle(TIMEOUT_S)

    assert count(model) - before == 400
    bad = sum(x[0] < 0 for x in failed)
    assert bad == 58
    assert len(failed) == bad or said_by == "--enable_batching", "only a batch takes others along"


def test_state_is_found_when_a_version_loads(model: Model) -> None:
    reasons = {name: signature.stateful for name, signature in model.signatures.items()}

    assert {name for name, reason in reasons.items() if reason} == {"counted", "noise"}
    assert "AssignAddVariableOp" in reasons["counted"]
    assert "RandomUniform" in reasons["noise"]


# A graph is a chain of these; each takes and returns a tensor [rows, 3].
ROW_WISE: dict[str, Callable[[Any, Any], Any]] = {
    "tanh": lambda tf, x: tf.tanh(x),
    "relu": lambda tf, x: tf.nn.relu(x),
    "dense": lambda tf, x: x @ tf.random.stateless_normal([3, 3], seed=[1, 2]),
    "softmax of a row": lambda tf, x: tf.nn.softmax(x),
    "cumulate a row": lambda tf, x: tf.cumsum(x, axis=1),
    "map": lambda tf, x: tf.map_fn(lambda row: row * 2, x),
    "partition a row": lambda tf, x: tf.sort(x, axis=1),
    "loop until all are small": lambda tf, x: tf.while_loop(
        lambda y: tf.reduce_any(tf.abs(y) > 1), lambda y: (tf.where(tf.abs(y) > 1, y / 2, y),), [x]
    )[0],
}
MIXING: dict[str, Callable[[Any, Any], Any]] = {
    "softmax of a column": lambda tf, x: tf.nn.softmax(x, axis=0),
    "center": lambda tf, x: x - tf.reduce_mean(x, axis=0),
    "cumulate a column": lambda tf, x: tf.cumsum(x, axis=0),
    "reverse rows": lambda tf, x: tf.reverse(x, axis=[0]),
    "sort a column": lambda tf, x: tf.sort(x, axis=0),
    "attend": lambda tf, x: tf.nn.softmax(tf.matmul(x, x, transpose_b=True)) @ x,
    "normalize": lambda tf, x: x / tf.norm(x + 1e-3),
    "the first": lambda tf, x: x * 0 + x[:1],
    "if even": lambda tf, x: tf.cond(tf.equal(tf.shape(x)[0] % 2, 0), lambda: -x, lambda: x),
    "if many": lambda tf, x: tf.cond(tf.shape(x)[0] > 20, lambda: -x, lambda: x),
    "add up by the first column": lambda tf, x: tf.gather(
        tf.math.unsorted_segment_sum(x, tf.cast(x[:, 0] > 0, tf.int32), 2),
        tf.cast(x[:, 0] > 0, tf.int32),
    ),
    "loop until all are small at once": lambda tf, x: tf.while_loop(
        lambda y: tf.reduce_any(tf.abs(y) > 0.01), lambda y: (y / 2,), [x]
    )[0],
    "half": lambda tf, x: x[: (tf.shape(x)[0] + 1) // 2],
}
CHAINS = st.lists(st.sampled_from([*ROW_WISE, *MIXING]), min_size=1, max_size=4)
BURST = 16


class Gated:
    """A model whose runs can be held up, so that requests gather. Counts what has run."""

    def __init__(self, model: SavedModelServable) -> None:
        self.signatures = model.signatures
        self.signature_defs = model.signature_defs
        self.default_signature = model.default_signature
        self.card_json = model.card_json
        self.gate = threading.Event()
        self.runs: list[int] = []
        self._model = model

    def run(
        self,
        signature: Signature,
        inputs: Arrays,
        outputs: tuple[str, ...],
        deadline: float | None = None,
    ) -> dict[str, NDArray[Any]]:
        assert self.gate.wait(TIMEOUT_S)
        self.runs.append(len(inputs["x"]))
        return self._model.run(signature, inputs, outputs)

    def close(self) -> None:
        """Leave the model to the test, which puts several queues before it."""


def chained(steps: list[str]) -> SavedModelServable:
    """Return a graph that takes these steps, one after the other."""
    tf1 = tensorflow().compat.v1
    session = tf1.Session(graph=tf1.Graph())
    with session.graph.as_default():
        fed = tf1.placeholder(tf1.float32, [None, 3])
        made = fed
        for step in steps:
            made = (ROW_WISE | MIXING)[step](tensorflow(), made)
    signature = Signature(
        "chain", {"x": TensorSpec(1, (-1, 3), fed.name)}, {"y": TensorSpec(1, (-1, 3), made.name)}
    )
    return SavedModelServable(
        session, {"chain": signature}, {}, None, run_inline=True, all_dimensions=False
    )


class Callers:
    """Who send requests to a graph, and know what it answers to each of them alone."""

    def __init__(self, model: SavedModelServable, said_by: str) -> None:
        self.model = Gated(model)
        options = None if said_by == "off" else BatchOptions()
        self.served = BatchingServable(
            self.model, options, FakeClock(), max_threads=1, said_by=said_by
        )
        self._alone = model
        self._random = np.random.default_rng(6)

    def send(self, requests: int) -> None:
        """Send requests that wait together; each has to have its own answer."""
        signature = self.served.signatures["chain"]
        sizes = self._random.integers(1, 4, requests)
        asked = [{"x": self._random.normal(size=(n, 3)).astype(np.float32)} for n in sizes]
        expected = [self._alone.run(signature, inputs, ("y",))["y"] for inputs in asked]
        answers: list[Future[Any]] = [Future() for _ in asked]
        self.model.gate.clear()
        for inputs, answer in zip(asked, answers, strict=True):
            self.served.submit(signature, inputs, ("y",), answer.set_result)
        self.model.gate.set()
        for right, answer in zip(expected, answers, strict=True):
            got = answer.result(TIMEOUT_S)
            assert not isinstance(got, Exception), got
            np.testing.assert_allclose(got["y"], right, rtol=1e-3, atol=1e-5)
        assert self.served.wait_until_idle(TIMEOUT_S)

    def standing(self) -> Standing:
        return self.served.standings()["chain"].standing


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=CHAINS)
def test_no_graph_mixes_answers_of_a_signature_that_nobody_vouches_for(steps: list[str]) -> None:
    """On trial, and in whichever standing the trial ends."""
    model = chained(steps)
    callers = Callers(model, "")
    try:
        assert callers.standing() is Standing.ON_TRIAL
        for _ in range(8 * PROOF):
            callers.send(5)
            if callers.standing() is not Standing.ON_TRIAL:
                break
        if not set(steps) & set(MIXING):
            assert callers.standing() is Standing.BATCHED, "rounding is no reason"
        before = len(callers.model.runs)
        compared = callers.served.comparisons
        for _ in range(6):
            callers.send(BURST)
        if callers.standing() is Standing.BATCHED:
            again = 8 * (callers.served.comparisons - compared)  # lone runs of a comparison
            assert len(callers.model.runs) - before - again < 6 * BURST, "they ran together"
            assert max(callers.model.runs) > BURST
        else:
            assert callers.standing() is Standing.ALONE
    finally:
        callers.served.close()
        model.close()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=CHAINS, said_by=st.sampled_from(["off", "--enable_batching"]))
def test_no_graph_mixes_answers_where_the_user_forbids_batches_or_is_right_to_vouch(
    steps: list[str], said_by: str
) -> None:
    if said_by != "off":
        steps = [step for step in steps if step in ROW_WISE]
        assume(steps)
    model = chained(steps)
    callers = Callers(model, said_by)
    try:
        for _ in range(4):
            callers.send(BURST)
        vouched = said_by != "off"
        assert callers.standing() is (Standing.VOUCHED if vouched else Standing.ALONE)
        assert callers.served.comparisons == 0
        assert len(callers.model.runs) <= 8 if vouched else len(callers.model.runs) == 4 * BURST
    finally:
        callers.served.close()
        model.close()
