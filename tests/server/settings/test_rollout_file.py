from __future__ import annotations

import pytest

from ladle.server.core.errors import InvalidArgument
from ladle.server.core.rollout.split import Rollout
from ladle.server.settings.rollout_file import parse


def test_a_rollout_has_defaults() -> None:
    assert parse("") == ()
    assert parse(
        'rollout { model: "m" canary { percent: 5 } sticky { metadata: "X-User-Id" } }'
    ) == (
        Rollout(
            model="m", canary_label="canary", canary_buckets=500, key_name="x-user-id", salt="m"
        ),
    )
    text = (
        'rollout { model: "m" stable { label: "a" } canary { label: "b" percent: 0.01 } salt: "s" }'
    )
    assert parse(text) == (
        Rollout(model="m", stable_label="a", canary_label="b", canary_buckets=1, salt="s"),
    )
    assert parse('rollout { model: "m" }') == (Rollout(model="m", salt="m"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "expected a ladle.v1.RolloutConfig in text format"),
        ('rollout { model: "m" shadow {} }', "no field named"),
        ("rollout {}", "expected a rollout with a model"),
        ('rollout { model: "m" } rollout { model: "m" }', "model m: expected one rollout, got two"),
        ('rollout { model: "m" canary { percent: 101 } }', "percent: expected 0 to 100, got 101"),
        ('rollout { model: "m" canary { percent: -1 } }', "percent: expected 0 to 100, got -1"),
        ('rollout { model: "m" canary { percent: nan } }', "percent: expected 0 to 100, got nan"),
        ('rollout { model: "m" canary { percent: 0.001 } }', "0 or at least 0.01, got 0.001"),
        ('rollout { model: "m" canary { label: "stable" } }', "expected two labels, got 'stable'"),
        ('rollout { model: "m" guard {} }', "guard: expected a canary to watch"),
        (
            'rollout { model: "m" canary {} guard { max_error_ratio: 2 } }',
            "max_error_ratio: expected 0 to 1, got 2",
        ),
        (
            'rollout { model: "m" canary {} guard { max_p99_to_stable: 0.5 } }',
            "max_p99_to_stable: expected 1 or more, got 0.5",
        ),
        ('rollout { model: "m" sticky {} }', "expected the name of a header, got ''"),
        ('rollout { model: "m" sticky { metadata: "a b" } }', "the name of a header, got 'a b'"),
        ('rollout { model: "m" sticky { metadata: "x-bin" } }', "metadata that is text"),
    ],
)
def test_what_means_nothing_is_an_error(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        parse(text)
