"""The command `ladle predict`.

Nothing heavy is imported before the arguments are known to be good: `--help` and a mistyped option
answer at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from ladle.batch.job import Job, Summary
    from ladle.client import Client

_DESCRIPTION = """\
Predict every row of files of any size, into files. The server is ladle's or TensorFlow Serving's.

  ladle predict --server localhost:8500 --model digits --input photo.png

prints the classes of one image or array; --plot chart.png draws it beside its bar chart.

  ladle predict --server localhost:8500 --model digits --input images.parquet --output predictions

reads rows as a stream and writes predictions/part-00000.parquet and so on, each with the number
of the row and the model's outputs. A folder begins with its manifest; parts appear when they are
whole. Killed at any moment and started again with the same command, it goes on after the last
part, and every row is there once. It doesn't go on if the input has changed or another version of
the model is served, unless it is told to.

The input, one format in each run, told by the extension or --input-format:

  .npy .npz     an array, or several by name; the first dimension is the rows
  .parquet      numbers, lists of numbers, text, bytes
  .csv          with a header; numbers or text
  .jsonl        an object or one value in each line; {"b64": "..."} for bytes
  .tfrecord     tf.Examples, not compressed; the column "record" is the Example itself
  .png .jpg ... images, also in folders; they become what the model takes
  .txt          a list of images, a path in each line, seen from the list's folder

Columns become the model's inputs by their names, or as --map says:

  --map images=pixels              the column "pixels" is the input "images"
  --map images='pixel*':uint8      pixel0, pixel1 and so on are the values of "images", raw pixels
  --map examples=record            whole tf.Examples for a model that takes them as strings

Rows of plain numbers, or bytes of the right length, are put into the input's shape.
"""

_EPILOG = """\
examples:
  ladle predict --server a:8500,b:8500 --model mnist --input mnist.csv --output out \\
      --map images='pixel*':uint8 --keep id --output-format csv
  ladle predict --server localhost:8500 --model cats --input photos/ --output out
  ladle predict --server localhost:8500 --model text --input lines.jsonl --output out \\
      --outputs score --output-format jsonl --json

Rows that fail are in out/_failed-00000.jsonl and so on, with the reason; a request that fails is
sent again in halves, so that only bad rows fail.

Exit status: 0 every row has its prediction, 3 some have failed, 1 the run could not go on (one line
says why; what is done stays), 2 wrong usage, 130 interrupted.
"""


def main(argv: list[str]) -> int:
    """Run `ladle predict` with the arguments `argv`, and return its exit status."""
    parser = _make_parser()
    args = parser.parse_args(argv)
    from ladle.batch.mapping import parse_rule

    try:
        args.rules = tuple(parse_rule(text) for text in args.map)
    except ValueError as error:
        parser.error(f"--map: {error}")
    if args.output is None:
        for name in ("restart", "allow_changed_input", "allow_changed_model"):
            if getattr(args, name):
                parser.error(f"--{name.replace('_', '-')}: there is no --output to go on with")
    elif args.plot is not None:
        parser.error("--plot: a chart is for what is printed, without --output")
    if (args.certificate is None) != (args.key is None):
        parser.error("--certificate and --key: expected both or neither")
    from ladle.batch.errors import BatchError, one_line
    from ladle.client.errors import LadleError

    try:
        return _predict_all(args) if args.output is not None else _show(args)
    except ModuleNotFoundError:
        raise  # `ladle` itself says what to install
    except (BatchError, LadleError, ValueError, ImportError, MemoryError) as error:
        return _fail(one_line(error) or type(error).__name__)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(one_line(f"{where}{error.strerror or error}"))


def _predict_all(args: argparse.Namespace) -> int:
    from ladle.batch.job import carry_out
    from ladle.batch.progress import Progress

    progress = Progress(sys.stderr, is_quiet=args.quiet)
    try:
        summary = carry_out(_job(args), _connector(args), tell=progress.tell)
    except KeyboardInterrupt:
        progress.end()
        print("ladle predict: the same command goes on where this ends", file=sys.stderr)
        raise
    finally:
        progress.end()
    print(json.dumps(asdict(summary)) if args.json else _as_text(summary))
    return 3 if summary.failed else 0


def _show(args: argparse.Namespace) -> int:
    from ladle.batch.single import predict_few, shown

    few = predict_few(_job(args), _connector(args), top=args.top, plot=args.plot)
    print(json.dumps(few) if args.json else shown(few))
    return 0


def _job(args: argparse.Namespace) -> Job:
    from ladle.batch.job import Job
    from ladle.batch.run import Options

    return Job(
        model=args.model,
        inputs=tuple(args.input),
        output=Path(args.output or "."),
        output_format=args.output_format,
        input_format=args.input_format,
        version=args.version,
        label=args.label,
        signature=args.signature,
        outputs=args.outputs,
        rules=args.rules,
        keep=args.keep,
        normalize=None if args.normalize == "none" else args.normalize,
        timeout_s=args.timeout,
        restart=args.restart,
        allow_changed_input=args.allow_changed_input,
        allow_changed_model=args.allow_changed_model,
        options=Options(
            request_rows=args.rows_per_request,
            max_in_flight=args.max_in_flight,
            shard_rows=args.shard_rows,
            patience_s=args.patience,
            max_failed=args.max_failed,
        ),
    )


def _connector(args: argparse.Namespace) -> Callable[[bool], Client]:
    from ladle.client import TLS, Client, Retry

    tls: TLS | bool = args.tls
    if args.ca or args.certificate or args.server_name:
        tls = TLS(
            ca=args.ca, certificate=args.certificate, key=args.key, server_name=args.server_name
        )
    token = None if args.token_file is None else Path(args.token_file)

    def connect(retries: bool) -> Client:
        # A run decides itself when a request is sent again, and how many there are meanwhile.
        retry = Retry() if retries else Retry(max_attempts=1)
        return Client(args.server, timeout=args.timeout, tls=tls, token=token, retry=retry)

    return connect


def _as_text(summary: Summary) -> str:
    versions = ", ".join(map(str, summary.versions))
    parts = "1 part" if summary.shards == 1 else f"{summary.shards} parts"
    told = f"{summary.rows:,} rows in {summary.output}, {parts}"
    if summary.versions:
        told += f", by version {versions}"
    if summary.rows_now:
        told += f"; {summary.rows_now / summary.seconds:,.0f} rows/s"
    else:
        told += "; all was done before"
    if summary.failed:
        told += f"\n{summary.failed:,} failed; {summary.output}/_failed-*.jsonl says why"
    return told


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Exit with one line, where argparse would print the usage as well."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="ladle predict",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--server", required=True, type=_names, metavar="HOST:PORT[,HOST:PORT...]")
    add("--model", required=True, type=_name, metavar="NAME")
    add("--input", required=True, nargs="+", metavar="IN", help="files or folders")
    add(
        "--output",
        metavar="OUT",
        help="the folder for the predictions, made where it is missing; without it, those of up to"
        " 16 rows are printed",
    )
    add(
        "--map",
        action="append",
        default=[],
        metavar="TENSOR=COLUMN[,COLUMN...][:DTYPE]",
        help="which column is an input of the model; several, or a pattern, become its values;"
        " DTYPE is what their numbers are taken for, such as uint8 for raw pixels",
    )
    add(
        "--keep",
        type=_names,
        default=(),
        metavar="COLUMN,...",
        help="columns or patterns that go into the output (for images: their paths)",
    )
    formats = ("npy", "npz", "parquet", "csv", "jsonl", "tfrecord", "images", "list")
    add("--input-format", choices=formats, help="by default what the extension tells")
    add(
        "--output-format",
        choices=("parquet", "jsonl", "csv", "npy"),
        default="parquet",
        help="(default: parquet)",
    )
    model = parser.add_argument_group("the model")
    add = model.add_argument
    add("--version", type=_count, metavar="N", help="by default the one that the server chooses")
    add("--label", metavar="LABEL", help="the version with that label")
    add("--signature", metavar="NAME", help="(default: serving_default)")
    add("--outputs", type=_names, default=(), metavar="NAME,...", help="(default: all)")
    add(
        "--normalize",
        choices=("auto", "client", "server", "none"),
        default="auto",
        help="what becomes of raw pixels, images or uint8, for a model of floats: normalised as"
        " the model records it, here or by its own signature for them (auto: there if it has one);"
        " or sent as the numbers that they are",
    )
    running = parser.add_argument_group("the run")
    add = running.add_argument
    add("--restart", action="store_true", help="remove what is in OUT, and begin anew")
    add("--allow-changed-input", action="store_true", help="go on although the input has changed")
    add(
        "--allow-changed-model",
        action="store_true",
        help="go on although another version is served, now or later; the manifest tells which"
        " answered",
    )
    add(
        "--max-failed",
        type=_whole,
        metavar="N",
        help="end the run when more rows have failed; by default when the first 200 all have",
    )
    add(
        "--rows-per-request",
        type=_count,
        metavar="N",
        help="at most; by default about a megabyte, up to 512 rows",
    )
    add(
        "--max-in-flight",
        type=_count,
        default=16,
        metavar="N",
        help="requests at most at a time; how many there are grows slowly, and is halved when the"
        " server has too much to do (default: 16)",
    )
    add("--shard-rows", type=_count, default=1 << 16, metavar="N", help="(default: 65536)")
    add("--timeout", type=_seconds, default=30.0, metavar="S", help="of a request (default: 30)")
    add(
        "--patience",
        type=_seconds,
        default=60.0,
        metavar="S",
        help="how long no request may succeed until the run ends (default: 60)",
    )
    add("--quiet", action="store_true", help="tell nothing of the progress")
    add("--json", action="store_true", help="print the result as JSON, for programs")
    few = parser.add_argument_group("without --output")
    few.add_argument("--top", type=_count, default=5, metavar="K", help="classes (default: 5)")
    few.add_argument("--plot", metavar="FILE", help="save the images beside their bar charts")
    security = parser.add_argument_group("security")
    add = security.add_argument
    add("--tls", action="store_true", help="TLS, with the authorities that gRPC brings")
    add("--ca", metavar="FILE", help="TLS, with the authorities in a PEM file")
    add("--certificate", metavar="FILE", help="this client's own, for mutual TLS")
    add("--key", metavar="FILE")
    add("--server-name", metavar="NAME", help="in the server's certificate")
    add("--token-file", metavar="FILE", help="with a bearer token; read again when it changes")
    return parser


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"expected names with commas between, got {text!r}")
    return names


def _name(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("expected a name, got nothing")
    return text


def _count(text: str) -> int:
    number = _whole(text)
    if not number:
        raise argparse.ArgumentTypeError("expected 1 or more, got 0")
    return number


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 18):
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e7:
        raise argparse.ArgumentTypeError(f"expected seconds, more than 0, got {text!r}")
    return seconds


def _fail(reason: str) -> int:
    print("ladle predict:", reason, file=sys.stderr)
    return 1
