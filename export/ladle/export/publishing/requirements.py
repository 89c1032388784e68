"""What a version's owner asks of it, beside answering as it was trained."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """What a version has to fulfil to be published, beside answering as it was trained.

    Raises:
        ValueError: A value is out of its range; the message names the option.
    """

    min_accuracy: float | None = field(
        default=None,
        metadata={
            "type": float,
            "metavar": "SHARE",
            "help": "publish only with at least this accuracy on the held-out data, 0 to 1",
        },
    )
    max_regression: float | None = field(
        default=None,
        metadata={
            "type": float,
            "metavar": "SHARE",
            "help": "publish only if the accuracy is at most this much below that of the version"
            " now serving: the highest with a model card, measured when it was published",
        },
    )
    allow_op: tuple[str, ...] = field(
        default=(),
        metadata={
            "metavar": "NAME",
            "help": "publish although the graph holds this operation, which reads or writes files"
            " or runs Python; may be given again",
        },
    )

    import_modules: str = field(
        default="",
        metadata={
            "flag": "--import_modules",
            "type": str,
            "metavar": "NAMES",
            "help": "comma-separated Python modules that register operations of the graph, imported"
            " before the check; the model card names them, and `ladle serve` has the same option",
        },
    )

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        for name in ("min_accuracy", "max_regression"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name.replace('_', ' ')}: expected 0 to 1, got {value:g}")
        for module in self.modules:
            if not all(part.isidentifier() for part in module.split(".")):
                raise ValueError(f"import modules: expected module names, got {module!r}")

    @property
    def modules(self) -> tuple[str, ...]:
        """The Python modules to import before the check."""
        return tuple(name.strip() for name in self.import_modules.split(",") if name.strip())

    @property
    def of_accuracy(self) -> bool:
        """Whether any requirement is about the accuracy."""
        return self.min_accuracy is not None or self.max_regression is not None
