"""The model card: what an exported version says of itself in `assets.extra/ladle.json`.

The exporter writes it, the server passes it on unread, and the client reads it to prepare
inputs just as the training did. Needs numpy and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Where the card lies inside a version's folder, beside TensorFlow Serving's own extras.
CARD_PATH = "assets.extra/ladle.json"
# The GetModelMetadata field that answers with the card; upstream has `signature_def` alone.
CARD_METADATA_FIELD = "ladle_model_card"
CARD_FORMAT = 1
MAX_CARD_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """How raw pixels become what the model was trained on: `(pixels - offset) / divisor`.

    `offset` and `divisor` are a number for all channels, or one number for each channel of the
    last dimension.
    """

    offset: float | tuple[float, ...] = 0.0
    divisor: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        """Refuse what no pixel can be divided by."""
        for name, value in (("offset", self.offset), ("divisor", self.divisor)):
            with np.errstate(over="ignore"):
                applied = np.asarray(value, np.float32)
            if not np.all(np.isfinite(applied)):
                raise ValueError(
                    f"normalization {name}: expected finite float32 numbers, got {value}"
                )
            if name == "divisor" and np.any(applied == 0):
                raise ValueError(
                    f"normalization divisor: expected non-zero float32 numbers, got {value}"
                )

    def apply(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Return `pixels` as normalised float32 of the same shape, in a new array."""
        offset = np.asarray(self.offset, np.float32)
        divisor = np.asarray(self.divisor, np.float32)
        normalised: NDArray[np.float32] = pixels.astype(np.float32)
        if np.any(offset):
            normalised -= offset
        normalised /= divisor
        return normalised


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the table that a model was trained on."""

    name: str
    dtype: str = "float32"
    """Of its values, as TensorFlow names it."""


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a version's owner wants its users to know."""

    labels: tuple[str, ...] = ()
    """Class names, in the order of the model's outputs; empty where there are none."""
    normalization: Normalization | None = None
    """What training did to raw pixels; None where the inputs are not images."""
    columns: tuple[Column, ...] = ()
    """The columns of a table, in the order in which the model takes them; empty for other data."""
    outputs: Mapping[str, Any] = field(default_factory=dict)
    """Of a model with several inputs or outputs what each output is: name to {"task", "labels",
    "metrics"}; empty for others."""
    signatures: Mapping[str, Any] = field(default_factory=dict)
    """For each signature its inputs and outputs: name to {"dtype", "shape"}, -1 = any size."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Measured before publishing, on held-out data: `accuracy`, and so on."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Where the version came from: recipe, data and its fingerprint, package versions, time."""
    row_independent_signatures: tuple[str, ...] = ()
    """Signatures that answer each row by that row alone, as the exporter found: a server may put
    their requests into one batch. Of all others nothing is known."""

    import_modules: tuple[str, ...] = ()
    """Python modules that register operations of the graph, for a server's `--import_modules`.
    Nothing is imported because a card says so."""

    def to_json(self) -> str:
        """Return the card as the text of `ladle.json`."""
        import json  # here, for who imports the client and never meets a card

        return json.dumps({"format": CARD_FORMAT, **asdict(self)}, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> ModelCard:
        """Read the text of `ladle.json`; unknown keys are left alone.

        Raises:
            ValueError: It is not JSON, not an object, or a field is not of its type.
        """
        import json

        try:
            card = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"model card: expected JSON, got {error}") from None
        if not isinstance(card, dict) or card.get("format") != CARD_FORMAT:
            raise ValueError(f'model card: expected an object with "format": {CARD_FORMAT}')
        try:
            return cls(
                labels=_labels(card.get("labels", [])),
                normalization=_normalization(card.get("normalization")),
                columns=tuple(
                    Column(name=str(column["name"]), dtype=str(column["dtype"]))
                    for column in card.get("columns", ())
                ),
                outputs=dict(card.get("outputs", {})),
                signatures=dict(card.get("signatures", {})),
                metrics={name: float(value) for name, value in card.get("metrics", {}).items()},
                provenance=dict(card.get("provenance", {})),
                row_independent_signatures=_names(card, "row_independent_signatures"),
                import_modules=_names(card, "import_modules"),
            )
        except KeyError as error:
            raise ValueError(f"model card: a field has no {error}") from None
        except (TypeError, AttributeError, ValueError, OverflowError) as error:
            raise ValueError(f"model card: a field is not of its type: {error}") from None


def _labels(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"labels: expected a list, got {type(value).__name__}")
    return tuple(str(label) for label in value)


def _names(card: Mapping[str, Any], field_name: str) -> tuple[str, ...]:
    value = card.get(field_name, [])
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{field_name}: expected a list of names, got {value!r}")
    return tuple(value)


def _normalization(fields: Any) -> Normalization | None:
    if fields is None:
        return None
    return Normalization(offset=_numbers(fields["offset"]), divisor=_numbers(fields["divisor"]))


def _numbers(value: Any) -> float | tuple[float, ...]:
    return tuple(float(v) for v in value) if isinstance(value, list) else float(value)
