"""The options of `ladle bench`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ladle.cli.arguments import Parser, add_protocol, add_tls, seconds, tls_of

_MAX_DURATION_S = 3600.0
_DEFAULT_CONCURRENCY = 8


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the arguments, with TLS's options as `tls`; exit on a mistake."""
    parser = _make_parser()
    args = parser.parse_args(argv)
    if args.rate is None and args.concurrency is None:
        args.concurrency = _DEFAULT_CONCURRENCY
    args.tls = tls_of(args, parser)
    return args


def _make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="ladle bench",
        description="Send a served model requests for a time, at a given concurrency or rate, and "
        "say how many it answered in a second, how long they took, and what failed. Exits with 0, "
        "with 1 if no request could be made, and with 3 if some failed.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("address", metavar="HOST:PORT", help="a server's gRPC address")
    add_protocol(parser)
    add("--model", required=True, metavar="NAME")
    add("--signature", default="serving_default", metavar="NAME", help="(default serving_default)")
    add("--version", type=int, metavar="N", help="of the model (default: the server's choice)")
    load = parser.add_argument_group("load")
    load = load.add_mutually_exclusive_group()
    load.add_argument(
        "--concurrency",
        type=_count,
        metavar="N",
        help=f"keep N requests in flight (default {_DEFAULT_CONCURRENCY})",
    )
    load.add_argument(
        "--rate",
        type=_rate,
        metavar="R",
        help="make R requests a second, whatever the answers do; latencies count from the moment "
        "when a request was due",
    )
    add("--duration", type=_duration, default=10.0, metavar="S", help="seconds (default 10)")
    add(
        "--timeout",
        type=seconds,
        default=10.0,
        metavar="S",
        help="of each request, in seconds (default 10)",
    )
    add("--rows", type=_count, default=1, metavar="N", help="in each request (default 1)")
    add(
        "--input",
        type=Path,
        metavar="FILE",
        help="a .npy or .npz file with the rows to send, again and again (default: made from the "
        "model's signature)",
    )
    add("--json", action="store_true", help="print the figures as JSON")
    add("--plot", type=Path, metavar="FILE", help="save a chart of the latencies (ladle[plots])")
    security = add_tls(parser)
    security.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="a bearer token; to another machine it takes TLS",
    )
    return parser


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 1 <= number <= 100_000:
        raise argparse.ArgumentTypeError(f"expected a number from 1 to 100000, got {text!r}")
    return number


def _rate(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 1_000_000:
        raise argparse.ArgumentTypeError(
            f"expected requests a second, more than 0 and at most 1000000, got {text!r}"
        )
    return number


def _duration(text: str) -> float:
    number = seconds(text)
    if number > _MAX_DURATION_S:
        raise argparse.ArgumentTypeError(
            f"expected at most {_MAX_DURATION_S:g} seconds, got {text!r}"
        )
    return number
