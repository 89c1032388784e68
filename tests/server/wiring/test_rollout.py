"""A roll-out through a server's ports: who is routed, and by what."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import grpc
import numpy as np
import pytest
from fakes import TIMEOUT_S, FakeLoader, until

from ladle.protos import tensors
from ladle.protos.files.versions import LABELS_NAME
from ladle.protos.serving_pb import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    PredictRequest,
    PredictResponse,
)
from ladle.server import Config, Server, StartupError
from ladle.server.core.rollout.split import bucket_of, salted

SPLIT = 'rollout {{ model: "m" canary {{ percent: {} }} sticky {{ metadata: "X-User-Id" }} }}'
KEYS = [f"user-{number}" for number in range(40)]


class Harness:
    """A model with versions 1 (stable), 2 (canary) and 3 (new)."""

    def __init__(self, folder: Path) -> None:
        for version in "123":
            (folder / "m" / version).mkdir(parents=True)
        (folder / "m" / LABELS_NAME).write_text(json.dumps({"stable": 1, "canary": 2}))
        self.file = folder / "rollout.txt"
        self.file.write_text(SPLIT.format(50))
        config = Config(
            port=None,
            rest_api_port=None,
            model_name="m",
            model_base_path=str(folder / "m"),
            rollout_file=str(self.file),
            file_system_poll_wait_seconds=0.01,
            drain_grace_seconds=0,
        )
        self.server = Server(config, load=FakeLoader())
        self.server.start()
        until(lambda: all(self.server.manager.is_available("m", v) for v in (1, 2, 3)))
        until(lambda: self.server.manager.labels("m") == {"stable": 1, "canary": 2})
        ports = [address.rpartition(":")[2] for address in self.server.addresses]
        self.channel = grpc.insecure_channel(f"127.0.0.1:{ports[0]}")
        self.url = f"http://127.0.0.1:{ports[1]}"

    def predict(self, key: str | None = None, version: int = 0, label: str = "") -> int:
        """Return the version that answered."""
        request = PredictRequest()
        request.model_spec.name = "m"
        if version:
            request.model_spec.version.value = version
        if label:
            request.model_spec.version_label = label
        request.inputs["x"].CopyFrom(tensors.to_proto(np.zeros((1, 2), np.float32)))
        call = self.channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            PredictRequest.SerializeToString,
            PredictResponse.FromString,
        )
        metadata = () if key is None else (("x-user-id", key),)
        answer: PredictResponse = call(request, timeout=TIMEOUT_S, metadata=metadata)
        return answer.model_spec.version.value


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Harness]:
    made = Harness(tmp_path)
    yield made
    made.channel.close()
    made.server.stop(lame_duck=False)


def test_requests_without_a_version_are_split_by_their_key(there: Harness) -> None:
    for key in KEYS:
        assert there.predict(key) == (2 if bucket_of(salted("m"), key) < 5000 else 1)


def test_who_names_a_version_or_a_label_gets_it(there: Harness) -> None:
    for key in KEYS[:5]:
        assert [there.predict(key, version=v) for v in (1, 2, 3)] == [1, 2, 3]
        assert there.predict(key, label="stable") == 1
        assert there.predict(key, label="canary") == 2


def test_metadata_without_a_version_are_those_of_stable(there: Harness) -> None:
    request = GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "m"
    call = there.channel.unary_unary(
        "/tensorflow.serving.PredictionService/GetModelMetadata",
        GetModelMetadataRequest.SerializeToString,
        GetModelMetadataResponse.FromString,
    )
    for _ in range(5):
        assert call(request, timeout=TIMEOUT_S).model_spec.version.value == 1


def test_a_header_is_a_key_too(there: Harness) -> None:
    def counted() -> dict[str, float]:
        return {
            version: sum(
                value
                for labels, value in there.server.metrics.own.requests.values.items()
                if labels[1] == version
            )
            for version in "12"
        }

    for key in KEYS[:10]:
        there.server.metrics.totals()
        before = counted()
        request = Request(
            f"{there.url}/v1/models/m:predict",
            data=json.dumps({"instances": [[0, 0]]}).encode(),
            headers={"X-User-Id": key},
        )
        urlopen(request, timeout=TIMEOUT_S).close()
        expected = "2" if bucket_of(salted("m"), key) < 5000 else "1"
        there.server.metrics.totals()
        assert counted()[expected] == before[expected] + 1


def test_a_file_that_is_rewritten_takes_effect_and_a_wrong_one_does_not(there: Harness) -> None:
    there.file.write_text(SPLIT.format(0))
    until(lambda: {there.predict(key) for key in KEYS} == {1})
    there.file.write_text("nonsense")
    there.file.write_text(SPLIT.format(100))
    until(lambda: {there.predict(key) for key in KEYS} == {2})
    text = there.server.exposition().decode()
    assert 'ladle_rollout_share{model="m",part="canary",version="2"} 1' in text
    assert 'ladle_rollout_share{model="m",part="stable",version="1"} 0' in text
    there.predict()
    assert 'ladle_rollout_keyless_total{model="m"} 1' in there.server.exposition().decode()


def test_both_versions_are_told_side_by_side(there: Harness) -> None:
    for key in KEYS:
        there.predict(key)
    stable, canary = there.server.snapshot()["m"].rollout
    assert (stable.part, stable.version, stable.share) == ("stable", "1", 0.5)
    assert (canary.part, canary.version, canary.share) == ("canary", "2", 0.5)
    assert stable.p99_ms is not None
    assert canary.p99_ms is not None
    there.file.write_text("")
    until(lambda: not there.server.snapshot()["m"].rollout)


def test_a_start_with_a_wrong_file_says_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "rollout.txt"
    file.write_text('rollout { model: "m" mirror {} }')
    config = Config(model_base_path=str(tmp_path), rollout_file=str(file))
    with pytest.raises(StartupError, match=r"--rollout_file: .*no field named"):
        Server(config, load=FakeLoader())
