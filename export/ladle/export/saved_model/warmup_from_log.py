"""Make a version's warm-up file of what callers have asked: of a server's request log."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from ladle.export.errors import DataError
from ladle.export.publishing.disk import write_records
from ladle.export.saved_model.reading import read_saved_model
from ladle.export.saved_model.warmup import WARMUP_PATH
from ladle.protos.serving_pb import ModelSpec, PredictionLog

MAX_RECORDS = 1000
"""What servers take: a version with more in its file does not load."""

# A log of many gigabytes is of a few kinds of requests, which come early.
_MAX_READ = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """What was written."""

    records: int
    signatures: list[str]
    """Whose requests they are; those of several at once have a name of all."""
    read: int
    """Records of the log that were looked at."""
    without_signature: int
    """Of them, those to signatures that the version has not."""
    damaged: list[str]
    """Files that end in the middle of a record, as one does that is being written."""


def write_warmup_from_logs(
    version_folder: Path, logs: Sequence[Path], *, records: int = MAX_RECORDS, model: str = ""
) -> Warmup:
    """Put requests of a log in place of a version's warm-up file, in one step.

    Of requests that are alike, but for their values and number of rows, only the first is taken:
    a server runs each in all the batch sizes that can come up. Answers are left out.

    Args:
        version_folder: the version's.
        logs: files, or the `filename_prefix` of several.
        records: how many requests to take at most.
        model: take requests to this model only; by default there may be only one.

    Raises:
        DataError: A log can't be read, or holds no request that fits the version.
        OSError: The file can't be written.
    """
    known = _signatures(version_folder)
    kept: dict[object, PredictionLog] = {}
    models: set[str] = set()
    read = without_signature = 0
    damaged: list[str] = []
    for log in _read([path for given in logs for path in _files(given)], damaged):
        specs = _specs(log)
        if not specs or (model and specs[0].name != model):
            continue
        read += 1
        models.add(specs[0].name)
        names = list(map(signature_of, specs))
        if not known.issuperset(names):
            without_signature += 1
        elif len(kept) < records:
            kept.setdefault(_kind(log, names), log)
        if len(kept) >= records or read >= _MAX_READ:
            break
    if len(models) > 1:
        raise DataError(
            f"the log holds requests to {', '.join(sorted(models))}: name the model with --model"
        )
    if not kept:
        raise DataError(
            f"expected requests to the signatures {', '.join(sorted(known))}, found none in "
            f"{read} records"
        )
    _write(version_folder / WARMUP_PATH, [_request_only(log) for log in kept.values()])
    return Warmup(
        records=len(kept),
        signatures=sorted({"+".join(_names(log)) for log in kept.values()}),
        read=read,
        without_signature=without_signature,
        damaged=damaged,
    )


def signature_of(spec: ModelSpec) -> str:
    """Return the signature that a request is to: the default one where it names none."""
    return spec.signature_name or "serving_default"


def _files(given: Path) -> list[Path]:
    if given.is_file():
        return [given]
    parent = given.parent
    found = sorted(parent.glob(f"{given.name}-*.tfrecord")) if parent.is_dir() else []
    if not found:
        raise DataError(f"{given}: expected a request log, or the filename_prefix of one")
    return found


def _read(files: Sequence[Path], damaged: list[str]) -> Iterator[PredictionLog]:
    for file in files:
        try:
            for data in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
                yield PredictionLog.FromString(data)
        except tf.errors.DataLossError:
            damaged.append(str(file))
        except (tf.errors.OpError, ValueError) as error:  # protobuf's are ValueErrors
            raise DataError(f"{file}: expected TFRecords of PredictionLog") from error


def _specs(log: PredictionLog) -> list[ModelSpec]:
    """Return what a record asks of, a spec for each task; nothing for what can't be replayed."""
    match log.WhichOneof("log_type"):
        case "predict_log":
            return [log.predict_log.request.model_spec]
        case "classify_log":
            return [log.classify_log.request.model_spec]
        case "regress_log":
            return [log.regress_log.request.model_spec]
        case "multi_inference_log":
            return [task.model_spec for task in log.multi_inference_log.request.tasks]
        case _:
            return []


def _names(log: PredictionLog) -> list[str]:
    return list(map(signature_of, _specs(log)))


def _kind(log: PredictionLog, names: list[str]) -> object:
    """Return what requests have in common that are alike to a server that warms up."""
    shapes = sorted(
        (alias, tensor.dtype, tuple(d.size for d in tensor.tensor_shape.dim[1:]))
        for alias, tensor in log.predict_log.request.inputs.items()
    )
    wanted = tuple(sorted(log.predict_log.request.output_filter))
    return log.WhichOneof("log_type"), tuple(names), tuple(shapes), wanted


def _request_only(log: PredictionLog) -> bytes:
    kept = PredictionLog()
    kept.CopyFrom(log)
    kept.ClearField("log_metadata")
    getattr(kept, str(kept.WhichOneof("log_type"))).ClearField("response")
    for spec in _specs(kept):
        # For the version in whose folder it is, whatever its number.
        spec.ClearField("version")
        spec.ClearField("version_label")
    return kept.SerializeToString()


def _signatures(folder: Path) -> set[str]:
    graphs = read_saved_model(folder).meta_graphs
    return {name for graph in graphs for name in graph.signature_def}


def _write(path: Path, records: Sequence[bytes]) -> None:
    """Put a file in place whole: a server that looks sees the old one or the new one."""
    path.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".warmup-", dir=path.parent) as folder:
        new = Path(folder, path.name)
        write_records(new, records)
        os.chmod(new, 0o644)
        os.replace(new, path)
