"""The choices of a training, with their defaults, ranges and help texts."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

# Small sets are shown more often: about as many examples as give scikit-learn's digits 30 epochs.
_USUAL_EPOCHS = 5
_MAX_DEFAULT_EPOCHS = 50
_MIN_EXAMPLES_SEEN = 43_000
_LARGEST = 2**31 - 1
_TO_STOP_BY = 0.1

REGRESSION_LOSSES = frozenset(
    {
        "mse",
        "meansquarederror",
        "mae",
        "meanabsoluteerror",
        "mape",
        "meanabsolutepercentageerror",
        "msle",
        "meansquaredlogarithmicerror",
        "huber",
        "logcosh",
    }
)
"""Losses on numbers, as `plain` writes them: with one of these the model is a regression."""


def plain(name: str) -> str:
    """Return one of Keras's names without what is not minded: capitals and underscores."""
    return name.replace("_", "").lower()


def _text(metavar: str, help_: str) -> dict[str, object]:
    return {"type": str, "metavar": metavar, "help": help_}


def _number(metavar: str, help_: str) -> dict[str, object]:
    return {"type": float, "metavar": metavar, "help": help_}


def _loss_weight(text: str) -> float | dict[str, float]:
    try:
        if "=" not in text:
            return float(text)
        pairs = [part.partition("=") for part in text.split(",")]
        return {name.strip(): float(number) for name, _, number in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected a number, or NAME=NUMBER,... for several outputs, got {text!r}"
        ) from None


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """What a training may vary; the command line's options are made from these fields.

    Raises:
        ValueError: A value is out of its range; the message names the option.
    """

    epochs: int | None = field(
        default=None,
        metadata={
            "help": "passes over the training examples; as many as the recipe says unless given,"
            " more for small data"
        },
    )
    initial_epoch: int = field(
        default=0, metadata={"help": "epochs that count as done before the training begins"}
    )
    batch_size: int = field(
        default=128, metadata={"help": "examples in each step of gradient descent"}
    )
    steps_per_epoch: int | None = field(
        default=None, metadata={"help": "steps that make an epoch; all the examples unless given"}
    )
    optimizer: str = field(
        default="adam",
        metadata=_text("NAME", "adam, sgd, rmsprop, or any other optimizer of Keras"),
    )
    learning_rate: float | None = field(
        default=None,
        metadata=_number(
            "RATE",
            "constant learning rate; unless given, adam starts at 0.004 and falls to 0 along a"
            " cosine, and others do as in Keras",
        ),
    )
    momentum: float | None = field(
        default=None, metadata=_number("SHARE", "momentum of sgd or rmsprop, 0 to 1")
    )
    loss: str | None = field(
        default=None,
        metadata=_text(
            "NAME",
            "any loss of Keras; sparse_categorical_crossentropy unless given. mse, mae, huber and"
            " their like make a regression. Of several outputs NAME=LOSS,...",
        ),
    )
    loss_weight: float | Mapping[str, float] | None = field(
        default=None,
        metadata={
            "type": _loss_weight,
            "metavar": "FACTOR",
            "help": "factor on the loss of the model's output; of several outputs NAME=FACTOR,...",
        },
    )
    metrics: tuple[str, ...] = field(
        default=(),
        metadata=_text(
            "NAME",
            "a metric of Keras beside accuracy, or mae for a regression; may be given again. Of"
            " several outputs OUTPUT=NAME",
        ),
    )
    weighted_metrics: tuple[str, ...] = field(
        default=(),
        metadata=_text("NAME", "the same, weighted as the examples are; may be given again"),
    )
    validation: str | None = field(
        default=None,
        metadata={
            "type": str,
            "choices": ("none", "held-out"),
            "help": "measure after every epoch on the held-out examples, or not (default: held-out,"
            " where nothing else is measured on)",
        },
    )
    validation_split: float = field(
        default=0.0,
        metadata=_number(
            "SHARE",
            "keep that share of the training examples of each class aside to measure on instead",
        ),
    )
    validation_steps: int | None = field(
        default=None, metadata={"help": "batches to measure on after an epoch; all unless given"}
    )
    shuffle: bool = field(
        default=True, metadata={"help": "train on the examples in their order, not shuffled"}
    )
    class_weights: str | None = field(
        default=None,
        metadata=_text(
            "WEIGHTS",
            "how much examples of each class count: balanced, or LABEL=WEIGHT,... (1 for the rest)",
        ),
    )
    early_stopping: int | None = field(
        default=None,
        metadata={
            "help": "stop after N epochs without a better loss (with lenet, a better accuracy), and"
            " take the weights of the best; measured on a tenth of the training examples, unless"
            " --validation-split says another share, never on those that are held out"
        },
    )
    checkpoint_dir: str | None = field(
        default=None,
        metadata=_text(
            "DIR",
            "keep the training's state in DIR/ladle-training; a stopped one goes on from it",
        ),
    )
    steps_per_execution: int = field(
        default=1, metadata={"help": "steps that run without coming back to Python"}
    )
    run_eagerly: bool = field(
        default=False, metadata={"help": "run the steps as Python, to look into them"}
    )
    data_workers: int | None = field(
        default=None,
        metadata={"help": "batches that are prepared in parallel; tf.data chooses unless given"},
    )
    prefetch: int | None = field(
        default=None,
        metadata={"help": "batches that are prepared ahead; tf.data chooses unless given"},
    )
    seed: int = field(default=0, metadata={"help": "start of all random numbers, 0 to 2^32-1"})

    def __post_init__(self) -> None:
        """Refuse what no training can be run with."""
        for name, least in (
            ("epochs", 1),
            ("initial_epoch", 0),
            ("batch_size", 1),
            ("steps_per_epoch", 1),
            ("validation_steps", 1),
            ("early_stopping", 1),
            ("steps_per_execution", 1),
            ("data_workers", 1),
            ("prefetch", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{_spoken(name)}: expected at least {least}, got {value}")
            if value is not None and value > _LARGEST:
                raise ValueError(f"{_spoken(name)}: expected at most {_LARGEST}, got {value}")
        weight = self.loss_weight
        for name, values in (
            ("learning_rate", [self.learning_rate]),
            ("loss_weight", list(weight.values()) if isinstance(weight, Mapping) else [weight]),
        ):
            for value in values:
                if value is not None and not (value > 0 and math.isfinite(value)):
                    raise ValueError(f"{_spoken(name)}: expected a number above 0, got {value:g}")
        if self.momentum is not None and not 0 <= self.momentum <= 1:
            raise ValueError(f"momentum: expected 0 to 1, got {self.momentum:g}")
        if not 0 <= self.validation_split < 1:
            raise ValueError(
                f"validation split: expected 0 to less than 1, got {self.validation_split:g}"
            )
        if self.validation not in (None, "none", "held-out"):
            raise ValueError(f"validation: expected none or held-out, got {self.validation}")
        if self.validation_split and self.validation == "held-out":
            raise ValueError("validation: expected none or held-out data or a split, got two")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed: expected 0 to {2**32 - 1}, got {self.seed}")
        if self.epochs is not None and self.epochs <= self.initial_epoch:
            raise ValueError(
                f"initial epoch: expected less than the {self.epochs} epochs to train,"
                f" got {self.initial_epoch}"
            )

    @property
    def is_regression(self) -> bool:
        """Whether the loss is one on numbers."""
        return self.loss is not None and plain(self.loss) in REGRESSION_LOSSES

    @property
    def kept_aside(self) -> float:
        """The share of the training examples that are measured on and not trained on.

        What chooses the best epoch has to be another set than the one that is reported.
        """
        if self.early_stopping is not None and not self.validation_split:
            return _TO_STOP_BY
        return self.validation_split

    @property
    def measures_held_out(self) -> bool:
        """Whether the held-out examples are measured on after every epoch.

        They choose nothing: the curve is there to look at.
        """
        return self.validation != "none" and not self.kept_aside

    def epochs_for(self, n_examples: int, usual: int = _USUAL_EPOCHS) -> int:
        """Return the epochs to train on `n_examples`: those asked for, or the default.

        The default is `usual`, and more for a set so small that these would not settle it.
        """
        if self.epochs is not None:
            return self.epochs
        enough = -(-_MIN_EXAMPLES_SEEN // n_examples)
        return min(max(usual, enough), max(usual, _MAX_DEFAULT_EPOCHS))


def _spoken(name: str) -> str:
    return name.replace("_", " ")
