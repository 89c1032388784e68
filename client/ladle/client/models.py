"""What a server tells of the models it serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from ladle.protos import dtypes, tensors
from ladle.protos.model_card import ModelCard


@dataclass(frozen=True)
class TensorSpec:
    """What a signature declares of one input or output; as text, `float32 [-1, 28, 28]`."""

    data_type: int
    """TensorFlow's number of the dtype, such as 1 for float32."""
    shape: tuple[int, ...] | None
    """The size of each dimension, -1 for any; None where even the rank is open."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy dtype; for strings `object`, holding `bytes`.

        Raises:
            UnsupportedDtype: numpy has none (a resource), or it comes with the package ml_dtypes,
                which is not installed.
        """
        return dtypes.to_numpy(dtypes.without_ref(self.data_type))

    def __str__(self) -> str:
        return tensors.describe(self.data_type, self.shape)


@dataclass(frozen=True)
class Signature:
    """One way to call a model."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    method_name: str = ""
    """Such as `tensorflow/serving/predict`."""
    optional: frozenset[str] = frozenset()
    """The inputs that may be left out, since the model has a default for them."""


@dataclass(frozen=True)
class ModelMetadata:
    """How one version of a model is called, and what its owner says of it."""

    model: str
    version: int | None
    """The version that this is about; None where the server doesn't tell."""
    signatures: Mapping[str, Signature]
    """By name; empty where the server tells none."""
    card: ModelCard | None = None
    """Labels, normalisation, metrics and provenance, as the exporter recorded them; None where
    there is none: a model exported by other means, or a server other than ladle's."""
    card_error: str = ""
    """Why there is a card that can't be read, as one of a later format."""


class VersionState(IntEnum):
    """Where in its life a version is; TensorFlow Serving's names and numbers."""

    UNKNOWN = 0
    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True)
class VersionStatus:
    """The state of one version."""

    version: int
    state: VersionState
    error_code: int = 0
    """The gRPC status number of what ended it; 0 where nothing is wrong."""
    error_message: str = ""


@dataclass(frozen=True)
class ServedModel:
    """A model that a server is configured to serve."""

    name: str
    base_path: str
    """The folder with its versions, as the server sees it."""
    is_available: bool
    """Whether a version of it answers requests."""
    problem: str
    """Why a version is missing; empty where none is."""
    versions: tuple[VersionStatus, ...]
    """In ascending order; those that ended too, for a while."""
    signatures: Mapping[int, Mapping[str, Signature]]
    """The signatures of each available version, by name."""
    labels: Mapping[str, int]
    """The version that each label stands for."""
