"""Check a written version in a process of its own, before it is published."""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ladle.export.publishing.checks import HALF_TOLERANCE, TOLERANCE, check_answers
from ladle.export.saved_model.row_independence import is_row_independent, requests_to_compare
from ladle.export.saved_model.samples import Sample
from ladle.export.saved_model.subprocess_check import (
    Answer,
    Loading,
    Request,
    run_in_subprocess,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What the written model's answers have shown."""

    latency_ms: Mapping[str, float]
    """For each signature, of one example."""
    row_independent: tuple[str, ...]
    """The signatures that answer each row by that row alone."""


def check_signatures(
    folder: Path,
    samples: Mapping[str, Sample],
    *,
    customs: Container[str] = (),
    sums_to_1: bool = True,
    computed_in_half: bool = False,
    loading: Loading | None = None,
) -> Checked:
    """Run every signature in a process of its own: all its examples at once, and in parts.

    Args:
        folder: The version's.
        samples: Inputs of each signature, with what the trained model makes of them.
        customs: The signatures that are the user's own.
        sums_to_1: Whether probabilities have to, see `check_answers`.
        computed_in_half: Whether the model computes in half precision.
        loading: How a server would load the version; None for the usual way.

    Raises:
        CheckError: One answers otherwise than Keras; or one of ladle's own answers an example
            alone otherwise than beside others.
    """
    requests: list[Request] = []
    for name, sample in samples.items():
        requests.append(Request(signature=name, inputs=sample.inputs))
        requests.append(Request(signature=name, inputs=sample.first().inputs, timed=True))
        requests += requests_to_compare(name, sample.inputs)
    answers: dict[str, list[Answer]] = {name: [] for name in samples}
    given = run_in_subprocess(folder, requests, loading)
    for request, answer in zip(requests, given, strict=True):
        answers[request.signature].append(answer)
    latency_ms: dict[str, float] = {}
    independent = []
    tolerance = HALF_TOLERANCE if computed_in_half else TOLERANCE
    check = partial(check_answers, sums_to_1=sums_to_1, tolerance=tolerance)
    for name, (together, first, *compared) in answers.items():
        check(name, together.outputs, samples[name].outputs, custom=name in customs)
        if name not in customs:
            check(name, first.outputs, samples[name].first().outputs)
        if first.latency_ms is not None:
            latency_ms[name] = first.latency_ms
        if is_row_independent(
            len(next(iter(samples[name].inputs.values()))),
            [answer.outputs for answer in compared],
            computed_in_half=computed_in_half,
        ):
            independent.append(name)
        elif compared:
            logger.warning(
                'signature "%s": rows change each other\'s answers; a server should not batch it',
                name,
            )
    return Checked(latency_ms=latency_ms, row_independent=tuple(independent))
