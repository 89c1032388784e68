"""The file of `--rollout_file`: read at the start, and again whenever its text is another."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

from google.protobuf import text_format

from ladle.protos.ladle_pb import Rollout as RolloutProto
from ladle.protos.ladle_pb import RolloutConfig
from ladle.protos.services import pool
from ladle.rollout.guard import Guard
from ladle.server.core.clock import Clock
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.rollout.comparing import OutputRule
from ladle.server.core.rollout.shadow import Shadow
from ladle.server.core.rollout.split import BUCKETS, Rollout, Steps
from ladle.server.settings.polled_file import PolledFile
from ladle.store.opening import open_store
from ladle.store.store import Store
from ladle.store.url import StoreUrl

_MAX_BYTES = 1 << 20
_MOST_IN_FLIGHT = 1000
# gRPC's names of metadata, and HTTP's of headers; what ends with -bin holds bytes.
_KEY_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,99}")


def parse(text: str) -> tuple[Rollout, ...]:
    """Return the roll-outs of a RolloutConfig in text format, which may be none.

    Raises:
        InvalidArgument: It is none, or a roll-out is not legal; a field that is not known is an
            error, so that nothing is left out without a word.
    """
    try:
        proto = text_format.Parse(text, RolloutConfig(), descriptor_pool=pool())
    except text_format.ParseError as error:
        raise InvalidArgument(
            f"expected a ladle.v1.RolloutConfig in text format: {error}"
        ) from None
    rollouts = tuple(map(_rollout, proto.rollout))
    seen: set[str] = set()
    for rollout in rollouts:
        if rollout.model in seen:
            raise InvalidArgument(f"model {rollout.model}: expected one rollout, got two")
        seen.add(rollout.model)
    return rollouts


class RolloutFile(PolledFile[tuple[Rollout, ...]]):
    """Polls the file, and hands its roll-outs on."""

    def __init__(
        self,
        path: Path | StoreUrl,
        replace: Callable[[tuple[Rollout, ...]], object],
        *,
        poll_wait_s: float,
        clock: Clock | None = None,
        open_store: Callable[[StoreUrl], Store] = open_store,
    ) -> None:
        """Take `replace`, which puts roll-outs in place."""
        super().__init__(
            path,
            parse,
            replace,
            name="roll-outs",
            max_bytes=_MAX_BYTES,
            poll_wait_s=poll_wait_s,
            clock=clock,
            open_store=open_store,
        )


def _rollout(proto: RolloutProto) -> Rollout:
    model = proto.model
    if not model:
        raise InvalidArgument("expected a rollout with a model, got one without")
    stable = proto.stable.label or "stable"
    canary = (proto.canary.label or "canary") if proto.HasField("canary") else ""
    if stable == canary:
        raise InvalidArgument(f"model {model}: expected two labels, got {stable!r} for both parts")
    percent = proto.canary.percent
    buckets = _buckets(f"model {model}", percent)
    steps = _steps(proto) if proto.HasField("steps") else None
    if steps is not None:
        buckets = steps.buckets[0]
    key_name = proto.sticky.metadata.lower()
    if proto.HasField("sticky") and not _KEY_NAME.fullmatch(key_name):
        raise InvalidArgument(
            f"model {model}: sticky: expected the name of a header, got {proto.sticky.metadata!r}"
        )
    if key_name.endswith("-bin"):
        raise InvalidArgument(
            f"model {model}: sticky: expected metadata that is text, got {key_name!r}"
        )
    return Rollout(
        model=model,
        stable_label=stable,
        canary_label=canary,
        canary_buckets=buckets,
        steps=steps,
        key_name=key_name,
        salt=proto.salt or model,
        guard=_guard(proto, canary) if proto.HasField("guard") else None,
        shadow=_shadow(proto, stable, canary) if proto.HasField("shadow") else None,
    )


def _buckets(where: str, percent: float) -> int:
    if not 0 <= percent <= 100:
        raise InvalidArgument(f"{where}: percent: expected 0 to 100, got {percent:g}")
    buckets = round(percent * BUCKETS / 100)
    if percent and not buckets:
        raise InvalidArgument(f"{where}: percent: expected 0 or at least 0.01, got {percent:g}")
    return buckets


def _steps(proto: RolloutProto) -> Steps:
    given = proto.steps
    where = f"model {proto.model}: steps"
    if not proto.HasField("canary"):
        raise InvalidArgument(f"{where}: expected a canary, got none")
    if proto.canary.percent:
        raise InvalidArgument(f"{where}: expected no percent of the canary beside them")
    if not given.percent:
        raise InvalidArgument(f"{where}: expected a percent, got none")
    if not given.hold_s:
        raise InvalidArgument(f"{where}: hold_s: expected 1 or more, got 0")
    buckets = tuple(_buckets(where, percent) for percent in given.percent)
    if sorted(set(buckets)) != list(buckets):
        listed = ", ".join(f"{percent:g}" for percent in given.percent)
        raise InvalidArgument(f"{where}: percent: expected ascending ones, got {listed}")
    return Steps(buckets=buckets, hold_s=float(given.hold_s))


def _shadow(proto: RolloutProto, stable: str, canary: str) -> Shadow:
    given = proto.shadow
    where = f"model {proto.model}: shadow"
    label = given.label or canary or "canary"
    if label == stable:
        raise InvalidArgument(f"{where}: expected another label than stable's, got {label!r}")
    if not 0 < given.percent <= 100:
        raise InvalidArgument(
            f"{where}: percent: expected more than 0, up to 100, got {given.percent:g}"
        )
    if given.max_in_flight > _MOST_IN_FLIGHT:
        raise InvalidArgument(
            f"{where}: max_in_flight: expected at most {_MOST_IN_FLIGHT}, got {given.max_in_flight}"
        )
    if given.log and not given.log.startswith("/"):
        raise InvalidArgument(f"{where}: log: expected an absolute path, got {given.log!r}")
    rules: dict[str, OutputRule] = {}
    for entry in given.compare:
        if entry.output in rules:
            which = f"output {entry.output!r}" if entry.output else "all outputs"
            raise InvalidArgument(f"{where}: expected one compare for {which}, got two")
        for name in ("atol", "rtol"):
            value = getattr(entry, name)
            if not 0 <= value < math.inf:
                raise InvalidArgument(f"{where}: {name}: expected 0 or more, got {value:g}")
        if not (entry.atol or entry.rtol or entry.top_k):
            raise InvalidArgument(f"{where}: compare: expected atol, rtol or top_k, got none")
        rules[entry.output] = OutputRule(
            atol=entry.atol,
            rtol=entry.rtol,
            has_tolerance=bool(entry.atol or entry.rtol),
            top_k=entry.top_k,
        )
    usual = Shadow(share=given.percent / 100)
    return Shadow(
        label=label,
        share=usual.share,
        max_in_flight=given.max_in_flight or usual.max_in_flight,
        rules=rules,
        log=given.log,
    )


def _guard(proto: RolloutProto, canary: str) -> Guard:
    given = proto.guard
    where = f"model {proto.model}: guard"
    if not proto.HasField("canary"):
        raise InvalidArgument(f"{where}: expected a canary to watch, got none")
    if not 0 <= given.max_error_ratio <= 1:
        raise InvalidArgument(
            f"{where}: max_error_ratio: expected 0 to 1, got {given.max_error_ratio:g}"
        )
    if not 0 <= given.max_disagreement <= 1:
        raise InvalidArgument(
            f"{where}: max_disagreement: expected 0 to 1, got {given.max_disagreement:g}"
        )
    of_canary = proto.HasField("shadow") and (proto.shadow.label or canary) == canary
    if given.max_disagreement and not of_canary:
        raise InvalidArgument(f"{where}: max_disagreement: expected a shadow of the canary")
    for name in ("max_errors_to_stable", "max_p99_to_stable"):
        value = getattr(given, name)
        if not (value == 0 or 1 <= value < math.inf):
            raise InvalidArgument(f"{where}: {name}: expected 1 or more, got {value:g}")
    usual = Guard()
    return Guard(
        min_requests=given.min_requests or usual.min_requests,
        max_error_ratio=given.max_error_ratio or usual.max_error_ratio,
        max_errors_to_stable=given.max_errors_to_stable or usual.max_errors_to_stable,
        max_p99_to_stable=given.max_p99_to_stable,
        max_disagreement=given.max_disagreement,
    )
