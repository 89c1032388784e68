"""The choices of a training, with their defaults, ranges and help texts."""

from __future__ import annotations

from dataclasses import dataclass, field

# Small sets are shown more often: about as many images as give scikit-learn's digits 30 epochs.
_MIN_EPOCHS = 5
_MAX_DEFAULT_EPOCHS = 50
_MIN_IMAGES_SEEN = 43_000


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """What a training may vary; the command line's options are made from these fields.

    Raises:
        ValueError: A value is out of its range; the message names the option.
    """

    epochs: int | None = field(
        default=None,
        metadata={"help": "passes over the training images; 5 unless given, more for small data"},
    )
    batch_size: int = field(
        default=128, metadata={"help": "images in each step of gradient descent"}
    )
    seed: int = field(default=0, metadata={"help": "start of all random numbers, 0 to 2^32-1"})

    def __post_init__(self) -> None:
        """Refuse what no training can be run with."""
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"epochs: expected at least 1, got {self.epochs}")
        if self.batch_size < 1:
            raise ValueError(f"batch size: expected at least 1, got {self.batch_size}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed: expected 0 to {2**32 - 1}, got {self.seed}")

    def epochs_for(self, n_images: int) -> int:
        """Return the epochs to train on `n_images`: those asked for, or the default.

        The default is 5, and more for a set so small that 5 epochs would not settle it.
        """
        if self.epochs is not None:
            return self.epochs
        enough = -(-_MIN_IMAGES_SEEN // n_images)
        return min(max(_MIN_EPOCHS, enough), _MAX_DEFAULT_EPOCHS)
