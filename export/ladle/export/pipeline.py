"""The whole export: train, sign, check and publish."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ladle.export.card import provenance, write_card
from ladle.export.checks import check_signatures
from ladle.export.dataset import Dataset
from ladle.export.options import TrainingOptions
from ladle.export.publish import prepare_base_path, publish, staging_folder
from ladle.export.recipes import RECIPES
from ladle.export.signatures import NORMALIZED, RAW, read_signatures, write_saved_model
from ladle.export.training import Classifier, Verbosity, train
from ladle.protos.model_card import ModelCard

_CHECKED_IMAGES = 256


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A published version, and what its model card says."""

    version: int
    path: Path
    """The version's folder, absolute."""
    card: ModelCard

    @property
    def accuracy(self) -> float:
        """Share of the held-out images that it classifies rightly, 0 to 1."""
        return self.card.metrics["accuracy"]


def export_classifier(
    base_path: str | os.PathLike[str],
    dataset: Dataset,
    *,
    recipe: str = "mlp",
    options: TrainingOptions | None = None,
    verbose: Verbosity = 0,
) -> Exported:
    """Train a classifier and publish it as the next version under `base_path`.

    The version is a SavedModel with two signatures over an open batch of images, which both give
    `probabilities` float32 [-1, classes]: `serving_default` takes `images` float32, normalised;
    `serving_uint8` takes `images` uint8, raw. Blocks until training is over and the version is on
    disk. See `train` for what it does to the process's random numbers.

    Args:
        base_path: The model's folder, made where it is missing; versions are its subfolders.
        dataset: What to train on, and what to measure with.
        recipe: A name in `ladle.export.recipes.RECIPES`.
        options: How to train; None for the defaults.
        verbose: What Keras prints to stdout: 0 nothing, 1 a progress bar, 2 a line an epoch.

    Raises:
        PublishError: The version cannot be written; asked about before training too.
        CheckError: What was written does not answer as the trained model does.
        ValueError: There is no such recipe.
    """
    base_path = Path(os.path.abspath(base_path))
    options = options or TrainingOptions()
    if recipe not in RECIPES:
        raise ValueError(f"recipe: expected {', '.join(RECIPES)}, got {recipe}")
    prepare_base_path(base_path)
    classifier = train(dataset, RECIPES[recipe], options, verbose=verbose)
    accuracy = _held_out_accuracy(classifier, dataset)
    with staging_folder(base_path) as folder:
        write_saved_model(classifier, dataset.image_shape, dataset.normalization, folder)
        signatures = read_signatures(folder)
        raw = dataset.x_test[:_CHECKED_IMAGES]
        normalized = dataset.normalization.apply(raw)
        check_signatures(
            signatures,
            inputs={NORMALIZED: normalized, RAW: raw},
            expected=classifier.probabilities(normalized),
        )
        card = ModelCard(
            labels=dataset.labels,
            normalization=dataset.normalization,
            signatures={name: signature.declared() for name, signature in signatures.items()},
            metrics={"accuracy": accuracy},
            provenance=provenance(recipe, options, dataset),
        )
        write_card(card, folder)
        published = publish(folder)
    return Exported(version=published.version, path=published.path, card=card)


def _held_out_accuracy(classifier: Classifier, dataset: Dataset) -> float:
    probabilities = classifier.probabilities(dataset.normalization.apply(dataset.x_test))
    return float(np.mean(probabilities.argmax(axis=1) == dataset.y_test))
