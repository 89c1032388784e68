"""Predictions for Arrow tables: what engines such as Ray Data, Spark and Beam hand to a worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ladle.batch.columns.binding import bind, checked
from ladle.batch.columns.mapping import parse_rule
from ladle.batch.dispatch.dispatcher import dispatch
from ladle.batch.dispatch.options import Options
from ladle.batch.job import Job
from ladle.batch.model import asked_version, fetch_metadata, predict, signature_of
from ladle.batch.output.in_table import TableOutput, beside
from ladle.batch.readers.table import TableReader
from ladle.batch.rows import Answered, Part
from ladle.batch.writers.opening import ragged_outputs
from ladle.batch.writers.tables import table as as_table
from ladle.client import Client, Retry
from ladle.client.inputs.conversion import Normalize
from ladle.client.prediction import Prediction

if TYPE_CHECKING:
    from ladle.embedded import Embedded


class TablePredictor:
    """Predicts the rows of Arrow tables, which come back in their order; for any threads.

    A request that fails is sent again in halves, until the bad row is alone: that row has nulls in
    the place of outputs, and the reason in the column `error`, such as `INVALID_ARGUMENT: ...`.

    The version is the one that the server chose when this was made, and the same for all tables.
    """

    def __init__(
        self,
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
    ) -> None:
        """Ask the server about the model, or load it into this process. Blocks.

        Args:
            model: the model's name.
            server: the address of a server, or several; None for a model in this process.
            model_path: the base path of a model to load into this process, a folder or a URL.
            map: which columns are an input, by its name, as `--map` of `ladle predict` has it:
                `{"images": "pixels:uint8"}`. By default a column of the input's name.
            keep: columns, or patterns, that stand beside the predictions.
            version: the version that answers.
            label: the label of the version that answers.
            signature: by default `serving_default`.
            outputs: names of the model's outputs; by default all.
            normalize: as of `Client.predict`.
            max_in_flight: requests at a time, at most.
            timeout_s: of a request, in seconds.
            patience_s: how long the server may refuse every request, or be gone.

        Raises:
            ValueError: Not one of `server` and `model_path` is given, or a rule has another form.
            BatchError: The model has no such signature.
            LadleError: The server could not be asked.
        """
        if (server is None) == (model_path is None):
            raise ValueError("expected either server or model_path")
        self._server = server
        self._timeout_s = timeout_s
        self._embedded = None if model_path is None else load_embedded(model, model_path)
        self._job = Job(
            model=model,
            inputs=(),
            output=Path(),
            version=version,
            label=label,
            signature=signature,
            outputs=tuple(outputs),
            rules=tuple(parse_rule(f"{name}={rule}") for name, rule in (map or {}).items()),
            keep=tuple(keep),
            normalize=normalize,
            options=Options(
                max_in_flight=max_in_flight, timeout_s=timeout_s, patience_s=patience_s
            ),
        )
        try:
            self._metadata = fetch_metadata(self._job, self._connect)
            self._spec = signature_of(self._job, self._metadata)
        except BaseException:
            self.close()
            raise
        self._lists = ragged_outputs(self._spec)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the columns to keep, the model's outputs and `error`, a row for each row. Blocks.

        Raises:
            BatchError: The table lacks a column, or the model does not answer.
        """
        job, metadata = self._job, self._metadata
        binding = bind(job, TableReader(table), "parquet", metadata)
        found = TableOutput(self._lists)
        client = self._connect(False)
        dispatch(
            # What is kept needs no way through the dispatcher.
            checked(replace(binding, keep=()).parts(0), job, metadata),
            partial(predict, client, job, asked_version(job, metadata)),
            found,
            # A bad row is a row with an error, and no reason to end.
            replace(job.options, max_failed=table.num_rows),
            give_up=client.close,
        )
        # Without any answer, the signature shows how the columns would look.
        answered = found.tables or [as_table(self._no_rows(), self._lists)]
        return beside(table, binding.keep, answered, found.errors)

    def _no_rows(self) -> Answered:
        """Return an answer of no rows, with the outputs that the signature declares."""
        wanted = self._job.outputs
        outputs = {
            name: np.empty((0, *(max(size, 0) for size in (spec.shape or (0,))[1:])), spec.dtype)
            for name, spec in (self._spec.outputs.items() if self._spec else ())
            if not wanted or name in wanted
        }
        card = self._metadata.card
        prediction = Prediction(
            outputs=outputs,
            model=self._job.model,
            version=None,
            signature="",
            labels=card.labels if card is not None else (),
        )
        nothing = Part(start=0, stop=0, numbers=np.empty(0, np.int64), tensors={}, kept={})
        return nothing.answered(prediction)

    def _connect(self, retries: bool) -> Client:
        # The dispatcher decides when a request is sent again.
        retry = Retry() if retries else Retry(max_attempts=1)
        if self._embedded is not None:
            from ladle.embedded import EmbeddedClient

            return EmbeddedClient(self._embedded.calls, timeout=self._timeout_s, retry=retry)
        assert self._server is not None
        return Client(self._server, timeout=self._timeout_s, retry=retry)

    def close(self) -> None:
        """Unload a model of this process."""
        if self._embedded is not None:
            self._embedded.stop()

    def __enter__(self) -> TablePredictor:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def load_embedded(model: str, model_path: str) -> Embedded:
    """Load a model into this process. Blocks.

    Raises:
        StartupError: It can't be loaded.
    """
    # Imported here, because most ask a server, and have no TensorFlow.
    from ladle.embedded import Embedded
    from ladle.server import Config

    embedded = Embedded(Config(model_name=model, model_base_path=model_path))
    embedded.start()
    return embedded
