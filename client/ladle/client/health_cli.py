"""`ladle health`: asks a server's health service, for container health checks and scripts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ladle.cli.arguments import Parser, add_tls, seconds, tls_of

_DEFAULT_ADDRESS = "localhost:8500"
_DEFAULT_TIMEOUT_S = 5.0


def main(argv: Sequence[str] | None = None) -> int:
    """Say in one line whether a server serves; return 0 if it does and 1 if not."""
    parser = _make_parser()
    arguments = parser.parse_args(argv)
    tls_files = tls_of(arguments, parser)
    from ladle.client import TLS, Client, LadleError

    what = f"{arguments.address}{arguments.service and f' ({arguments.service})'}"
    try:
        tls = TLS(**tls_files) if tls_files else None
        with Client(arguments.address, tls=tls, timeout=arguments.timeout) as client:
            serving = client.health(arguments.service)
    except (LadleError, OSError, ValueError) as error:
        print(f"ladle health: {what}: {error}", file=sys.stderr)
        return 1
    print(f"{what}: {'serving' if serving else 'not serving'}")
    return 0 if serving else 1


def _make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="ladle health",
        description="Ask whether a server serves, by the standard gRPC health service; exit with "
        "0 if it does, else with 1.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "address",
        nargs="?",
        default=_DEFAULT_ADDRESS,
        help=f"host:port, or unix:/path (default {_DEFAULT_ADDRESS})",
    )
    parser.add_argument(
        "--service", default="", help="a model, or a service such as ModelService (default: all)"
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=_DEFAULT_TIMEOUT_S,
        help=f"seconds to wait for the answer (default {_DEFAULT_TIMEOUT_S:g})",
    )
    add_tls(parser)
    return parser
