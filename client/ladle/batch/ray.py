"""Predictions for Ray Data: a Dataset in, a Dataset with a model's outputs out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ladle.batch.tables import TablePredictor
from ladle.client.inputs.conversion import Normalize

if TYPE_CHECKING:
    import ray.data


def predict(
    dataset: ray.data.Dataset,
    *,
    model: str,
    server: str | Sequence[str] | None = None,
    model_path: str | None = None,
    map: Mapping[str, str] | None = None,
    keep: Sequence[str] = (),
    version: int | None = None,
    label: str | None = None,
    signature: str | None = None,
    outputs: Sequence[str] = (),
    normalize: Normalize = "auto",
    max_in_flight: int = 16,
    timeout_s: float = 30.0,
    patience_s: float = 60.0,
    concurrency: int | tuple[int, int] = 1,
    batch_size: int | None = 4096,
    num_cpus: float | None = None,
    **ray_remote_args: Any,
) -> ray.data.Dataset:
    """Return a Dataset with the columns to keep, the model's outputs, and `error`; lazy as all are.

    Each of Ray's workers has one `TablePredictor`, which says what the arguments but the last four
    mean, and what becomes of rows that fail. Workers that start while another version takes over
    ask that one, unless `version` is given.

    Args:
        dataset: the rows.
        model: see `TablePredictor`; so are all that are not below.
        server: the address of a server; None for a model in each worker.
        model_path: the base path of a model to load into each worker, the same on every node.
        map: which columns are an input.
        keep: columns that stand beside the predictions.
        version: the version that answers.
        label: the label of the version that answers.
        signature: by default `serving_default`.
        outputs: names of outputs.
        normalize: as of `Client.predict`.
        max_in_flight: requests at a time, of each worker.
        timeout_s: of a request.
        patience_s: how long the server may refuse every request, or be gone.
        concurrency: how many workers there are, or the least and the most.
        batch_size: rows that a worker takes at a time; None for a whole block.
        num_cpus: the CPUs of a worker; by default a quarter of one with `server`, where a worker
            mostly waits, and one with `model_path`. Reading the input needs some, too: Ray waits
            for ever where workers have them all.
        ray_remote_args: what else a worker needs, such as `num_gpus`.
    """
    if num_cpus is None:
        num_cpus = 1.0 if server is None else 0.25
    return dataset.map_batches(
        TablePredictor,
        fn_constructor_kwargs={
            "model": model,
            "server": server,
            "model_path": model_path,
            "map": map,
            "keep": keep,
            "version": version,
            "label": label,
            "signature": signature,
            "outputs": outputs,
            "normalize": normalize,
            "max_in_flight": max_in_flight,
            "timeout_s": timeout_s,
            "patience_s": patience_s,
        },
        batch_format="pyarrow",
        batch_size=batch_size,
        zero_copy_batch=True,
        concurrency=concurrency,
        num_cpus=num_cpus,
        **ray_remote_args,
    )
