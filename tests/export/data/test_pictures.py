"""What all images of a data set are brought to is decided by all of them, and said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ladle.export import DataError, load_data
from ladle.export.data.pictures import common_format
from ladle.protos.files.pictures import Header, read_pixels


def save(path: Path, colour: Any, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(6):
        save(tmp_path / "red" / f"{index}.png", (200 + index, 0, 0))
        save(tmp_path / "blue" / f"{index}.bmp", (0, 0, 200 + index))
    return tmp_path


def test_one_grey_image_that_sorts_first_takes_no_colour_from_the_others(folder: Path) -> None:
    save(folder / "blue" / "0.png", (9, 9, 9), mode="L")
    dataset = load_data(folder)
    assert dataset.image_shape == (4, 6, 3)
    assert dataset.x_train[:, 0, 0].max(axis=0).tolist() == [205, 9, 205]
    assert dataset.notes == (
        "1 of 13 images are grey and the others have colours: all are read in colour",
    )


def test_grey_and_coloured_bmp_and_gif_files_are_read(folder: Path) -> None:
    for index, mode in enumerate(("1", "L", "P", "RGB")):
        save(folder / "red" / f"x{index}.bmp", (250, 0, 0), mode=mode)
        save(folder / "blue" / f"x{index}.gif", (0, 0, 250), mode=mode)
    dataset = load_data(folder)
    assert dataset.image_shape == (4, 6, 3)
    assert len(dataset.x_train) + len(dataset.x_test) == 20


def test_the_size_of_most_images_is_taken_and_it_is_said_for_how_many_that_costs(
    folder: Path,
) -> None:
    save(folder / "blue" / "0.bmp", (0, 0, 9), (100, 90))
    dataset = load_data(folder)
    assert dataset.image_shape == (4, 6, 3)
    assert len(dataset.notes) == 1
    assert dataset.notes[0].startswith("1 of 12 images are not of 4x6, the size of most")
    assert load_data(folder, size=(5, 5)).notes == ()


def test_images_are_turned_upright_as_a_client_turns_them(folder: Path) -> None:
    pixels = np.zeros((6, 4, 3), np.uint8)
    pixels[:3] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = folder / "red" / "0.png"
    Image.fromarray(pixels).save(turned, exif=exif)
    dataset = load_data(folder)
    assert dataset.image_shape == (4, 6, 3)
    first_red = int(np.flatnonzero(dataset.y_train == dataset.labels.index("red"))[0])
    image = dataset.x_train[first_red]
    assert np.array_equal(image, read_pixels(turned, (-1, -1), 3))
    assert image[0].mean(axis=1).tolist() == [0, 0, 0, 255, 255, 255]


def test_hidden_files_and_what_archives_leave_are_passed_over(folder: Path) -> None:
    for name in (".git/x.png", "__MACOSX/x.png", "red/._0.png", "blue/.DS_Store"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"no image")
    dataset = load_data(folder)
    assert dataset.labels == ("blue", "red")
    assert len(dataset.x_train) + len(dataset.x_test) == 12


def test_a_file_that_is_no_image_is_named(folder: Path) -> None:
    (folder / "red" / "9.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"red/9\.png: cannot be read as an image: it is no image"):
        load_data(folder)


def test_of_sizes_that_are_as_frequent_the_first_is_taken() -> None:
    headers = [Header(4, 6, True), Header(9, 9, True)]
    assert common_format(headers, None)[:3] == (4, 6, 1)
    assert common_format(headers, (2, 2)) == (2, 2, 1, ())
