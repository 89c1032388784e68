"""Operations that TensorFlow does not bring: packages register them when they are imported."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence

from ladle.server.core.errors import FailedPrecondition
from ladle.server.saved_model.errors import one_line
from ladle.server.saved_model.runtime import tensorflow

# How TensorFlow names an operation that nobody has registered, in a graph and in its kernels.
_UNKNOWN = re.compile(r"Op type not registered '([^']{1,200})'")

# Which package registers an operation, by how the operation's name begins.
_PACKAGES = (
    ("SimpleML", "tensorflow_decision_forests"),
    ("Addons>", "tensorflow_addons"),
    ("IO>", "tensorflow_io"),
    ("TFRA>", "tensorflow_recommenders_addons"),
    ("Tfq", "tensorflow_quantum"),
    ("Horovod", "horovod.tensorflow"),
    ("Struct2Tensor", "struct2tensor"),
    ("KerasCV>", "keras_cv"),
)

# TensorFlow Text's operations have no common beginning.
_TEXT = re.compile(
    r"TFText>|BoiseTags|OffsetsToBoise|ByteSplit|CaseFoldUTF8|CoerceToStructurally|"
    r"ConstrainedSequence|FastBert|FastSentencepiece|FastWordpiece|FindSourceOffsets|"
    r"MaxSpanningTree|NormalizeUTF8|PhraseTokenize|PhraseDetokenize|RegexSplitWithOffsets|RougeL|"
    r"RoundRobin|SentenceFragments|Sentencepiece|SplitMerge|TokenizerFromLogits|"
    r"UnicodeScriptTokenize|Utf8Binarize|WhitespaceTokenize|WordpieceTokenize"
)


def import_modules(names: Sequence[str]) -> None:
    """Import Python packages that register operations; blocks for as long as they take.

    Raises:
        FailedPrecondition: One can't be imported; the message says which, and why.
    """
    if not names:
        return
    tensorflow()  # whole, before a part of it
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            reason = one_line(str(error)) or type(error).__name__
            raise FailedPrecondition(
                f"the module {name!r} can't be imported: {type(error).__name__}: {reason}"
            ) from error


def advice(message: str) -> str:
    """Return what to do about an operation that TensorFlow does not know; empty for others.

    Args:
        message: TensorFlow's, of a load that has failed.
    """
    found = _UNKNOWN.search(message)
    if found is None:
        return ""
    operation = found[1]
    package = package_of(operation)
    if package is None:
        return (
            f"the model needs the operation {operation!r}, which TensorFlow does not have: "
            "name the Python package that registers it in --import_modules"
        )
    return (
        f"the model needs the operation {operation!r} of the package {package}: install it, and "
        f"start with --import_modules={package}"
    )


def package_of(operation: str) -> str | None:
    """Return the module that is known to register an operation; None if none is known."""
    for beginning, package in _PACKAGES:
        if operation.startswith(beginning):
            return package
    return "tensorflow_text" if _TEXT.match(operation) else None
