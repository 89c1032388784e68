from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exporting import CLASSIFIER_SIGNATURES, ONE_EPOCH, TF1Session

from ladle.export import CheckError, CustomSignature, Dataset, ExportError, export_model
from ladle.export.cli import main
from ladle.export.models.verify import check_version
from ladle.export.publishing.card import read_card
from ladle.export.saved_model.custom_signatures import (
    as_endpoint,
    custom_endpoints,
    custom_sample,
    held_out,
)

pytestmark = pytest.mark.usefixtures("checked_here")


def spec(*shape: int | None, dtype: str = "float32", name: str = "x") -> Any:
    import tensorflow as tf

    return tf.TensorSpec(shape, tf.as_dtype(dtype), name)


def signatures_of(model: Any) -> dict[str, Any]:
    """Return one of each kind: a tf.function, a pair, and one with examples of its own."""
    import tensorflow as tf

    @tf.function(input_signature=[spec(None, 4, 4, name="images")])  # type: ignore[untyped-decorator]
    def best(images: Any) -> Any:
        return {"class_id": tf.argmax(model(images), axis=1)}

    def brightness(pixels: Any) -> Any:
        return {"scores": tf.reduce_mean(tf.cast(pixels, tf.float32), axis=[1, 2])}

    def scaled(images: Any, factors: Any) -> Any:
        return {"logits": model(images) * factors}

    return {
        "best": best,
        "brightness": (brightness, [spec(None, 4, 4, dtype="uint8", name="pixels")]),
        "scaled": CustomSignature(
            function=scaled,
            inputs=(spec(None, 4, 4, name="images"), spec(None, 1, name="factors")),
            examples={"factors": [[2.0], [3.0]]},
        ),
    }


@pytest.mark.e2e
def test_own_signatures_are_checked_published_and_warmed_up(
    tmp_path: Path, small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from checking import check_in_this_process

    exported = export_model(tmp_path, small, signatures=signatures_of, options=ONE_EPOCH)
    own = {"best", "brightness", "scaled"}
    assert set(exported.card.signatures) == CLASSIFIER_SIGNATURES | own
    assert exported.card.signatures["scaled"]["inputs"] == {
        "images": {"dtype": "float32", "shape": [-1, 4, 4]},
        "factors": {"dtype": "float32", "shape": [-1, 1]},
    }
    session = TF1Session(exported.path)
    best = session.run("best", small.normalization.apply(small.x_test), "class_id")
    expected = session.run("serving_uint8", small.x_test, "class_id")
    np.testing.assert_array_equal(best, expected)
    bright = session.run("brightness", small.x_test, "scores")
    np.testing.assert_allclose(bright, small.x_test.mean(axis=(1, 2)), rtol=1e-6)
    session.close()
    # Checking again runs the requests of the warm-up file.
    monkeypatch.setattr("ladle.export.models.verify.check", check_in_this_process)
    assert set(check_version(exported.path).warmed_up) == CLASSIFIER_SIGNATURES | own


@pytest.mark.e2e
def test_an_own_signature_that_answers_otherwise_once_written_is_not_published(
    tmp_path: Path, small: Dataset
) -> None:
    """A function that counts its calls gives another number in the graph than it gives here."""
    calls = []

    def counted(x: Any) -> Any:
        calls.append(1)
        return {"y": x + float(len(calls))}

    with pytest.raises(CheckError, match='signature "counted": output "y": expected the trained'):
        export_model(
            tmp_path,
            small,
            signatures={"counted": (counted, [spec(None, 4, 4)])},
            options=ONE_EPOCH,
        )
    assert list(tmp_path.iterdir()) == []


def test_a_model_may_bring_them_as_its_attribute() -> None:
    class Model:
        def ladle_signatures(self) -> Any:
            return {"same": (lambda x: {"x": x}, [spec(None, 2)])}

    assert custom_endpoints(None, Model()).keys() == {"same"}
    assert custom_endpoints(None, object()) == {}
    assert custom_endpoints({}, Model()) == {}


def fail(*_: Any) -> Any:
    raise KeyError("no such layer")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: 3, "signatures: expected a mapping from names, got int"),
        (lambda: fail, "signatures: KeyError: 'no such layer'"),
        (lambda: {"logits": fail}, "expected a name that is not ladle's own, got 'logits'"),
        (lambda: {3: fail}, "expected a name that is not ladle's own, got 3"),
        (lambda: {"a": fail}, 'signature "a": expected a tf.function with an input_signature'),
        (lambda: {"a": (fail, 3)}, 'signature "a": expected a tf.function with an input_sig'),
        (lambda: {"a": (fail, [])}, 'signature "a": expected at least one input'),
        (lambda: {"a": (fail, [3])}, 'signature "a": expected inputs that are tf.TensorSpecs'),
        (lambda: {"a": (fail, [spec(None, name="")])}, "tf.TensorSpecs with names"),
        (lambda: {"a": (fail, [spec(1, 4)])}, 'input "x": expected an open batch dimension'),
    ],
)
def test_what_is_no_signature_is_one_line(make: Any, message: str) -> None:
    with pytest.raises(ExportError) as error:
        custom_endpoints(make(), None)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("function", "inputs", "examples", "message"),
    [
        (fail, [(None, 7)], {}, 'input "x": no held-out example is float32 (None, 7); give ex'),
        (fail, [(None, 7)], {"x": [[1.0]]}, "expected examples (None, 7), got [1, 1]"),
        (fail, [(None, 4, 4)], {}, 'signature "a": KeyError'),
        (lambda x: x, [(None, 4, 4)], {}, "expected a dict of outputs, got "),
        (lambda x: {"y": x[0]}, [(None, 4, 4)], {}, 'output "y": expected a row for each of 6'),
    ],
)
def test_a_signature_that_cannot_be_tried_is_one_line(
    small: Dataset, function: Any, inputs: Any, examples: Any, message: str
) -> None:
    signature = CustomSignature(
        function=function, inputs=tuple(spec(*shape) for shape in inputs), examples=examples
    )
    with pytest.raises(ExportError) as error:
        custom_sample("a", signature, held_out(small.x_test, small))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_python_condition_on_a_tensor_becomes_part_of_the_graph() -> None:
    import tensorflow as tf

    def grown(x: Any) -> Any:
        if tf.reduce_sum(x) > 0:
            x = x * 2.0
        return {"y": x}

    signature = CustomSignature(function=grown, inputs=(spec(None, 1),))
    graph = as_endpoint("grown", signature).function
    assert graph(tf.constant([[1.0]]))["y"].numpy() == 2
    assert graph(tf.constant([[-1.0]]))["y"].numpy() == -1


def test_what_cannot_be_made_a_graph_is_one_line() -> None:
    """It runs when it is tried, as there it is Python."""
    signature = CustomSignature(function=lambda x: {"y": x.numpy()}, inputs=(spec(None, 1),))
    with pytest.raises(ExportError, match=r'signature "eager": .*numpy') as error:
        as_endpoint("eager", signature)
    assert "\n" not in str(error.value)


def test_the_command_takes_a_function(
    tmp_path: Path,
    npz: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setattr(sys, "path", [*sys.path])  # the command adds the folder it runs in
    monkeypatch.syspath_prepend(tmp_path)
    shutil.copy(__file__, tmp_path / "my_signatures.py")
    given = [str(tmp_path / "m"), "--data", str(npz), "--epochs=1", "--run-eagerly", "--quiet"]
    assert main([*given, "--signatures", "my_signatures:signatures_of"]) == 0
    card = read_card(tmp_path / "m" / "1")
    assert card is not None
    assert {"best", "brightness", "scaled"} < card.signatures.keys()
    capsys.readouterr()
    assert main([*given, "--signatures", "my_signatures:nothing"]) == 1
    assert "signatures: my_signatures:nothing cannot be imported" in capsys.readouterr().err
