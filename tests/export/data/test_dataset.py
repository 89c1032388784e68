from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ladle.export import DataError, Dataset

Arrays = dict[str, NDArray[Any]]


def test_classes_are_named_by_their_numbers_and_bytes_divided_by_255(arrays: Arrays) -> None:
    dataset = Dataset.from_arrays("small", arrays)
    assert dataset.labels == ("0", "1", "2")
    assert dataset.normalization.divisor == 255
    assert dataset.image_shape == (4, 4)


def test_the_arrays_are_not_copied(arrays: Arrays) -> None:
    dataset = Dataset.from_arrays("small", arrays)
    assert all(getattr(dataset, name) is array for name, array in arrays.items())


@pytest.mark.parametrize("shape", [(12, 5, 7), (12, 4, 4, 1), (12, 4, 4, 3)])
def test_images_may_be_grey_or_have_channels(arrays: Arrays, shape: tuple[int, ...]) -> None:
    arrays |= {"x_train": np.zeros(shape, np.uint8), "x_test": np.zeros((6, *shape[1:]), np.uint8)}
    assert Dataset.from_arrays("small", arrays).image_shape == shape[1:]


@pytest.mark.parametrize("dtype", ["uint8", "int16", ">i8", "uint64"])
def test_labels_may_be_any_integers(arrays: Arrays, dtype: str) -> None:
    arrays["y_train"] = arrays["y_train"].astype(dtype)
    assert Dataset.from_arrays("small", arrays).labels == ("0", "1", "2")


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("x_train", np.zeros((12, 4, 4)), "x_test: expected float32 as in x_train, got uint8"),
        ("x_train", np.zeros((12, 4, 4), complex), "x_train: expected raw uint8 pixels"),
        ("x_test", np.zeros((6, 4, 4), "M8[s]"), "features or texts, got datetime64[s]"),
        (
            "x_train",
            np.zeros((12, 16), np.uint8),
            "height, width, channels], got [12, 16]",
        ),
        ("x_train", np.zeros((1, 12, 4, 4, 1), np.uint8), "got [1, 12, 4, 4, 1]"),
        ("x_train", np.zeros((0, 4, 4), np.uint8), "x_train: expected at least one image"),
        ("x_test", np.zeros((6, 0, 4), np.uint8), "x_test: expected at least one image and pixel"),
        (
            "x_test",
            np.zeros((6, 5, 4), np.uint8),
            "[4, 4] as in x_train, got [5, 4]",
        ),
        ("y_train", np.full(12, 0.5), "got float64 with fractions; for a regression choose a loss"),
        ("y_train", np.full(12, np.nan), "y_train: expected integer labels, got float64 with"),
        ("y_train", np.zeros(12, complex), "y_train: expected integer labels, got complex128"),
        ("y_train", np.array(["cat", "dog"] * 6), "y_test: expected one name of a class"),
        ("y_train", np.full((12, 2), 3), "y_train: expected 0s and 1s, got 3 at [0, 0]"),
        ("y_train", np.zeros((12, 2), int), "y_test: expected a row of 0s and 1s"),
        ("y_train", np.full((12, 2), 0.5), "y_train: expected 0s and 1s, got float64"),
        ("y_train", np.int64(3) * np.ones((), int), "shape [images], got []"),
        ("y_train", np.arange(11) % 3, "y_train: expected 12 labels, one an image, got 11"),
        ("y_train", np.zeros(12, int), "expected at least 2 classes, got 1"),
        ("y_train", np.arange(12) % 3 - 1, "y_train: expected labels 0 to 2"),
        ("y_train", np.array([0, 1, 2, 255] * 3), "as it holds 4 different ones, got 255"),
        ("y_train", np.array([0, 2**64 - 1] * 6, np.uint64), "got 18446744073709551615"),
        ("y_test", np.array([0, 1, 2, 0, 1, 3]), "y_test: expected labels 0 to 2, got 3"),
        ("y_test", np.array([0, 1, 2, 0, 1, -7]), "y_test: expected labels 0 to 2, got -7"),
    ],
)
def test_an_array_of_another_form_is_refused_in_one_line(
    arrays: Arrays, name: str, array: NDArray[Any], message: str
) -> None:
    with pytest.raises(DataError, match=re.escape(message)) as refusal:
        Dataset.from_arrays("small", arrays | {name: array})
    assert str(refusal.value).startswith("small: ")
    assert "\n" not in str(refusal.value)


def test_the_fingerprint_is_that_of_the_content(
    arrays: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Dataset.from_arrays("small", arrays).fingerprint
    same = {name: np.asfortranarray(array.copy()) for name, array in arrays.items()}
    assert re.fullmatch("sha256:[0-9a-f]{64}", original)
    assert Dataset.from_arrays("renamed", same).fingerprint == original
    monkeypatch.setattr("ladle.export.data.dataset.ROWS_AT_A_TIME", 5)
    assert Dataset.from_arrays("in pieces", same).fingerprint == original
    same["x_test"][5, 3, 3] ^= 1
    assert Dataset.from_arrays("small", same).fingerprint != original


@pytest.mark.parametrize(
    ("dtype", "shape", "becomes"),
    [
        ("float64", (4, 4), "float32"),
        ("float16", (16,), "float32"),
        (">f8", (4, 4), "float32"),
        ("int64", (16,), "float32"),
        ("bool", (4, 4), "float32"),
        ("int64", (4, 4), "uint8"),
        (">u2", (4, 4, 1), "uint8"),
    ],
)
def test_numbers_of_other_types_are_converted_and_that_is_said(
    arrays: Arrays, dtype: str, shape: tuple[int, ...], becomes: str
) -> None:
    for part, count in (("x_train", 12), ("x_test", 6)):
        arrays[part] = (np.arange(count * 16) % 200).astype(dtype).reshape(count, *shape)
    dataset = Dataset.from_arrays("small", arrays)
    assert dataset.x_train.dtype == dataset.x_test.dtype == becomes
    assert np.array_equal(dataset.x_train, arrays["x_train"])
    assert dataset.normalization.divisor == (255 if becomes == "uint8" else 1)
    (note,) = dataset.notes
    assert f"x_train and x_test held {arrays['x_train'].dtype}" in note


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (np.full((12, 3), 1e39), np.zeros((6, 3)), "float32, which does not hold 1e+39; scale"),
        (np.zeros((12, 3)), np.full((6, 3), -(2**24) - 1), "x_test: int64 is taken as float32"),
        (np.full((12, 3), np.inf), np.zeros((6, 3)), "x_train: expected finite numbers, got inf"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(
    arrays: Arrays, train: NDArray[Any], test: NDArray[Any], message: str
) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        Dataset.from_arrays("small", arrays | {"x_train": train, "x_test": test})


def test_integers_are_pixels_only_if_all_are_bytes(arrays: Arrays) -> None:
    train, test = (arrays[part].astype(np.int64) for part in ("x_train", "x_test"))
    test[0, 0, 0] = 256
    dataset = Dataset.from_arrays("small", arrays | {"x_train": train, "x_test": test})
    assert dataset.x_train.dtype == np.float32
    assert "taken as float32" in dataset.notes[0]


@pytest.mark.parametrize("dtype", ["float64", "float32", "bool"])
def test_classes_of_other_types_are_integers(arrays: Arrays, dtype: str) -> None:
    for part in ("y_train", "y_test"):
        arrays[part] = (arrays[part] % 2).astype(dtype)
    dataset = Dataset.from_arrays("small", arrays)
    assert dataset.labels == ("0", "1")
    assert dataset.y_train.tolist() == arrays["y_train"].astype(int).tolist()
    assert f"y_train holds {dtype}, taken as classes" in dataset.notes


def test_weights_may_be_integers(arrays: Arrays) -> None:
    dataset = Dataset.from_arrays("small", {**arrays, "sample_weight": np.arange(12)})
    assert dataset.sample_weight is not None
    assert dataset.sample_weight.dtype == np.float32


def test_a_regression_may_have_several_numbers_an_example(arrays: Arrays) -> None:
    several = {part: np.outer(arrays[part], [1, 10]) for part in ("y_train", "y_test")}
    dataset = Dataset.from_arrays("small", arrays | several, regression=True)
    assert (dataset.n_values, dataset.n_outputs) == (2, 2)
    one = Dataset.from_arrays("small", arrays, regression=True)
    assert (one.n_values, one.n_outputs) == (None, 1)
    for part, targets, message in (
        ("y_test", np.zeros((6, 3)), "y_test: expected [2] numbers an example as in y_train"),
        ("y_train", np.zeros((12, 0)), "y_train: expected [12], or [12, n] for n numbers"),
        ("y_train", np.zeros((11, 2)), "got [11, 2]"),
        ("y_train", np.full((12, 2), np.nan), "y_train: expected finite numbers"),
        ("y_train", np.zeros((12, 2, 2)), "y_train: expected [12], got [12, 2, 2]"),
        ("y_train", np.full((12, 2), "a"), "y_train: expected numbers, got"),
    ):
        with pytest.raises(DataError, match=re.escape(message)):
            Dataset.from_arrays("small", arrays | several | {part: targets}, regression=True)


def test_a_regression_takes_any_finite_numbers(arrays: Arrays) -> None:
    dataset = Dataset.from_arrays("small", arrays, regression=True)
    assert dataset.labels == ()
    assert dataset.y_train.dtype == np.float32
    for strange in (np.nan, np.inf):
        arrays["y_test"] = np.array([0, 1, 2, 3, 4, strange])
        with pytest.raises(DataError, match=f"y_test: expected finite numbers, got {strange} at"):
            Dataset.from_arrays("small", arrays, regression=True)
    arrays["y_test"] = np.array(["a"] * 6)
    with pytest.raises(DataError, match="y_test: expected numbers, got <U1"):
        Dataset.from_arrays("small", arrays, regression=True)


def test_features_are_finite_float32(arrays: Arrays) -> None:
    features = np.zeros((12, 3), np.float32)
    arrays |= {"x_train": features, "x_test": features[:6]}
    dataset = Dataset.from_arrays("small", arrays)
    assert (dataset.what, dataset.normalization.divisor) == ("features", 1)
    with pytest.raises(DataError, match="resize: expected images, got features"):
        dataset.resized(4, 4)
    features[2, 1] = np.nan
    with pytest.raises(DataError, match=r"x_train: expected finite numbers, got nan at \[2, 1\]"):
        Dataset.from_arrays("small", arrays)
    arrays["x_test"] = np.zeros((6, 4, 4), np.uint8)
    features[2, 1] = 0
    with pytest.raises(DataError, match="x_test: expected features of"):
        Dataset.from_arrays("small", arrays)


def test_labels_in_a_column_are_labels(arrays: Arrays) -> None:
    arrays["y_train"] = arrays["y_train"][:, np.newaxis]
    dataset = Dataset.from_arrays("small", arrays)
    assert dataset.y_train.shape == (12,)
    assert dataset.labels == ("0", "1", "2")
