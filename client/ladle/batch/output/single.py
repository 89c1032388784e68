"""Predictions of a few rows, for printing: one image, one array."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.batch.columns.binding import bind
from ladle.batch.errors import BatchError
from ladle.batch.job import Job
from ladle.batch.model import ConnectClient, fetch_metadata, predict
from ladle.batch.output.classes import scores_output
from ladle.batch.readers import files
from ladle.batch.readers.npy import ARRAY
from ladle.batch.readers.opening import open_reader
from ladle.batch.readers.reader import Reader
from ladle.batch.rows import Part, Rows
from ladle.batch.stores.inputs import Input, fetched
from ladle.batch.writers.names import utf8_safe
from ladle.client.inputs.images import expected_pixels, load
from ladle.client.models import DEFAULT_SIGNATURE, ModelMetadata, TensorSpec
from ladle.client.prediction import Prediction

MAX_ROWS = 16
_MAX_VALUES_SHOWN = 1000


def predict_few(
    job: Job, connect: ConnectClient, *, top: int, plot: str | None
) -> list[dict[str, Any]]:
    """Return for each row its `top` classes of highest score, or its outputs without scores.

    A row is `{"row": 0, "path": "photo.png", "version": 1, "classes": [{"label", "score",
    "class_index"}, ...]}`, or has "outputs" in place of "classes". With the path `plot`, the images
    are saved there beside bar charts. Blocks.

    Raises:
        BatchError: There are more than MAX_ROWS rows, a row can't be read, or there is nothing to
            plot.
        LadleError: The model could not be asked.
        OSError: A file can't be read or written.
        ImportError: A package is not installed.
    """
    with fetched(job.inputs, job.input_format) as given:
        return _predict_few(job, connect, given, top=top, plot=plot)


def _predict_few(
    job: Job, connect: ConnectClient, given: Input, *, top: int, plot: str | None
) -> list[dict[str, Any]]:
    input_format, paths = files.find(given.paths, job.input_format)
    metadata = fetch_metadata(job, connect)
    reader = open_reader(input_format, paths, given.name_of)
    if input_format == "npy" and len(paths) == 1 and _is_one(metadata, job, reader):
        reader = _OneArray(paths[0])
    binding = bind(job, reader, input_format, metadata)
    if reader.total_rows is not None and reader.total_rows > MAX_ROWS:
        raise BatchError(
            f"{reader.total_rows:,} rows are too many to be printed; --output says where they go"
        )
    shown: list[dict[str, Any]] = []
    drawn: list[tuple[Part, Prediction]] = []
    with connect(True) as client:
        for part in binding.parts(0):
            for failed in part.failed:
                raise BatchError(f"row {failed.row}: {failed.reason}")
            if len(shown) + len(part.numbers) > MAX_ROWS:
                raise BatchError(
                    f"more than {MAX_ROWS} rows are too many to be printed; "
                    "--output says where they go"
                )
            prediction = predict(client, job, metadata.version, part)
            part.answered(prediction)  # checks that each output has a row for each input
            shown += _as_rows(part, prediction, top)
            drawn.append((part, prediction))
    if not shown:
        raise BatchError("the input has no rows")
    if plot is not None:
        _plot(Path(plot), drawn, _images_spec(metadata, job))
    return shown


def shown(few: list[dict[str, Any]]) -> str:
    """Return the predictions as text."""
    lines = []
    for row in few:
        version = "" if row["version"] is None else f" (version {row['version']})"
        lines.append(f"{row.get('path', 'row ' + str(row['row']))}{version}")
        if "classes" in row:
            width = max(len(scored["label"]) for scored in row["classes"])
            lines += [f"  {s['label']:<{width}}  {s['score']:.4f}" for s in row["classes"]]
        else:
            lines += [f"  {name}: {value}" for name, value in row["outputs"].items()]
    return "\n".join(lines)


def _as_rows(part: Part, prediction: Prediction, top: int) -> list[dict[str, Any]]:
    name = scores_output(prediction.outputs)
    best = None if name is None else prediction.top(top, output=name)
    rows: list[dict[str, Any]] = []
    for index, number in enumerate(part.numbers.tolist()):
        row: dict[str, Any] = {"row": number}
        row |= {column: utf8_safe(str(values[index])) for column, values in part.kept.items()}
        row["version"] = prediction.version
        if best is not None:
            row["classes"] = [scored._asdict() for scored in best[index]]
        else:
            row["outputs"] = {
                output: _value(array[index]) for output, array in prediction.outputs.items()
            }
        rows.append(row)
    return rows


def _value(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    array = np.asarray(value)
    if array.size > _MAX_VALUES_SHOWN:
        return f"{array.dtype} {list(array.shape)}"
    if array.dtype == object:
        return [_value(inner) for inner in array.tolist()]
    return array.tolist()


def _plot(path: Path, drawn: list[tuple[Part, Prediction]], spec: TensorSpec | None) -> None:
    from ladle.client.plots import save_predictions

    images: list[NDArray[Any]] = []
    scores: list[NDArray[Any]] = []
    for part, prediction in drawn:
        name = scores_output(prediction.outputs)
        if name is None:
            raise BatchError(
                "--plot: the model has no output, or several, with the scores of classes; "
                "--outputs says which"
            )
        images.append(_pixels(part, spec))
        scores.append(prediction[name])
    if len({image.shape[1:] for image in images}) > 1:
        raise BatchError("--plot: the images are of several sizes")
    save_predictions(
        path, np.concatenate(images), np.concatenate(scores), labels=drawn[0][1].labels
    )


def _pixels(part: Part, spec: TensorSpec | None) -> NDArray[Any]:
    array = next(iter(part.tensors.values()))
    if array.dtype == object:
        wanted = expected_pixels(spec.shape if spec else None) or expected_pixels((-1, -1, -1, 3))
        assert wanted is not None
        return load(array, wanted)
    if array.ndim not in (3, 4):
        raise BatchError(f"--plot: expected images, got rows of shape {list(array.shape[1:])}")
    return array


def _images_spec(metadata: ModelMetadata, job: Job) -> TensorSpec | None:
    signature = metadata.signatures.get(job.signature or DEFAULT_SIGNATURE)
    return next(iter(signature.inputs.values())) if signature and signature.inputs else None


def _is_one(metadata: ModelMetadata, job: Job, reader: Reader) -> bool:
    """Tell whether the array is one example and not a batch of examples."""
    spec = _images_spec(metadata, job)
    if spec is None or spec.shape is None:
        return False
    shape = next(iter(reader.read(0, (ARRAY,)))).columns[ARRAY].shape if reader.total_rows else ()
    return len(shape) == len(spec.shape) - 1


class _OneArray:
    """Reads a file whose array is one row; see `Reader`."""

    columns: tuple[str, ...] = (ARRAY,)
    total_rows: int | None = 1
    is_text = False

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, start: int, wanted: object) -> Any:
        array = np.load(self._path, allow_pickle=False)[None]
        yield Rows(start=0, stop=1, numbers=np.arange(1), columns={ARRAY: array}, share=1.0)
