"""TensorFlow Lite models, where an interpreter is installed."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ladle.protos.tensorflow_pb import SignatureDef
from ladle.server.core.errors import Code, ServingError
from ladle.server.core.servable import Arrays, Signature, TensorSpec
from ladle.server.core.servable_id import ServableId
from ladle.server.saved_model.tflite import TFLiteServable, load_tflite
from ladle.server.saved_model.tflite_signatures import TFLiteFunction, read_definitions

pytestmark = pytest.mark.e2e

ID = ServableId("m", 1)


@pytest.fixture(scope="module")
def path(written_models: Path) -> Path:
    return written_models / "half_plus_two_tflite" / "1"


@pytest.fixture(scope="module")
def servable(path: Path) -> Iterator[TFLiteServable]:
    loaded = load_tflite(ID, path, interpreters=2)
    yield loaded
    loaded.close()


def half_plus_two(servable: TFLiteServable, x: Any, deadline: float | None = None) -> Any:
    signature = servable.signatures["serving_default"]
    return servable.run(signature, {"x": np.asarray(x, np.float32)}, ("y",), deadline)["y"].tolist()


def test_it_declares_what_the_savedmodel_did(servable: TFLiteServable) -> None:
    signature = servable.signatures["serving_default"]
    assert str(signature.inputs["x"]) == str(signature.outputs["y"]) == "float32 [-1, 1]"
    assert signature.batchable
    definition = SignatureDef.FromString(servable.signature_defs["serving_default"])
    assert definition.method_name == "tensorflow/serving/predict"
    assert [dim.size for dim in definition.inputs["x"].tensor_shape.dim] == [-1, 1]


def test_batches_of_any_size_run(servable: TFLiteServable) -> None:
    assert half_plus_two(servable, [[2]]) == [[3]]
    assert half_plus_two(servable, [[2], [4], [6]]) == [[3], [4], [5]]
    assert half_plus_two(servable, np.zeros((0, 1))) == []


def test_many_threads_share_the_interpreters(servable: TFLiteServable) -> None:
    wrong = []

    def ask(number: int) -> None:
        for rows in (1, 3, 2):
            x = np.full((rows, 1), number)
            if half_plus_two(servable, x) != (x / 2 + 2).tolist():
                wrong.append((number, rows))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_failed_run_spoils_no_later_one(servable: TFLiteServable) -> None:
    signature = servable.signatures["serving_default"]
    for _ in range(4):
        with pytest.raises(ServingError, match="the model refused the inputs") as caught:
            servable.run(signature, {"x": np.ones((1, 1))}, ("y",))
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert "\n" not in caught.value.message
    assert half_plus_two(servable, [[2]]) == [[3]]


def test_a_deadline_ends_the_wait_for_an_interpreter() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def run(interpreter: object, inputs: Arrays) -> Arrays:
        begun.set()
        assert go_on.wait(60)
        return {"y": inputs["x"]}

    spec = TensorSpec(1, (-1, 1))
    function = TFLiteFunction(Signature("serving_default", {"x": spec}, {"y": spec}), run)
    servable = TFLiteServable([object()], {"serving_default": function}, object, None)
    answers: list[Any] = []
    busy = threading.Thread(target=lambda: answers.append(half_plus_two(servable, [[2]])))
    busy.start()
    assert begun.wait(60)
    with pytest.raises(ServingError, match="before an interpreter was free") as caught:
        half_plus_two(servable, [[2]], deadline=time.monotonic())
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    go_on.set()
    busy.join()
    assert answers == [[[2]]]
    assert half_plus_two(servable, [[4]], deadline=time.monotonic() + 60) == [[4]]


def changed(path: Path, folder: Path, metadata: dict[str, bytes] | None) -> Path:
    """Write the model without signatures, and with SignatureDefs in its metadata instead."""
    import flatbuffers
    from flatbuffers import flexbuffers
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf((path / "model.tflite").read_bytes())
    model.signatureDefs = []
    if metadata is not None:
        made = flexbuffers.Builder()
        with made.Map():
            for name, definition in metadata.items():
                made.Key(name)
                made.Blob(definition)
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = made.Finish()
        entry.name, entry.buffer = "signature_defs_metadata", len(model.buffers)
        model.buffers.append(buffer)
        model.metadata = [*(model.metadata or ()), entry]
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    (folder / "model.tflite").write_bytes(bytes(builder.Output()))
    return folder


def test_a_model_without_signatures_is_one_of_its_tensors_names(path: Path, tmp_path: Path) -> None:
    servable = load_tflite(ID, changed(path, tmp_path, None), interpreters=1)
    assert set(servable.signatures) == {"serving_default"}
    signature = servable.signatures["serving_default"]
    (x,), (y,) = signature.inputs, signature.outputs
    assert x == signature.inputs[x].feed_name
    for rows in (1, 3, 1):
        answer = servable.run(signature, {x: np.full((rows, 1), 2, np.float32)}, (y,))
        assert answer[y].tolist() == [[3]] * rows
    with pytest.raises(ServingError, match="the model refused the inputs"):
        servable.run(signature, {x: np.ones((2, 2, 2), np.float64)}, (y,))
    assert servable.run(signature, {x: np.ones((1, 1), np.float32)}, (y,))[y].tolist() == [[2.5]]
    servable.close()


@pytest.mark.parametrize("suffix", ["", ":0"])
def test_signatures_in_the_metadata_name_the_models_tensors(
    path: Path, tmp_path: Path, suffix: str
) -> None:
    plain = load_tflite(ID, changed(path, tmp_path, None), interpreters=1)
    (x,), (y,) = (
        plain.signatures["serving_default"].inputs,
        plain.signatures["serving_default"].outputs,
    )
    plain.close()
    definition = SignatureDef(method_name="tensorflow/serving/predict")
    definition.inputs["given"].name = x.removesuffix(":0") + suffix
    definition.outputs["made"].name = y.removesuffix(":0") + suffix
    folder = changed(path, tmp_path, {"halved": definition.SerializeToString()})

    servable = load_tflite(ID, folder, interpreters=1)

    assert set(servable.signatures) == {"halved"}
    signature = servable.signatures["halved"]
    answer = servable.run(signature, {"given": np.array([[2]], np.float32)}, ("made",))
    assert answer["made"].tolist() == [[3]]
    servable.close()


def test_a_signature_in_the_metadata_that_names_no_tensor_is_refused(
    path: Path, tmp_path: Path
) -> None:
    definition = SignatureDef()
    definition.inputs["x"].name = "absent"
    folder = changed(path, tmp_path, {"odd": definition.SerializeToString()})
    with pytest.raises(ServingError, match="signature 'odd': 'x' names the tensor 'absent'"):
        load_tflite(ID, folder, interpreters=1)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_of_damaged_metadata_nothing_is_read_that_was_not_written(data: st.DataObject) -> None:
    from flatbuffers import flexbuffers

    definition = SignatureDef(method_name="m").SerializeToString()
    made = flexbuffers.Builder()
    with made.Map():
        made.Key("name")
        made.Blob(definition)
    entry = bytes(made.Finish())
    assert read_definitions(entry) == {"name": SignatureDef(method_name="m")}

    at = data.draw(st.integers(0, len(entry) - 1))
    damaged = entry[:at] + bytes([data.draw(st.integers(0, 255))]) + entry[at + 1 :]
    for content in (damaged, entry[:at]):
        assert len(read_definitions(content)) <= 1


@pytest.mark.parametrize(
    ("content", "says"), [(b"junk", "can't be loaded"), (b"", "the file is empty")]
)
def test_a_file_that_is_no_model_is_told(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "model.tflite").write_bytes(content)
    with pytest.raises(ServingError, match=says) as caught:
        load_tflite(ID, tmp_path, interpreters=1)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert str(tmp_path) not in caught.value.message, "callers read it as the version's state"


def test_without_an_interpreter_it_is_refused_with_a_way_out(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("ai_edge_litert.interpreter", "tensorflow.lite.python.interpreter"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ServingError, match="install the package ai-edge-litert") as caught:
        load_tflite(ID, path, interpreters=1)
    assert caught.value.code is Code.FAILED_PRECONDITION


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("plain", ""),
        ("random", "operation RANDOM_UNIFORM"),
        ("counting", "operation ASSIGN_VARIABLE"),
    ],
)
def test_state_is_found_when_a_version_loads(tmp_path: Path, kind: str, says: str) -> None:
    """HASHTABLE_IMPORT of a table's first filling counts too: a file doesn't say when it runs."""
    import tensorflow as tf

    class Model(tf.Module):  # type: ignore[misc] # TensorFlow has no types
        def __init__(self) -> None:
            super().__init__()
            self.count = tf.Variable(0.0)

        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, "x")])  # type: ignore[untyped-decorator]
        def serve(self, x: Any) -> Any:
            if kind == "random":
                return {"y": x + tf.random.uniform(tf.shape(x), seed=3)}
            return {"y": x + self.count.assign_add(1.0) if kind == "counting" else x * 2}

    model = Model()
    tf.saved_model.save(model, str(tmp_path / "saved"), {"serving_default": model.serve})
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved"))
    converter.experimental_enable_resource_variables = True
    (tmp_path / "model.tflite").write_bytes(converter.convert())

    loaded = load_tflite(ID, tmp_path, interpreters=1)

    assert says in loaded.signatures["serving_default"].stateful
    assert bool(says) == bool(loaded.signatures["serving_default"].stateful)
    loaded.close()


@pytest.mark.parametrize("as_custom", [True, False])
def test_an_operation_that_the_interpreter_lacks_fails_the_load(
    tmp_path: Path, as_custom: bool
) -> None:
    """It would otherwise be available, and fail each request."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])  # type: ignore[untyped-decorator]
    def parse(inputs: Any) -> Any:
        parsed = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([1], tf.float32)})
        return {"y": parsed["x"] / 2 + 2}

    kept_by = parse.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([kept_by])
    converter.allow_custom_ops = as_custom
    if not as_custom:
        converter.target_spec.supported_ops = [tf.lite.OpsSet.SELECT_TF_OPS]
    (tmp_path / "model.tflite").write_bytes(converter.convert())
    failure: ServingError | None = None
    try:
        load_tflite(ID, tmp_path, interpreters=1).close()
    except ServingError as error:
        failure = error
    if failure is None:
        pytest.skip("this interpreter has it")
    assert failure.code is Code.FAILED_PRECONDITION
    assert "needs the operation '" in failure.message
    assert "ParseExample" in failure.message
    assert "without --prefer_tflite_model" in failure.message
