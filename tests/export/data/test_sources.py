from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ladle.export import DataError, Dataset, load_data

Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_data("digits")


def test_digits_are_raw_pixels_of_17_shades(digits: Dataset) -> None:
    assert digits.x_train.shape == (1442, 8, 8)
    assert digits.x_train.max() == digits.normalization.divisor == 16


def test_a_fifth_of_each_digit_is_held_out_and_trained_on_by_nobody(digits: Dataset) -> None:
    held_out, trained_on = np.bincount(digits.y_test), np.bincount(digits.y_train)
    assert (held_out == (held_out + trained_on) // 5).all()
    assert len(digits.x_test) == 355


def test_the_held_out_digits_are_the_same_every_time(digits: Dataset) -> None:
    assert load_data("digits").fingerprint == digits.fingerprint


def test_an_npz_file_gives_its_arrays(npz: Path, arrays: Arrays) -> None:
    dataset = load_data(npz)
    assert dataset.name == "small.npz"
    for name, array in arrays.items():
        np.testing.assert_array_equal(getattr(dataset, name), array)


@pytest.mark.parametrize("order", ["C", "F"])
def test_large_arrays_are_mapped_and_not_held_in_memory(
    tmp_path: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch, order: Any
) -> None:
    arrays["x_train"] = np.asarray(arrays["x_train"], order=order)
    np.savez_compressed(tmp_path / "large.npz", **arrays)  # type: ignore[arg-type]
    monkeypatch.setattr("ladle.export.data.sources._LARGE_BYTES", 300)
    monkeypatch.setattr("ladle.export.data.sources._PIECE_BYTES", 7)
    dataset = load_data(tmp_path / "large.npz")
    assert isinstance(dataset.x_train, np.memmap)
    assert not isinstance(dataset.y_test, np.memmap)
    for name, array in arrays.items():
        np.testing.assert_array_equal(getattr(dataset, name), array)


def test_a_large_array_that_is_damaged_is_refused(
    tmp_path: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ladle.export.data.sources._LARGE_BYTES", 0)
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    content = (tmp_path / "a.npz").read_bytes()
    pixels = arrays["x_train"].tobytes()
    assert pixels in content
    (tmp_path / "a.npz").write_bytes(content.replace(pixels, bytes(len(pixels))))
    with pytest.raises(DataError, match="x_train cannot be read: Bad CRC-32"):
        load_data(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "expected an .npz archive, which it is not"),
        (b"plain text, no archive", "expected an .npz archive, which it is not"),
        (b"PK\x03\x04 cut short", "expected an .npz archive, which it is not"),
    ],
)
def test_a_file_that_is_no_npz_is_refused(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "data.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(f"{path}: {message}")):
        load_data(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        load_data(tmp_path / "folder.npz")


def test_a_single_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    path = (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(DataError, match="got a single array"):
        load_data(path)


def test_missing_arrays_are_named_beside_those_found(tmp_path: Path, arrays: Arrays) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x_train=arrays["x_train"], y_train=arrays["y_train"], images=arrays["x_test"])
    expected = "missing x_test, y_test, found x_train, y_train, images"
    with pytest.raises(DataError, match=expected):
        load_data(path)


def test_pickled_objects_are_never_loaded(tmp_path: Path, arrays: Arrays) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "exploded",))

    path = tmp_path / "data.npz"
    np.savez(path, **(arrays | {"y_test": np.array([Bomb()] * 6, object)}))  # type: ignore[arg-type]
    with pytest.raises(
        DataError, match="y_test: expected numbers or texts, got objects, which are pickled"
    ):
        load_data(path)
    assert not (tmp_path / "exploded").exists()


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    place=st.floats(0, 1, exclude_max=True),
    byte=st.integers(0, 255),
    cut=st.booleans(),
    large=st.booleans(),
)
def test_a_damaged_file_loads_or_is_refused_but_nothing_else(
    npz: Path, monkeypatch: pytest.MonkeyPatch, place: float, byte: int, cut: bool, large: bool
) -> None:
    monkeypatch.setattr("ladle.export.data.sources._LARGE_BYTES", 0 if large else 1 << 28)
    content = bytearray(npz.read_bytes())
    position = int(place * len(content))
    content[position] = byte
    damaged = npz.with_name("damaged.npz")
    damaged.write_bytes(content[:position] if cut else content)
    with suppress(DataError):
        load_data(damaged)


def test_a_name_that_is_neither_known_nor_a_file_lists_what_is() -> None:
    with pytest.raises(DataError, match="expected digits, mnist, fashion_mnist or the path"):
        load_data("x")


def _keras_whose_mnist(load: Any) -> Any:
    keras: Any = ModuleType("keras")
    source = SimpleNamespace(load_data=load)
    keras.datasets = SimpleNamespace(mnist=source, fashion_mnist=source)
    return keras


def test_mnist_comes_through_keras(monkeypatch: pytest.MonkeyPatch, arrays: Arrays) -> None:
    train, test = (arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"])
    monkeypatch.setitem(sys.modules, "keras", _keras_whose_mnist(lambda: (train, test)))
    dataset = load_data("mnist")
    assert dataset.name == "mnist"
    assert dataset.normalization.divisor == 255
    assert dataset.x_test is arrays["x_test"]


def test_fashion_mnist_has_names_for_its_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    images, targets = np.zeros((20, 4, 4), np.uint8), np.arange(20) % 10
    parts = ((images, targets), (images, targets))
    monkeypatch.setitem(sys.modules, "keras", _keras_whose_mnist(lambda: parts))
    dataset = load_data("fashion_mnist")
    assert (dataset.labels[0], dataset.labels[9]) == ("T-shirt/top", "Ankle boot")


def test_sample_weights_are_read_where_there_are_some(tmp_path: Path, arrays: Arrays) -> None:
    arrays["sample_weight"] = np.ones(12, np.float32)
    np.savez(tmp_path / "w.npz", **arrays)  # type: ignore[arg-type]
    assert load_data(tmp_path / "w.npz").sample_weight is not None
    arrays["sample_weight"][3] = -1
    np.savez(tmp_path / "w.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="sample_weight: expected weights from 0, got -1"):
        load_data(tmp_path / "w.npz")
    arrays["sample_weight"][:] = 0
    np.savez(tmp_path / "w.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="sample_weight: expected a weight above 0"):
        load_data(tmp_path / "w.npz")


def test_mnist_that_cannot_be_downloaded_says_why_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> None:
        raise Exception("URL fetch failure on https://example.org/mnist.npz: no route to host")

    monkeypatch.setitem(sys.modules, "keras", _keras_whose_mnist(fail))
    with pytest.raises(DataError, match=r"mnist: .* no route to host.* give the path"):
        load_data("mnist")


def test_targets_may_be_the_names_of_classes(tmp_path: Path, arrays: Arrays) -> None:
    names = np.array(["cat", " dog", "owl "])
    arrays |= {part: names[arrays[part]] for part in ("y_train", "y_test")}
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    dataset = load_data(tmp_path / "a.npz")
    assert dataset.labels == ("cat", "dog", "owl")
    assert dataset.y_test.tolist() == [0, 1, 2, 0, 1, 2]
    arrays["y_test"] = np.array(["cat", "emu"] * 3)
    with pytest.raises(DataError, match="y_test: class 'emu' is not in y_train"):
        Dataset.from_arrays("a", arrays)


def test_objects_in_an_archive_say_how_texts_are_saved(tmp_path: Path, arrays: Arrays) -> None:
    arrays["x_train"] = np.array(["a"] * 12, object)
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"x_train: expected numbers or texts, got objects.*str"):
        load_data(tmp_path / "a.npz")
