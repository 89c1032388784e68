"""The command `ladle models`: what lies under the base paths, and the care of it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ladle.export.arguments import CommandParser
from ladle.export.errors import ExportError, PublishError
from ladle.export.models import manage
from ladle.export.models.batching import batching_of
from ladle.export.models.places import (
    Keeper,
    find,
    keeper_of,
    keepers_below,
    place_of,
)
from ladle.export.models.promotion import CANARY, STABLE, demoted, promoted
from ladle.export.models.text import (
    as_dict,
    brief,
    card_of,
    flat,
    shown_metrics,
    state_of,
    table,
    told_in_rows,
    told_of_check,
)
from ladle.export.quiet import quiet_import
from ladle.export.report.evaluation import EVALUATION_PATH, read_evaluation
from ladle.export.report.page import make_report
from ladle.protos.files.batching_file import OWN_FILE
from ladle.protos.files.versions import version_of
from ladle.store.url import StoreUrl

# What says which signatures a version has.
_GRAPHS = ("saved_model.pb", "saved_model.pbtxt", "saved_model.cpb")
_DESCRIPTION = """\
Look after the versions of models. BASE_PATH is a model's folder, whose subfolders are versions;
BASE_PATH/N is one of them. Where they lie in a store, BASE_PATH is a URL, such as
s3://models/digits.

  ladle models list models                  every model under a folder, every version
  ladle models show models/digits/3         the card of a version; of the one that serves without /3
  ladle models compare models/digits 2 3    what changed
  ladle models report models/digits/3       a page to look at: curves, confusion matrix, examples
  ladle models check models/digits          load it as a server does, and run every signature
  ladle models warmup models/digits --from /logs/digits   its warm-up requests, of a request log
  ladle models label models/digits stable 3
  ladle models promote models/digits        put the label stable where canary is
  ladle models demote models/digits         and back
  ladle models rollback models/digits       take the newest version out of servers' sight
  ladle models rollback models/digits --restore
  ladle models prune models/digits --keep 3

With --server, `list`, `show` and `compare` ask a running server instead, where a model has its
name in place of a path:

  ladle models list --server localhost:8500
  ladle models show digits/3 --server localhost:8500
"""


def main(argv: list[str]) -> int:
    """Run `ladle models` with the arguments `argv`, and return its exit status."""
    args = _make_parser().parse_args(argv)
    try:
        found, text = args.run(args)
    except (ExportError, OSError) as error:
        print("ladle models:", " ".join(str(error).split()), file=sys.stderr)
        return 1
    print(json.dumps(found, indent=2, sort_keys=True) if args.json else text)
    return 0


_Run = Callable[[argparse.Namespace], tuple[Any, str]]


def _make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="ladle models",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(
        name: str, run: _Run, help_: str, path: str = "BASE_PATH", nargs: str | None = None
    ) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = commands.add_parser(
            name, help=help_, description=help_, allow_abbrev=False
        )
        command.set_defaults(run=run)
        command.add_argument("path", metavar=path, type=_place, nargs=nargs)
        command.add_argument("--json", action="store_true", help="print JSON, for programs")
        return command

    listing = add("list", _list, "list models and their versions", "FOLDER", "?")
    show = add("show", _show, "show the card of a version", "BASE_PATH[/N]")
    compare = add("compare", _compare, "show in what two versions differ")
    for command in (listing, show, compare):
        command.add_argument(
            "--server", metavar="HOST:PORT", help="ask this server, not the folders"
        )
    compare.add_argument("a", metavar="A", type=_number)
    compare.add_argument("b", metavar="B", type=_number)
    report = add("report", _report, "write a page about a version, as HTML", "BASE_PATH[/N]")
    report.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the page, replaced where there is one (default: MODEL-N.html, here)",
    )
    check = add(
        "check", _check, "load a version as a server does, and run its signatures", "BASE_PATH[/N]"
    )
    check.add_argument(
        "--allow-op",
        action="append",
        default=[],
        metavar="NAME",
        help="an operation that may read or write files or run Python; may be given again",
    )
    check.add_argument(
        "--import_modules",
        default="",
        metavar="NAMES",
        help="comma-separated Python modules to import first, as `ladle serve` has it",
    )
    check.add_argument(
        "--prefer_tflite_model",
        action="store_true",
        help="load model.tflite where there is one, as `ladle serve` has it",
    )
    check.add_argument(
        "--saved_model_tags",
        default="serve",
        metavar="TAGS",
        help="comma-separated tags of the graph to load, as `ladle serve` has it",
    )
    warmup = add(
        "warmup", _warmup, "make a version's warm-up file of a request log", "BASE_PATH[/N]"
    )
    warmup.add_argument(
        "--from",
        dest="logs",
        nargs="+",
        type=Path,
        required=True,
        metavar="LOG",
        help="files of a server's request log, or their filename_prefix",
    )
    warmup.add_argument(
        "--records", type=_records, default=1000, metavar="N", help="at most (default 1000)"
    )
    warmup.add_argument("--model", default="", help="take requests to this model only")
    label = add("label", _label, "give a version a label, or show or remove labels")
    label.add_argument("label", metavar="LABEL", nargs="?")
    label.add_argument("version", metavar="N", nargs="?", type=_number)
    label.add_argument("--remove", action="store_true", help="remove the label")
    promote = add("promote", _promote, "put the label stable where the canary is")
    promote.add_argument(
        "--label", default=CANARY, help=f"the label of the version on trial (default {CANARY})"
    )
    add("demote", _demote, "put the label stable back where it was before the promotion")
    rollback = add("rollback", _rollback, "take a version out of servers' sight, or bring it back")
    rollback.add_argument("version", metavar="N", nargs="?", type=_number)
    rollback.add_argument("--restore", action="store_true", help="bring the hidden version back")
    prune = add(
        "prune",
        _prune,
        "remove old versions, never the newest or one labelled here",
    )
    prune.add_argument(
        "--keep", type=_keep, required=True, metavar="N", help="how many whole ones to keep"
    )
    prune.add_argument("--dry-run", action="store_true", help="only tell which")
    return parser


def _place(text: str) -> Path | StoreUrl:
    try:
        return place_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _number(text: str) -> int:
    number = version_of(text)
    if number is None:
        raise argparse.ArgumentTypeError(f"expected a version number, got {text!r}")
    return number


def _records(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 1000):
        raise argparse.ArgumentTypeError(f"expected 1 to 1000, got {text!r}")
    return int(text)


def _keep(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"expected at least 1, got {text!r}")
    return int(text)


def _list(args: argparse.Namespace) -> tuple[Any, str]:
    if args.server is not None:
        return _list_served(args)
    if args.path is None:
        raise ExportError("list: expected a FOLDER or --server HOST:PORT")
    versions = [
        version for keeper in keepers_below(args.path) for version in keeper.list_versions()
    ]
    rows = [
        (
            version.model,
            version.version,
            state_of(version),
            ", ".join(version.labels),
            *shown_metrics(version),
            f"{version.size_bytes:,}",
            as_dict(version)["created"] or "",
        )
        for version in versions
    ]
    header = ("MODEL", "VERSION", "STATE", "LABELS", "METRICS", "BYTES", "CREATED")
    return [as_dict(version) for version in versions], table(header, rows)


def _list_served(args: argparse.Namespace) -> tuple[Any, str]:
    from ladle.export.models.remote import list_served  # brings gRPC

    found = list_served(args.server, None if args.path is None else str(args.path))
    rows = [
        (
            row["model"],
            "" if row["version"] is None else row["version"],
            row["state"] or "",
            "serves" if row["serves"] else "",
            ", ".join(row["labels"]),
            brief(row.get("error") or (row["problem"] if row["version"] is None else "")),
        )
        for row in found
    ]
    return found, table(("MODEL", "VERSION", "STATE", "", "LABELS", "PROBLEM"), rows)


def _show(args: argparse.Namespace) -> tuple[Any, str]:
    if args.server is not None:
        from ladle.export.models.remote import show_served

        told = show_served(args.server, *_named(args.path))
        return told, told_in_rows(told)
    keeper, version = find(args.path)
    card = card_of(version)
    with keeper.local_copy(version, {OWN_FILE}) as folder:
        told = as_dict(version) | {"card": card, "batching": batching_of(folder, card)}
    return told, told_in_rows(told)


def _compare(args: argparse.Namespace) -> tuple[Any, str]:
    if args.server is not None:
        from ladle.export.models.remote import card_served

        cards = [card_served(args.server, str(args.path), n) for n in (args.a, args.b)]
    else:
        keeper = keeper_of(args.path)
        cards = [card_of(keeper.find_version(n)) for n in (args.a, args.b)]
    sides = list(map(flat, cards))
    differing = {
        key: [side.get(key) for side in sides]
        for key in sorted(sides[0].keys() | sides[1].keys())
        if sides[0].get(key) != sides[1].get(key) and not key.startswith("provenance.history.")
    }
    rows = [(key, *map(brief, pair)) for key, pair in differing.items()]
    return differing, table(("", str(args.a), str(args.b)), rows)


def _report(args: argparse.Namespace) -> tuple[Any, str]:
    keeper, version = find(args.path)
    with keeper.local_copy(version, {EVALUATION_PATH}) as folder:
        try:
            evaluation = read_evaluation(folder)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            where = version.path / EVALUATION_PATH
            raise ExportError(f"{where}: cannot be read: {reason}") from error
    output = args.output or Path(f"{version.model}-{version.version}.html")
    page = make_report(version.model, version.version, version.card, evaluation)
    try:
        output.write_text(page, encoding="utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        raise ExportError(f"{output}: cannot be written: {reason}") from error
    told = {"version": version.version, "output": str(output)}
    return told, f"Report of version {version.version}: {output}"


def _check(args: argparse.Namespace) -> tuple[Any, str]:
    with quiet_import():
        from ladle.export.models.verify import check_version
        from ladle.export.saved_model.subprocess_check import Loading

    keeper, version = find(args.path)
    loading = Loading(
        import_modules=args.import_modules,
        prefer_tflite_model=args.prefer_tflite_model,
        saved_model_tags=args.saved_model_tags,
    )
    with keeper.local_copy(version) as folder:
        checked = check_version(folder, args.allow_op, loading)
    told = {
        "version": version.version,
        "path": str(version.path),
        "signatures": [*checked.warmed_up, *checked.made],
        "made_inputs": checked.made,
        "refused_made_inputs": dict(checked.refused),
        "warnings": list(checked.warnings),
    }
    return told, "\n".join(told_of_check(version.version, checked))


def _warmup(args: argparse.Namespace) -> tuple[Any, str]:
    with quiet_import():
        from ladle.export.saved_model.warmup import WARMUP_PATH
        from ladle.export.saved_model.warmup_from_log import write_warmup_from_logs

    keeper, version = find(args.path)
    with keeper.local_copy(version, _GRAPHS) as folder:
        written = write_warmup_from_logs(folder, args.logs, records=args.records, model=args.model)
        keeper.put_file(version, folder, WARMUP_PATH)
    told = {"version": version.version, "path": str(version.path), **asdict(written)}
    left_out = (
        f"; {written.without_signature} were to signatures that it has not"
        if written.without_signature
        else ""
    )
    cut_off = f"; cut off in the middle of a record: {', '.join(written.damaged)}"
    return told, (
        f"Version {version.version} warms up with {written.records} requests to "
        f"{', '.join(written.signatures)}, of {written.read} in the log{left_out}"
        f"{cut_off if written.damaged else ''}"
    )


def _label(args: argparse.Namespace) -> tuple[Any, str]:
    keeper = keeper_of(args.path)
    if args.label is not None or args.remove:
        if args.label is None or (args.version is None) != args.remove:
            raise PublishError("label: expected LABEL and N, or LABEL and --remove")
        keeper.set_label(args.label, args.version)
    labels = keeper.read_labels()
    return labels, table(("LABEL", "VERSION"), sorted(labels.items()))


def _promote(args: argparse.Namespace) -> tuple[Any, str]:
    keeper = keeper_of(args.path)
    # Before any label moves: there has to be such a version.
    keeper.find_version(promoted(keeper.read_labels(), args.label)[STABLE])
    keeper.change_labels(lambda labels: promoted(labels, args.label))
    return _moved(keeper)


def _demote(args: argparse.Namespace) -> tuple[Any, str]:
    keeper = keeper_of(args.path)
    keeper.find_version(demoted(keeper.read_labels())[STABLE])
    keeper.change_labels(demoted)
    return _moved(keeper)


def _moved(keeper: Keeper) -> tuple[Any, str]:
    labels = keeper.read_labels()
    return labels, table(("LABEL", "VERSION"), sorted(labels.items()))


def _rollback(args: argparse.Namespace) -> tuple[Any, str]:
    keeper = keeper_of(args.path)
    changed = (keeper.restore if args.restore else keeper.hide)(args.version)
    serves = next((v.version for v in keeper.list_versions() if v.serves), None)
    told = {"version": changed.version, "hidden": not args.restore, "serves": serves}
    done = "is back in sight" if args.restore else "is out of sight"
    now = "no version is whole" if serves is None else f"version {serves} serves"
    return told, f"Version {changed.version} {done}; {now}"


def _prune(args: argparse.Namespace) -> tuple[Any, str]:
    keeper = keeper_of(args.path)
    chosen = manage.to_prune(keeper.list_versions(), args.keep)
    for version in () if args.dry_run else chosen:
        keeper.remove(version)
    numbers = [version.version for version in chosen]
    done = "Would remove" if args.dry_run else "Removed"
    return {"removed": numbers, "dry_run": args.dry_run}, (
        f"{done} {', '.join(map(str, numbers)) or 'nothing'}"
    )


def _named(path: Path) -> tuple[str, int | None]:
    """Return the model and, if there is one, the version of MODEL/N."""
    number = version_of(path.name)
    if number is None or path.parent == Path("."):
        return str(path), None
    return str(path.parent), number
