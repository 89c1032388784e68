"""Texts as training data: read, learnt, exported with their vocabulary, and served."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exporting import ONE_EPOCH

from ladle.export import DataError, Dataset, ExportError, export_model, load_data

pytestmark = pytest.mark.filterwarnings("ignore:__array__ impl:DeprecationWarning")  # Keras's
WORDS = {"praise": ("good", "lovely", "great"), "blame": ("bad", "awful", "poor")}


def reviews(count: int) -> list[tuple[str, str]]:
    """Texts with their labels; a word says which, among others that say nothing."""
    told = []
    for index in range(count):
        label = ("praise", "blame")[index % 2]
        word = WORDS[label][index // 2 % 3]
        told.append((f"The {word} film number {index}, über alles, it said", label))
    return told


def write(path: Path, rows: Any, header: tuple[str, ...] = ("text", "label")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture
def texts(tmp_path: Path) -> Dataset:
    return load_data(write(tmp_path / "reviews.csv", reviews(60)))


def test_a_table_with_a_column_of_texts_is_texts_and_classes(texts: Dataset) -> None:
    assert texts.labels == ("blame", "praise")
    assert texts.columns == ("text",)
    assert (len(texts.x_train), len(texts.x_test)) == (48, 12)
    assert texts.x_train[0] == reviews(1)[0][0]
    assert [texts.labels[y] for y in texts.y_train[:2]] == ["praise", "blame"]


def test_any_other_name_does_where_no_value_is_a_number(tmp_path: Path) -> None:
    dataset = load_data(write(tmp_path / "a.csv", reviews(20), ("review", "target")))
    assert dataset.columns == ("review",)
    assert dataset.preparation.are_texts


def test_a_column_of_numbers_stays_one_and_a_text_among_them_is_refused(tmp_path: Path) -> None:
    rows = [(str(n), n % 2) for n in range(20)]
    dataset = load_data(write(tmp_path / "a.csv", rows, ("age", "label")))
    assert dataset.x_train.dtype == np.float32
    with pytest.raises(DataError, match=r'line 22: column "age": expected a finite number'):
        load_data(write(tmp_path / "b.csv", [*rows, ("old", 1)], ("age", "label")))
    numbers = load_data(write(tmp_path / "c.csv", rows))
    assert numbers.preparation.are_texts  # the column says so


def test_an_archive_may_hold_texts(tmp_path: Path) -> None:
    given, labels = zip(*reviews(10), strict=True)
    classes = np.array([label == "praise" for label in labels], np.int64)
    arrays = {"x_train": np.array(given), "y_train": classes}
    arrays |= {"x_test": np.array([text.encode() for text in given]), "y_test": classes}
    np.savez(tmp_path / "t.npz", **arrays)  # type: ignore[arg-type]
    dataset = load_data(tmp_path / "t.npz")
    assert dataset.preparation.are_texts
    assert dataset.x_test[0].decode() == dataset.x_train[0]


def test_a_folder_of_text_files_is_texts(tmp_path: Path) -> None:
    for index, (text, label) in enumerate(reviews(20)):
        (tmp_path / label).mkdir(exist_ok=True)
        (tmp_path / label / f"{index}.txt").write_text(text, encoding="utf-8")
    (tmp_path / "blame" / ".notes.txt").write_text("hidden")
    dataset = load_data(tmp_path)
    assert dataset.labels == ("blame", "praise")
    assert (len(dataset.x_train), len(dataset.x_test)) == (16, 4)
    (tmp_path / "blame" / "late.txt").write_bytes("für".encode("utf-16"))
    with pytest.raises(DataError, match=r"late\.txt: expected text in UTF-8"):
        load_data(tmp_path)


def test_equal_texts_have_one_fingerprint_as_text_or_bytes(texts: Dataset) -> None:
    encoded = np.array([text.encode() for text in texts.x_train], object)
    assert replace(texts, x_train=encoded).fingerprint == texts.fingerprint
    cut = texts.x_train.copy()
    cut[0], cut[1] = cut[0] + cut[1][:1], cut[1][1:]
    assert replace(texts, x_train=cut).fingerprint != texts.fingerprint


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([["a"], ["b"]], object), "expected texts [examples], got [2, 1]"),
        (np.array(["a", 3], object), "expected texts, got int at [1]"),
        (np.array([], object), "expected at least one text"),
    ],
)
def test_what_is_no_text_is_refused(array: Any, message: str) -> None:
    arrays = {"x_train": array, "y_train": np.arange(2), "x_test": array, "y_test": np.arange(2)}
    with pytest.raises(DataError) as refusal:
        Dataset.from_arrays("odd", arrays)
    assert message in str(refusal.value)


@pytest.mark.usefixtures("checked_here")
def test_texts_are_learnt_and_exported_with_their_vocabulary(
    tmp_path: Path, texts: Dataset
) -> None:
    import tensorflow as tf

    from ladle.protos.tensorflow_pb import Example

    options = replace(ONE_EPOCH, epochs=4, batch_size=16, learning_rate=0.1)
    exported = export_model(tmp_path / "reviews", texts, options=options)
    assert exported.accuracy == 1
    card = exported.card
    assert set(card.signatures) == {"serving_default", "classify", "logits"}
    assert card.columns[0].dtype == "string"
    assert "serving_default" in card.row_independent_signatures
    signatures = tf.saved_model.load(str(exported.path)).signatures
    told = signatures["serving_default"](text=tf.constant(["an awful thing", "a lovely thing"]))
    assert [card.labels[index] for index in told["class_id"].numpy()] == ["blame", "praise"]
    example = Example()
    example.features.feature["text"].bytes_list.value.append(b"how great")
    scores = signatures["classify"](inputs=tf.constant([example.SerializeToString()]))["scores"]
    assert scores.numpy().argmax() == 1


@pytest.mark.usefixtures("checked_here")
@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_saved_model_of_texts_is_exported_as_it_is(
    tmp_path: Path, texts: Dataset, shape: tuple[int, ...]
) -> None:
    import keras
    import tensorflow as tf

    layers = keras.layers
    words = layers.TextVectorization(output_mode="int", output_sequence_length=8)
    words.adapt(texts.x_train.tolist())
    tail = [layers.Embedding(100, 4), layers.GlobalAveragePooling1D()]
    model = keras.Sequential([keras.Input(shape, dtype="string"), words, *tail])
    model.add(layers.Dense(1, activation="sigmoid"))
    model.save(tmp_path / "m.keras")
    model_file = str(tmp_path / "m.keras")
    exported = export_model(tmp_path / "m", texts, model=model_file, fit=False)
    signature = tf.saved_model.load(str(exported.path)).signatures["serving_default"]
    given = ["a good film", "never heard"]
    expected = model.predict(tf.constant(given), verbose=0)[:, 0]
    np.testing.assert_allclose(
        signature(text=tf.constant(given))["probabilities"].numpy()[:, 1], expected, atol=1e-5
    )


def test_a_layer_without_a_vocabulary_is_named_unless_it_can_learn_it(texts: Dataset) -> None:
    import keras

    from ladle.export.training.vocabularies import check_vocabularies, learn_vocabularies

    layers = keras.layers
    words = layers.TextVectorization(output_sequence_length=4, name="words")
    inside = keras.Sequential([keras.Input((), dtype="string"), words, layers.Embedding(50, 4)])
    model = keras.Sequential([keras.Input((), dtype="string"), inside, layers.Flatten()])
    with pytest.raises(ExportError, match=r"layer words, a TextVectorization, has no vocabulary"):
        check_vocabularies(model)
    learn_vocabularies(model, texts)
    check_vocabularies(model)
    assert "lovely" in words.get_vocabulary()


def test_what_is_for_numbers_is_refused_for_texts(tmp_path: Path, texts: Dataset) -> None:
    with pytest.raises(ValueError, match=r"recipe: mlp takes numbers.*: bag-of-words"):
        export_model(tmp_path, texts, recipe="mlp")
    with pytest.raises(ValueError, match="normalization: unit is for numbers"):
        export_model(tmp_path, texts, normalization="unit")
    with pytest.raises(DataError, match="resize: expected images, got text"):
        texts.resized(4, 4)
