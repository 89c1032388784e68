"""Which writer writes which format."""

from __future__ import annotations

from typing import Literal, TypeAlias

from ladle.batch.writers.writer import MakeWriter, OpenFile, Writer
from ladle.client.models import Signature

OutputFormat: TypeAlias = Literal["parquet", "jsonl", "csv", "npy"]


def writer_maker(output_format: OutputFormat, signature: Signature | None) -> MakeWriter:
    """Return what makes the writer of each shard.

    `signature` is the model's; None where the server doesn't tell it.

    Raises:
        ModuleNotFoundError: The format needs a package that is not installed.
    """
    ragged = ragged_outputs(signature)

    def make(open_file: OpenFile) -> Writer:
        # Imported here, because only some formats need pyarrow.
        match output_format:
            case "parquet":
                from ladle.batch.writers.parquet import ParquetWriter

                return ParquetWriter(open_file, lists=ragged)
            case "csv":
                from ladle.batch.writers.csv import CsvWriter

                return CsvWriter(open_file)
            case "jsonl":
                from ladle.batch.writers.jsonl import JsonlWriter

                return JsonlWriter(open_file)
            case "npy":
                from ladle.batch.writers.npy import NpyWriter

                return NpyWriter(open_file)

    return make


def ragged_outputs(signature: Signature | None) -> frozenset[str]:
    """Return the names of the outputs whose rows may have different shapes."""
    return frozenset(
        name
        for name, spec in (signature.outputs.items() if signature else ())
        if spec.shape is None or -1 in spec.shape[1:]
    )
