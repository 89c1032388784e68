"""What a server says about its models: signatures, metadata, versions and their states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from ladle.protos import dtypes, tensors
from ladle.protos.model_card import ModelCard

DEFAULT_SIGNATURE = "serving_default"
RAW_SIGNATURE = "serving_uint8"
"""The signature of ladle's exporter that takes raw pixels and normalises them in the graph."""


@dataclass(frozen=True, repr=False)
class TensorSpec:
    """The dtype and shape that a signature declares; as text, `float32 [-1, 28, 28]`."""

    data_type: int
    """TensorFlow's number of the dtype, such as 1 for float32."""
    shape: tuple[int, ...] | None
    """The size of each dimension, -1 for any; None if even the rank is open."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy dtype; for strings `object`, holding `bytes`.

        Raises:
            UnsupportedDtype: numpy has no such dtype (a resource), or the package ml_dtypes has
                it and is not installed.
        """
        return dtypes.to_numpy(dtypes.without_ref(self.data_type))

    def __repr__(self) -> str:
        return tensors.describe(self.data_type, self.shape)


@dataclass(frozen=True, repr=False)
class Signature:
    """One way to call a model."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    method_name: str = ""
    """Such as `tensorflow/serving/predict`."""
    optional: frozenset[str] = frozenset()
    """The inputs with a default in the model; they may be left out."""
    is_optional_known: bool = True
    """Whether the server says which inputs may be left out. If not, this client sends the inputs
    that it is given, and the server refuses a request that lacks one."""

    def __repr__(self) -> str:
        inputs = ", ".join(
            f"{name}: {spec}{' (optional)' if name in self.optional else ''}"
            for name, spec in self.inputs.items()
        )
        outputs = ", ".join(f"{name}: {spec}" for name, spec in self.outputs.items())
        return f"Signature({inputs} -> {outputs})"


@dataclass(frozen=True, repr=False)
class ModelMetadata:
    """The signatures and the model card of one version of a model."""

    model: str
    version: int | None
    """The version described; None if the server doesn't say."""
    signatures: Mapping[str, Signature]
    """By name; empty if the server gives none."""
    card: ModelCard | None = None
    """Labels, normalisation, metrics and provenance, as the exporter recorded them. None for a
    model of another exporter, or from a server other than ladle's."""
    card_error: str = ""
    """Why the card can't be read, for example because its format is newer; empty if it can."""

    def __repr__(self) -> str:
        version = "" if self.version is None else f" version {self.version}"
        signatures = "".join(f", {name}: {s!r}" for name, s in self.signatures.items())
        card = f", {len(self.card.labels)} labels" if self.card and self.card.labels else ""
        return f'ModelMetadata("{self.model}"{version}{signatures}{card})'


class VersionState(IntEnum):
    """The state of a version; TensorFlow Serving's names and numbers."""

    UNKNOWN = 0
    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True, repr=False)
class VersionStatus:
    """The state of one version."""

    version: int
    state: VersionState
    error_code: int = 0
    """The gRPC status number of the error that ended it; 0 for none."""
    error_message: str = ""

    def __repr__(self) -> str:
        problem = f": {self.error_message}" if self.error_message else ""
        return f"VersionStatus(version {self.version} {self.state.name}{problem})"


@dataclass(frozen=True)
class ServedModel:
    """A model that a server is configured to serve."""

    name: str
    base_path: str
    """The folder with its versions, as the server sees it."""
    is_available: bool
    """Whether a version of it answers requests."""
    problem: str
    """Why a version is missing; empty if none is."""
    versions: tuple[VersionStatus, ...]
    """In ascending order; versions that ended stay for a while."""
    signatures: Mapping[int, Mapping[str, Signature]]
    """The signatures of each available version, by name."""
    labels: Mapping[str, int]
    """The version that each label stands for."""
    is_unloaded: bool = False
    """Whether it is not loaded, and a request has it loaded."""
