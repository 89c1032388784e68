"""Pictures of every orientation, mode and size come out of the graph as the client sends them."""

from __future__ import annotations

import io
from functools import partial
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from ladle.export.data import picture_graph
from ladle.protos.files.pictures import read_header, read_pixels

RNG = np.random.default_rng(0)
COLOUR = Image.fromarray(RNG.integers(0, 256, (7, 5, 3), np.uint8)).resize((40, 56))
GREY = COLOUR.convert("L")
SEE_THROUGH = COLOUR.convert("RGBA")
SEE_THROUGH.putalpha(GREY)


def encoded(image: Image.Image, format: str, orientation: int | None = None, **how: Any) -> bytes:
    if orientation is not None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        how["exif"] = exif
    file = io.BytesIO()
    image.save(file, format, **how)
    return file.getvalue()


ENCODED = [tf.TensorSpec([], tf.string)]
decode_colour = tf.function(partial(picture_graph.decode, channels=3), input_signature=ENCODED)
orientation = tf.function(picture_graph.orientation, input_signature=ENCODED)


def in_graph(picture: bytes, size: tuple[int, int], channels: int) -> NDArray[np.float32]:
    pixels = decode_colour(picture) if channels == 3 else picture_graph.decode(picture, channels)
    if size != (-1, -1):
        pixels = picture_graph.fit(pixels, size)
    array: NDArray[np.float32] = pixels.numpy()
    return array


PICTURES = {
    **{f"JPEG turned {n}": encoded(COLOUR, "JPEG", n) for n in range(9)},
    **{f"PNG turned {n}": encoded(COLOUR, "PNG", n) for n in range(1, 9)},
    "JPEG fine": encoded(COLOUR, "JPEG", quality=95, subsampling=0),
    "JPEG coarse": encoded(COLOUR, "JPEG", quality=30),
    "JPEG progressive": encoded(COLOUR, "JPEG", progressive=True),
    "JPEG grey": encoded(GREY, "JPEG", 6),
    "JPEG CMYK": encoded(COLOUR.convert("CMYK"), "JPEG"),
    "JPEG with a comment before": encoded(COLOUR, "JPEG", 8, comment=b"Exif" * 99),
    **{f"PNG {mode}": encoded(COLOUR.convert(mode), "PNG") for mode in ("1", "L", "P", "LA")},
    "PNG RGBA": encoded(SEE_THROUGH, "PNG"),
    "PNG P with transparency": encoded(COLOUR.convert("P"), "PNG", transparency=3),
    "PNG 16 bits": encoded(Image.fromarray(np.asarray(GREY).astype(np.uint16) * 256 + 9), "PNG"),
    "GIF": encoded(COLOUR, "GIF"),
    "GIF grey": encoded(GREY, "GIF"),
    "GIF animated": encoded(COLOUR, "GIF", save_all=True, append_images=[GREY]),
    "BMP": encoded(COLOUR, "BMP"),
    "BMP grey": encoded(GREY, "BMP"),
}


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(-1, -1), (20, 20), (90, 31), (1, 7)])
@pytest.mark.parametrize("name", PICTURES)
def test_the_graph_reads_what_the_client_sends(
    name: str, size: tuple[int, int], channels: int
) -> None:
    picture = PICTURES[name]
    expected = read_pixels(picture, size, channels).astype(np.float32)
    answer = in_graph(picture, size, channels)
    assert answer.shape == expected.shape
    assert np.abs(answer - expected).max() <= (0 if size == (-1, -1) else 1.001)


def test_orientations_differ_and_sizes_are_those_of_the_upright_picture() -> None:
    turned = [read_pixels(PICTURES[f"PNG turned {n}"], (-1, -1), 3) for n in range(1, 9)]
    assert len({array.tobytes() for array in turned}) == 8
    for number, array in enumerate(turned, start=1):
        header = read_header(PICTURES[f"PNG turned {number}"])
        assert (header.height, header.width, header.is_grey) == (*array.shape[:2], False)


def test_a_bmp_with_colours_in_a_palette_is_refused_and_not_misread() -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="BMP without a palette"):
        decode_colour(encoded(COLOUR.convert("P"), "BMP"))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_exif_data_are_no_error(data: st.DataObject) -> None:
    picture = PICTURES[data.draw(st.sampled_from(["JPEG turned 6", "PNG turned 6"]))]
    at = data.draw(st.integers(8, 200))
    damaged = picture[:at] + data.draw(st.binary(max_size=20)) + picture[at + 5 :]
    assert orientation(damaged).numpy() in range(1, 9)


def test_damaged_exif_data_turn_nothing() -> None:
    picture = encoded(COLOUR, "JPEG", exif=b"Exif\0\0II*\0")
    upright = encoded(COLOUR, "JPEG")
    assert orientation(picture).numpy() == 1
    assert np.array_equal(read_pixels(picture, (-1, -1), 3), read_pixels(upright, (-1, -1), 3))
