"""TensorFlow's exceptions as ours: its own status code, and one line that a caller can read."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ladle.server.core.errors import Code, InvalidArgument, ResourceExhausted, ServingError
from ladle.server.core.servable import Arrays, Signature

# Several kernels that failed at once are numbered; the first tells enough.
_FIRST_OF_SEVERAL = re.compile(r"\d{1,9} root error\(s\) found\.\s{0,9}\(0\) [A-Z_]{1,30}: ")
# Where in the graph it was: "{{node a/b}} ", "{{function_node __inference_f_7}} ".
_GRAPH_PLACE = re.compile(r"\{\{[^{}]*\}\}\s?")
# Words on the line before a trace, and a line at its end that names the graph's node alone.
_TRACE_BEGINS = (
    "Traceback (most recent call last)",
    "Stack trace for op definition",
    "Original stack trace for",
    "defined at (most recent call last)",
)
_TRACE_ENDS = ("Node: ", "Errors may have originated from")
_DEVICES = ("/job:", "/device:", "/replica:", "/task:", "/cpu:", "/gpu:")
_KERNEL_TRACE = "\n\t [["
# oneDNN's matrix products add whether each side was transposed; a caller's text does not depend on
# the processor that TensorFlow chose its kernels for.
_PRODUCT = "Matrix size-incompatible: "
# What Python's loader says where no variable of the graph is in the checkpoint.
_NOTHING_RESTORED = "No variables to save"
_TRANSPOSED = (" 0 0", " 0 1", " 1 0", " 1 1")


def serving_error(error: Exception) -> ServingError:
    """Return the exception as a ServingError, without the graph's inner names."""
    if isinstance(error, ServingError):
        return error
    if isinstance(error, MemoryError):
        return ResourceExhausted("memory has run out")
    if isinstance(error, UnicodeDecodeError):
        # TensorFlow quotes what it can't parse, and Python can't read the quoted bytes: the
        # status code is lost with them, but what is no text came from the caller.
        return InvalidArgument(one_line(error.object.decode(errors="backslashreplace")))
    code = getattr(error, "error_code", None)
    text = one_line(str(getattr(error, "message", error)))
    if isinstance(code, int) and 0 < code <= max(Code):
        return ServingError(text, Code(code))
    if isinstance(error, ValueError | TypeError):
        return InvalidArgument(text)
    if isinstance(error, OSError):
        return ServingError(text, Code.NOT_FOUND if isinstance(error, FileNotFoundError) else None)
    return ServingError(f"{type(error).__name__}: {text}", Code.INTERNAL)


def load_error(error: Exception) -> ServingError:
    """Return what a load ended with; upstream's code where Python's loader has none of its own."""
    if isinstance(error, RuntimeError) and "tags" in str(error):
        # TensorFlow names the tags that there are, and a command that may not be at hand.
        text = one_line(str(error)).partition(" To inspect available")[0]
        return ServingError(f"{text} --saved_model_tags says which to load.", Code.NOT_FOUND)
    if isinstance(error, ValueError) and str(error) == _NOTHING_RESTORED:
        return ServingError(
            "the files in variables/ hold none of the variables that the graph restores: "
            "they are of another model",
            Code.DATA_LOSS,
        )
    if type(error) is OSError and error.errno is None:
        return ServingError(one_line(str(error)), Code.DATA_LOSS)  # saved_model.pb is none
    return serving_error(error)


def one_line(text: str) -> str:
    """Return a kernel's message without traces, graph names, folders and line breaks.

    A lack of a kernel or of a device comes first: TensorFlow says it behind lists of both.
    """
    text = _FIRST_OF_SEVERAL.sub("", text.split(_KERNEL_TRACE, 1)[0])
    text = _GRAPH_PLACE.sub("", "\n".join(_without_traces(text.splitlines())))
    line = _lack(text) + " ".join(map(_without_folder, text.split()))
    return line[:-4] if _PRODUCT in line and line.endswith(_TRANSPOSED) else line


def _without_traces(lines: list[str]) -> Iterator[str]:
    """Yield the lines that belong to no stack trace, of Python or of the model's making."""
    in_trace = False
    for line in lines:
        if any(mark in line for mark in _TRACE_BEGINS):
            in_trace = True
        elif in_trace and (not line.strip() or line[0].isspace() or line.startswith("File ")):
            continue
        elif in_trace and line.startswith(_TRACE_ENDS):
            in_trace = False
        else:
            in_trace = False
            yield line


def _without_folder(word: str) -> str:
    """Return a word, and of an absolute path the last part alone; devices are no paths."""
    begins = word.removeprefix("b'").lstrip("'\"([{<=")
    if not begins.startswith("/") or begins.startswith(_DEVICES) or begins.count("/") < 2:
        return word
    return word[: len(word) - len(begins)] + begins.rstrip("/").rpartition("/")[2]


def _lack(text: str) -> str:
    """Return what this TensorFlow lacks, to be read before all that TensorFlow says; or nothing."""
    if "No OpKernel was registered" in text:
        return "this server has no kernel for an operation of the model: "
    if "Cannot assign a device" in text and "GPU" in text:
        return "the model asks for a GPU, and this server has none: "
    return ""


def explained(error: ServingError, signature: Signature, inputs: Arrays) -> ServingError:
    """Return the error; where a shape is not as declared, its message says that first."""
    for alias, spec in signature.inputs.items():
        shape = inputs[alias].shape
        if not spec.admits(shape):
            return ServingError(
                f"input {alias!r}: expected {spec}, got shape {list(shape)}, "
                f"which the model refused: {error.message}",
                error.code,
            )
    return error
