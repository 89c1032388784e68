"""Packages that register operations: how they are imported, and how a missing one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from ladle.server.core.errors import FailedPrecondition, ServingError
from ladle.server.core.servable_id import ServableId
from ladle.server.saved_model.custom_operations import advice, import_modules, package_of
from ladle.server.saved_model.loading import LoadOptions, load_saved_model


@pytest.mark.parametrize(
    ("operation", "package"),
    [
        ("SentencepieceOp", "tensorflow_text"),
        ("CaseFoldUTF8", "tensorflow_text"),
        ("WordpieceTokenizeWithOffsets", "tensorflow_text"),
        ("TFText>NgramsStringJoin", "tensorflow_text"),
        ("SimpleMLInferenceOpWithHandle", "tensorflow_decision_forests"),
        ("Addons>Resampler", "tensorflow_addons"),
        ("MyOwnOp", None),
    ],
)
def test_the_package_of_an_operation_is_known_by_its_name(
    operation: str, package: str | None
) -> None:
    assert package_of(operation) == package


def test_only_an_unknown_operation_has_advice() -> None:
    assert advice("Matrix size-incompatible") == ""
    assert "--import_modules=tensorflow_text" in advice(
        "Op type not registered 'CaseFoldUTF8' in binary running on host."
    )


def test_a_model_with_an_unknown_operation_says_what_to_import(
    written_models: Path, tmp_path: Path
) -> None:
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    written = written_models / "half_plus_two_tf2" / "1" / "saved_model.pb"
    saved = SavedModel.FromString(written.read_bytes())
    graph = saved.meta_graphs[0]
    answer = graph.signature_def["serving_default"].outputs["y"].name.partition(":")[0]
    next(node for node in graph.graph_def.node if node.name == answer).input.append("^text")
    graph.graph_def.node.add(name="text", op="CaseFoldUTF8")
    (tmp_path / "saved_model.pb").write_bytes(saved.SerializeToString())

    with pytest.raises(ServingError) as caught:
        load_saved_model(ServableId("m", 1), tmp_path, LoadOptions())

    assert caught.value.message.endswith(
        "the model needs the operation 'CaseFoldUTF8' of the package tensorflow_text: install it, "
        "and start with --import_modules=tensorflow_text"
    )


def test_a_module_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "registers_operations.py").write_text(
        "import sys\nsys.modules['tensorflow'].registered = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import tensorflow as tf

    import_modules(["registers_operations"])

    assert tf.registered
    monkeypatch.delattr(tf, "registered")


@pytest.mark.parametrize(
    ("text", "reason"),
    [(None, "ModuleNotFoundError"), ("raise OSError('no\\nsuch library')", "OSError: no such lib")],
)
def test_a_module_that_cant_be_imported_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, reason: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    if text is not None:
        (tmp_path / "broken_operations.py").write_text(text)
    with pytest.raises(FailedPrecondition) as caught:
        import_modules(["broken_operations"])
    assert "'broken_operations'" in caught.value.message
    assert reason in caught.value.message
    assert "\n" not in caught.value.message
