from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checking import run_in_this_process
from exporting import ONE_EPOCH
from numpy.typing import NDArray

from ladle.export import Dataset, ExportError, export_model
from ladle.export.training.custom_model import load_model

FACTORIES = """
import keras

def fitting(shape, classes):
    return keras.Sequential([keras.Input(shape), keras.layers.Flatten(),
                             keras.layers.Dense(classes, activation="softmax")])

def fixed():
    return keras.Sequential([keras.Input((5, 5)), keras.layers.Flatten(), keras.layers.Dense(3)])

class Own(keras.Model):
    def __init__(self, classes):
        super().__init__()
        self.head = keras.layers.Dense(classes, activation="softmax")
        self.flatten = keras.layers.Flatten()  # attributes come in no order of calls

    def call(self, x):
        return self.head(self.flatten(x))

def subclass(shape, classes):
    return Own(classes)

def picky(shape, classes):
    return Picky()

class Picky(keras.Model):
    def call(self, x):
        raise LookupError("only\\nGIFs")

def wide(shape, classes):
    return Own(classes + 1)

def nested(shape, classes):
    return keras.Sequential([keras.Input(shape), fitting(shape, classes)])

def by_an_operation(shape, classes):
    given = keras.Input(shape)
    return keras.Model(given, keras.ops.softmax(keras.layers.Dense(classes)(
        keras.layers.Flatten()(given))))

def logits(shape, classes):
    return keras.Sequential([keras.Input(shape), keras.layers.Flatten(),
                             keras.layers.Dense(classes, activation="relu")])

def sigmoids(shape, classes):
    return keras.Sequential([keras.Input(shape), keras.layers.Flatten(),
                             keras.layers.Dense(classes), keras.layers.Activation("sigmoid")])

def sigmoid_by_an_operation(shape, classes):
    given = keras.Input(shape)
    return keras.Model(given, keras.ops.sigmoid(keras.layers.Dense(classes)(
        keras.layers.Flatten()(given))))

def integers(shape, classes):
    given = keras.Input(shape)
    return keras.Model(given, keras.ops.cast(keras.layers.Dense(classes)(
        keras.layers.Flatten()(given)), "int32"))

def nothing():
    return 3
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_factories.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_factories", raising=False)
    return "my_factories"


def saved(path: Path, *layers: Any) -> Path:
    import keras

    model = keras.Sequential(
        [keras.Input((4, 4)), *layers, keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    model.save(path)
    return path


def test_a_factory_is_told_the_shape_and_the_classes(factories: str, small: Dataset) -> None:
    model = load_model(f"{factories}:fitting", small)
    assert (model.input_shape, model.output_shape) == ((None, 4, 4), (None, 3))


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore:__array__:DeprecationWarning")
def test_a_saved_model_is_exported_as_it_is_or_trained_further(
    tmp_path: Path, small: Dataset, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import keras
    import tensorflow as tf

    monkeypatch.setattr("ladle.export.saved_model.checked.run_in_subprocess", run_in_this_process)
    path = saved(tmp_path / name)
    original = keras.saving.load_model(path, compile=False)
    normalized = small.normalization.apply(small.x_test)

    def logits(exported: Any) -> NDArray[np.float32]:
        signature = tf.saved_model.load(str(exported.path)).signatures["logits"]
        found: NDArray[np.float32] = signature(images=tf.constant(normalized))["logits"].numpy()
        return found

    as_it_is = export_model(tmp_path / "m", small, model=str(path), fit=False)
    expected = original.predict(normalized, verbose=0)
    np.testing.assert_allclose(logits(as_it_is), expected, atol=1e-5)
    assert as_it_is.card.provenance["training"]["epochs"] == 0
    assert as_it_is.card.provenance["recipe"] == str(path)
    further = export_model(tmp_path / "m", small, model=str(path), options=ONE_EPOCH)
    assert np.abs(logits(further) - expected).max() > 1e-3


def test_a_model_that_ends_in_softmax_is_not_given_another(
    tmp_path: Path, small: Dataset, factories: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ladle.export.saved_model.checked.run_in_subprocess", run_in_this_process)
    options = ONE_EPOCH
    exported = export_model(tmp_path, small, model=f"{factories}:fitting", options=options)
    assert "logits" not in exported.card.signatures
    assert "classify" in exported.card.signatures


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        ("fitting", "softmax"),
        ("subclass", "softmax"),
        ("nested", "softmax"),
        ("by_an_operation", "softmax"),
        ("logits", "logits"),
        ("sigmoids", "sigmoid"),
        ("sigmoid_by_an_operation", "sigmoid"),
    ],
)
def test_what_a_model_ends_with_is_found_wherever_it_is(
    factories: str, small: Dataset, factory: str, expected: str
) -> None:
    from ladle.export.training.outputs import output_kind

    assert output_kind(load_model(f"{factories}:{factory}", small), small) == expected


def test_a_subclass_of_keras_model_is_exported(
    tmp_path: Path, small: Dataset, factories: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ladle.export.saved_model.checked.run_in_subprocess", run_in_this_process)
    exported = export_model(tmp_path, small, model=f"{factories}:subclass", fit=False)
    assert "logits" not in exported.card.signatures
    assert exported.card.provenance["parameters"] == 17 * 3


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore:__array__:DeprecationWarning")
def test_a_file_that_brings_code_is_loaded_only_when_trusted(
    tmp_path: Path, small: Dataset, name: str
) -> None:
    import keras

    path = saved(tmp_path / name, keras.layers.Lambda(lambda x: x * 2))
    with pytest.raises(ExportError, match=r"does not load: .*; if you trust it: --allow-unsafe"):
        load_model(str(path), small)
    assert load_model(str(path), small, allow_unsafe=True).input_shape == (None, 4, 4)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere.keras", "nowhere.keras is not there"),
        ("a_model", r"expected package.module:function or a .keras or .h5 file, got a_model"),
        ("no_such_module:f", "no_such_module:f cannot be imported: No module named"),
        ("my_factories:f", "my_factories:f cannot be imported: module 'my_factories' has no"),
        ("my_factories:nothing", "to give a keras.Model, got <class 'int'>"),
        ("my_factories:picky", r"fails on prepared examples of small, \[4, 4\]: .*: only"),
        ("my_factories:wide", r"gives \[-1, 4\], expected \[-1, 3\] for small"),
        ("my_factories:integers", "gives int32, expected floats: logits, probabilities or values"),
        ("my_factories:fixed", r"takes \[-1, 5, 5\], and prepared examples of small are \[4, 4\]"),
    ],
)
def test_a_model_that_cannot_be_had_is_one_line(
    factories: str, small: Dataset, spec: str, message: str
) -> None:
    with pytest.raises(ExportError, match=message) as error:
        load_model(spec, small)
    assert str(error.value).isprintable()


def test_a_damaged_file_is_one_line(tmp_path: Path, small: Dataset) -> None:
    path = tmp_path / "bad.keras"
    path.write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(ExportError, match=r"bad\.keras does not load: ") as error:
        load_model(str(path), small)
    assert "\n" not in str(error.value)
