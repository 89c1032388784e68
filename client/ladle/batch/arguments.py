"""The arguments of `ladle predict`, and its `--help`."""

from __future__ import annotations

import argparse
import os

from ladle.batch.tasks.worker import Worker, parse_worker
from ladle.cli.arguments import Parser, add_protocol, add_tls, seconds, tls_of

_DESCRIPTION = """\
Predict every row of files of any size, into files. The server is ladle's or TensorFlow Serving's;
with --protocol v2 also Triton, KServe or MLServer.

  ladle predict --server localhost:8500 --model digits --input photo.png

prints the classes of one image or array; --plot chart.png draws it beside its bar chart.

  ladle predict --server localhost:8500 --model digits --input images.parquet --output predictions

reads rows as a stream and writes predictions/part-00000.parquet and so on, each with the number
of the row, the model's outputs, and the label and score of a class_id. A folder begins with its
manifest; parts appear when they are whole. Killed at any moment and started again with the same
command, it goes on after the last part, and every row is there once. It doesn't go on if the input
has changed or another version of the model is served, unless an option allows that.

Many workers share one job, each started with the same command and a --task of its own:

  ladle predict --server ladle:8500 --model digits --input in/ --output out --task 0/8

They agree on a plan in OUT, and each commits whole tasks. Any of them may be killed or started
twice: each ends when all tasks are committed, and every row is there once. --check OUT shows what
is missing.

The input, one format in each run, by the extension or --input-format:

  .npy .npz     an array, or several by name; the first dimension is the rows
  .parquet      numbers, lists of numbers, text, bytes
  .csv          with a header; numbers or text
  .jsonl        an object or one value in each line; {"b64": "..."} for bytes
  .tfrecord     tf.Examples, also GZIP or ZLIB; the column "record" is the Example itself
  .png .jpg ... images, also in folders; they become what the model takes
  .txt          a list of images, a path in each line, relative to the list's folder

Text is UTF-8. CSV and JSON lines may be compressed with gzip, as in .csv.gz.

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


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the arguments; exit on a mistake.

    --map is there as `rules`, and, without --check, TLS's options as `tls`.
    """
    parser = _make_parser()
    args = parser.parse_args(argv)
    from ladle.batch.columns.mapping import parse_rule

    try:
        args.rules = tuple(parse_rule(text) for text in args.map)
    except ValueError as error:
        parser.error(f"--map: {error}")
    _check_what_is_asked(args, parser)
    if args.check is not None:
        return args
    args.tls = tls_of(args, parser)
    if args.no_tls and args.tls:
        parser.error("--no-tls: another option asks for TLS")
    if args.token_file is not None and not (args.tls or args.no_tls):
        for address in args.server:
            from ladle.client.transport.addresses import is_this_machine

            if not is_this_machine(address):
                parser.error(
                    f"--token-file: without TLS anybody on the way to {address} can read the "
                    "token; --tls encrypts it, --no-tls sends it all the same"
                )
    return args


def _check_what_is_asked(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    needed = {f"--{name}": getattr(args, name) for name in ("server", "model", "input")}
    if args.check is not None:
        for name, value in {**needed, "--output": args.output, "--task": args.task}.items():
            if value is not None:
                parser.error(f"{name}: --check takes a place and --json, and nothing else")
        return
    missing = [name for name, value in needed.items() if value is None]
    if missing:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    if args.output is None:
        for name in ("restart", "allow_changed_input", "allow_changed_model", "task"):
            if getattr(args, name):
                parser.error(f"--{name.replace('_', '-')}: there is no --output to go on with")
    elif args.plot is not None:
        parser.error("--plot: a chart is for what is printed, without --output")
    if args.task is not None:
        for name in ("restart", "allow_changed_input"):
            if getattr(args, name):
                parser.error(
                    f"--{name.replace('_', '-')}: one of many workers can't begin anew, or change "
                    "the input; give another --output"
                )


def _make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="ladle predict",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--server", type=_names, metavar="HOST:PORT[,HOST:PORT...]")
    add_protocol(parser)
    add("--model", type=_name, metavar="NAME")
    add(
        "--input",
        nargs="+",
        metavar="IN",
        help="files or folders, or URLs in stores",
    )
    add(
        "--output",
        metavar="OUT",
        help="the folder for the predictions, or its URL in a store, made where it is missing;"
        " without it, those of up to 16 rows are printed",
    )
    add(
        "--map",
        action="append",
        default=[],
        metavar="TENSOR=COLUMN[,COLUMN...][:DTYPE]",
        help="which column is an input of the model; several, or a pattern, become its values;"
        " DTYPE is the dtype that their numbers become, such as uint8 for raw pixels",
    )
    add(
        "--keep",
        type=_names,
        default=(),
        metavar="COLUMN,...",
        help="columns or patterns that go into the output (for images: their paths)",
    )
    formats = ("npy", "npz", "parquet", "csv", "jsonl", "tfrecord", "images", "list")
    add("--input-format", choices=formats, help="(default: by the extension)")
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
        help="how raw pixels, images or uint8, are sent to a model of floats: normalised as the"
        " model records it, here or by the model's signature for raw pixels (auto: by the signature"
        " if there is one); or as the numbers that they are",
    )
    many = parser.add_argument_group("many workers")
    many.add_argument(
        "--task",
        type=_worker,
        metavar="I/N",
        help="be worker I of N, from 0; auto takes both from Slurm or AWS Batch, auto/N takes I"
        " from a Kubernetes Job too. N decides who begins where, and nothing else",
    )
    many.add_argument(
        "--check",
        metavar="OUT",
        help="only say how far the workers of OUT are; exit status 0 if the output is complete,"
        " 1 if not",
    )
    running = parser.add_argument_group("the run")
    add = running.add_argument
    add("--restart", action="store_true", help="remove what is in OUT, and begin anew")
    add("--allow-changed-input", action="store_true", help="go on although the input has changed")
    add(
        "--allow-changed-model",
        action="store_true",
        help="go on although another version is served, now or later; the manifest says which"
        " versions answered",
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
    add("--timeout", type=seconds, default=30.0, metavar="S", help="of a request (default: 30)")
    add(
        "--patience",
        type=seconds,
        default=60.0,
        metavar="S",
        help="how long the servers may refuse every request, or be gone, until the run ends;"
        " requests that take longer than --timeout are sent in halves first (default: 60)",
    )
    add("--quiet", action="store_true", help="show no progress")
    add("--json", action="store_true", help="print the result as JSON, for programs")
    few = parser.add_argument_group("without --output")
    few.add_argument("--top", type=_count, default=5, metavar="K", help="classes (default: 5)")
    few.add_argument("--plot", metavar="FILE", help="save the images beside their bar charts")
    security = add_tls(parser)
    security.add_argument(
        "--token-file",
        metavar="FILE",
        help="with a bearer token; read again when it changes; without TLS it is sent to this"
        " machine alone",
    )
    security.add_argument(
        "--no-tls", action="store_true", help="send the token without TLS, to anybody on the way"
    )
    return parser


def _worker(text: str) -> Worker:
    try:
        return parse_worker(text, os.environ)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


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
