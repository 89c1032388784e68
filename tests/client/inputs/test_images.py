"""Pictures of all kinds become what the signature wants."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from client.fakes import (
    FakeServing,
    Version,
    image_signature,
    image_version,
    listening,
    signature_def,
    tensor_info,
)
from numpy.typing import NDArray
from PIL import Image

from ladle.client import Client, InvalidInput, Normalization
from ladle.client.inputs.arrays import Inputs, Picture
from ladle.client.inputs.conversion import Normalize
from ladle.client.inputs.images import Pixels, expected_pixels, load

GREY = Image.fromarray(np.array([[0, 255], [51, 102]], np.uint8))
COLOUR = Image.fromarray(np.full((2, 2, 3), (255, 0, 51), np.uint8))


def encoded(image: Image.Image, format: str = "PNG", **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **settings)
    return file.getvalue()


def one(picture: object, wanted: Pixels) -> NDArray[np.uint8]:
    pictures = np.empty(1, object)
    pictures[0] = picture
    (pixels,) = load(pictures, wanted)
    return np.asarray(pixels)


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((-1, 28, 28), Pixels(28, 28, None)),
        ((-1, 28, 30, 1), Pixels(28, 30, 1)),
        ((-1, -1, -1, 3), Pixels(-1, -1, 3)),
        ((-1, 3, 28, 28), None),
        ((-1, 784), None),
        ((-1, 0, 28), None),
        ((-1, 28, -7), None),
        (None, None),
    ],
)
def test_which_shapes_are_images(shape: Any, wanted: Pixels | None) -> None:
    assert expected_pixels(shape) == wanted


def test_bytes_paths_and_images_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    GREY.save(path)
    for picture in (GREY, encoded(GREY), path, str(path)):
        assert one(picture, Pixels(2, 2, None)).tolist() == [[0, 255], [51, 102]]


def test_channels_are_what_is_wanted() -> None:
    assert one(GREY, Pixels(2, 2, 1)).shape == (2, 2, 1)
    assert one(GREY, Pixels(2, 2, 3))[0, 1].tolist() == [255, 255, 255]
    assert one(COLOUR, Pixels(2, 2, 3))[0, 0].tolist() == [255, 0, 51]
    assert one(COLOUR, Pixels(2, 2, -1)).shape == (2, 2, 3)
    assert one(COLOUR, Pixels(2, 2, 4))[0, 0].tolist() == [255, 0, 51, 255]
    assert one(COLOUR, Pixels(2, 2, None))[0, 0] == 82  # ITU-R 601's luma
    assert one(COLOUR.convert("P"), Pixels(2, 2, 3)).shape == (2, 2, 3)


def test_sixteen_bits_become_eight() -> None:
    deep = Image.fromarray(np.array([[0, 65535], [256, 32768]], np.uint16))
    assert one(encoded(deep), Pixels(2, 2, None)).tolist() == [[0, 255], [1, 128]]


def test_sizes_are_what_is_wanted() -> None:
    assert one(GREY, Pixels(4, 6, None)).shape == (4, 6)
    assert one(GREY, Pixels(-1, -1, None)).shape == (2, 2)


def test_pictures_are_turned_as_the_camera_was() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    turned = encoded(GREY, exif=exif)
    assert one(turned, Pixels(2, 2, None)).tolist() == [[102, 51], [255, 0]]


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (b"GIF89 it is not", "picture 0: it is no image of a format that Pillow reads"),
        ("/no/such/file.png", r'picture 0 "/no/such/file.png": .*No such file'),
        (3, "expected a PIL image, an image file's bytes or its path, got int"),
        (encoded(GREY)[:40], "picture 0: "),
        (Image.new("F", (2, 2)), 'of mode "F", have no known range'),
    ],
)
def test_what_is_no_picture_is_told(picture: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        one(picture, Pixels(2, 2, None))


def test_a_broken_exif_block_turns_nothing() -> None:
    """A training reads such a picture too, as it is."""
    picture = encoded(GREY, "JPEG", dpi=(72, 72), exif=b"Exif\0\0II*\0")
    assert (
        one(picture, Pixels(2, 2, None)).tolist()
        == one(encoded(GREY, "JPEG"), Pixels(2, 2, None)).tolist()
    )


def test_what_is_missing_to_read_pictures_is_not_the_pictures_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match="pictures need Pillow"):
        one(b"", Pixels(2, 2, None))


def test_pictures_of_several_sizes_make_no_batch_unless_the_model_says_which() -> None:
    pictures = np.empty(2, object)
    pictures[:] = [GREY, GREY.resize((3, 3))]
    assert load(pictures, Pixels(2, 2, None)).shape == (2, 2, 2)
    with pytest.raises(InvalidInput, match="all pictures of a batch need the same"):
        load(pictures, Pixels(-1, -1, None))


class TestPredicting:
    def test_a_picture_is_predicted(self, tmp_path: Path) -> None:
        path = tmp_path / "image.png"
        GREY.save(path)
        mean = 102 / 255
        givens: list[Inputs] = [GREY, path, str(path), encoded(GREY), {"images": GREY}]
        modes: list[Normalize] = ["auto", "client", "server"]
        with (
            listening(FakeServing({1: image_version(255)})) as address,
            Client(address) as client,
        ):
            for normalize in modes:
                for given in givens:
                    prediction = client.predict("m", given, normalize=normalize)
                    assert prediction["scores"].shape == (1, 2)
                    assert prediction["scores"][0, 0] == pytest.approx(mean, abs=1e-6)
            pictures: list[Picture] = [GREY, path, encoded(GREY.resize((9, 5)))]
            several = client.predict("m", pictures)
            assert several["scores"].shape == (3, 2)

    def test_pictures_of_several_sizes_get_the_size_that_the_card_has(self) -> None:
        version = image_version(255, size=-1)
        assert version.card is not None
        card = replace(version.card, provenance={"resize": [4, 3]})
        pictures: list[Picture] = [GREY.resize((9, 5)), encoded(GREY)]
        server = FakeServing({1: replace(version, card=card)})
        with listening(server) as address, Client(address) as client:
            assert client.predict("m", pictures)["scores"].shape == (2, 2)
        server = FakeServing({1: version})
        with (
            listening(server) as address,
            Client(address) as client,
            pytest.raises(InvalidInput, match="all pictures of a batch need the same"),
        ):
            client.predict("m", pictures)

    def test_a_picture_is_normalised_as_the_caller_says(self) -> None:
        server = FakeServing({1: Version()}, has_cards=False)
        with listening(server) as address, Client(address) as client:
            scores = client.predict("m", GREY, normalize=Normalization(divisor=204))["scores"]
            assert scores[0, 0] == pytest.approx(0.5)
            assert client.predict("m", GREY, normalize=None)["scores"][0, 0] == 102
            with pytest.raises(InvalidInput, match="no normalisation is recorded"):
                client.predict("m", GREY)

    def test_arrays_of_other_sizes_and_colours_are_what_the_same_pictures_are(self) -> None:
        small = np.asarray(GREY)
        large = np.asarray(GREY.resize((9, 5)))
        coloured = np.asarray(COLOUR.resize((9, 5)))
        modes: list[Normalize] = ["auto", "client", "server", Normalization(divisor=255)]
        with (
            listening(FakeServing({1: image_version(255)})) as address,
            Client(address) as client,
        ):
            for normalize in modes:
                for array in (small, large, coloured, large[..., None]):
                    grey = Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array)
                    as_array = client.predict("m", array[None].repeat(3, 0), normalize=normalize)
                    as_picture = client.predict("m", grey, normalize=normalize)
                    assert as_array["scores"].shape == (3, 2)
                    assert as_array["scores"][1].tolist() == as_picture["scores"][0].tolist()

    @pytest.mark.parametrize(
        ("array", "normalize"),
        [
            (np.zeros((2, 5, 5), np.float32), "auto"),
            (np.zeros((2, 5, 5), np.uint8), None),
            (np.zeros((2, 5, 3), np.uint8), "auto"),
            (np.zeros((0, 5, 5), np.uint8), "auto"),
            (np.zeros((2, 5), np.uint8), "auto"),
            (np.zeros((2, 5, 5, 2), np.uint8), "auto"),
        ],
    )
    def test_what_may_be_something_else_is_refused(self, array: Any, normalize: Any) -> None:
        with (
            listening(FakeServing({1: image_version(255)})) as address,
            Client(address) as client,
            pytest.raises(InvalidInput, match=r'input "images" .*expected .*, got .*'),
        ):
            client.predict("m", array, normalize=normalize)

    def test_another_number_of_images_than_the_model_takes_is_refused(self) -> None:
        version = image_version(255)
        for signature in version.signatures.values():
            signature.inputs["images"].tensor_shape.dim[0].size = 3
        with (
            listening(FakeServing({1: version})) as address,
            Client(address) as client,
        ):
            assert len(client.predict("m", np.zeros((3, 5, 5), np.uint8))["scores"]) == 3
            with pytest.raises(InvalidInput, match=r"expected uint8 \[3, 2, 2\], got uint8"):
                client.predict("m", np.zeros((2, 5, 5), np.uint8))

    def test_numbers_of_a_model_without_normalisation_are_no_images(self) -> None:
        version = Version(signatures={"serving_default": image_signature("uint8")})
        with (
            listening(FakeServing({1: version})) as address,
            Client(address) as client,
            pytest.raises(
                InvalidInput, match=r"expected uint8 \[-1, 2, 2\], got uint8 \[2, 5, 5\]"
            ),
        ):
            client.predict("m", np.zeros((2, 5, 5), np.uint8))

    def test_without_pillow_sizes_have_to_be_right(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "PIL", None)
        with (
            listening(FakeServing({1: image_version(255)})) as address,
            Client(address) as client,
        ):
            assert client.predict("m", np.zeros((2, 2, 2), np.uint8))["scores"].shape == (2, 2)
            with pytest.raises(
                InvalidInput,
                match=r'input "images": expected images of \[2, 2\], got \[5, 5\]; resizing '
                r"needs Pillow: pip install 'ladle\[images\]'",
            ):
                client.predict("m", np.zeros((2, 5, 5), np.uint8))

    def test_a_model_that_takes_encoded_images_gets_the_bytes(self) -> None:
        version = Version(
            signatures={
                "serving_default": signature_def(
                    {"images": tensor_info("object", -1)}, {"scores": tensor_info("float32", -1)}
                )
            },
            run=lambda inputs: {"scores": np.array([len(b) for b in inputs["images"]], np.float32)},
        )
        with listening(FakeServing({1: version})) as address, Client(address) as client:
            scores = client.predict("m", [encoded(GREY)])["scores"]
        assert scores.tolist() == [len(encoded(GREY))]

    def test_a_picture_is_not_sent_where_text_is_wanted(self) -> None:
        version = Version(
            signatures={"serving_default": signature_def({"text": tensor_info("object", -1)}, {})}
        )
        with (
            listening(FakeServing({1: version})) as address,
            Client(address) as client,
            pytest.raises(InvalidInput, match='input "text": '),
        ):
            client.predict("m", GREY)

    def test_a_picture_that_can_not_be_read_names_its_input(self) -> None:
        unreadable: list[Picture] = [GREY, "/none.png"]
        with (
            listening(FakeServing({1: image_version(255)})) as address,
            Client(address) as client,
            pytest.raises(InvalidInput, match=r'input "images": picture 1 "/none.png"'),
        ):
            client.predict("m", unreadable)


def test_importing_the_client_imports_no_pillow() -> None:
    code = "import sys, ladle.client; print('PIL' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
