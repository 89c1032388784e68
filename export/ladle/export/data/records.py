"""Training data from TFRecords of tf.Examples: read for labels, then for images, twice."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ladle.export.data.dataset import BYTE_PIXELS, Dataset
from ladle.export.data.holdout import Labels, stratified_holdout
from ladle.export.data.pictures import Source, decode
from ladle.export.errors import DataError


def read_tfrecords(path: Path, size: tuple[int, int] | None = None) -> Dataset:
    """Read tf.Examples with the features `image/encoded` and `image/class/label`.

    The label is an integer from 0, or `image/class/text` a name. All images are brought
    to `size`, or to the size of most; they are read in colour if any has colours.

    Raises:
        DataError: The file or an Example in it cannot be read, or lacks a feature.
    """
    labels = Labels()
    for _, label in _examples(path):
        labels.add(label)
    if not len(labels):
        raise DataError(f"{path}: expected at least one tf.Example")
    names, targets = labels.result()

    def sources() -> Iterator[Source]:
        for number, (image, _) in enumerate(_examples(path)):
            yield f"{path}: record {number}", partial(bytes, image)

    parts = decode(str(path), sources, stratified_holdout(targets), size)
    return parts.dataset(path.name, targets, names, BYTE_PIXELS)


def _examples(path: Path) -> Iterator[tuple[bytes, str]]:
    """Yield the encoded image and the label of each Example, one at a time in memory."""
    import tensorflow as tf

    from ladle.protos.tensorflow_pb import Example

    try:
        for number, record in enumerate(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()):
            features = Example.FromString(record).features.feature
            image = list(features["image/encoded"].bytes_list.value)
            names = [name.decode() for name in features["image/class/text"].bytes_list.value]
            numbers = list(features["image/class/label"].int64_list.value)
            names = [name for text in names if (name := text.strip())]
            if len(image) != 1 or len(names or numbers) != 1:
                raise DataError(
                    f"{path}: record {number}: expected image/encoded and image/class/label or"
                    " image/class/text, one value each"
                )
            yield image[0], names[0] if names else str(numbers[0])
    except DataError:
        raise
    except Exception as error:  # TensorFlow's and protobuf's errors share no base
        raise DataError(f"{path}: cannot be read as a TFRecord of tf.Examples") from error
