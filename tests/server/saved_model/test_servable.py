"""What loaded SavedModels of both TensorFlows do, and say when they can't."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ladle.protos import dtypes
from ladle.server.core.errors import Code, ServingError
from ladle.server.core.servable import Model
from ladle.server.core.servable_id import ServableId
from ladle.server.saved_model.loading import LoadOptions, load_saved_model
from ladle.server.saved_model.servable import SavedModelServable

pytestmark = pytest.mark.e2e


def run(servable: Model, name: str, *outputs: str, **inputs: Any) -> dict[str, NDArray[Any]]:
    signature = servable.signatures[name]
    return servable.run(signature, inputs, outputs or tuple(signature.outputs))


def test_a_tf1_model_runs(half_plus_two: Model) -> None:
    x = np.array([[2], [4]], np.float32)
    assert run(half_plus_two, "both", x=x)["y"].tolist() == [[3], [4]]
    assert set(run(half_plus_two, "both", "y2", x=x)) == {"y2"}


def test_a_tf2_model_runs_and_has_no_signature_of_its_initialiser(
    half_plus_two_tf2: Model,
) -> None:
    x = np.array([[2]], np.float32)
    assert run(half_plus_two_tf2, "serving_default", x=x)["y"].tolist() == [[3]]
    assert "__saved_model_init_op" in half_plus_two_tf2.signature_defs
    assert "__saved_model_init_op" not in half_plus_two_tf2.signatures


def test_defaults_of_a_signature_are_read(half_plus_two_tf2: Model) -> None:
    signature = half_plus_two_tf2.signatures["serving_default_of_x"]
    assert {alias: x.tolist() for alias, x in signature.defaults.items()} == {"x": [[8]]}


def test_signatures_that_no_request_can_carry_leave_the_others_alone(
    oddities: Model,
) -> None:
    assert {"sparse", "ragged"} <= set(oddities.signature_defs)
    assert not {"sparse", "ragged"} & set(oddities.signatures)
    assert run(oddities, "scalar")["y"] == 7


@pytest.mark.parametrize(
    "name", ["qint8", "quint8", "qint32", "int16", "bfloat16", "float16", "string"]
)
def test_every_dtype_comes_back_as_it_went_in(oddities: Model, name: str) -> None:
    dtype = dtypes.to_numpy(oddities.signatures[name].inputs["x"].data_type)
    plain = [b"a\0b", b""] if name == "string" else [(1,), (2,)] if dtype.names else [1, 2]
    x = np.array(plain, dtype)

    y = run(oddities, name, x=x)["y"]

    assert y.dtype == dtype
    assert y.tolist() == x.tolist()


def test_a_stateful_model_keeps_its_state(oddities: Model) -> None:
    before = run(oddities, "count", by=np.float32(0))["count"]
    run(oddities, "count", by=np.float32(2))
    assert run(oddities, "count", by=np.float32(3))["count"] == before + 5


@pytest.mark.parametrize("alias", ["table", "list"])
def test_an_output_that_no_answer_can_carry_is_refused_by_name(oddities: Model, alias: str) -> None:
    x = np.ones(3, np.float32)
    with pytest.raises(ServingError, match=f"output '{alias}' of signature 'handles'") as caught:
        run(oddities, "handles", alias, x=x)
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert run(oddities, "handles", "y", x=x)["y"] == 3


def test_a_dense_output_beside_a_sparse_one_can_be_had_by_name(oddities: Model) -> None:
    x = np.eye(3, dtype=np.float32)
    assert run(oddities, "beside_sparse", "y", x=x)["y"].tolist() == (2 * x).tolist()
    with pytest.raises(ServingError, match=r"'nonzero' .* is a sparse tensor") as caught:
        run(oddities, "beside_sparse", x=x)
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert "output_filter" in caught.value.message


@pytest.mark.parametrize(
    ("name", "inputs", "says"),
    [
        ("gather", {"index": np.array([0, 5], np.int32)}, "indices[1] = 5 is not in [0, 3)"),
        (
            "matmul",
            {"x": np.ones((2, 3), np.float32)},
            "Matrix size-incompatible: In[0]: [2,3], In[1]: [2,1]",
        ),
    ],
)
def test_a_kernels_error_is_one_line_without_the_graphs_names(
    oddities: Model, name: str, inputs: dict[str, NDArray[Any]], says: str
) -> None:
    with pytest.raises(ServingError) as caught:
        run(oddities, name, **inputs)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.message == says


@pytest.mark.parametrize(
    ("name", "inputs", "says"),
    [
        ("through", "x", "one:0 is both fed and fetched"),
        ("twice", "ab", '"one:0" fed more than once'),
    ],
)
def test_what_tensorflow_does_not_run_is_refused_in_its_words(
    oddities: Model, name: str, inputs: str, says: str
) -> None:
    with pytest.raises(ServingError) as caught:
        run(oddities, name, **dict.fromkeys(inputs, np.ones(2, np.float32)))
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert says in caught.value.message
    assert "\n" not in caught.value.message


def test_the_outputs_that_are_no_inputs_run_all_the_same(oddities: Model) -> None:
    x = np.ones(2, np.float32)
    assert run(oddities, "through", "y", x=x)["y"].tolist() == [2, 2]


def test_a_single_string_comes_back_whole(oddities: Model) -> None:
    """Of bytes alone numpy would make text of a fixed length, and drop zeros at its end."""
    answer = run(oddities, "joined", words=np.array([b"a", b"b\0\0"], object))["all"]
    assert (answer.shape, answer.dtype, answer.item()) == ((), np.dtype(object), b"ab\0\0")


def test_of_many_compiled_subsets_of_outputs_the_oldest_is_dropped(
    written_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ladle.server.saved_model.servable._MAX_CALLABLES", 2)
    path = written_models / "half_plus_two" / "1"
    servable = load_saved_model(ServableId("m", 1), path, LoadOptions())
    assert isinstance(servable, SavedModelServable)
    x = np.ones((1, 1), np.float32)
    for outputs in (["y"], ["y2"], ["y", "y2"]):
        assert set(run(servable, "both", *outputs, x=x)) == set(outputs)

    assert servable.used == [("both", ("y2",)), ("both", ("y", "y2"))]
    servable.close()


def test_a_shape_that_was_not_declared_is_told_with_what_was(
    half_plus_two: Model,
) -> None:
    with pytest.raises(ServingError) as caught:
        run(half_plus_two, "classify_both", inputs=np.array([[b""]], object))
    assert caught.value.message.startswith(
        "input 'inputs': expected string [-1], got shape [1, 1], which the model refused: "
    )


@pytest.mark.parametrize("name", ["half_plus_two", "half_plus_two_tf2"])
def test_what_is_no_example_is_the_callers_fault(name: str, request: pytest.FixtureRequest) -> None:
    """TensorFlow quotes the bytes in its error, which Python then can't read as text."""
    servable: Model = request.getfixturevalue(name)
    signature = "classify_both" if name == "half_plus_two" else "classify"
    with pytest.raises(ServingError) as caught:
        run(servable, signature, inputs=np.array([b"\xff\xff"], object))
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.message == "Could not parse example input, value: '\\xff\\xff'"


def test_all_tags_of_a_graph_choose_it(written_models: Path) -> None:
    path = written_models / "tagged" / "1"
    load_saved_model(ServableId("m", 1), path, LoadOptions(tags=("odd", "serve"))).close()
    with pytest.raises(ServingError, match="odd") as caught:
        load_saved_model(ServableId("m", 1), path, LoadOptions())
    assert caught.value.code is Code.NOT_FOUND


def test_a_file_that_is_no_saved_model_is_data_loss(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"\xff\xff\xff")
    with pytest.raises(ServingError, match="can't be loaded") as caught:
        load_saved_model(ServableId("m", 1), tmp_path, LoadOptions())
    assert caught.value.code is Code.DATA_LOSS
    assert "\n" not in caught.value.message


def test_python_keeps_no_operation_of_a_loaded_graph(written_models: Path) -> None:
    """Each garbage collection would walk over the operations of all versions that are loaded."""
    import tensorflow as tf

    def operations() -> int:
        gc.collect()
        return sum(isinstance(each, tf.Operation) for each in gc.get_objects())

    path = written_models / "half_plus_two_tf2" / "1"
    before = operations()
    servable = load_saved_model(ServableId("m", 1), path, LoadOptions())

    assert operations() <= before
    signature = servable.signatures["serving_default"]
    x = np.array([[2]], np.float32)
    assert servable.run(signature, {"x": x}, ("y",))["y"].tolist() == [[3]]
    servable.close()
