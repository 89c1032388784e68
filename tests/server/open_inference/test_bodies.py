"""Bodies over HTTP: where JSON ends, and how it is compressed."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server.open_inference.harness import Served, X, request, rest_form, row, serving

from ladle.server.rest.open_inference import endpoints

PATH = "/v2/models/half/infer"
GOOD = {"inputs": [{"name": "x", "shape": [3], "datatype": "FP32", "data": [1, 2, 5]}]}
LARGE = {
    "inputs": [
        {"name": "x", "shape": [4000], "datatype": "FP32", "data": [float(n) for n in range(4000)]}
    ]
}
BINARY = {"parameters": {"binary_data_output": True}}


def raw_deflate(body: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(body) + compressor.flush()


@row(63)
@pytest.mark.parametrize(
    ("encoding", "compress"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", raw_deflate)],
)
@pytest.mark.parametrize("accepted", ["gzip", "deflate"])
def test_bodies_are_compressed_both_ways(
    served: Served, encoding: str, compress: Any, accepted: str
) -> None:
    _, text, raw = rest_form(request("half", x=np.zeros(4000, np.float32)), **BINARY)
    response = served.http.post(
        PATH,
        content=compress(text + raw),
        headers={
            "content-encoding": encoding,
            "accept-encoding": accepted,
            "inference-header-content-length": str(len(text)),
        },
    )
    assert response.headers["content-encoding"] == accepted
    length = int(response.headers["inference-header-content-length"])  # of what it inflates to
    assert json.loads(response.content[:length])["model_name"] == "half"
    assert np.frombuffer(response.content[length:], np.float32).tolist() == [2.0] * 4000


@row(14, 15, 63)
def test_only_inference_is_compressed_and_only_where_that_is_understood(served: Served) -> None:
    offered = {"accept-encoding": "gzip, deflate, br"}  # as tritonclient's asyncio client does
    answered = served.http.post(PATH, json=LARGE, headers=offered)
    assert answered.headers["content-encoding"] == "gzip"
    binary = served.http.post(PATH, json=LARGE | BINARY, headers=offered)
    assert "content-encoding" not in binary.headers
    plain = served.http.post(PATH, json=GOOD, headers=offered)
    assert "content-encoding" not in plain.headers
    metadata = served.http.get("/v2/models/wide", headers=offered)
    assert len(metadata.content) > 4096
    assert "content-encoding" not in metadata.headers
    refused = served.http.get("/v2/" + "x" * 5000, headers=offered)
    assert refused.status_code == 404
    assert len(refused.content) < 4096  # no message is longer than 1 KiB
    assert "content-encoding" not in refused.headers


@row(64)
def test_other_encodings_and_broken_ones_are_refused(served: Served) -> None:
    response = served.post(PATH, b"x", content_encoding="br")
    assert response.status_code == 415
    assert response.headers["accept-encoding"] == "deflate, gzip"
    for encoding in ("gzip", "deflate"):
        response = served.post(PATH, b"\x1f\x8bno", content_encoding=encoding)
        assert response.status_code == 400
        assert f"not valid {encoding}" in response.json()["error"]


@row(64)
def test_a_bomb_is_refused_before_it_is_large(tmp_path: Path) -> None:
    with serving(tmp_path, max_request_bytes=1 << 20) as served:
        for encoding, compress in (("gzip", gzip.compress), ("deflate", zlib.compress)):
            response = served.post(PATH, compress(b" " * (1 << 24)), content_encoding=encoding)
            assert response.status_code == 413
            assert "max_request_bytes" in response.json()["error"]


@row(66)
def test_a_body_may_be_one_inputs_bytes(served: Served) -> None:
    def raw(model: str, body: bytes) -> Any:
        return served.post(f"/v2/models/{model}/infer", body, inference_header_content_length="0")

    answered = raw("digits", bytes(range(64)))
    length = int(answered.headers["inference-header-content-length"])
    told = json.loads(answered.content[:length])
    assert told["outputs"][0]["shape"] == [1, 10]
    assert len(answered.content) - length == 40
    one = raw("half", X[:1].tobytes())
    assert one.content.endswith(np.float32(2.5).tobytes())
    four = raw("half", np.zeros(4, np.float32).tobytes())
    assert (four.status_code, four.json()["error"]) == (
        400,
        "input byte size mismatch for input 'x' for model 'half'. Expected 4, got 16",
    )


@row(67)
def test_a_raw_body_needs_one_input_of_a_shape_that_can_be_deduced(served: Served) -> None:
    def raw(model: str, body: bytes) -> Any:
        return served.post(f"/v2/models/{model}/infer", body, inference_header_content_length="0")

    assert raw("simple", b"").json()["error"] == (
        "Raw request must only have 1 input (found 1) to be deduced but got 2 inputs in 'simple' "
        "model configuration"
    )
    text = raw("text", b"\xff\xd8 a photo")
    assert text.content.endswith(b"\x0a\0\0\0\xff\xd8 a photo")
    assert raw("nope", b"").status_code == 404
    assert raw("digits", b"123").status_code == 400


@row(68)
@pytest.mark.parametrize(
    ("length", "words"),
    [
        ("x", "Unable to parse Inference-Header-Content-Length, got: x"),
        ("-1", "inference header size should be in range (0, 3), got: -1"),
        ("200", "inference header size should be in range (0, 3), got: 200"),
        ("9" * 400, None),
        ("\u0663", None),
    ],
)
def test_a_length_of_json_that_can_not_be_is_refused(
    served: Served, length: str, words: str | None
) -> None:
    headers = [(b"inference-header-content-length", length.encode())]
    response = served.http.post(PATH, content=b"{} ", headers=headers)
    assert response.status_code == 400
    assert words in (None, response.json()["error"])


@row(68)
@pytest.mark.parametrize(
    ("size", "words"),
    [
        (20, "unexpected size for input 'x', expecting 8 additional bytes for model 'half'"),
        (8, "unexpected additional input data for model 'half'"),
        (-1, "Unable to parse 'binary_data_size': expected an integer from 0"),
        (1.5, "Unable to parse 'binary_data_size': expected an integer from 0"),
        ("12", "Unable to parse 'binary_data_size': expected an integer from 0"),
        (True, "Unable to parse 'binary_data_size': expected an integer from 0"),
    ],
)
def test_sizes_that_are_not_those_of_the_body_are_refused(
    served: Served, size: Any, words: str
) -> None:
    given = {
        "name": "x",
        "shape": [3],
        "datatype": "FP32",
        "parameters": {"binary_data_size": size},
    }
    text = json.dumps({"inputs": [given]}).encode()
    response = served.post(PATH, text + X.tobytes(), inference_header_content_length=str(len(text)))
    assert (response.status_code, response.json()["error"]) == (400, words)


@row(69)
def test_json_and_binary_tensors_mix(served: Served) -> None:
    a = np.arange(16, dtype=np.int32)
    body = {
        "inputs": [
            {"name": "INPUT0", "shape": [1, 16], "datatype": "INT32", "data": a.tolist()},
            {
                "name": "INPUT1",
                "shape": [1, 16],
                "datatype": "INT32",
                "parameters": {"binary_data_size": 64},
            },
        ],
        "outputs": [
            {"name": "OUTPUT0", "parameters": {"binary_data": True}},
            {"name": "OUTPUT1", "parameters": {"binary_data": False}},
        ],
    }
    text = json.dumps(body).encode()
    response = served.post(
        "/v2/models/simple/infer",
        text + a.tobytes(),
        inference_header_content_length=str(len(text)),
    )
    length = int(response.headers["inference-header-content-length"])
    told = json.loads(response.content[:length])["outputs"]
    assert np.frombuffer(response.content[length:], np.int32).tolist() == (a + a).tolist()
    assert told[1]["data"] == [0] * 16
    assert "parameters" not in told[1]


@row(70, 71)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/octet-stream"},
        {"content-type": "application/json; charset=utf-8"},
    ],
)
def test_the_content_type_does_not_count(served: Served, headers: dict[str, str]) -> None:
    text = json.dumps(GOOD).encode()
    for more in ({}, {"Inference-Header-Content-Length": str(len(text))}):
        response = served.http.post(PATH, content=text, headers=headers | more)
        assert response.json()["outputs"][0]["data"] == [2.5, 3.0, 4.5]


@row(72)
def test_http_in_all_its_forms(served: Served) -> None:
    text = json.dumps(GOOD).encode()
    chunked = served.http.post(PATH, content=iter([text[:10], text[10:]]))
    assert chunked.status_code == 200
    assert served.http.post(f"{PATH}?a=b", content=text).status_code == 200
    for path in ("/v2", "/v2/health/ready", "/v2/models/half", "/v2/models/half/ready"):
        head = served.http.head(path)
        assert (head.status_code, head.content) == (200, b"")
    for path in ("/v2/", "/v2/models/half/", "/v2/models/half/versions/1/"):
        assert served.http.get(path).status_code == 200
    port = int(served.server.addresses[-1].rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
        told = b"".join(iter(lambda: connection.recv(4096), b""))
    assert told.startswith(b"HTTP/1.1 200")
    assert told.endswith(b'{"live":true}')


@row(71)
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "failed to parse the request JSON buffer: JSON Parse error: The document is empty"),
        (b"[]", "failed to parse the request JSON buffer: expected an object"),
        (b"{}", "Unable to parse 'inputs': expected a list of objects"),
        (b'{"inputs":{}}', "Unable to parse 'inputs': expected a list of objects"),
        (b'{"inputs":[1]}', "Unable to parse 'inputs': expected a list of objects"),
        (b'{"inputs":[{}]}', "Unable to parse 'name': expected a string"),
        (b'{"inputs":[{"name":"x"}]}', "Unable to parse 'datatype': expected a string"),
        (
            b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1]}]}',
            "Input must set only one of the following fields: 'data', 'binary_data_size' in "
            "'parameters'. But no field is set",
        ),
        (
            b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1],'
            b'"parameters":{"binary_data_size":4}}]}',
            "Input must set only one of the following fields: 'data', 'binary_data_size' in "
            "'parameters'. But set 'data' 'binary_data_size'",
        ),
        (b'{"id":1,"inputs":[]}', "Unable to parse 'id': expected a string"),
        (b'{"parameters":[],"inputs":[]}', "Unable to parse 'parameters': expected an object"),
        (
            b'{"parameters":{"a":[]},"inputs":[]}',
            "parameter 'a': expected a string, a number or a boolean",
        ),
        (
            b'{"parameters":{"binary_data_output":1},"inputs":[]}',
            "Unable to parse 'binary_data_output': expected true or false",
        ),
        (
            b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":'
            + b"[" * 101
            + b"]" * 101
            + b"}]}",
            "Unable to parse 'data': input 'x' is nested more than 100 deep",
        ),
    ],
)
def test_json_of_another_form_is_refused(served: Served, body: bytes, words: str) -> None:
    response = served.post(PATH, body)
    assert (response.status_code, response.json()["error"]) == (400, words)


@row(68)
def test_tensors_without_the_header_are_recognised(served: Served) -> None:
    response = served.post(PATH, json.dumps(GOOD).encode() + X.tobytes())
    assert response.status_code == 400
    assert response.json()["error"].endswith("is Inference-Header-Content-Length missing?")


def test_pages_of_other_origins_may_read_the_length_of_json(tmp_path: Path) -> None:
    with serving(tmp_path, rest_api_enable_cors_support=True) as served:
        headers = served.http.get("/v2/health/live").headers
    assert "Inference-Header-Content-Length" in headers["access-control-allow-headers"]
    assert headers["access-control-expose-headers"] == "Inference-Header-Content-Length"


@pytest.mark.parametrize("function", ["with_tensors", "raw_request"])
def test_large_bodies_are_copied_in_a_thread_and_small_ones_where_they_come(
    served: Served, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    """A copy of 256 MiB would hold up every other request."""
    threads: list[str] = []
    copy = getattr(endpoints, function)

    def noted(*arguments: Any) -> Any:
        threads.append(threading.current_thread().name)
        return copy(*arguments)

    monkeypatch.setattr(endpoints, function, noted)
    for count in (1, 20_000):
        _, text, raw = rest_form(request("half", x=np.zeros(count, np.float32)))
        is_raw = function == "raw_request"
        served.http.post(
            PATH,
            content=raw if is_raw else text + raw,
            headers={"inference-header-content-length": "0" if is_raw else str(len(text))},
        )
    small, large = threads
    assert large.startswith("rest_")
    assert not small.startswith("rest_")


def test_the_same_json_before_other_tensors_gives_their_answers(served: Served) -> None:
    """It is not read twice; what comes after it is."""
    for number in (1, 2, 3):
        content = request("half", x=np.full(3, number, np.float32))
        _, text, raw = rest_form(content, **BINARY)
        headers = {"inference-header-content-length": str(len(text))}
        answer = served.http.post(PATH, content=text + raw, headers=headers)
        length = int(answer.headers["inference-header-content-length"])
        expected = [number / 2 + 2] * 3
        assert np.frombuffer(answer.content[length:], np.float32).tolist() == expected
