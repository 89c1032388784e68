"""Write the requests that TensorFlow Serving runs through a version before it serves it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ladle.export.publishing.disk import write_records
from ladle.export.saved_model.samples import Sample
from ladle.export.saved_model.signatures import CLASSIFY, EXAMPLES_INPUT, REGRESS
from ladle.export.saved_model.subprocess_check import Arrays
from ladle.protos.serving_pb import PredictionLog
from ladle.protos.tensorflow_pb import Example
from ladle.protos.tensors import to_proto

WARMUP_PATH = "assets.extra/tf_serving_warmup_requests"


def write_warmup(samples: Mapping[str, Sample], model_name: str, folder: Path) -> None:
    """Write one record for each signature in `samples`, its first example, under `folder`.

    Raises:
        OSError: It can't be written.
    """
    path = folder / WARMUP_PATH
    path.parent.mkdir(exist_ok=True)
    records = (
        _request(name, sample.first().inputs, model_name) for name, sample in samples.items()
    )
    write_records(path, (record.SerializeToString() for record in records))


def _request(name: str, inputs: Arrays, model_name: str) -> PredictionLog:
    log = PredictionLog()
    if name in (CLASSIFY, REGRESS):
        kind = log.classify_log if name == CLASSIFY else log.regress_log
        examples = [Example.FromString(text) for text in inputs[EXAMPLES_INPUT]]
        kind.request.input.example_list.examples.extend(examples)
        spec = kind.request.model_spec
    else:
        for key, array in inputs.items():
            log.predict_log.request.inputs[key].CopyFrom(to_proto(array))
        spec = log.predict_log.request.model_spec
    spec.name = model_name
    spec.signature_name = name
    return log
