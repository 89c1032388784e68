"""A whole server with both ports: what they share, TLS, and the stop."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from fakes import TIMEOUT_S, FakeLoader, until
from server.conftest import Identities
from server.rest.conftest import Harness, address_of, serving

from ladle.protos import tensors
from ladle.protos.serving_pb import PredictRequest, PredictResponse
from ladle.server import Config, Server
from ladle.server.core.servable_id import ServableId


def predict_over_grpc(setting: Harness, x: Any) -> Any:
    request = PredictRequest()
    request.model_spec.name = "m"
    request.inputs["x"].CopyFrom(tensors.to_proto(np.array(x, np.float32)))
    port = setting.server.addresses[0].rpartition(":")[2]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        method: Any = channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            PredictRequest.SerializeToString,
            PredictResponse.FromString,
        )
        return tensors.to_array(method(request, timeout=TIMEOUT_S).outputs["y"])


def test_both_ports_give_the_same_numbers(rest: Harness) -> None:
    x = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    answer = rest.post("/v1/models/m:predict", {"instances": x.tolist()}).json()["predictions"]
    np.testing.assert_array_equal(np.array(answer, np.float32), predict_over_grpc(rest, x))


def test_large_bodies_go_through_threads_both_ways(rest: Harness) -> None:
    x = np.random.default_rng(0).normal(size=(5000, 2)).astype(np.float32)
    body = rest.post("/v1/models/m:predict", {"inputs": x.tolist()}).json()
    np.testing.assert_array_equal(np.array(body["outputs"], np.float32), 2 * x)


def test_rows_that_come_together_run_together(tmp_path: Path) -> None:
    with serving(tmp_path, enable_batching=True) as setting:
        servable = setting.servables[ServableId("m", 2)]
        servable.hold()
        answers: list[Any] = []

        def ask(row: int) -> None:
            body = {"instances": [[row, row]]}
            response = httpx.post(
                f"{address_of(setting.server)}/v1/models/m:predict", json=body, timeout=TIMEOUT_S
            )
            answers.append((row, response.json()["predictions"]))

        threads = [threading.Thread(target=ask, args=(row,)) for row in range(8)]
        threads[0].start()
        servable.wait_until_running()
        for thread in threads[1:]:
            thread.start()
        until(lambda: setting.server.snapshot()["m"].queue_requests == 7)
        servable.release()
        for thread in threads:
            thread.join()
    assert sorted(answers) == [(row, [[2.0 * row, 2.0 * row]]) for row in range(8)]
    assert servable.batches == [1, 7]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b'{"instances": [[1, 2]', "JSON Parse error: "),
        (b"[" * 100_000, "JSON Parse error: it is nested too deep"),
        (b'{"instances": [[1], [1, 2]]}', "input 'x': expected lists of equal size and depth"),
        (
            b'{"signature_name": "s", "instances": [[1, 2]]}',
            'Serving signature name: "s" not found in signature def',
        ),
        (b'{"instances": [["1", 2]]}', "input 'x': JSON Value is not of expected type: float32"),
    ],
)
def test_wrong_bodies_are_bad_requests(rest: Harness, content: bytes, error: str) -> None:
    response = rest.post("/v1/models/m:predict", content)
    assert response.status_code == 400
    assert response.json()["error"].startswith(error)


def test_infinity_goes_in_and_out_bare(rest: Harness) -> None:
    response = rest.post("/v1/models/m:predict", b'{"instances": [[Infinity, -Infinity]]}')
    assert response.content == b'{"predictions":[[Infinity,-Infinity]]}'
    assert json.loads(response.content)["predictions"] == [[np.inf, -np.inf]]


def test_a_slow_model_is_given_up_after_the_timeout(tmp_path: Path) -> None:
    with serving(tmp_path, rest_api_timeout_in_ms=100) as setting:
        servable = setting.servables[ServableId("m", 2)]
        servable.hold()
        response = setting.post("/v1/models/m:predict", {"instances": [[1, 2]]})
        servable.release()
        assert response.status_code == 504


def test_a_body_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path, max_request_bytes=1000) as setting:
        response = setting.post("/v1/models/m:predict", {"instances": [[0.5, 0.5]] * 1000})
        assert response.status_code == 413
        assert "--max_request_bytes" in response.json()["error"]


def test_a_model_that_is_on_its_way_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    loader = FakeLoader()
    let_load = loader.hold("m", 1)
    config = Config(
        port=None,
        rest_api_port=None,
        model_name="m",
        model_base_path=str(tmp_path / "m"),
        drain_grace_seconds=0,
    )
    server = Server(config, load=loader)
    server.open()
    with (
        httpx.Client(base_url=address_of(server), timeout=TIMEOUT_S) as http,
        ThreadPoolExecutor(1) as pool,
    ):
        assert http.get("/readyz").status_code == 503
        body = {"instances": [[1, 2]]}
        answer = pool.submit(http.post, "/v1/models/m:predict", json=body)
        assert server.manager.wait_until(lambda: server.manager.waiting_requests == 1, TIMEOUT_S)
        let_load.set()
        assert answer.result(TIMEOUT_S).json() == {"predictions": [[2.0, 4.0]]}
    server.stop(lame_duck=False)


def test_a_model_that_there_is_not_is_not_waited_for(rest: Harness) -> None:
    assert rest.http.get("/readyz").status_code == 200
    assert rest.post("/v1/models/absent:predict", {"instances": [1]}).status_code == 404


def test_tls_is_on_both_ports_or_on_none(tmp_path: Path, identities: Identities) -> None:
    file = tmp_path / "ssl.config"
    file.write_text(str(identities.config()))
    with serving(tmp_path, ssl_config_file=str(file)) as setting:
        assert address_of(setting.server).startswith("https://")
        assert setting.http.get("/livez").status_code == 200
        plain = address_of(setting.server).replace("https", "http")
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{plain}/livez")


def test_who_offers_http_2_by_tls_is_told_that_it_is_http_1(
    tmp_path: Path, identities: Identities
) -> None:
    file = tmp_path / "ssl.config"
    file.write_text(str(identities.config()))
    context = ssl.create_default_context(cadata=identities.authority.certificate)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with serving(tmp_path, ssl_config_file=str(file)) as setting:
        port = int(address_of(setting.server).rpartition(":")[2])
        with (
            socket.create_connection(("localhost", port), TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as caller,
        ):
            assert caller.selected_alpn_protocol() == "http/1.1"


def test_callers_prove_themselves_where_they_have_to(
    tmp_path: Path, identities: Identities
) -> None:
    file = tmp_path / "ssl.config"
    config = identities.config(client_verify=True, custom_ca=identities.authority.certificate)
    file.write_text(str(config))
    (tmp_path / "client.pem").write_text(identities.client.key + identities.client.certificate)
    context = ssl.create_default_context(cadata=identities.authority.certificate)
    with serving(tmp_path, ssl_config_file=str(file)) as setting:
        url = f"{address_of(setting.server)}/livez"
        with httpx.Client(verify=context) as nobody, pytest.raises(httpx.TransportError):
            nobody.get(url)
        context.load_cert_chain(tmp_path / "client.pem")
        with httpx.Client(verify=context) as known:
            assert known.get(url).status_code == 200


def test_a_stop_turns_the_probe_and_answers_what_was_taken(tmp_path: Path) -> None:
    with serving(tmp_path, drain_grace_seconds=TIMEOUT_S) as setting:
        servable = setting.servables[ServableId("m", 2)]
        servable.hold()
        statuses: list[int] = []

        def ask() -> None:
            url = f"{address_of(setting.server)}/v1/models/m:predict"
            response = httpx.post(url, json={"instances": [[1, 2]]}, timeout=TIMEOUT_S)
            statuses.append(response.status_code)

        asking = threading.Thread(target=ask)
        asking.start()
        servable.wait_until_running()
        stopping = threading.Thread(target=setting.server.stop)
        stopping.start()
        # It is told first; requests are taken for a moment more.
        while (probe := setting.http.get("/readyz")).status_code == 200:
            pass
        assert (probe.status_code, probe.headers["connection"]) == (503, "close")
        servable.release()
        asking.join()
        stopping.join()
        assert statuses == [200]


def test_the_status_of_a_version_that_is_not_whole_says_what_it_lacks(tmp_path: Path) -> None:
    for version in ("1", "2"):
        (tmp_path / "m" / version).mkdir(parents=True)
    config = Config(
        port=None,
        rest_api_port=None,
        model_name="m",
        model_base_path=str(tmp_path / "m"),
        file_system_poll_wait_seconds=0.01,
        drain_grace_seconds=0,
    )
    lacks = {"2": "there is no saved_model.pb"}
    server = Server(config, load=FakeLoader(), check=lambda folder: lacks.get(folder.name))
    server.start()
    with httpx.Client(base_url=address_of(server), timeout=TIMEOUT_S) as http:
        second, first = http.get("/v1/models/m").json()["model_version_status"]
        metrics = http.get("/monitoring/prometheus/metrics").text
    server.stop(lame_duck=False)
    assert (first["version"], first["state"]) == ("1", "AVAILABLE")
    assert (second["version"], second["state"]) == ("2", "START")
    assert second["status"] == {
        "error_code": "UNAVAILABLE",
        "error_message": "version 2 is not whole: there is no saved_model.pb",
    }
    assert 'ladle_version_state{model="m",version="2",state="START"} 1' in metrics
