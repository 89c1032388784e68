"""The command `ladle export`.

Nothing heavy is imported before the arguments are known to be good: `--help` and a mistyped
option answer at once, without NumPy or TensorFlow.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import re
import shlex
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from ladle.export.arguments import CommandParser, add_options, options_from
from ladle.export.errors import ExportError
from ladle.export.publishing.requirements import Requirements
from ladle.export.quiet import quiet_import
from ladle.export.training.options import TrainingOptions
from ladle.export.training.recipes import RECIPES
from ladle.protos.files.versions import MAX_VERSION
from ladle.store.url import StoreUrl, is_url, parse_url

if TYPE_CHECKING:
    from ladle.export.pipeline import Exported, VersionChoice
    from ladle.export.training.fitting import Verbosity

_DESCRIPTION = """\
Train an image classifier, and publish it as the next numbered version of a model.

  ladle export models/digits --data digits

trains on scikit-learn's handwritten digits (nothing is downloaded), measures on images
held out from training, checks the written model against the trained one, and makes

  models/digits/1/                   the next free number; earlier versions stay untouched
    saved_model.pb, variables/       what `ladle serve` and TensorFlow Serving load
    assets.extra/ladle.json          labels, normalisation, accuracy, where it comes from
    assets.extra/tf_serving_warmup_requests      a real request for each signature
    assets.extra/ladle-evaluation.json           what `ladle models report` shows

The folder appears whole or not at all. In its place may stand a URL, such as s3://models/digits,
with the extra ladle[remote]. Its signatures, each with an open batch dimension:

  serving_default    images float32, normalised   ->  probabilities float32, class_id int64
                     (of a table: features float32, as they are in it)
  serving_uint8      images uint8, raw pixels     ->  the same
  serving_bytes      images, encoded PNG or JPEG  ->  the same
  serving_columns    of a table, in place of these two: each column by its name
                                                  ->  the same
  classify           tf.Examples, with raw pixels as int64s in "images" or an encoded image in
                     "image/encoded"              ->  classes (labels) and scores, for Classify
  regress            of a regression, in place of classify: tf.Examples  ->  values, for Regress
  logits             images float32, normalised   ->  logits float32

Before that the written model is loaded in a process of its own, and every signature has to answer
as the trained model does; its graph may hold nothing that reads or writes files or runs Python.
"""

_EPILOG = """\
Progress goes to stderr and the summary to stdout. Exit status: 0 published, 1 not published
(with the reason, or the check that failed, in one line), 2 wrong usage, 130 interrupted.
"""


def main(argv: list[str]) -> int:
    """Run `ladle export` with the arguments `argv`, and return its exit status.

    What it leaves to `ladle` itself: Ctrl-C, and packages that are not installed.
    """
    parser = _make_parser()
    args = parser.parse_args(argv)
    if args.export_only and args.model is None:
        parser.error("--export-only: expected a --model to export")
    if args.data is None and not args.export_only:
        parser.error(
            "--data: expected what to train on; a model is exported without by --export-only"
        )
    if args.data is None and (args.resize is not None or args.group_by is not None):
        parser.error("--resize, --group-by: expected --data to resize or to split")
    try:
        options = options_from(args, TrainingOptions)
        requirements = options_from(args, Requirements)
    except ValueError as error:
        parser.error(str(error))
    try:
        exported = _export(args, options, requirements)
    except (ExportError, ValueError, OSError) as error:
        return _fail(error)
    except MemoryError as error:
        return _fail(f"out of memory: {error}")
    print(_as_json(exported) if args.json else _as_text(exported))
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="ladle export",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "base_path",
        metavar="BASE_PATH",
        type=_base_path,
        help="the model's folder, made where it is missing; versions are its subfolders",
    )
    parser.add_argument(
        "--data",
        metavar="DATA",
        help="digits; mnist or fashion_mnist (Keras's copies, downloaded where missing); or a path:"
        " a folder with a folder of images, or of .txt files, for each class; a .csv with a header"
        " and a column label, of numbers or with one column of texts; a .tfrecord of tf.Examples"
        " with image/encoded and image/class/label; or an .npz with x_train, y_train, x_test and"
        " y_test: uint8 images, float32 numbers or texts, and integer labels from 0, or a row of"
        " 0s and 1s for each example, which may have several labels",
    )
    recipes = "; ".join(f"{name}: {recipe.SUMMARY}" for name, recipe in RECIPES.items())
    parser.add_argument(
        "--recipe",
        choices=RECIPES,
        help=f"what to train (default: mlp; for texts bag-of-words). {recipes}",
    )
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="train a Keras model of your own instead: package.module:function, called with the"
        " shape of an example and the number of classes, or a .keras or .h5 file",
    )
    parser.add_argument(
        "--export-only",
        action="store_true",
        help="export that model without training it; without --data nothing is measured",
    )
    parser.add_argument(
        "--allow-unsafe-model",
        action="store_true",
        help="load that file although it may run Python code of its own",
    )
    parser.add_argument(
        "--signatures",
        metavar="FUNCTION",
        help="signatures of your own beside ladle's: package.module:function, called with the"
        " trained Keras model, returns a dict from names to tf.functions with input signatures",
    )
    parser.add_argument(
        "--labels",
        type=_labels,
        metavar="LABELS",
        help="names for the classes of an .npz, or of a model that is exported without --data, in"
        " the order of its outputs: a text file with a name in each line, or LABEL,LABEL,...",
    )
    parser.add_argument(
        "--resize",
        type=_size,
        metavar="HxW",
        help="resize images to this height and width, in training and in what is served",
    )
    parser.add_argument(
        "--group-by",
        metavar="GROUP",
        help="never split a group: examples of one are all trained on or all held out. Of a .csv"
        " the column that names the group, which the model does not see; of a folder a regular"
        " expression that finds the group in a file's path below it, such as '([^/]+)-[0-9]+'",
    )
    parser.add_argument(
        "--normalization",
        type=_normalization,
        metavar="HOW",
        help="how raw data are normalised, in training and in what is served: none; unit (0 to 1,"
        " for images the default); symmetric (-1 to 1); imagenet; standard (mean and deviation of"
        " the training data, for a .csv the default); or MEAN/DEVIATION, such as 127.5/127.5. None"
        " where your model begins with a layer Rescaling or Normalization",
    )
    parser.add_argument(
        "--version",
        type=_version,
        default="next",
        metavar="VERSION",
        help="number to publish: next (the default, the highest there is plus one), timestamp"
        " (seconds since 1970), or a number that is not taken",
    )
    parser.add_argument(
        "--plots",
        type=Path,
        metavar="FOLDER",
        help="write charts there, as SVG: loss and metrics of each epoch, and the confusion matrix"
        " of the held-out examples",
    )
    add_options(parser, TrainingOptions)
    add_options(parser, Requirements)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument(
        "--verbosity",
        type=int,
        choices=(0, 1, 2),
        help="progress of the training: none, a bar, or a line for each epoch (default: a bar on"
        " a terminal, lines elsewhere)",
    )
    loudness.add_argument("--quiet", action="store_true", help="show no progress")
    loudness.add_argument(
        "--verbose", action="store_true", help="let TensorFlow log what it has to say"
    )
    return parser


def _base_path(text: str) -> Path | StoreUrl:
    if not text:
        raise argparse.ArgumentTypeError("expected a folder or a URL, got ''")
    try:
        return parse_url(text) if is_url(text) else Path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _labels(text: str) -> tuple[str, ...]:
    labels = [label.strip() for label in text.split(",")]
    if os.path.isfile(text):  # of a text that can be no path it says no, and pathlib raises
        try:
            lines = Path(text).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise argparse.ArgumentTypeError(f"{text}: cannot be read as text: {error}") from None
        labels = [line.strip() for line in lines if line.strip()]
    if len(labels) < 2 or not all(labels) or len(set(labels)) < len(labels):
        raise argparse.ArgumentTypeError(
            f"expected two different names or more, LABEL,LABEL,... or a file of them, got {text!r}"
        )
    return tuple(labels)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch("([1-9][0-9]{0,3})x([1-9][0-9]{0,3})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH, such as 28x28, got {text!r}")
    return int(match[1]), int(match[2])


def _normalization(text: str) -> str:
    from ladle.export.data.normalization import check_name  # NumPy's import, where it is needed

    try:
        check_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("normalization: ")) from None
    return text


def _version(text: str) -> VersionChoice:
    if text == "next":
        return "next"
    if text == "timestamp":
        return "timestamp"
    if not (text.isascii() and text.isdigit() and int(text) <= MAX_VERSION):
        raise argparse.ArgumentTypeError(f"expected next, timestamp or a number, got {text!r}")
    return int(text)


def _export(
    args: argparse.Namespace, options: TrainingOptions, requirements: Requirements
) -> Exported:
    # What can be wrong is looked at before TensorFlow's import, which takes seconds.
    from ladle.export.data.sources import KERAS_SOURCES, TFRECORDS, read_source
    from ladle.export.multi_io.data import MultiDataset
    from ladle.export.multi_io.saved import has_several_inputs
    from ladle.export.publishing.destination import destination_of

    _show_warnings()
    os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever else its user trains with
    quietly = nullcontext if args.verbose else quiet_import
    # Results alone go to stdout; Keras would mix its progress with them.
    with redirect_stdout(sys.stderr):
        if args.model is not None or args.signatures is not None:
            sys.path.insert(0, os.getcwd())  # as `python -m` would
        # TensorFlow reads these files, and these data sets come with Keras.
        data = args.data or ""
        if data in KERAS_SOURCES or Path(data).suffix.lower() in TFRECORDS:
            with quietly():
                importlib.import_module("keras")
        dataset = None
        if args.data is not None:
            dataset = read_source(
                args.data,
                regression=options.is_regression,
                size=args.resize,
                group_by=args.group_by,
                by_column=args.model is not None and has_several_inputs(args.model),
            )
        if args.resize is not None and dataset is not None:
            if isinstance(dataset, MultiDataset):
                raise ValueError("resize: expected images, got several inputs")
            dataset = dataset.resized(*args.resize)
        destination_of(args.base_path).prepare()
        with quietly():
            from ladle.export.pipeline import export_model
            from ladle.export.training.custom_model import import_function
        signatures = None
        if args.signatures is not None:
            signatures = import_function("signatures", args.signatures)
        return export_model(
            args.base_path,
            dataset,
            recipe=args.recipe,
            model=args.model,
            fit=not args.export_only,
            allow_unsafe_model=args.allow_unsafe_model,
            signatures=signatures,
            labels=args.labels,
            normalization=args.normalization,
            options=options,
            requirements=requirements,
            version=args.version,
            plots=args.plots,
            verbose=_verbosity(args.quiet) if args.verbosity is None else args.verbosity,
        )


def _show_warnings() -> None:
    """Show on stderr what the package warns of, a line each, whatever TensorFlow sets up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("ladle export: warning: %(message)s"))
    handler.setLevel(logging.WARNING)
    logging.getLogger("ladle.export").handlers[:] = [handler]


def _verbosity(quiet: bool) -> Verbosity:
    if quiet:
        return 0
    return 1 if sys.stderr.isatty() else 2


def _fail(reason: object) -> int:
    print("ladle export:", " ".join(str(reason).split()), file=sys.stderr)
    return 1


def _serve_command(exported: Exported) -> str:
    return shlex.join(["ladle", "serve", str(exported.place.parent)])


_MEASURES = {"exact_match": "All labels of an example right"}


def _as_text(exported: Exported) -> str:
    held_out = exported.card.provenance["data"]["held_out_examples"]
    measured = "\n".join(
        f"{_MEASURES.get(name, name.capitalize())}: {value:.4f} on {held_out} held-out examples"
        for name, value in sorted(exported.card.metrics.items())
    )
    measured = measured or "Nothing was measured: it was exported without data"
    return (
        f"Published version {exported.version}: {exported.place}\n"
        f"{measured}\n"
        f"Serve it: {_serve_command(exported)}"
    )


def _as_json(exported: Exported) -> str:
    summary = {
        "version": exported.version,
        "path": str(exported.place),
        **exported.card.metrics,
        "held_out_examples": exported.card.provenance["data"]["held_out_examples"],
        "serve": _serve_command(exported),
    }
    return json.dumps(summary, indent=2)
