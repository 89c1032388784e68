"""A shadow through a server's ports: what callers get, what is compared, and who sees it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import grpc
import numpy as np
import pytest
from fakes import TIMEOUT_S, FakeLoader, FakeServable, until

from ladle.protos import tensors
from ladle.protos.files.versions import LABELS_NAME
from ladle.protos.inference_pb import ModelInferRequest
from ladle.protos.serving_pb import PredictRequest, PredictResponse
from ladle.rollout import cli
from ladle.server import Config, Server
from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.servable import Arrays
from ladle.server.core.servable_id import ServableId
from ladle.server.wiring.rollouts import is_busy

ROLLOUT = """
rollout {
  model: "m"
  canary { percent: 0 }
  shadow { percent: 100 log: "LOG" }
  guard { min_requests: 5 max_disagreement: 0.1 }
}
"""


class Harness:
    """Version 1 doubles and is stable; version 2, the canary, does what the test says."""

    def __init__(self, folder: Path) -> None:
        for version in "12":
            (folder / "m" / version).mkdir(parents=True)
        (folder / "m" / LABELS_NAME).write_text(json.dumps({"stable": 1, "canary": 2}))
        self.log = folder / "shadow.log"
        (folder / "rollout.txt").write_text(ROLLOUT.replace("LOG", str(self.log)))
        config = Config(
            port=None,
            rest_api_port=None,
            model_name="m",
            model_base_path=str(folder / "m"),
            rollout_file=str(folder / "rollout.txt"),
            file_system_poll_wait_seconds=0.01,
            drain_grace_seconds=0,
        )
        self.loader = FakeLoader()
        self.server = Server(config, load=self.loader)
        self.server.start()
        until(lambda: all(self.server.manager.is_available("m", v) for v in (1, 2)))
        until(lambda: self.server.manager.labels("m") == {"stable": 1, "canary": 2})
        self.shadow = self.loader.loaded[ServableId("m", 2)]
        ports = [address.rpartition(":")[2] for address in self.server.addresses]
        self.channel = grpc.insecure_channel(f"127.0.0.1:{ports[0]}")
        self.url = f"http://127.0.0.1:{ports[1]}"

    def predict(self, label: str = "") -> PredictResponse:
        request = PredictRequest()
        request.model_spec.name = "m"
        if label:
            request.model_spec.version_label = label
        request.inputs["x"].CopyFrom(tensors.to_proto(np.array([[1, 2], [3, 4]], np.float32)))
        call = self.channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            PredictRequest.SerializeToString,
            PredictResponse.FromString,
        )
        answer: PredictResponse = call(request, timeout=TIMEOUT_S)
        return answer

    def post(self, path: str, body: dict[str, Any]) -> Any:
        request = Request(self.url + path, json.dumps(body).encode())
        with urlopen(request, timeout=TIMEOUT_S) as answer:
            return json.load(answer)

    def infer(self) -> None:
        request = ModelInferRequest(model_name="m")
        given = request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
        given.contents.fp32_contents.extend([1, 2])
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer"
        )
        call(request.SerializeToString(), timeout=TIMEOUT_S)

    def seen(self) -> dict[str, Any]:
        """Return what the status page gets of the shadow."""
        with urlopen(self.url + "/status.json", timeout=TIMEOUT_S) as answer:
            (model,) = json.load(answer)["models"]
        found: dict[str, Any] = model["load"]
        return found

    def compared(self) -> int:
        """Return how many requests have run on the shadow, failures included."""
        count: int = self.seen()["shadow"]["requests"]
        return count


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Harness]:
    made = Harness(tmp_path)
    yield made
    made.shadow.release()
    made.channel.close()
    made.server.stop(lame_duck=False)


def test_callers_get_stables_answers_and_the_page_says_how_the_canary_differs(
    there: Harness,
) -> None:
    there.shadow.function = lambda inputs: {"y": inputs["x"] * np.array([4, 1], np.float32)}

    def enough() -> bool:
        answer = there.predict()
        assert answer.model_spec.version.value == 1
        np.testing.assert_array_equal(tensors.to_array(answer.outputs["y"]), [[2, 4], [6, 8]])
        return there.compared() >= 5

    until(enough)
    shadow = there.seen()["shadow"]
    assert (shadow["version"], shadow["stable"], shadow["share"]) == ("2", "1", 1.0)
    assert (shadow["failures"], shadow["disagreement"]) == (0, 1.0)
    assert shadow["rows"] == shadow["disagreeing_rows"] == 2 * shadow["requests"]
    output = shadow["outputs"]["y"]
    assert (output["top_changed"], output["max_abs"], output["mean_abs"]) == (1.0, 6.0, 3.5)
    line = json.loads(there.log.read_text().splitlines()[0])
    assert line["outputs"] == {"y": {"stable": [2.0, 4.0], "shadow": [4.0, 2.0]}}
    assert line["request_id"]
    # The guard holds a canary whose answers are others.
    until(lambda: there.seen()["rollout"][1]["is_held"])
    assert "of the rows of" in there.seen()["rollout"][1]["reason"]
    exposed = there.server.exposition().decode()
    for line in (
        'ladle_shadow_requests_total{model="m",version="2",code="OK"}',
        'ladle_shadow_disagreeing_rows_total{model="m",version="2",output="y"}',
        'ladle_shadow_largest_difference_count{model="m",version="2",output="y"}',
        'ladle_shadow_seconds_count{model="m",version="2"}',
    ):
        assert line in exposed
    # What runs on a shadow is no request of anybody's.
    requests = there.server.metrics.own.requests.values
    assert {labels[1] for labels in requests} == {"1"}


def test_the_command_reads_what_the_server_says(
    there: Harness, capsys: pytest.CaptureFixture[str]
) -> None:
    def enough() -> bool:
        there.predict()
        return there.compared() >= 5

    until(enough)
    assert cli.main(["status", "--server", there.url]) == 0
    printed = capsys.readouterr().out
    assert "version 2 as a shadow of version 1" in printed
    assert printed.endswith("good: version 2: it keeps what is asked of it\n")
    there.shadow.function = lambda inputs: {"y": inputs["x"] * np.array([9, 1], np.float32)}
    until(lambda: enough() and there.seen()["rollout"][1]["is_held"])
    assert cli.main(["status", "--server", there.url, "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)["rollouts"]
    assert found["verdict"] == "held"


def test_a_shadow_that_fails_is_counted_and_nobody_notices(there: Harness) -> None:
    def fail(inputs: Arrays) -> dict[str, Any]:
        raise RuntimeError("the canary is broken")

    there.shadow.function = fail

    def enough() -> bool:
        assert there.predict().model_spec.version.value == 1
        return there.compared() >= 2

    until(enough)
    shadow = there.seen()["shadow"]
    assert shadow["failures"] == shadow["requests"]
    assert shadow["last_error"] == "INTERNAL: RuntimeError('the canary is broken')"
    assert shadow["rows"] == 0


def test_a_shadow_that_hangs_leaves_callers_their_answers(there: Harness) -> None:
    there.shadow.hold()
    for _ in range(100):  # six times what may be held for it
        assert there.predict().model_spec.version.value == 1
    until(lambda: there.seen()["shadow"]["dropped"].get("busy", 0) > 0)


def test_who_names_a_label_is_not_compared(there: Harness) -> None:
    for _ in range(5):
        there.predict("stable")
    assert there.seen()["shadow"]["requests"] == 0
    assert there.seen()["shadow"]["dropped"] == {}


def test_every_way_to_ask_is_compared(there: Harness) -> None:
    ways = (
        lambda: there.post("/v1/models/m:predict", {"instances": [[1, 2]]}),
        lambda: there.post(
            "/v2/models/m/infer",
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]},
        ),
        there.infer,
    )
    for ask in ways:
        before = there.compared()

        def more(ask: Any = ask, before: int = before) -> bool:
            ask()
            return there.compared() > before

        until(more)
    assert there.seen()["shadow"]["failures"] == 0


def test_a_server_is_busy_while_requests_wait_or_half_of_the_processors_run_batches() -> None:
    servable = FakeServable()
    options = BatchOptions(num_batch_threads=2, max_batch_size=1)
    queue = BatchingServable(servable, options, max_threads=2)
    manager = Manager(lambda _id, _path: queue)
    manager.aspire("m", {1: Path("/1")})
    assert manager.wait_until_settled(["m"], TIMEOUT_S)
    assert not is_busy(manager.available(), 1)
    servable.hold()
    signature = servable.signatures["serving_default"]
    inputs = {"x": np.ones((1, 2), np.float32)}

    def submit() -> None:
        queue.submit(signature, inputs, ("y",), lambda _outcome: None)

    submit()
    servable.wait_until_running()
    assert is_busy(manager.available(), 3)
    assert not is_busy(manager.available(), 4)
    submit()
    servable.wait_until_running()
    submit()
    assert queue.wait_until(lambda depth: depth.requests > 0, TIMEOUT_S)
    assert is_busy(manager.available(), 100)
    servable.release()
    assert manager.stop(TIMEOUT_S)
