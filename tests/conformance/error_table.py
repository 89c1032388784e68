"""Sends what upstream has a rule for, with the stubs of tensorflow-serving-api.

Usage, by the conformance environment's Python, in the folder tests:
python -m conformance.error_table ADDRESS STRICT_ADDRESS
The first server has the models of tests/saved_models.py, the second one also holds signatures to
their method names. Prints, as JSON, each row that went otherwise than upstream's, and the number
of all rows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import conformance.without_tensorflow  # noqa: F401 - before the stubs

# isort: split
import grpc
from tensorflow.core.example import example_pb2
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    input_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

TIMEOUT_S = 60
CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"
FLOAT, INT32, STRING = 1, 3, 7
BIG = 1 << 40


class Row(NamedTuple):
    """One situation: what is sent, and what comes back."""

    situation: str
    send: Callable[[], Any]
    code: str
    gist: str | Callable[[Any], object]
    """Words of the message; for OK, what holds of the response."""


def main() -> None:
    """Go through the table."""
    address, strict_address = sys.argv[1:]
    with grpc.insecure_channel(address) as channel, grpc.insecure_channel(strict_address) as strict:
        rows = [*table(channel), *strict_table(strict)]
        wrong = {row.situation: found for row in rows if (found := differing(row))}
    assert len({row.situation for row in rows}) == len(rows), "two rows of one name"
    print(json.dumps({"wrong": wrong, "rows": len(rows)}))


def differing(row: Row) -> str | None:
    """Return what came instead of what was expected, if anything did."""
    try:
        response = row.send()
    except grpc.RpcError as error:
        code, told = error.code().name, error.details() or ""
        wanted = isinstance(row.gist, str) and row.gist in told and code == row.code
        # No caller reads a traceback, several lines, or more than fits into a header.
        clean = "\n" not in told and "Traceback" not in told and len(told) <= 1024
        return None if wanted and clean else f"expected {row.code} {row.gist!r}, got {code} {told}"
    if row.code != "OK":
        return f"expected {row.code}, got an answer"
    assert callable(row.gist)
    return None if row.gist(response) else f"not expected: {response}"


def table(channel: grpc.Channel) -> Iterator[Row]:
    """The rows of the server with default flags."""
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    models = model_service_pb2_grpc.ModelServiceStub(channel)
    yield from model_spec_rows(stub, models)
    yield from predict_rows(stub)
    yield from example_rows(stub, "Classify", classification_pb2.ClassificationRequest)
    yield from example_rows(stub, "Regress", regression_pb2.RegressionRequest)
    yield from classify_rows(stub)
    yield from regress_rows(stub)
    yield from multi_inference_rows(stub)
    yield from metadata_rows(stub)
    yield from status_rows(models)
    session_run: Any = channel.unary_unary("/tensorflow.serving.SessionService/SessionRun")
    yield Row("no such service", call(session_run, b""), "UNIMPLEMENTED", "")


def strict_table(channel: grpc.Channel) -> Iterator[Row]:
    """The rows of the server with --enable_signature_method_name_check."""
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    send = call(stub.Predict, predict("oddly_named", inputs=strings(b"")))
    gist = "Expected prediction signature method_name to be one of {tensorflow/serving/classify, "
    yield Row("strict: predict on an odd method name", send, "INTERNAL", gist)
    send = call(stub.Classify, classify("oddly_named"))
    gist = f"Expected classification signature method_name to be {CLASSIFY}. Was: odd"
    yield Row("strict: classify on an odd method name", send, "INVALID_ARGUMENT", gist)
    send = call(stub.Regress, regress("classify_x_to_y"))
    gist = f"Expected regression signature method_name to be {REGRESS}. Was: {CLASSIFY}"
    yield Row("strict: regress on another method's", send, "INVALID_ARGUMENT", gist)
    send = call(stub.Predict, predict("classify_x_to_y", inputs=strings(example(2))))
    yield Row("strict: predict on a classify signature", send, "OK", scores_of_two)
    send = call(stub.Classify, classify("classify_x_to_y", 2))
    yield Row("strict: classify", send, "OK", lambda r: len(r.result.classifications) == 1)


def model_spec_rows(stub: Any, models: Any) -> Iterator[Row]:
    """What every method says of the model that a request names, or doesn't."""
    status = get_model_status_pb2.GetModelStatusRequest
    metadata = get_model_metadata_pb2.GetModelMetadataRequest
    for name, method, request in (
        ("Predict", stub.Predict, predict_pb2.PredictRequest),
        ("Classify", stub.Classify, classification_pb2.ClassificationRequest),
        ("Regress", stub.Regress, regression_pb2.RegressionRequest),
        ("GetModelMetadata", stub.GetModelMetadata, metadata),
        ("GetModelStatus", models.GetModelStatus, status),
    ):
        send = call(method, request())
        yield Row(f"{name}: no model_spec", send, "INVALID_ARGUMENT", "Missing ModelSpec")
        nameless = request(model_spec={"signature_name": "x"})
        if name == "GetModelMetadata":
            nameless.metadata_field.append("signature_def")
        gist = "ModelSpec has no name specified."
        yield Row(f"{name}: no name", call(method, nameless), "INVALID_ARGUMENT", gist)
    for name, method, request in (
        ("Predict", stub.Predict, predict()),
        ("Classify", stub.Classify, classify("classify_x_to_y", 2)),
        ("Regress", stub.Regress, regress("regress_x_to_y", 2)),
        ("GetModelMetadata", stub.GetModelMetadata, metadata_of("half_plus_two")),
    ):
        other = changed(request, name="nope")
        gist = "Servable not found for request: Latest(nope)"
        yield Row(f"{name}: unknown model", call(method, other), "NOT_FOUND", gist)
        other = changed(request, version=9)
        gist = "Servable not found for request: Specific(half_plus_two, 9)"
        yield Row(f"{name}: unknown version", call(method, other), "NOT_FOUND", gist)
        other = changed(request, label="nope")
        gist = "Unrecognized servable version label: nope"
        yield Row(f"{name}: unknown label", call(method, other), "INVALID_ARGUMENT", gist)
        for how, spec in (("version", {"version": 1}), ("label", {"label": "stable"})):
            send = call(method, changed(request, **spec))
            yield Row(f"{name}: by {how}", send, "OK", answered_by_version_one)


def predict_rows(stub: Any) -> Iterator[Row]:
    """Predict, in the order of upstream's checks."""

    def row(situation: str, request: Any, code: str, gist: Any) -> Row:
        return Row(f"Predict: {situation}", call(stub.Predict, request), code, gist)

    def wrong(situation: str, request: Any, gist: str) -> Row:
        return row(situation, request, "INVALID_ARGUMENT", gist)

    x = tensor([2.0], 1, 1)
    two = {"x": x, "z": x}
    yield row("default signature", predict(), "OK", lambda r: values(r, "y") == [3.0])
    yield row("spec echoed", predict(), "OK", lambda r: echoed(r, "serving_default"))
    named = predict("both")
    yield row("signature echoed", named, "OK", lambda r: echoed(r, "both"))
    yield row("all outputs", named, "OK", lambda r: set(r.outputs) == {"y", "y2"})
    yield row("typed fields", predict(), "OK", lambda r: not r.outputs["y"].tensor_content)
    gist = 'Serving signature key "nope" not found.'
    yield row("unknown signature", predict("nope"), "FAILED_PRECONDITION", gist)
    yield wrong("too few inputs", predict(inputs={}), "input size does not match signature")
    yield wrong("too many inputs", predict(inputs=two), "Sent extra: {z}. Missing but required: {}")
    yield wrong("a wrong name", predict(inputs={"z": x}), "Missing but required: {x}")
    default = predict("serving_default_of_x", "half_plus_two_tf2", inputs={})
    yield row("a default", default, "OK", lambda r: values(r, "y") == [6.0])
    given = predict("serving_default_of_x", "half_plus_two_tf2")
    yield row("a default not needed", given, "OK", lambda r: values(r, "y") == [3.0])
    unknown = predict("serving_default_of_x", "half_plus_two_tf2", inputs={"z": x})
    yield wrong("a default and a wrong name", unknown, "Sent extra: {z}")
    torn = tensor_pb2.TensorProto(dtype=FLOAT, tensor_content=b"123")
    no_dtype = tensor_pb2.TensorProto(float_val=[1.0])
    negative = tensor([1.0], -1)
    huge = tensor([1.0], BIG)
    overflowing = tensor([1.0], BIG, BIG, 0)
    deep = tensor([1.0], *[1] * 300)
    rankless = tensor_pb2.TensorProto(dtype=FLOAT, tensor_shape={"unknown_rank": True})
    for situation, bad in (
        ("no dtype", no_dtype),
        ("content of another length", torn),
        ("a negative size", negative),
        ("a huge size", huge),
        ("sizes that overflow", overflowing),
        ("too many dimensions", deep),
        ("an unknown rank", rankless),
        ("an unknown dtype", tensor_pb2.TensorProto(dtype=99)),
        ("a resource", tensor_pb2.TensorProto(dtype=20)),
    ):
        yield wrong(situation, predict(inputs={"x": bad}), "tensor parsing error: x")
    integers = tensor_pb2.TensorProto(dtype=INT32, int_val=[1], tensor_shape=shape(1, 1))
    gist = "expected float32 [-1, 1], got int32 [1, 1]"
    yield wrong("another dtype", predict(inputs={"x": integers}), gist)
    wide = predict("matmul", "oddities", inputs={"x": tensor([1.0] * 3, 1, 3)})
    yield wrong("a shape that the kernel refuses", wide, "Matrix size-incompatible")
    bare = predict(inputs={"x": tensor([2.0])})
    yield row("a shape that the kernel takes", bare, "OK", lambda r: values(r, "y") == [3.0])
    empty = predict(inputs={"x": tensor([], 0, 1)})
    yield row("no rows", empty, "OK", lambda r: r.outputs["y"].tensor_shape.dim[0].size == 0)
    scalar = predict("scalar", "oddities", inputs={})
    yield row("no inputs", scalar, "OK", lambda r: values(r, "y") == [7.0])
    chosen = predict("both", output_filter=["y2"])
    yield row("a filter", chosen, "OK", lambda r: set(r.outputs) == {"y2"})
    gist = "output tensor alias not found in signature: n Outputs expected to be in the set {y}."
    yield wrong("an unknown output", predict(output_filter=["n"]), gist)
    gist = "duplicate output tensor alias: y"
    yield wrong("an output twice", predict(output_filter=["y", "y"]), gist)
    both_wrong = predict(inputs={"x": no_dtype}, output_filter=["n"])
    yield wrong("inputs come before outputs", both_wrong, "tensor parsing error: x")
    as_tensors = predict("classify_x_to_y", inputs=strings(example(2)))
    yield row("on a classify signature", as_tensors, "OK", scores_of_two)
    odd = predict("oddly_named", inputs=strings(example(2)))
    yield row("on an odd method name", odd, "OK", lambda r: values(r, "scores") == [4.0])
    sparse = predict("sparse", "oddities")
    gist = '"sparse" can\'t be called'
    yield row("on a sparse signature", sparse, "FAILED_PRECONDITION", gist)
    initialiser = predict("__saved_model_init_op", "half_plus_two_tf2", inputs={})
    yield row("on the initialiser", initialiser, "FAILED_PRECONDITION", "can't be called")
    handles = predict("handles", "oddities")
    yield row("a resource's output", handles, "FAILED_PRECONDITION", "is a")
    carried = predict("handles", "oddities", output_filter=["y"])
    yield row("beside a resource", carried, "OK", lambda r: values(r, "y") == [2.0])
    quantised = predict("qint8", "oddities", inputs={"x": quantised_tensor()})
    yield row("a quantised dtype", quantised, "OK", lambda r: r.outputs["y"] == quantised_tensor())
    count = predict("count", "oddities", inputs={"by": tensor([1.0])})
    yield row("a stateful model", count, "OK", lambda r: values(r, "count")[0] >= 1)
    lite = predict(model="half_plus_two_tflite")
    yield row("a TensorFlow Lite model", lite, "OK", lambda r: values(r, "y") == [3.0])
    wrong_name = predict(model="half_plus_two_tflite", inputs={"z": x})
    yield wrong("a wrong name on a TensorFlow Lite model", wrong_name, "Missing but required: {x}")
    steps = tensor_pb2.TensorProto(dtype=INT32, int_val=[300_000], tensor_shape=shape())
    late = call(stub.Predict, predict("slow", "oddities", inputs={"steps": steps}), timeout_s=0.05)
    yield Row("Predict: a deadline that passes", late, "DEADLINE_EXCEEDED", "")


def example_rows(stub: Any, method: str, request_class: Any) -> Iterator[Row]:
    """What Classify and Regress say alike."""
    name = "classify_x_to_y" if method == "Classify" else "regress_x_to_y"

    def row(situation: str, request: Any, gist: str) -> Row:
        send = call(getattr(stub, method), request)
        return Row(f"{method}: {situation}", send, "INVALID_ARGUMENT", gist)

    def request(signature: str = name, model: str = "half_plus_two", **fields: Any) -> Any:
        spec = {"name": model, "signature_name": signature}
        return request_class(model_spec=spec, **fields)

    some = input_pb2.Input(example_list={"examples": [example(2)]})
    gist = "No signature was found with the name: nope"
    yield row("unknown signature", request("nope", input=some), gist)
    yield row("no inputs in it", request("scalar", "oddities", input=some), "Expected one input")
    yield row("another input in it", request("both", input=some), "inputs found in SignatureDef")
    for situation, empty in (
        ("no input", input_pb2.Input()),
        ("no examples", input_pb2.Input(example_list={})),
        ("only a context", input_pb2.Input(example_list_with_context={"context": example(2)})),
    ):
        yield row(situation, request(input=empty), "Input is empty.")
    nothing = input_pb2.Input(example_list={"examples": [example_pb2.Example()]})
    yield row("an example without the feature", request(input=nothing), "Feature: x")


def classify_rows(stub: Any) -> Iterator[Row]:
    """Classify alone."""

    def row(situation: str, request: Any, code: str, gist: Any) -> Row:
        return Row(f"Classify: {situation}", call(stub.Classify, request), code, gist)

    def labelled(response: Any) -> list[list[tuple[str, float]]]:
        results = response.result.classifications
        return [[(c.label, c.score) for c in result.classes] for result in results]

    expected = [[("two", 3.0), ("three", 4.0)], [("two", 4.0), ("three", 5.0)]]
    for name, model in (("classify_both", "half_plus_two"), ("classify", "half_plus_two_tf2")):
        request = classify(name, 2, 4, model=model)
        yield row(f"labels and scores of {model}", request, "OK", lambda r: labelled(r) == expected)
    alone = classify("classify_x_to_y", 2)
    yield row("only scores", alone, "OK", lambda r: labelled(r) == [[("", 3.0)]])
    yield row("spec echoed", alone, "OK", lambda r: echoed(r, "classify_x_to_y"))
    request = classify("regress_x_to_y", 2)
    yield row("neither classes nor scores", request, "INVALID_ARGUMENT", "at least one of")
    request = classify("flat_scores", 2, model="misfits")
    yield row("scores without classes", request, "INVALID_ARGUMENT", "[1, number of classes]")
    request = classify("three_outputs", 2, model="misfits")
    yield row("three outputs", request, "INVALID_ARGUMENT", "Expected one or two output Tensors")
    request = classify("number_labels", 2, model="misfits")
    yield row("labels that are no text", request, "INVALID_ARGUMENT", "expected string [1, ")
    request = classify("unequal", 2, model="misfits")
    yield row("fewer labels than scores", request, "INVALID_ARGUMENT", "match in dim_size(1)")
    request = classify("constant_scores", 2, 4, model="misfits")
    yield row("rows of another number", request, "INVALID_ARGUMENT", "expected float32 [2, ")


def regress_rows(stub: Any) -> Iterator[Row]:
    """Regress alone."""

    def row(situation: str, request: Any, code: str, gist: Any) -> Row:
        return Row(f"Regress: {situation}", call(stub.Regress, request), code, gist)

    def regressed(response: Any) -> list[float]:
        return [r.value for r in response.result.regressions]

    for name, model in (("regress_x_to_y", "half_plus_two"), ("regress", "half_plus_two_tf2")):
        request = regress(name, 2, 4, model=model)
        yield row(f"values of {model}", request, "OK", lambda r: regressed(r) == [3.0, 4.0])
    request = regress("regress_x_to_y", 2)
    yield row("spec echoed", request, "OK", lambda r: echoed(r, "regress_x_to_y"))
    request = regress("flat_value", 2, 4, model="misfits")
    yield row("values without a second dimension", request, "OK", lambda r: len(regressed(r)) == 2)
    with_context = regress("regress_x_to_y")
    with_context.input.example_list_with_context.context.CopyFrom(example(8))
    with_context.input.example_list_with_context.examples.extend(
        [example(2), example_pb2.Example()]
    )
    yield row("a context", with_context, "OK", lambda r: regressed(r) == [3.0, 6.0])
    request = regress("classify_both", 2)
    yield row("two outputs", request, "INVALID_ARGUMENT", "Expected one output Tensor")
    request = regress("classify_x_to_y", 2)
    yield row("another output", request, "INVALID_ARGUMENT", "No regression outputs found")
    request = regress("wide_value", 2, model="misfits")
    yield row("values of two columns", request, "INVALID_ARGUMENT", "float32 [1] or [1, 1]")
    request = regress("integer_value", 2, model="misfits")
    yield row("values that are no floats", request, "INVALID_ARGUMENT", "gave int32 [1]")


def multi_inference_rows(stub: Any) -> Iterator[Row]:
    """MultiInference."""

    def row(situation: str, request: Any, code: str, gist: Any) -> Row:
        return Row(f"MultiInference: {situation}", call(stub.MultiInference, request), code, gist)

    def wrong(situation: str, request: Any, gist: str) -> Row:
        return row(situation, request, "INVALID_ARGUMENT", gist)

    def both(response: Any) -> bool:
        classified, regressed = response.results
        ((first,),) = (c.classes for c in classified.classification_result.classifications)
        (value,) = regressed.regression_result.regressions
        specs = [(r.model_spec.version.value, r.model_spec.signature_name) for r in (classified,)]
        return first.score == value.value == 3.0 and specs == [(1, "classify_x_to_y")]

    classified, regressed = ("classify_x_to_y", CLASSIFY), ("regress_x_to_y", REGRESS)
    yield row("two tasks", tasks(classified, regressed), "OK", both)
    on_tf2 = tasks(("classify", CLASSIFY), ("regress", REGRESS), model="half_plus_two_tf2")
    yield row("on a TF2 model", on_tf2, "OK", lambda r: len(r.results) == 2)
    yield wrong("no tasks", tasks(), "ModelSpec has no name specified.")
    yield wrong("a task without a name", tasks(classified, regressed, names={1: ""}), "empty model")
    others = tasks(classified, regressed, names={1: "half_plus_two_tf2"})
    yield wrong("two models", others, "must access the same model name")
    twice = tasks(classified, classified)
    yield wrong("a signature twice", twice, "Duplicate evaluation of signature: classify_x_to_y")
    unknown = tasks(("nope", CLASSIFY))
    yield wrong("unknown signature", unknown, "Requested signature not found in model graph: nope")
    predicted = tasks(("serving_default", "tensorflow/serving/predict"))
    gist = "Unsupported signature method_name: tensorflow/serving/predict"
    yield row("another method", predicted, "UNIMPLEMENTED", gist)
    missing = tasks(classified, names={0: "nope"})
    yield row("unknown model", missing, "NOT_FOUND", "Servable not found for request: Latest(nope)")
    empty = tasks(classified, regressed)
    empty.ClearField("input")
    yield wrong("no examples", empty, "Input is empty.")


def metadata_rows(stub: Any) -> Iterator[Row]:
    """GetModelMetadata."""

    def row(situation: str, request: Any, code: str, gist: Any) -> Row:
        send = call(stub.GetModelMetadata, request)
        return Row(f"GetModelMetadata: {situation}", send, code, gist)

    def signatures(response: Any) -> Any:
        found = get_model_metadata_pb2.SignatureDefMap()
        assert response.metadata["signature_def"].Unpack(found)
        return found.signature_def

    def whole(response: Any) -> bool:
        found = signatures(response)["classify_x_to_y"]
        info = found.inputs["inputs"]
        declared = found.method_name, info.dtype, [d.size for d in info.tensor_shape.dim]
        return declared == (CLASSIFY, STRING, [-1]) and bool(info.name)

    yield row("signatures", metadata_of("half_plus_two"), "OK", whole)
    yield row("spec echoed", metadata_of("half_plus_two"), "OK", lambda r: echoed(r, ""))
    tf2 = metadata_of("half_plus_two_tf2")
    yield row("the initialiser", tf2, "OK", lambda r: "__saved_model_init_op" in signatures(r))
    yield row(
        "defaults", tf2, "OK", lambda r: "x" in signatures(r)["serving_default_of_x"].defaults
    )
    odd = metadata_of("oddities")
    yield row(
        "what can't be called", odd, "OK", lambda r: {"sparse", "ragged"} <= set(signatures(r))
    )
    none = metadata_of("half_plus_two")
    none.ClearField("metadata_field")
    gist = "GetModelMetadataRequest must specify at least one metadata_field"
    yield row("no field", none, "INVALID_ARGUMENT", gist)
    other = metadata_of("half_plus_two", "nope")
    yield row("another field", other, "INVALID_ARGUMENT", "Metadata field nope is not supported")


def status_rows(models: Any) -> Iterator[Row]:
    """GetModelStatus."""

    def row(situation: str, spec: dict[str, Any], code: str, gist: Any) -> Row:
        request = get_model_status_pb2.GetModelStatusRequest()
        request = changed(request, **spec)
        return Row(f"GetModelStatus: {situation}", call(models.GetModelStatus, request), code, gist)

    def states(response: Any) -> list[tuple[int, int, int]]:
        found = response.model_version_status
        return [(v.version, v.state, v.status.error_code) for v in found]

    def failed(response: Any) -> bool:
        (version,) = response.model_version_status
        return states(response) == [(1, 50, 15)] and "TFRecord" in version.status.error_message

    available = [(1, 30, 0)]
    name = {"name": "half_plus_two"}
    yield row("all versions", name, "OK", lambda r: states(r) == available)
    yield row("one version", {**name, "version": 1}, "OK", lambda r: states(r) == available)
    yield row("a label counts for nothing", {**name, "label": "x"}, "OK", lambda r: bool(states(r)))
    yield row("a version whose warm-up failed", {"name": "cold"}, "OK", failed)
    yield row(
        "a version that was warmed up", {"name": "warm"}, "OK", lambda r: states(r) == available
    )
    yield row("unknown model", {"name": "nope"}, "NOT_FOUND", "nope")
    yield row("unknown version", {**name, "version": 9}, "NOT_FOUND", "9")


def call(method: Any, request: Any, timeout_s: float = TIMEOUT_S) -> Callable[[], Any]:
    """Return what sends the request."""
    return lambda: method(request, timeout=timeout_s)


def shape(*sizes: int) -> dict[str, Any]:
    """Return a TensorShapeProto's fields."""
    return {"dim": [{"size": size} for size in sizes]}


def tensor(content: list[float], *sizes: int) -> Any:
    """Return a float tensor."""
    return tensor_pb2.TensorProto(dtype=FLOAT, float_val=content, tensor_shape=shape(*sizes))


def quantised_tensor() -> Any:
    """Return a DT_QINT8 tensor."""
    return tensor_pb2.TensorProto(dtype=11, int_val=[-3, 5], tensor_shape=shape(2))


def strings(*examples: Any) -> dict[str, Any]:
    """Return the inputs of a signature that takes Examples, for Predict."""
    content = [e if isinstance(e, bytes) else e.SerializeToString() for e in examples]
    packed = tensor_pb2.TensorProto(
        dtype=STRING, string_val=content, tensor_shape=shape(len(content))
    )
    return {"inputs": packed}


def example(x: float) -> Any:
    """Return an Example whose feature x is a float."""
    made = example_pb2.Example()
    made.features.feature["x"].float_list.value.append(x)
    return made


def predict(
    signature: str = "",
    model: str = "half_plus_two",
    *,
    inputs: dict[str, Any] | None = None,
    output_filter: tuple[str, ...] | list[str] = (),
) -> Any:
    """Return a PredictRequest, by default one that is well."""
    spec = {"name": model, "signature_name": signature}
    request = predict_pb2.PredictRequest(model_spec=spec, output_filter=output_filter)
    for alias, value in ({"x": tensor([2.0], 1, 1)} if inputs is None else inputs).items():
        request.inputs[alias].CopyFrom(value)
    return request


def classify(signature: str, *xs: float, model: str = "half_plus_two") -> Any:
    """Return a ClassificationRequest."""
    request = classification_pb2.ClassificationRequest()
    return _with_examples(request, signature, xs, model)


def regress(signature: str, *xs: float, model: str = "half_plus_two") -> Any:
    """Return a RegressionRequest."""
    return _with_examples(regression_pb2.RegressionRequest(), signature, xs, model)


def _with_examples(request: Any, signature: str, xs: tuple[float, ...], model: str) -> Any:
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    request.input.example_list.examples.extend(example(x) for x in xs)
    return request


def tasks(
    *pairs: tuple[str, str], model: str = "half_plus_two", names: dict[int, str] | None = None
) -> Any:
    """Return a MultiInferenceRequest; `names` are models of single tasks."""
    request = inference_pb2.MultiInferenceRequest()
    for index, (signature, method) in enumerate(pairs):
        name = (names or {}).get(index, model)
        spec = {"name": name, "signature_name": signature}
        request.tasks.add(model_spec=spec, method_name=method)
    request.input.example_list.examples.append(example(2))
    return request


def metadata_of(model: str, field: str = "signature_def") -> Any:
    """Return a GetModelMetadataRequest."""
    return get_model_metadata_pb2.GetModelMetadataRequest(
        model_spec={"name": model}, metadata_field=[field]
    )


def changed(
    request: Any, *, name: str | None = None, version: int | None = None, label: str | None = None
) -> Any:
    """Return a copy of a request that names another model or version."""
    copy = type(request)()
    copy.CopyFrom(request)
    if name is not None:
        copy.model_spec.name = name
    if version is not None:
        copy.model_spec.version.value = version
    if label is not None:
        copy.model_spec.version_label = label
    return copy


def values(response: Any, alias: str) -> list[float]:
    """Return an output's floats."""
    return list(response.outputs[alias].float_val)


def scores_of_two(response: Any) -> bool:
    """Whether Predict has answered with the scores of x = 2."""
    return values(response, "scores") == [3.0]


def echoed(response: Any, signature: str) -> bool:
    """Whether the answer says what has answered, and no label."""
    spec = response.model_spec
    told = spec.name, spec.version.value, spec.signature_name, spec.version_label
    return told == ("half_plus_two", 1, signature, "")


def answered_by_version_one(response: Any) -> bool:
    """Whether the answer comes from version 1, named by number."""
    return response.model_spec.version.value == 1 and not response.model_spec.version_label


if __name__ == "__main__":
    main()
