"""What a published version computes, in a session as TensorFlow Serving runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exporting import CLASSIFIER_SIGNATURES, ONE_EPOCH, TF1Session
from numpy.typing import NDArray

from ladle.export import Dataset, Exported, Requirements, export_model, load_data
from ladle.export.data.preparation import Preparation
from ladle.protos.model_card import Normalization
from ladle.protos.tensorflow_pb import Example

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("checked_here")]


def test_both_signatures_give_the_same_probabilities(session: TF1Session, digits: Dataset) -> None:
    from_raw = session.run("serving_uint8", digits.x_test)
    normalized = digits.normalization.apply(digits.x_test)
    from_normalized = session.run("serving_default", normalized)
    np.testing.assert_allclose(from_raw, from_normalized, rtol=0, atol=1e-6)
    np.testing.assert_allclose(from_raw.sum(axis=1), 1, rtol=0, atol=1e-5)


def test_the_batch_dimension_is_open(session: TF1Session, digits: Dataset) -> None:
    for n_images in (0, 1, 7):
        assert session.run("serving_uint8", digits.x_test[:n_images]).shape == (n_images, 10)


def test_the_version_loads_with_plain_tensorflow(exported: Exported, digits: Dataset) -> None:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(exported.path))
    assert set(loaded.signatures) == CLASSIFIER_SIGNATURES
    outputs = loaded.signatures["serving_uint8"](images=tf.constant(digits.x_test))
    assert np.mean(outputs["probabilities"].numpy().argmax(1) == digits.y_test) == exported.accuracy


def test_encoded_images_are_decoded_and_resized_in_the_graph(
    session: TF1Session, digits: Dataset
) -> None:
    import tensorflow as tf

    expected = session.run("serving_uint8", digits.x_test[:2])
    encoded = [tf.io.encode_png(image[..., None]).numpy() for image in digits.x_test[:2]]
    larger = np.kron(digits.x_test[1], np.ones((4, 4), np.uint8))
    encoded.append(tf.io.encode_png(larger[..., None]).numpy())
    answer = session.run("serving_bytes", np.array(encoded, object))
    np.testing.assert_allclose(answer[:2], expected, rtol=0, atol=1e-6)
    assert answer[2].argmax() == expected[1].argmax()
    jpeg = tf.io.encode_jpeg(larger[..., None], quality=100).numpy()
    assert session.run("serving_bytes", np.array([jpeg], object)).shape == (1, 10)
    assert session.run("serving_bytes", np.array([], object)).shape == (0, 10)


def test_an_image_that_cannot_be_decoded_is_an_error(session: TF1Session) -> None:
    import tensorflow as tf

    with pytest.raises(tf.errors.InvalidArgumentError, match="Unknown image file format"):
        session.run("serving_bytes", np.array([b"no image"], object))


def test_classify_names_the_classes_of_examples(session: TF1Session, digits: Dataset) -> None:
    examples = [Example(), Example()]
    pixels = digits.x_test[0].ravel().tolist()
    examples[0].features.feature["images"].int64_list.value.extend(pixels)
    from ladle.export.saved_model.samples import encode

    png = encode(digits.x_test[:1], digits.preparation)[0]
    examples[1].features.feature["image/encoded"].bytes_list.value.append(png)
    inputs = np.array([example.SerializeToString() for example in examples], object)
    expected = session.run("serving_uint8", digits.x_test[[0, 0]])
    np.testing.assert_allclose(session.run("classify", inputs, "scores"), expected, atol=1e-6)
    classes = session.run("classify", inputs, "classes")
    assert classes.tolist() == [[str(n).encode() for n in range(10)]] * 2
    assert session.signatures["classify"].method_name == "tensorflow/serving/classify"
    assert session.signatures["logits"].method_name == "tensorflow/serving/predict"


@pytest.mark.parametrize("pixels", [None, [256] * 64, [-1] * 64, [0] * 63])
def test_an_example_without_an_image_is_refused(
    session: TF1Session, pixels: list[int] | None
) -> None:
    import tensorflow as tf

    example = Example()
    if pixels is not None:
        example.features.feature["images"].int64_list.value.extend(pixels)
    with pytest.raises(tf.errors.InvalidArgumentError, match="images"):
        session.run("classify", np.array([example.SerializeToString()], object), "scores")


def test_class_id_is_the_most_probable(session: TF1Session, digits: Dataset) -> None:
    images = digits.x_test[:50]
    class_id = session.run("serving_uint8", images, "class_id")
    assert class_id.dtype == np.int64
    np.testing.assert_array_equal(class_id, session.run("serving_uint8", images).argmax(axis=1))


def test_only_what_serving_needs_is_written(exported: Exported, session: TF1Session) -> None:
    """Two Dense layers' kernels and biases: no optimizer, no dropout, nothing twice."""
    import tensorflow as tf

    variables = tf.train.list_variables(str(exported.path / "variables" / "variables"))
    shapes = sorted(tuple(shape) for name, shape in variables if name.endswith("VARIABLE_VALUE"))
    assert shapes == [(10,), (64, 128), (128,), (128, 10)]
    assert set(session.signatures) == CLASSIFIER_SIGNATURES | {"__saved_model_init_op"}


def test_images_of_two_channels_cannot_be_decoded_and_still_classify(
    tmp_path: Path, arrays: dict[str, NDArray[Any]]
) -> None:
    for part in ("x_train", "x_test"):
        arrays[part] = np.stack([arrays[part]] * 2, axis=-1)
    exported = export_model(
        tmp_path, Dataset.from_arrays("two channels", arrays), options=ONE_EPOCH
    )
    assert set(exported.card.signatures) == CLASSIFIER_SIGNATURES - {"serving_bytes"}


def test_resizing_is_part_of_every_signature(tmp_path: Path, small: Dataset) -> None:
    exported = export_model(tmp_path, small.resized(9, 7), options=ONE_EPOCH)
    assert exported.card.provenance["resize"] == [9, 7]
    inputs = exported.card.signatures["serving_uint8"]["inputs"]
    assert inputs == {"images": {"dtype": "uint8", "shape": [-1, -1, -1]}}
    session = TF1Session(exported.path)
    one, other = small.x_test[:1], np.kron(small.x_test[:1], np.ones((1, 2, 2), np.uint8))
    normalized = small.normalization.apply(one)
    expected = session.run("serving_uint8", one)
    np.testing.assert_allclose(session.run("serving_default", normalized), expected, atol=1e-5)
    assert session.run("serving_uint8", other).shape == (1, 3)
    session.close()


def test_normalization_in_the_graph_is_that_on_the_card(
    tmp_path: Path, arrays: dict[str, NDArray[Any]]
) -> None:
    """With an offset and a divisor for each channel, and images that have channels."""
    for part in ("x_train", "x_test"):
        arrays[part] = np.stack([arrays[part]] * 3, axis=-1)
    normalization = Normalization(offset=(125.0, 123.0, 114.0), divisor=(63.0, 62.0, 67.0))
    dataset = Dataset.from_arrays("channels", arrays, normalization)
    exported = export_model(tmp_path, dataset, options=ONE_EPOCH)
    assert exported.card.normalization == normalization
    session = TF1Session(exported.path)
    np.testing.assert_allclose(
        session.run("serving_uint8", dataset.x_test),
        session.run("serving_default", normalization.apply(dataset.x_test)),
        rtol=0,
        atol=1e-6,
    )
    session.close()


def test_a_regression_has_values_and_answers_regress(
    tmp_path: Path, arrays: dict[str, NDArray[Any]]
) -> None:
    rng = np.random.default_rng(1)
    arrays |= {
        "x_train": rng.normal(size=(12, 3)).astype(np.float32),
        "x_test": rng.normal(size=(6, 3)).astype(np.float32),
    }
    normalization = Normalization(offset=(1.0, 2.0, 3.0), divisor=2.0)
    dataset = Dataset.from_arrays("numbers", arrays, normalization, regression=True)
    exported = export_model(tmp_path, dataset, options=ONE_EPOCH, version=7)
    assert exported.path == tmp_path / "7"
    assert exported.card.labels == ()
    assert exported.card.metrics.keys() == {"mae", "mse"}
    session = TF1Session(exported.path)
    assert session.signatures["regress"].method_name == "tensorflow/serving/regress"
    expected = session.run("serving_default", dataset.x_test, "values")
    assert expected.shape == (6,)
    example = Example()
    example.features.feature["features"].float_list.value.extend(dataset.x_test[0].tolist())
    inputs = np.array([example.SerializeToString()], object)
    np.testing.assert_allclose(session.run("regress", inputs, "outputs"), expected[:1], atol=1e-6)
    raw = session.run("serving_raw", dataset.x_test, "values")
    np.testing.assert_allclose(raw, expected, atol=1e-6)
    session.close()
    with pytest.raises(ValueError, match="a regression has no accuracy"):
        export_model(tmp_path, dataset, requirements=Requirements(min_accuracy=0.5))


def test_a_table_takes_raw_numbers_and_columns_by_name(tmp_path: Path, checked_here: None) -> None:
    import tensorflow as tf

    rows = np.random.default_rng(0).normal([50, 5000], [9, 2000], size=(40, 2)).round(1)
    lines = [f"{age},{int(income > 5000)},{income}" for age, income in rows]
    (tmp_path / "t.csv").write_text("\n".join(["age,label,income", *lines]))
    exported = export_model(tmp_path / "m", load_data(tmp_path / "t.csv"), options=ONE_EPOCH)
    card = exported.card
    assert [column.name for column in card.columns] == ["age", "income"]
    assert card.normalization is None
    assert len(card.provenance["standardization"]["offset"]) == 2
    assert set(card.row_independent_signatures) == set(card.signatures)
    features = rows.astype(np.float32)
    by_name = {"income": tf.constant(features[:, 1]), "age": tf.constant(features[:, 0])}
    signatures = tf.saved_model.load(str(exported.path)).signatures
    default = signatures["serving_default"](features=tf.constant(features))["probabilities"]
    named = signatures["serving_columns"](**by_name)["probabilities"]
    np.testing.assert_allclose(named, default, atol=1e-6)
    assert np.ptp(default.numpy()[:, 0]) > 0.01  # raw numbers in thousands saturate nothing


@pytest.mark.parametrize("names", [("a", "class"), ("a", "b c"), ("2x", "y")])
def test_columns_that_can_be_no_inputs_have_no_signature_of_their_own(
    names: tuple[str, ...],
) -> None:
    preparation = Preparation(
        raw_shape=(2,), raw_dtype="float32", normalization=Normalization(), columns=names
    )
    assert preparation.input_columns == ()
