"""Sends hostile requests of the Open Inference Protocol through all that reads them.

Every input has to be answered or refused with a status, in a time in proportion to its size.
Anything else ends the run with the input that did it. Run by hand, in the folder tests:

    ../.venv/bin/python -m server.open_inference.fuzz --inputs 1000000 --seed 1
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from fakes import TIMEOUT_S, FakeServable
from server.open_inference.harness import X, request, rest_form, servables

from ladle.protos.inference_pb import ModelInferRequest, ModelInferResponse
from ladle.protos.serving_pb import ModelSpec
from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.errors import ServingError
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.servable_id import ServableId
from ladle.server.monitoring.as_predict import predict_request, predict_response
from ladle.server.rest.open_inference.answers import to_body
from ladle.server.rest.open_inference.raw import raw_request
from ladle.server.rest.open_inference.requests import JSON_LENGTH, json_length, read, with_tensors
from ladle.server.rpc.open_inference import names
from ladle.server.rpc.open_inference.infer import ModelInfer

# An input of a few KB takes far less; a machine under load may take this.
_SLOW_S = 2.0
_SIZES = (-(1 << 63), -2, -1, 0, 1, 2, 3, 16, 1 << 20, 1 << 31, 1 << 48, (1 << 63) - 1)
_WORDS = ("", "x", "y", "INPUT0", "FP32", "BYTES", "BF16", "half", "half:x", "\u00e4", "a" * 5000)


class Target:
    """All that reads requests, with the table's models behind it."""

    def __init__(self) -> None:
        models = servables()
        self._functions = {name: model.function for name, model in models.items()}

        def load(servable_id: ServableId, path: Path) -> BatchingServable:
            known = models[servable_id.name]
            signatures = tuple(known.signatures.values())
            servable = FakeServable(known.function, signatures, known.card_json)
            return BatchingServable(servable, BatchOptions())

        self._manager = Manager(load)
        for name in models:
            self._manager.aspire(name, {1: Path("/1")})
        assert self._manager.wait_until_settled([*models], TIMEOUT_S)
        self._infer = ModelInfer(self._manager)

    def over_grpc(self, data: bytes) -> str:
        """Return what becomes of a message: OK, or the name of its status."""
        try:
            self._answer(data)
        except ServingError as error:
            return error.code.name
        return "OK"

    def over_rest(self, headers: dict[str, str], body: bytes) -> str:
        """Return what becomes of a body that is sent to the model `half`."""
        try:
            length = json_length(headers, len(body))
            if length == 0 and JSON_LENGTH in headers:
                name, spec = names.parse_known("half", "", self._manager)
                with self._manager.acquire(spec.name) as handle:
                    signature = names.find_signature(handle.servable, name.signature)
                message = ModelInferRequest(model_name="half")
                self._answer(raw_request(message, body, signature))
                return "OK"
            parsed = read(body[:length], "half", "")
            whole = with_tensors(parsed, memoryview(body)[length:], "half", lambda: "id")
            to_body(self._answer(whole), parsed.outputs, binary=parsed.binary)
        except ServingError as error:
            return error.code.name
        return "OK"

    def _answer(self, data: bytes) -> bytes:
        request = self._infer.parse(data, lambda _: None)
        spec = self._infer.model_spec(request)
        version = spec.version.value if spec.HasField("version") else None
        with self._manager.acquire(spec.name, version) as handle:
            invocation, encode = self._infer.plan(handle.servable, request)
            for alias, array in invocation.inputs.items():
                declared = invocation.signature.inputs[alias]
                assert declared.admits(array.shape), (alias, array.shape)
            try:
                with np.errstate(all="ignore"):
                    outputs = self._functions[spec.name](invocation.inputs)
            except ValueError as error:  # a number that is none, to the model of numbers as texts
                raise ServingError(str(error)) from None
            answer = encode({a: outputs[a] for a in invocation.outputs}, handle.id)
        logged = ModelSpec(name=spec.name, signature_name=invocation.signature.name)
        predict_request(data, logged)  # as the request log does
        predict_response(answer, logged, {})
        ModelInferResponse.FromString(answer)
        return answer


def seeds() -> list[ModelInferRequest]:
    """Return requests that are right."""
    a = np.ones((1, 16), np.int32)
    made = [
        request("half", x=X),
        request("simple", INPUT0=a, INPUT1=a),
        request("text", text=np.array([b"a", b"", b"\xff"], object)),
        request("digits:other", images=np.zeros((2, 8, 8), np.uint8)),
        request("scalar", x=np.zeros((), np.float32)),
        request("same_BOOL", x=np.ones((1, 2), bool)),
    ]
    made[3].outputs.add(name="probabilities").parameters["classification"].int64_param = 3
    made[0].parameters["timeout"].int64_param = 5
    typed = request("half", x=X)
    del typed.raw_input_contents[:]
    typed.inputs[0].contents.fp32_contents.extend([1, 2, 5])
    return [*made, typed]


def mutated_bytes(data: bytes, pick: random.Random) -> bytes:
    """Return bytes with a few changes: flips, cuts, repetitions, insertions."""
    changed = bytearray(data)
    for _ in range(pick.randint(1, 4)):
        at = pick.randrange(len(changed) + 1)
        kind = pick.randrange(5)
        if kind == 0 and changed:
            changed[at % len(changed)] = pick.randrange(256)
        elif kind == 1:
            del changed[at : at + pick.randint(1, 8)]
        elif kind == 2:
            changed[at:at] = changed[at : at + pick.randint(1, 32)]
        elif kind == 3:
            changed[at:at] = pick.randbytes(pick.randint(1, 8))
        else:
            changed[at : at + 4] = pick.choice((b"\xff", b"\0", b"\x80")) * 4
    return bytes(changed)


def mutated_message(message: ModelInferRequest, pick: random.Random) -> ModelInferRequest:
    """Return a message with a field or two changed to something a caller might try."""
    changed = ModelInferRequest.FromString(message.SerializeToString())
    for _ in range(pick.randint(1, 3)):
        kind = pick.randrange(10)
        tensor = changed.inputs.add() if not changed.inputs else pick.choice(list(changed.inputs))
        if kind == 0:
            del tensor.shape[:]
            tensor.shape.extend(pick.choice(_SIZES) for _ in range(pick.choice((0, 1, 2, 3, 70))))
        elif kind == 1:
            tensor.datatype = pick.choice(_WORDS)
        elif kind == 2:
            tensor.name = pick.choice(_WORDS)
        elif kind == 3 and changed.raw_input_contents:
            at = pick.randrange(len(changed.raw_input_contents))
            changed.raw_input_contents[at] = pick.randbytes(pick.randrange(40))
        elif kind == 4:
            changed.raw_input_contents.append(pick.randbytes(pick.randrange(8)))
        elif kind == 5:
            tensor.contents.int_contents.append(pick.randrange(-(1 << 31), 1 << 31))
        elif kind == 6:
            changed.outputs.add(name=pick.choice(_WORDS)).parameters[
                "classification"
            ].int64_param = pick.choice(_SIZES)
        elif kind == 7:
            changed.model_version = pick.choice(("", "1", "-1", "x", "9" * 30, "\u0661", " 1"))
        elif kind == 8:
            changed.model_name = pick.choice(_WORDS)
        else:
            key = pick.choice(("timeout", "priority", "sequence_id", "triton_x", "signature_name"))
            changed.parameters[key].string_param = pick.choice(_WORDS)
    return changed


def mutated_json(value: Any, pick: random.Random) -> Any:
    """Return JSON with a value somewhere replaced."""
    odd: tuple[Any, ...] = (
        *(None, True, -1, 0, 1 << 64, 1.5, float("nan"), "", "NaN", [], {}, [[[]]]),
        *({"b64": "AA=="}, {"b64": 1}, [1, [2]], "\ud800", 10**400),
    )
    if isinstance(value, dict) and value and pick.random() < 0.85:
        key = pick.choice([*value])
        return {**value, key: mutated_json(value[key], pick)}
    if isinstance(value, list) and value and pick.random() < 0.85:
        at = pick.randrange(len(value))
        return [*value[:at], mutated_json(value[at], pick), *value[at + 1 :]]
    return pick.choice(odd)


def inputs(pick: random.Random) -> Iterator[tuple[str, Callable[[Target], str]]]:
    """Yield inputs without end: what kind each is of, and what sends it."""
    messages = seeds()
    _, binary, tensors = rest_form(request("half", x=X))
    in_json = {
        "id": "7",
        "parameters": {"timeout": 5, "binary_data_output": False},
        "inputs": [{"name": "x", "shape": [3], "datatype": "FP32", "data": [1, 2, 5.5]}],
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
    }
    text = json.dumps(in_json).encode()
    while True:
        message = pick.choice(messages)
        data = mutated_bytes(message.SerializeToString(), pick)
        yield "gRPC bytes", lambda t, d=data: t.over_grpc(d)  # type: ignore[misc]
        data = mutated_message(message, pick).SerializeToString()
        yield "gRPC fields", lambda t, d=data: t.over_grpc(d)  # type: ignore[misc]
        body = mutated_bytes(text, pick)
        yield "JSON bytes", lambda t, b=body: t.over_rest({}, b)  # type: ignore[misc]
        tree = mutated_json(in_json, pick)
        body = json.dumps(tree).encode(errors="surrogatepass")
        yield "JSON values", lambda t, b=body: t.over_rest({}, b)  # type: ignore[misc]
        body = mutated_bytes(binary + tensors, pick)
        length = str(pick.choice((len(binary), len(binary), 0, len(body), -1, 5)))
        headers = {JSON_LENGTH: length}
        yield "binary", lambda t, h=headers, b=body: t.over_rest(h, b)  # type: ignore[misc]


def run(count: int, seed: int) -> tuple[Counter[tuple[str, str]], float]:
    """Send inputs, and return how each kind ended, and the longest time that one took.

    Raises:
        AssertionError: An input was neither answered nor refused, or took too long.
    """
    target = Target()
    outcomes: Counter[tuple[str, str]] = Counter()
    longest = 0.0
    source = inputs(random.Random(seed))
    for number in range(count):
        kind, send = next(source)
        started = time.perf_counter()
        try:
            outcome = send(target)
        except Exception as error:
            raise AssertionError(f"input {number} of seed {seed}, {kind}: {error!r}") from error
        took = time.perf_counter() - started
        assert took < _SLOW_S, f"input {number} of seed {seed}, {kind}: {took:.1f} s"
        longest = max(longest, took)
        outcomes[kind, outcome] += 1
    return outcomes, longest


def main() -> None:
    """Run as the command line says, and print how each kind of input ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    started = time.monotonic()
    outcomes, longest = run(arguments.inputs, arguments.seed)
    for (kind, outcome), count in sorted(outcomes.items()):
        print(f"{kind:12} {outcome:18} {count}")
    took = time.monotonic() - started
    print(f"{sum(outcomes.values())} inputs in {took:.0f} s, the longest {longest * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
