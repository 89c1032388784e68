"""The command `ladle bench`."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import TYPE_CHECKING

from ladle.bench.arguments import parse

if TYPE_CHECKING:
    from ladle.bench.inputs import Request
    from ladle.bench.load import Measured
    from ladle.client import AsyncClient, ModelMetadata

_WARM_UP_S = 0.5


def main(argv: list[str]) -> int:
    """Run `ladle bench` with the arguments `argv`, and return its exit status."""
    args = parse(argv)
    from ladle.client import LadleError

    try:
        return asyncio.run(_bench(args))
    except BrokenPipeError:
        raise  # `ladle` ends quietly
    except (LadleError, ValueError, TypeError, OSError) as error:
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        print(f"ladle bench: {where}{' '.join(reason.split())}", file=sys.stderr)
        return 1


async def _bench(args: argparse.Namespace) -> int:
    from ladle.bench import inputs, report
    from ladle.client import TLS, AsyncClient, Retry
    from ladle.client.transport.addresses import is_this_machine

    if args.plot is not None:
        report.check_plots()
    in_clear = False if is_this_machine(args.address) else None  # None refuses a token
    async with AsyncClient(
        args.address,
        protocol=args.protocol,
        timeout=args.timeout,
        tls=TLS(**args.tls) if args.tls else in_clear,
        token=args.token_file,
        retry=Retry(max_attempts=1),  # what fails is counted, not made again
    ) as client:
        metadata = await client.metadata(args.model, version=args.version)
        parts = _parts(args, metadata)
        title = _title(args, metadata, inputs.in_words(parts[0]))
        if not args.json:
            print(title, end="\n\n", flush=True)
        measured = await _measure(args, client, parts)
    figures = {"model": args.model, "version": metadata.version, **report.as_json(measured)}
    print(json.dumps(figures) if args.json else report.as_table(measured), flush=True)
    if args.plot is not None:
        report.plot(measured, args.plot, title)
    return 3 if measured.errors else 0


def _parts(args: argparse.Namespace, metadata: ModelMetadata) -> list[Request]:
    """Return the requests to send, one after the other and from the start again.

    Raises:
        ValueError: The model has no such signature, or nothing fits it.
    """
    from ladle.bench import inputs

    if args.input is not None:
        return inputs.read(args.input, args.rows)
    signature = metadata.signatures.get(args.signature)
    if signature is None:
        names = ", ".join(metadata.signatures) or "none"
        raise ValueError(f'signature "{args.signature}": expected one of {names}')
    return [inputs.made(signature, args.rows)]


async def _measure(args: argparse.Namespace, client: AsyncClient, parts: list[Request]) -> Measured:
    """Make one request, then some that don't count, then those that do.

    Raises:
        LadleError: The first request failed; then all would.
    """
    from ladle.bench import inputs
    from ladle.bench.load import at_concurrency, at_rate

    requests = inputs.repeated(parts)

    async def call() -> int:
        request = next(requests)
        await client.predict(
            args.model,
            request,
            version=args.version,
            signature=args.signature,
            normalize=None if args.input is None else "auto",
        )
        return inputs.rows_of(request)

    await call()
    await at_concurrency(call, args.concurrency or 1, min(_WARM_UP_S, args.duration))
    if args.rate is not None:
        return await at_rate(call, args.rate, args.duration)
    return await at_concurrency(call, args.concurrency, args.duration)


def _title(args: argparse.Namespace, metadata: ModelMetadata, sent: str) -> str:
    version = "" if metadata.version is None else f" version {metadata.version}"
    load = f"{args.rate:g} requests a second" if args.rate else f"{args.concurrency} in flight"
    return (
        f'{args.address}: model "{args.model}"{version} "{args.signature}", {sent}; '
        f"{load} for {args.duration:g} s"
    )
