"""The command `ladle predict`.

numpy and grpc are imported after the arguments were checked, so that `--help` and a mistyped option
answer at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ladle.batch.arguments import parse
from ladle.batch.dispatch.progress import Progress, write, write_line
from ladle.store.url import StoreUrl, is_url, parse_url

if TYPE_CHECKING:
    from ladle.batch.job import Job, Summary
    from ladle.client import Client


def main(argv: list[str]) -> int:
    """Run `ladle predict` with the arguments `argv`, and return its exit status."""
    try:
        args = parse(argv)
    except SystemExit:
        write(sys.stdout, "")  # the help, where somebody still reads it
        raise
    from ladle.batch.errors import BatchError, one_line
    from ladle.client.errors import LadleError

    try:
        if args.check is not None:
            return _check(args)
        return _predict_all(args) if args.output is not None else _show(args)
    except ModuleNotFoundError:
        raise  # `ladle` itself says what to install
    except (BatchError, LadleError, ValueError, ImportError, MemoryError) as error:
        return _fail(one_line(error) or type(error).__name__)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(one_line(f"{where}{error.strerror or error}"))


def _predict_all(args: argparse.Namespace) -> int:
    from ladle.batch.execute import execute

    progress = Progress(sys.stderr, is_quiet=args.quiet)
    try:
        if args.task is None:
            summary = execute(_job(args), _connector(args), show=progress.show)
        else:
            from ladle.batch.tasks.execute import execute_tasks

            summary = execute_tasks(_job(args), args.task, _connector(args), show=progress.show)
    except KeyboardInterrupt:
        progress.end()
        write_line(sys.stderr, "ladle predict: the same command goes on where this ends")
        raise
    finally:
        progress.end()
    write_line(sys.stdout, json.dumps(asdict(summary)) if args.json else _as_text(summary))
    return 3 if summary.failed else 0


def _check(args: argparse.Namespace) -> int:
    from ladle.batch.tasks.checking import as_text, check

    found = check(_place(args.check, "--check"))
    write_line(sys.stdout, json.dumps(asdict(found)) if args.json else as_text(found))
    return 0 if found.is_complete else 1


def _show(args: argparse.Namespace) -> int:
    from ladle.batch.output.single import predict_few, shown
    from ladle.batch.writers.jsonl import as_json

    few = predict_few(_job(args), _connector(args), top=args.top, plot=args.plot)
    text = json.dumps(as_json(few), allow_nan=False) if args.json else shown(few)
    write_line(sys.stdout, text)
    return 0


def _job(args: argparse.Namespace) -> Job:
    from ladle.batch.dispatch.options import Options
    from ladle.batch.job import Job

    return Job(
        model=args.model,
        inputs=tuple(args.input),
        output=_place(args.output or ".", "--output"),
        output_format=args.output_format,
        input_format=args.input_format,
        version=args.version,
        label=args.label,
        signature=args.signature,
        outputs=args.outputs,
        rules=args.rules,
        keep=args.keep,
        normalize=None if args.normalize == "none" else args.normalize,
        restart=args.restart,
        allow_changed_input=args.allow_changed_input,
        allow_changed_model=args.allow_changed_model,
        options=Options(
            request_rows=args.rows_per_request,
            max_in_flight=args.max_in_flight,
            shard_rows=args.shard_rows,
            timeout_s=args.timeout,
            patience_s=args.patience,
            max_failed=args.max_failed,
        ),
    )


def _place(text: str, option: str) -> Path | StoreUrl:
    try:
        return parse_url(text) if is_url(text) else Path(text)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None


def _connector(args: argparse.Namespace) -> Callable[[bool], Client]:
    from ladle.client import TLS, Client, Retry

    tls = TLS(**args.tls) if args.tls else False
    token = None if args.token_file is None else Path(args.token_file)

    def connect(retries: bool) -> Client:
        # The dispatcher decides when a request is sent again.
        retry = Retry() if retries else Retry(max_attempts=1)
        return Client(
            args.server,
            protocol=args.protocol,
            timeout=args.timeout,
            tls=tls,
            token=token,
            retry=retry,
        )

    return connect


def _as_text(summary: Summary) -> str:
    from ladle.batch.job import TaskSummary

    versions = ", ".join(map(str, summary.versions))
    parts = "1 part" if summary.shards == 1 else f"{summary.shards} parts"
    text = f"{summary.rows:,} rows in {summary.output}, {parts}"
    if summary.versions:
        text += f", by version {versions}"
    if isinstance(summary, TaskSummary):
        text += f"; {summary.tasks_now:,} of {summary.tasks:,} tasks here"
    if summary.rows_now:
        text += f"; {summary.rows_now / summary.seconds:,.0f} rows/s"
    else:
        text += "; all was done before"
    if summary.failed:
        text += f"\n{summary.failed:,} failed; {summary.output}/_failed-*.jsonl says why"
    return text


def _fail(reason: str) -> int:
    write_line(sys.stderr, f"ladle predict: {reason}")
    return 1
