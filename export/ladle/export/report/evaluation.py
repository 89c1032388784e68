"""How a model did on the held-out examples, as recorded with its version for its report.

Bounded: a confusion matrix of up to 100 classes, at most 18 examples with small images, or 500
pairs of numbers. Reading needs neither TensorFlow nor NumPy.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ladle.protos.files.regular_file import open_regular

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ladle.export.data.dataset import Dataset

EVALUATION_PATH = "assets.extra/ladle-evaluation.json"
"""Beside the model card in a version's folder."""
_FORMAT = 1
_MAX_BYTES = 8 << 20
_MAX_CLASSES = 100
SHOWN_OF_CLASSES = 12
_SHOWN_MISTAKES = 6
_SHOWN_CLASSES = 10
_MAX_PAIRS = 500
_MAX_SIDE = 96
_MAX_EPOCHS = 1000
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """A held-out example, and what the model takes it for."""

    index: int
    """Its place in the held-out data, from 0."""
    image: bytes | None
    """A small PNG; None where the data are no images."""
    truth: int
    """The index of its class."""
    scores: tuple[tuple[int, float], ...]
    """Indices of classes with their probabilities: the most probable ten at most, and the truth,
    in the order of the classes."""

    @property
    def predicted(self) -> tuple[int, float]:
        """The most probable class, and its probability."""
        return max(self.scores, key=lambda pair: pair[1])

    @property
    def is_right(self) -> bool:
        """Whether that is the truth."""
        return self.predicted[0] == self.truth


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is recorded of the answers to held-out examples."""

    n_examples: int
    confusion: tuple[tuple[int, ...], ...] | None = None
    """How often the row's class was taken for the column's; None for more than 100 classes, and
    for a regression."""
    held_out: tuple[HeldOut, ...] = ()
    """A classifier's first examples of each class, at most `SHOWN_OF_CLASSES`, and then the worst
    mistakes beyond those."""
    pairs: tuple[tuple[float, float], ...] = ()
    """A regression's first targets, each with what was predicted; of several numbers an example one
    after the other."""

    def to_json(self) -> str:
        """Return what `from_json` reads."""
        told = {
            "format": _FORMAT,
            "n_examples": self.n_examples,
            "confusion": self.confusion,
            "held_out": [
                {
                    "index": one.index,
                    "image": None if one.image is None else base64.b64encode(one.image).decode(),
                    "truth": one.truth,
                    "scores": one.scores,
                }
                for one in self.held_out
            ],
            "pairs": self.pairs,
        }
        return json.dumps(told, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Evaluation:
        """Read what `to_json` wrote.

        Raises:
            ValueError: It is something else.
        """
        try:
            told = json.loads(text)
            if told["format"] != _FORMAT:
                raise ValueError(f"expected format {_FORMAT}, got {told['format']}")
            confusion = told["confusion"]
            return cls(
                n_examples=int(told["n_examples"]),
                confusion=None if confusion is None else _square(confusion),
                held_out=tuple(map(_held_out, told["held_out"])),
                pairs=tuple((_finite(a), _finite(b)) for a, b in told["pairs"]),
            )
        except (
            KeyError,
            TypeError,
            AttributeError,
            OverflowError,
            RecursionError,
            binascii.Error,
        ) as error:
            raise ValueError(f"a field is missing or not of its type: {error}") from None


def evaluate(dataset: Dataset, outputs: NDArray[np.float32]) -> Evaluation:
    """Record how `outputs` answer the held-out examples of `dataset`.

    Args:
        dataset: What the model was trained on.
        outputs: For each held-out example its probabilities [examples, classes], or a
            regression's values [examples] or [examples, n]. Of examples with several labels the
            number alone is recorded; see `by_label`.
    """
    n_examples = len(dataset.x_test)
    if dataset.is_regression:
        targets = dataset.y_test[:_MAX_PAIRS].reshape(-1)[:_MAX_PAIRS].tolist()
        found = outputs[:_MAX_PAIRS].reshape(-1)[:_MAX_PAIRS].tolist()
        pairs = zip(targets, found, strict=True)
        finite = tuple((a, b) for a, b in pairs if math.isfinite(a) and math.isfinite(b))
        return Evaluation(n_examples=n_examples, pairs=finite)
    if dataset.is_multi_label:
        return Evaluation(n_examples=n_examples)
    predicted = outputs.argmax(axis=1)
    of_classes = _of_each_class(dataset.y_test)
    shown = [*of_classes, *_worst(dataset.y_test, outputs, predicted, set(of_classes))]
    images = _small_pngs(dataset, shown)
    return Evaluation(
        n_examples=n_examples,
        confusion=_confusion(dataset, predicted),
        held_out=tuple(
            HeldOut(
                index=index,
                image=image,
                truth=int(dataset.y_test[index]),
                scores=_scores(outputs[index], int(dataset.y_test[index])),
            )
            for index, image in zip(shown, images, strict=True)
        ),
    )


def _of_each_class(targets: NDArray[Any]) -> list[int]:
    """Return the first example of each class, then the second of each, and so on."""
    seen: dict[int, int] = {}
    places = []
    for index, target in enumerate(targets.tolist()):
        places.append((seen.get(target, 0), target, index))
        seen[target] = seen.get(target, 0) + 1
    return sorted(index for _, _, index in sorted(places)[:SHOWN_OF_CLASSES])


def _worst(
    targets: NDArray[Any],
    outputs: NDArray[np.float32],
    predicted: NDArray[np.int64],
    shown: Collection[int],
) -> list[int]:
    """Return the mistakes in which the truth was least probable, and that are not shown yet."""
    wrong = [i for i in (predicted != targets).nonzero()[0].tolist() if i not in shown]
    return sorted(wrong, key=lambda i: (float(outputs[i, int(targets[i])]), i))[:_SHOWN_MISTAKES]


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write it where `read_evaluation` finds it in the version `folder`."""
    path = folder / EVALUATION_PATH
    path.parent.mkdir(exist_ok=True)
    path.write_text(evaluation.to_json(), encoding="utf-8")


def read_evaluation(folder: Path) -> Evaluation | None:
    """Return what was recorded with the version in `folder`; None where it has none.

    Raises:
        ValueError: It is damaged or too large.
        OSError: It can't be read.
    """
    try:
        with open_regular(folder / EVALUATION_PATH) as file:
            text = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(text) > _MAX_BYTES:
        raise ValueError(f"expected at most {_MAX_BYTES} bytes, got more")
    return Evaluation.from_json(text)


def recorded_history(
    history: Mapping[str, Sequence[float]], first_epoch: int
) -> dict[str, list[float | None] | list[int]]:
    """Return a training's history as the model card keeps it, with the numbers of its `epochs`.

    Of more than a thousand epochs every second, third and so on, and the last; None stands for
    what is no finite number.
    """
    if not history:
        return {}
    n_epochs = max(map(len, history.values()))
    every = -(-n_epochs // _MAX_EPOCHS)
    kept = [n for n in range(n_epochs) if (n_epochs - 1 - n) % every == 0]
    recorded: dict[str, list[float | None] | list[int]] = {
        name: [values[n] if math.isfinite(values[n]) else None for n in kept]
        for name, values in history.items()
    }
    return {**recorded, "epochs": [first_epoch + n for n in kept]}


def _confusion(
    dataset: Dataset, predicted: NDArray[np.int64]
) -> tuple[tuple[int, ...], ...] | None:
    import numpy as np

    n_classes = len(dataset.labels)
    if n_classes > _MAX_CLASSES:
        return None
    counts = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(counts, (dataset.y_test.astype(np.int64), predicted), 1)
    return tuple(tuple(row) for row in counts.tolist())


def _scores(row: NDArray[np.float32], truth: int) -> tuple[tuple[int, float], ...]:
    best = set(row.argsort()[::-1][:_SHOWN_CLASSES].tolist()) | {truth}
    scores = {index: float(row[index]) for index in sorted(best)}
    return tuple((index, round(s, 6) if math.isfinite(s) else 0.0) for index, s in scores.items())


def _small_pngs(dataset: Dataset, chosen: Sequence[int]) -> list[bytes | None]:
    """Return the chosen held-out images, no larger than 96x96; grey but for three channels."""
    if not dataset.preparation.are_images:
        return [None] * len(chosen)
    import numpy as np
    import tensorflow as tf

    images = np.stack([dataset.x_test[index] for index in chosen]).astype(np.float32)
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.shape[3] != 3:
        images = images[..., :1]
    height, width = images.shape[1:3]
    smaller = min(1.0, _MAX_SIDE / max(height, width))
    size = (max(1, round(height * smaller)), max(1, round(width * smaller)))
    if smaller < 1:
        images = tf.image.resize(images, size, "area").numpy()
    # Data may use a few of the 256 shades: the brightest pixel becomes white.
    shown = np.round(images * (255 / max(float(images.max()), 1.0))).astype(np.uint8)
    return [tf.io.encode_png(image).numpy() for image in shown]


def _square(rows: Any) -> tuple[tuple[int, ...], ...]:
    square = tuple(tuple(int(count) for count in row) for row in rows)
    if len(square) > _MAX_CLASSES or any(len(row) != len(square) for row in square):
        raise ValueError(f"confusion: expected as many rows as columns, at most {_MAX_CLASSES}")
    return square


def _held_out(told: Any) -> HeldOut:
    image = told["image"]
    if image is not None:
        image = base64.b64decode(image, validate=True)
        if not image.startswith(_PNG):
            raise ValueError("image: expected a PNG")
    scores = tuple((int(index), _finite(score)) for index, score in told["scores"])
    if not scores:
        raise ValueError("scores: expected at least one")
    return HeldOut(index=int(told["index"]), image=image, truth=int(told["truth"]), scores=scores)


def _finite(number: Any) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value}")
    return value
