from __future__ import annotations

import errno
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ladle.export import DataError, Dataset, load_data
from ladle.protos.tensorflow_pb import Example


def png(pixels: NDArray[np.uint8]) -> bytes:
    import tensorflow as tf

    encoded: bytes = tf.io.encode_png(np.atleast_3d(pixels)).numpy()
    return encoded


def grey(value: int, size: tuple[int, int] = (4, 6)) -> NDArray[np.uint8]:
    return np.full(size, value, np.uint8)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Ten grey images of cats, of levels 0 to 9, and five of dogs, 100 to 104."""
    for name, start, count in (("cat", 0, 10), ("dog", 100, 5)):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for n in range(count):
            path = tmp_path / "pets" / name / f"{n}.png"
            path.write_bytes(png(grey(start + n)))
    return tmp_path / "pets"


def test_a_folder_for_each_class_is_a_data_set(pictures: Path) -> None:
    dataset = load_data(pictures)
    assert dataset.labels == ("cat", "dog")
    assert dataset.image_shape == (4, 6, 1)
    assert dataset.y_train.tolist() == [0] * 8 + [1] * 4
    assert dataset.x_test[:, 0, 0, 0].tolist() == [4, 9, 104]
    assert dataset.y_test.tolist() == [0, 0, 1]


def test_decoded_images_are_not_held_in_memory(pictures: Path) -> None:
    dataset = load_data(pictures)
    assert isinstance(dataset.x_train, np.memmap)
    assert isinstance(dataset.x_test, np.memmap)


def test_train_and_test_may_be_folders_of_their_own(pictures: Path) -> None:
    root = pictures.parent / "split"
    root.mkdir()
    pictures.rename(root / "train")
    for name in ("cat", "dog"):
        (root / "test" / name).mkdir(parents=True)
        (root / "test" / name / "x.jpg").write_bytes(png(grey(7)))
    dataset = load_data(root)
    assert (len(dataset.x_train), len(dataset.x_test)) == (15, 2)
    (root / "test" / "bird").mkdir()
    (root / "test" / "bird" / "x.png").write_bytes(png(grey(7)))
    with pytest.raises(DataError, match="test: class bird has no images to train on"):
        load_data(root)


def test_images_of_other_sizes_are_brought_to_that_of_most_or_a_given_one(pictures: Path) -> None:
    (pictures / "dog" / "9.png").write_bytes(png(grey(200, (9, 9))))
    assert load_data(pictures).image_shape == (4, 6, 1)
    dataset = load_data(pictures, size=(3, 5))
    assert dataset.image_shape == (3, 5, 1)
    assert dataset.x_train[-1].max() == 200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "cat" / "3.png").write_bytes(b"none"), r"3\.png: cannot be read as"),
        (lambda root: (root / "bird").mkdir(), "bird: expected images .*, got none"),
        (lambda root: (root / "dog").rename(root.parent / "gone"), "at least two; got cat"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_line(
    pictures: Path, change: Any, message: str
) -> None:
    change(pictures)
    with pytest.raises(DataError, match=message) as error:
        load_data(pictures)
    assert "\n" not in str(error.value)


def test_an_empty_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="a folder of images for each class, at least two; got none"
    ):
        load_data(tmp_path)


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_table_is_brought_to_mean_0_and_deviation_1(tmp_path: Path) -> None:
    rows = [f"{n},{'yes' if n % 2 else 'no'},5,{n / 10}" for n in range(20)]
    path = table(tmp_path / "t.csv", "size,label,same,sample_weight", *rows)
    dataset = load_data(path)
    assert dataset.labels == ("no", "yes")
    assert dataset.x_train.shape == (16, 2)
    assert dataset.x_test[:, 0].tolist() == [8, 9, 18, 19]
    prepared = dataset.preparation.apply(dataset.x_train)
    np.testing.assert_allclose(prepared.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(prepared.std(axis=0), [1, 0], atol=1e-6)
    assert dataset.sample_weight is not None
    assert dataset.sample_weight[0] == 0
    assert len(dataset.sample_weight) == 16


def test_blank_lines_of_a_table_are_passed_over(tmp_path: Path) -> None:
    rows = [f"{n},{n % 2}" for n in range(20)]
    path = table(tmp_path / "t.csv", "a,label", *rows[:10], "", *rows[10:], "", "")
    assert load_data(path).x_test[:, 0].tolist() == [8, 9, 18, 19]


def test_spaces_make_no_other_label_or_column(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(" age , label\n" + "1,yes\n2, yes \n3,no\n4,no \n" * 5)
    dataset = load_data(path)
    assert dataset.labels == ("no", "yes")
    assert dataset.columns == ("age",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,label\n1,x\n2, \n", "line 3: expected a label, got an empty one"),
        ("a,a,label\n1,2,x\n", "expected each column once, got a several times"),
    ],
)
def test_a_label_that_is_empty_or_a_column_twice_is_one_line(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        load_data(path)


def test_a_table_of_numbers_to_predict(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", "a,target", *(f"{n},{n * 2.5}" for n in range(10)))
    dataset = load_data(path, regression=True)
    assert dataset.is_regression
    assert dataset.y_test.tolist() == [10, 22.5]


def test_labels_that_are_numbers_are_ordered_as_such(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", "a,label", *(f"{n},{n % 11}" for n in range(110)))
    assert load_data(path).labels == tuple(str(n) for n in range(11))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a,b", "1,2"], "expected a column label or target, got a, b"),
        (["a,label"], "expected a header and rows, got 1 lines"),
        (["a,label", "1,x", "1"], "line 3: expected 2 values, got 1"),
        (
            ["a,label", "1,x", "nan,y", *["1,x"] * 9],
            "line 3: column \"a\": expected a finite number, got 'nan'",
        ),
        (
            ["a,label", "1,x", "?,y", *["1,x"] * 9],
            "line 3: column \"a\": expected a finite number, got '?'",
        ),
        (["a,label", "1,x", "2,y"], "2 examples leave nothing to train on or to measure with"),
        (["a,label", "1,x", "1e39,y", *["1,x"] * 9], "expected a finite number, got '1e39'"),
        (["label", *["x"] * 10], "expected columns of numbers beside label"),
        (["a,label", *["1,x"] * 10], "expected at least 2 classes, got 1"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line(
    tmp_path: Path, lines: list[str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_data(table(tmp_path / "t.csv", *lines))


def peak_bytes(load: Callable[[], Dataset]) -> tuple[int, Dataset]:
    """Return how much Python and NumPy held at once; what is mapped does not count."""
    tracemalloc.start()
    try:
        dataset = load()
        return tracemalloc.get_traced_memory()[1], dataset
    finally:
        tracemalloc.stop()


def test_a_table_is_never_whole_in_memory(tmp_path: Path) -> None:
    n_rows, n_columns = 1000, 40
    row = ",".join(f"{n}.25" for n in range(n_columns))
    header = ",".join(f"c{n}" for n in range(n_columns)) + ",label"
    lines = [header, *(f"{row},{'cat' if n % 2 else 'dog'}" for n in range(n_rows))]
    path = table(tmp_path / "t.csv", *lines)
    peak, dataset = peak_bytes(lambda: load_data(path))
    assert isinstance(dataset.x_train, np.memmap)
    assert len(dataset.x_train) + len(dataset.x_test) == n_rows
    # Texts alone take three times that; measuring takes float64s of some thousand rows.
    assert peak < n_rows * n_columns * 16


def test_encoded_images_of_a_tfrecord_are_never_all_in_memory(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200), np.uint8)
    image = png(noise)
    made = [example(image, n % 2) for n in range(100)]
    path = records(tmp_path / "a.tfrecord", *made)
    load_data(path)  # so that all is imported
    peak, dataset = peak_bytes(lambda: load_data(path))
    assert isinstance(dataset.x_train, np.memmap)
    np.testing.assert_array_equal(dataset.x_train[79, :, :, 0], noise)
    assert peak < 20 * len(image) < path.stat().st_size / 4


def test_a_table_that_changes_while_it_is_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ladle.export.data import holdout as splitting

    path = table(tmp_path / "t.csv", "a,label", *(f"{n},{n % 2}" for n in range(20)))
    held_out = splitting.stratified_holdout

    def change(targets: Any) -> Any:
        table(path, "a,label", "1,0")
        return held_out(targets)

    monkeypatch.setattr("ladle.export.data.holdout.stratified_holdout", change)
    with pytest.raises(DataError, match="was changed while it was read"):
        load_data(path)


def records(path: Path, *examples: Example) -> Path:
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path)) as writer:
        for example in examples:
            writer.write(example.SerializeToString())
    return path


def example(image: bytes | None, label: int | str | None) -> Example:
    made = Example()
    if image is not None:
        made.features.feature["image/encoded"].bytes_list.value.append(image)
    if isinstance(label, int):
        made.features.feature["image/class/label"].int64_list.value.append(label)
    elif label is not None:
        made.features.feature["image/class/text"].bytes_list.value.append(label.encode())
    return made


@pytest.mark.parametrize("labels", [(2, 10), ("cat", "dog")])
def test_tf_examples_are_a_data_set(tmp_path: Path, labels: tuple[Any, Any]) -> None:
    made = [example(png(grey(n)), labels[n % 2]) for n in range(10)]
    dataset = load_data(records(tmp_path / "a.tfrecord", *made))
    assert dataset.labels == tuple(map(str, labels))
    assert dataset.x_test[:, 0, 0, 0].tolist() == [8, 9]


@pytest.mark.parametrize("n_left", [4, 12])
def test_a_tfrecord_that_changes_while_it_is_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_left: int
) -> None:
    from ladle.export.data import holdout as splitting

    made = [example(png(grey(n)), n % 2) for n in range(12)]
    path = records(tmp_path / "a.tfrecord", *made[:10])

    def change(targets: Any) -> Any:
        records(path, *made[:n_left])
        return splitting.stratified_holdout(targets)

    monkeypatch.setattr("ladle.export.data.records.stratified_holdout", change)
    with pytest.raises(DataError, match=r"a\.tfrecord: was changed while it was read"):
        load_data(path)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([], "expected at least one tf.Example"),
        ([(None, 1)], "record 0: expected image/encoded and image/class/label"),
        ([(b"image", None)], "record 0: expected image/encoded and image/class/label"),
        ([(b"image", n % 2) for n in range(10)], "record 0: cannot be read as an image"),
    ],
)
def test_tf_examples_that_cannot_be_used_are_one_line(
    tmp_path: Path, made: list[tuple[bytes | None, int | None]], message: str
) -> None:
    path = records(tmp_path / "a.tfrecord", *(example(*pair) for pair in made))
    with pytest.raises(DataError, match=message):
        load_data(path)


def test_a_damaged_tfrecord_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    path.write_bytes(b"not framed as records are")
    with pytest.raises(DataError, match="cannot be read as a TFRecord"):
        load_data(path)


def test_no_room_for_decoded_images_is_one_line(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(DataError, match="no room for 288 bytes of examples: No space left"):
        load_data(pictures)


@pytest.mark.parametrize("name", ["a.tfrecord", "folder"])
def test_images_have_no_numbers_to_predict(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=r"expected \.npz or \.csv data for a regression"):
        load_data(tmp_path / name, regression=True)


def rows_of(*columns: Callable[[int], Any]) -> list[str]:
    return [",".join([*(str(column(n)) for column in columns), str(n % 2)]) for n in range(20)]


@pytest.mark.parametrize(
    ("header", "columns", "message"),
    [
        ("x,y,label", (int, lambda n: ""), 'line 2: column "y": expected a finite number'),
        ("x,label", (lambda n: f"{n}_000",), 'line 2: column "x": expected a finite number'),
        ("x,d,label", (int, lambda n: n > 3), "column \"d\" with 'False'; load it with"),
        ("x,target,label", (int, int), "expected a column label or target, got both"),
    ],
)
def test_tables_that_are_not_what_they_seem(
    tmp_path: Path, header: str, columns: Any, message: str
) -> None:
    if header == "x,label":
        columns = (lambda n: n if n else "1_000",)
    path = table(tmp_path / "t.csv", header, *rows_of(*columns))
    with pytest.raises(DataError) as refusal:
        load_data(path)
    assert message in str(refusal.value)


def test_a_table_in_utf_16_is_named_with_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x,label\n1,0\n", encoding="utf-16")
    with pytest.raises(DataError, match=r"t\.csv: cannot be read: expected text in UTF-8"):
        load_data(tmp_path / "t.csv")


def test_an_index_without_a_name_is_noted(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", ",x,label", *rows_of(int, int))
    assert "a column without a name" in load_data(path).notes[0]


def test_files_that_are_no_examples_are_noted_and_blanks_around_a_class_do_not_count(
    tmp_path: Path,
) -> None:
    for n in range(20):
        folder = tmp_path / ("cat", "dog", " dog")[n % 3]
        folder.mkdir(exist_ok=True)
        (folder / f"{n}.png").write_bytes(png(grey(n)))
    (tmp_path / "cat" / "photo.webp").write_bytes(b"RIFF")
    (tmp_path / "cat" / ".hidden").write_bytes(b"")
    dataset = load_data(tmp_path)
    assert dataset.labels == ("cat", "dog")
    assert dataset.notes == (
        "1 entries are passed over, which are not .png, .jpg, .jpeg, .bmp, .gif: 1 .webp",
    )


@pytest.mark.parametrize("name", ["data.csv", "data.npz", "data.tfrecord", "cats/0.png"])
def test_a_fifo_is_never_waited_for(tmp_path: Path, name: str) -> None:
    for label in ("cats", "dogs"):
        (tmp_path / label).mkdir()
        for number in range(1, 6):
            Image.new("L", (4, 4), number).save(tmp_path / label / f"{number}.png")
    os.mkfifo(tmp_path / name)
    source = tmp_path / name if name.startswith("data") else tmp_path
    with pytest.raises(DataError, match="cannot be read: expected a regular file, got a FIFO"):
        load_data(source)


def test_a_column_that_float32_rounds_away_is_said(tmp_path: Path) -> None:
    rows = [f"{1_700_000_000 + n},{n},{n % 2}" for n in range(20)]
    (tmp_path / "t.csv").write_text("\n".join(["when,n,label", *rows]))
    (note,) = load_data(tmp_path / "t.csv").notes
    assert note.startswith('columns "when": their values are so large')


def test_a_long_text_in_a_table_is_read(tmp_path: Path) -> None:
    rows = [f"{'word ' * 40_000}{n},{n % 2}" for n in range(10)]
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *rows]))
    assert len(load_data(tmp_path / "t.csv").x_train[0]) > 200_000
