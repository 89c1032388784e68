"""`ladle health`: asks a server's health service, for container health checks and scripts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

_DEFAULT_ADDRESS = "localhost:8500"
_DEFAULT_TIMEOUT_S = 5.0


def main(argv: Sequence[str] | None = None) -> int:
    """Say in one line whether a server serves; return 0 if it does and 1 if not."""
    arguments = _parser().parse_args(argv)
    from ladle.client import TLS, Client, LadleError

    what = f"{arguments.address}{arguments.service and f' ({arguments.service})'}"
    try:
        tls = None
        if arguments.ca or arguments.certificate:
            tls = TLS(
                ca=arguments.ca,
                certificate=arguments.certificate,
                key=arguments.key,
                server_name=arguments.server_name,
            )
        with Client(arguments.address, tls=tls, timeout=arguments.timeout) as client:
            serving = client.health(arguments.service)
    except (LadleError, OSError, ValueError) as error:
        print(f"ladle health: {what}: {error}", file=sys.stderr)
        return 1
    print(f"{what}: {'serving' if serving else 'not serving'}")
    return 0 if serving else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
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
        type=_seconds,
        default=_DEFAULT_TIMEOUT_S,
        help=f"seconds to wait for the answer (default {_DEFAULT_TIMEOUT_S:g})",
    )
    parser.add_argument("--ca", help="PEM file of who vouches for the server: ask over TLS")
    parser.add_argument("--certificate", help="PEM file of our own certificate, for mTLS")
    parser.add_argument("--key", help="PEM file of its private key")
    parser.add_argument("--server-name", help="the name in the server's certificate")
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"expected seconds, more than 0, got {text!r}")
    return seconds
