"""The whole export: train, sign, check and publish."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ladle.export.data.dataset import Dataset
from ladle.export.data.made_up import made_up_data
from ladle.export.multi_io.data import MultiDataset
from ladle.export.multi_io.export import export_multi_io
from ladle.export.publishing.destination import destination_of
from ladle.export.publishing.requirements import Requirements
from ladle.export.settings import Settings
from ladle.export.single_io.export import export_single_io
from ladle.export.training.custom_model import name_of, read_model
from ladle.export.training.fitting import Verbosity, check_backend
from ladle.export.training.options import TrainingOptions
from ladle.protos.files.versions import MAX_VERSION
from ladle.protos.model_card import ModelCard
from ladle.store.url import StoreUrl

VersionChoice = int | Literal["next", "timestamp"]
"""A number, the highest there is plus one, or the seconds since 1970."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A published version, and what its model card says."""

    version: int
    place: Path | StoreUrl
    """The version's folder, absolute; or its URL in a store."""
    card: ModelCard

    @property
    def path(self) -> Path:
        """The version's folder, absolute.

        Raises:
            ValueError: It was published in a store.
        """
        if isinstance(self.place, StoreUrl):
            raise ValueError(f"path: expected a version in a folder, got one at {self.place}")
        return self.place

    @property
    def accuracy(self) -> float:
        """Share of the held-out examples that a classifier classifies rightly, 0 to 1.

        Where an example may have several labels, the share of all labels of all held-out examples
        that are rightly given or left out; `card.metrics["exact_match"]` is the share of examples
        with all labels right.

        Raises:
            KeyError: It is a regression.
        """
        return self.card.metrics["accuracy"]


def export_model(
    base_path: str | os.PathLike[str],
    dataset: Dataset | MultiDataset | None,
    *,
    recipe: str | None = None,
    model: Any = None,
    fit: bool = True,
    allow_unsafe_model: bool = False,
    signatures: Any = None,
    labels: Sequence[str] | None = None,
    normalization: str | None = None,
    options: TrainingOptions | None = None,
    requirements: Requirements | None = None,
    version: VersionChoice = "next",
    plots: str | os.PathLike[str] | None = None,
    verbose: Verbosity = 0,
) -> Exported:
    """Train a model and publish it as a version under `base_path`, once every check holds.

    The version is a SavedModel with the signatures of `make_endpoints`, its model card and a
    warm-up file. Blocks until training is over, the checks have run and the version is on
    disk. See `train` for what it does to the process's random numbers.

    Args:
        base_path: The model's folder, made where it is missing; versions are its subfolders. Or
            its URL in a store, s3://, gs:// or az://.
        dataset: What to train on, and what to measure with. None exports a model of one's own as
            it is, with nothing measured: it runs on made-up examples, alone and in batches.
        recipe: A name in `ladle.export.training.recipes.RECIPES`; None for the one that suits the
            data.
        model: In a recipe's place a model of one's own: a keras.Model, or where one comes from,
            see `read_model`. Data with several inputs or outputs need one.
        fit: Whether that is trained on the data, or exported as it is.
        allow_unsafe_model: Load a model's file although it may run code.
        signatures: Signatures of one's own beside these: a mapping from names, or a function of the
            trained model that returns one; see `custom_endpoints`. None for the
            model's attribute `ladle_signatures`, if it has one.
        labels: Names for the classes, where the data have none but numbers, or where there are no
            data.
        normalization: How raw data are normalised, see `normalized_as`. None for the usual way of
            the data; or for none, where the model begins with a layer that does it.
        options: How to train; None for the defaults.
        requirements: What has to hold beside the signatures' answers; None for nothing.
        version: The number to publish; one that is taken is refused, before training too.
        plots: A folder, made where it is missing, for charts of the training and its result; see
            `write_plots`. They are written before the checks, and so of a model that fails, too.
        verbose: What Keras prints to stdout: 0 nothing, 1 a progress bar, 2 a line an epoch.

    Raises:
        PublishError: The version or a plot cannot be written; asked about before training too.
        CheckError: A check failed; it says which.
        ExportError: The model cannot be had, or does not fit the data.
        ValueError: There is no such recipe or version number, or a regression has to reach an
            accuracy.
    """
    settings = Settings(
        fit=fit,
        allow_unsafe_model=allow_unsafe_model,
        signatures=signatures,
        options=options or TrainingOptions(),
        requirements=requirements or Requirements(),
        number=_number(version),
        plots=plots,
        verbose=verbose,
    )
    destination = destination_of(base_path)
    model_name = recipe if model is None else name_of(model)
    if dataset is None:
        model, dataset = _without_data(model, labels, normalization, settings)
    elif labels is not None:
        dataset = _named(dataset, labels)
    if isinstance(dataset, MultiDataset):
        if model is None or recipe is not None or normalization is not None:
            raise ValueError(
                f"{dataset.name}: {dataset.what_it_is}: these need a model of your own that takes"
                " them as they are, --model, and no recipe or normalization; or write numbers in"
                " the place of texts"
            )
        published, card = export_multi_io(destination, dataset, model, str(model_name), settings)
    else:
        published, card = export_single_io(
            destination, dataset, model, model_name, recipe, normalization, settings
        )
    return Exported(version=published.version, place=published.place, card=card)


def export_classifier(*args: Any, **kwargs: Any) -> Exported:
    """Call `export_model`, the name since regressions are exported too.

    Deprecated: this name goes with the next minor version.
    """
    warnings.warn(
        "export_classifier is now export_model, with the same arguments",
        DeprecationWarning,
        stacklevel=2,
    )
    return export_model(*args, **kwargs)


def _without_data(
    model: Any, labels: Sequence[str] | None, normalization: str | None, settings: Settings
) -> tuple[Any, Dataset | MultiDataset]:
    """Return the keras.Model, and made-up examples that fit it.

    Raises:
        ExportError: The model cannot be had.
        ValueError: Something was asked for that needs data; or a classifier's labels are missing.
    """
    if model is None or settings.fit:
        raise ValueError("data: expected some, to train on")
    if labels is None and not settings.options.is_regression:
        raise ValueError(
            "labels: without data expected the names of the classes, in the order of the model's"
            " outputs; or loss mse, for a regression"
        )
    if settings.requirements.of_accuracy:
        raise ValueError("min accuracy, max regression: without data there is no accuracy")
    if settings.plots is not None:
        raise ValueError("plots: without data there is nothing to draw")
    check_backend()
    names = tuple(labels or ())
    model = read_model(model, ((), len(names)), allow_unsafe=settings.allow_unsafe_model)
    are_images = normalization in ("unit", "symmetric", "imagenet")
    return model, made_up_data(model, names, are_images=are_images)


def _named(dataset: Dataset | MultiDataset, labels: Sequence[str]) -> Dataset:
    if isinstance(dataset, MultiDataset):
        raise ValueError("labels: not taken for a model with several inputs or outputs")
    return dataset.named(tuple(labels))


def _number(version: VersionChoice) -> int | None:
    if version == "next":
        return None
    if version == "timestamp":
        return int(time.time())
    if not 0 <= version <= MAX_VERSION:
        raise ValueError(f"version: expected 0 to {MAX_VERSION}, got {version}")
    return version
