"""Compare how a version's graph and the client prepare the same pictures."""

from __future__ import annotations

import io

import numpy as np

from ladle.export.errors import CheckError
from ladle.export.saved_model.signatures import DEFAULT, ENCODED
from ladle.export.saved_model.subprocess_check import Answer, Request
from ladle.protos.files.pictures import read_pixels
from ladle.protos.model_card import ModelCard

_ORIENTATIONS = (1, 3, 6, 8)
_ANY_SIDE = 32
_LARGEST_SIDE = 4096
_TOLERANCE = 1e-4
_SEED = 11


def requests_to_compare(card: ModelCard | None) -> list[Request]:
    """Return two requests with the same pictures, encoded and as the client prepares them.

    The pictures have the model's size, so nothing is resized, and both have to be the same. There
    are none for a version without a card, or without signatures for both.
    """
    if card is None or card.normalization is None or not {DEFAULT, ENCODED} <= set(card.signatures):
        return []
    match card.signatures[DEFAULT]:
        case {"inputs": {**inputs}} if len(inputs) == 1:
            ((key, tensor),) = inputs.items()
            name = str(key)
        case _:
            return []
    match tensor:
        case {"shape": [_, int(height), int(width), *rest]} if rest in ([], [1], [3], [4]):
            sides = [_ANY_SIDE if side == -1 else side for side in (height, width)]
            shape = [*sides, *rest]
            channels = rest[0] if rest else 1
        case _:
            return []
    if not all(0 < side <= _LARGEST_SIDE for side in sides):
        return []
    pictures = [_picture(shape[0], shape[1], orientation) for orientation in _ORIENTATIONS]
    pixels = np.stack([read_pixels(picture, (-1, -1), channels) for picture in pictures])
    prepared = card.normalization.apply(pixels.reshape(len(pictures), *shape))
    return [
        Request(signature=ENCODED, inputs={name: np.array(pictures, np.object_)}),
        Request(signature=DEFAULT, inputs={name: prepared}),
    ]


def check_alike(in_graph: Answer, by_client: Answer) -> None:
    """See that both requests have the same answers.

    Raises:
        CheckError: They have not: who sends encoded pictures gets other answers than who has them
            prepared by the client.
    """
    for output, expected in by_client.outputs.items():
        answer = in_graph.outputs.get(output)
        if answer is None or expected.dtype.kind != "f":
            continue
        off = float(np.max(np.abs(answer - expected) / np.maximum(1, np.abs(expected)), initial=0))
        if not off <= _TOLERANCE:
            raise CheckError(
                "preparation",
                f'signature "{ENCODED}" prepares pictures otherwise than the client does: output'
                f' "{output}" differs by {off:.3g}; export the version again',
            )


def _picture(height: int, width: int, orientation: int) -> bytes:
    """Return a PNG that is of that size once it is turned upright."""
    from PIL import Image

    size = (width, height) if orientation >= 5 else (height, width)
    pixels = np.random.default_rng(_SEED + orientation).integers(0, 256, (*size, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    return file.getvalue()
