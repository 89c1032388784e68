"""Options that several commands have, without anything heavy: `--help` answers at once."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """A parser that tells a mistake in one line, where argparse would print the usage as well."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        unknown = message.partition("unrecognized arguments: ")[2].split(" ")[0].partition("=")[0]
        options = [option for action in self._actions for option in action.option_strings]
        near = closest(unknown, options) if unknown.startswith("--") else ""
        advice = f"did you mean {near}?" if near else f"see {self.prog} --help"
        self.exit(2, f"{self.prog}: {message}; {advice}\n")


def closest(given: str, expected: Iterable[str]) -> str:
    """Return the one of the expected words that was probably meant; empty if none is near."""
    from difflib import get_close_matches  # imported here, because few mistype

    return next(iter(get_close_matches(given, list(expected), n=1, cutoff=0.6)), "")


def seconds(text: str) -> float:
    """Read a duration.

    Raises:
        argparse.ArgumentTypeError: It is none, or not finite.
    """
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e7:
        raise argparse.ArgumentTypeError(f"expected seconds, more than 0, got {text!r}")
    return number


def add_protocol(group: argparse._ActionsContainer) -> None:
    """Add which protocol the servers speak; see `Client`."""
    group.add_argument(
        "--protocol",
        choices=("tfs", "v2"),
        default="tfs",
        help="what the server speaks: TensorFlow Serving's protocol, or the Open Inference "
        "Protocol, v2, as Triton, KServe and MLServer do (default: tfs)",
    )


def add_tls(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add what says how a server is known, and return the group of these options."""
    group = parser.add_argument_group("security")
    add = group.add_argument
    add("--tls", action="store_true", help="TLS, with the authorities that gRPC brings")
    add("--ca", metavar="FILE", help="TLS, with the authorities in a PEM file")
    add("--certificate", metavar="FILE", help="TLS, with this client's own certificate (mTLS)")
    add("--key", metavar="FILE", help="the private key of --certificate")
    add("--server-name", metavar="NAME", help="TLS; the name in the server's certificate")
    return group


def tls_of(args: argparse.Namespace, parser: argparse.ArgumentParser) -> dict[str, str | None]:
    """Return what `ladle.client.TLS` takes; nothing where no TLS is asked for."""
    if (args.certificate is None) != (args.key is None):
        parser.error("--certificate and --key: expected both or neither")
    names = ("ca", "certificate", "key", "server_name")
    given = {name: getattr(args, name) for name in names}
    is_asked = args.tls or any(value is not None for value in given.values())
    return given if is_asked else {}
