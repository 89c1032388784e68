"""What Keras's fit calls after every epoch, as the options say."""

from __future__ import annotations

from typing import Any

import keras

from ladle.export.training.checkpoints import Checkpoints
from ladle.export.training.options import TrainingOptions


def make_callbacks(
    model: Any, options: TrainingOptions, checkpoints: Checkpoints | None, *, validated: bool
) -> list[Any]:
    """Return the callbacks of a training.

    Args:
        model: The compiled model.
        options: Of the training.
        checkpoints: Where its state is kept after every epoch; None for nowhere.
        validated: Whether there is a `val_loss`, by which early stopping decides.
    """
    callbacks = []
    if checkpoints is not None:

        def save(epoch: int, _logs: Any) -> None:
            checkpoints.save(model, epoch + 1)

        callbacks.append(keras.callbacks.LambdaCallback(on_epoch_end=save))
    if options.early_stopping is not None:
        callbacks.append(
            keras.callbacks.EarlyStopping(
                "val_loss" if validated else "loss",
                patience=options.early_stopping,
                restore_best_weights=True,
            )
        )
    return callbacks
