"""The REST interface on real SavedModels: upstream's documented answers, and gRPC's numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from fakes import TIMEOUT_S

from ladle.client import Client
from ladle.server import Config, Server

pytestmark = pytest.mark.e2e

MODELS = ("half_plus_two", "half_plus_two_tf2", "oddities", "misfits")


class Both(NamedTuple):
    """The two sides of one server."""

    http: httpx.Client
    grpc: Client

    def post(self, path: str, body: Any) -> Any:
        """Return what is answered to a body of JSON."""
        response = self.http.post(f"/v1/models/{path}", json=body)
        assert response.status_code == 200, response.text
        return response.json()

    def refused(self, path: str, body: Any) -> tuple[int, str]:
        """Return the status and error that a body of JSON comes to."""
        response = self.http.post(f"/v1/models/{path}", json=body)
        return response.status_code, response.json()["error"]


@pytest.fixture(scope="module")
def both(written_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    config = tmp_path_factory.mktemp("rest") / "models.config"
    listed = "".join(
        f'config {{ name: "{name}" base_path: "{written_models / name}" '
        'model_platform: "tensorflow" }\n'
        for name in MODELS
    )
    config.write_text(f"model_config_list {{ {listed} }}")
    server = Server(
        Config(port=None, rest_api_port=None, model_config_file=str(config), drain_grace_seconds=0)
    )
    server.start()
    grpc, http = (address.rpartition(":")[2] for address in server.addresses)
    try:
        with (
            httpx.Client(base_url=f"http://127.0.0.1:{http}", timeout=TIMEOUT_S) as rest,
            Client(f"127.0.0.1:{grpc}", timeout=TIMEOUT_S) as client,
        ):
            yield Both(rest, client)
    finally:
        server.stop(lame_duck=False)


@pytest.mark.parametrize("model", ["half_plus_two", "half_plus_two_tf2"])
def test_predict_gives_the_numbers_of_grpc(both: Both, model: str) -> None:
    x = np.random.default_rng(1).normal(size=(20, 1)).astype(np.float32)
    over_grpc = both.grpc.predict(model, x)["y"]
    rows = both.post(f"{model}:predict", {"instances": x.tolist()})["predictions"]
    columns = both.post(f"{model}:predict", {"inputs": {"x": x.tolist()}})["outputs"]
    np.testing.assert_array_equal(np.array(rows, np.float32), over_grpc)
    np.testing.assert_array_equal(np.array(columns, np.float32), over_grpc)


def test_several_outputs_are_objects(both: Both) -> None:
    body = {"signature_name": "both", "instances": [[2.0]]}
    assert both.post("half_plus_two:predict", body) == {"predictions": [{"y": [3.0], "y2": [4.0]}]}
    body = {"signature_name": "both", "inputs": [[2.0], [4.0]]}
    assert both.post("half_plus_two:predict", body) == {
        "outputs": {"y": [[3.0], [4.0]], "y2": [[4.0], [5.0]]}
    }


EXAMPLES: list[Any] = [{"x": 2.0}, {"x": [4.0]}]


@pytest.mark.parametrize(
    ("model", "signature"),
    [("half_plus_two", "classify_both"), ("half_plus_two_tf2", "classify")],
)
def test_classify_gives_labels_and_scores_as_grpc_does(
    both: Both, model: str, signature: str
) -> None:
    body = {"signature_name": signature, "examples": EXAMPLES}
    results = both.post(f"{model}:classify", body)["results"]
    assert results == [[["two", 3.0], ["three", 4.0]], [["two", 4.0], ["three", 5.0]]]
    over_grpc = both.grpc.classify(model, EXAMPLES, signature=signature).classes
    assert [[(label, score) for label, score in row] for row in results] == [
        [(scored.label, scored.score) for scored in row] for row in over_grpc
    ]


@pytest.mark.parametrize(
    ("model", "signature"),
    [("half_plus_two", "regress_x_to_y"), ("half_plus_two_tf2", "regress")],
)
def test_regress_gives_values_as_grpc_does(both: Both, model: str, signature: str) -> None:
    body = {"signature_name": signature, "examples": EXAMPLES}
    assert both.post(f"{model}:regress", body) == {"results": [3.0, 4.0]}
    over_grpc = both.grpc.regress(model, EXAMPLES, signature=signature).values
    np.testing.assert_array_equal(over_grpc, [3.0, 4.0])


def test_a_context_is_part_of_each_example(both: Both) -> None:
    body = {
        "signature_name": "regress_x_to_y",
        "context": {"x": 6.0},
        "examples": [{}, {"x": 2.0}],
    }
    assert both.post("half_plus_two:regress", body) == {"results": [5.0, 3.0]}


@pytest.mark.parametrize(
    ("signature", "values"),
    [
        ("int16", [1, -2]),
        ("string", ["a", "ü"]),
    ],
)
def test_dtypes_go_in_and_out(both: Both, signature: str, values: list[Any]) -> None:
    body = {"signature_name": signature, "instances": values}
    assert both.post("oddities:predict", body) == {"predictions": values}


@pytest.mark.parametrize("signature", ["float16", "bfloat16", "qint8"])
def test_dtypes_without_a_form_in_json_are_not_implemented(both: Both, signature: str) -> None:
    refused = both.refused("oddities:predict", {"signature_name": signature, "instances": [1]})
    assert refused[0] == 501
    assert "use gRPC" in refused[1]


def test_a_scalar_is_no_row(both: Both) -> None:
    for form, status in (("instances", 400), ("inputs", 200)):
        body = {"signature_name": "sum", form: [1, 2]}
        response = both.http.post("/v1/models/oddities:predict", json=body)
        assert response.status_code == status
        told = {"error": "Tensor name: y has no shape information"}
        assert response.json() == (told if status == 400 else {"outputs": 3.0})


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("oddities:predict", {"signature_name": "gather", "instances": [7]}, 400, "indices"),
        ("oddities:predict", {"signature_name": "sparse", "instances": [1]}, 400, "can't be calle"),
        ("half_plus_two:predict", {"signature_name": "no", "instances": [1]}, 400, "signature def"),
        (
            "half_plus_two:classify",
            {"signature_name": "no", "examples": [{}]},
            400,
            "No signature was found with the name: no",
        ),
        (
            "half_plus_two:regress",
            {"signature_name": "serving_default", "examples": [{}]},
            400,
            "No regression inputs found in SignatureDef",
        ),
        ("misfits:regress", {"signature_name": "wide_value", "examples": [{}]}, 400, "float32 [1]"),
    ],
)
def test_what_a_model_refuses_is_a_bad_request(
    both: Both, path: str, body: Any, status: int, error: str
) -> None:
    refused = both.refused(path, body)
    assert refused[0] == status
    assert error in refused[1]


def test_status_is_as_upstream_documents_it(both: Both) -> None:
    assert both.http.get("/v1/models/half_plus_two/versions/1").json() == {
        "model_version_status": [
            {
                "version": "1",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ]
    }


def test_metadata_is_as_upstream_documents_it(both: Both) -> None:
    metadata = both.http.get("/v1/models/half_plus_two/metadata").json()
    assert metadata["model_spec"] == {
        "name": "half_plus_two",
        "signature_name": "",
        "version": "1",
    }
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    sizes = [{"name": "", "size": "-1"}, {"name": "", "size": "1"}]
    tensor = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": sizes, "unknown_rank": False}}
    assert signatures["serving_default"] == {
        "inputs": {"x": {"name": "x:0", **tensor}},
        "outputs": {"y": {"name": "y:0", **tensor}},
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }


def test_models_are_listed_with_their_signatures(both: Both) -> None:
    models = both.http.get("/v1/models").json()["models"]
    assert [model["name"] for model in models] == sorted(MODELS)
    (version,) = models[0]["versions"]
    assert version["state"] == "AVAILABLE"
    assert "classify_x_to_y" in version["signatures"]
