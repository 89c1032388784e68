"""`ladle rollout status`: whether a canary is good, at all servers of a fleet together."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from ladle.cli.arguments import Parser, seconds

_NO_VERDICT = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Print how the roll-outs do.

    Returns 0 if every canary is good, 1 if one is worse than it may or is held, 3 where that can't
    be said, and 2 for wrong usage.
    """
    parser = _make_parser()
    args = parser.parse_args(argv)
    from ladle.rollout import asking, fleet, guard, report

    servers = [server for listed in args.server for server in listed.split(",")]
    try:
        urls = {server: asking.status_url(server) for server in servers}
    except ValueError as error:
        parser.error(f"--server: {error}")
    unsafe = [server for server, url in urls.items() if not _is_safe(url)]
    if args.token_file and unsafe:
        parser.error(f"--token-file: {unsafe[0]}: expected https, or this machine")
    try:
        token, tls = asking.read_token(args.token_file), asking.tls_context(args.ca)
    except (OSError, ValueError) as error:
        print(f"ladle rollout: {error}", file=sys.stderr)
        return 2
    answers, failures = asking.ask_all(urls, timeout_s=args.timeout, token=token, tls=tls)
    try:
        found = fleet.rollouts(answers, args.model or "")
    except fleet.NotARollout as error:
        print(f"ladle rollout: {error}", file=sys.stderr)
        return _NO_VERDICT
    if args.json:
        print(json.dumps({"rollouts": [asdict(r) for r in found], "unreachable": failures}))
    elif found:
        print(report.as_text(found))
    for server, why in failures.items():
        print(f"ladle rollout: {server} can't be asked: {why}", file=sys.stderr)
    if not found and not failures:
        what = f"model {args.model}" if args.model else "any model"
        print(f"ladle rollout: {', '.join(servers)}: no roll-out of {what}", file=sys.stderr)
    verdicts = {rollout.verdict for rollout in found}
    if verdicts & {guard.WORSE, guard.HELD}:
        return 1
    return 0 if verdicts == {guard.GOOD} and not failures else _NO_VERDICT


def _is_safe(url: str) -> bool:
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    return parts.scheme == "https" or parts.hostname in ("localhost", "127.0.0.1", "::1")


def _make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="ladle rollout",
        description="See how the roll-outs of --rollout_file do.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    about = (
        "Add up what servers say of their roll-outs, and say whether the version on trial is "
        "good: by the guard of the roll-out, or by a guard's defaults without one. Exit with 0 if "
        "it is, with 1 if it is worse than it may or a server holds it, and with 3 if that can't "
        "be said: too few requests, no canary, or a server that does not answer."
    )
    status = commands.add_parser(
        "status", help="whether the version on trial is good", description=about, allow_abbrev=False
    )
    add = status.add_argument
    add(
        "--server",
        action="append",
        required=True,
        metavar="HOST:PORT,...",
        help="the HTTP addresses of all servers, such as localhost:8501; https://HOST:PORT for TLS;"
        " may be given several times",
    )
    add("--model", metavar="NAME", help="one model alone")
    add("--json", action="store_true", help="print JSON, for programs")
    add("--timeout", type=seconds, default=5.0, metavar="S", help="of each server (default: 5)")
    add("--ca", metavar="FILE", help="a PEM file with the authorities of https servers")
    add("--token-file", metavar="FILE", help="with a bearer token, for servers that ask for one")
    return parser
