from __future__ import annotations

import pytest

from ladle.server.core.errors import InvalidArgument
from ladle.server.core.rollout.comparing import OutputRule
from ladle.server.core.rollout.shadow import Shadow
from ladle.server.core.rollout.split import Rollout, Steps
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
    (rollout,) = parse(
        'rollout { model: "m" canary { label: "b" } shadow { percent: 20 '
        'compare { output: "y" atol: 0.5 } compare { top_k: 3 } } }'
    )
    rules = {"y": OutputRule(atol=0.5, has_tolerance=True), "": OutputRule(top_k=3)}
    assert rollout.shadow == Shadow(label="b", share=0.2, max_in_flight=16, rules=rules)
    (rollout,) = parse('rollout { model: "m" shadow { percent: 1 max_in_flight: 3 } }')
    assert rollout.shadow == Shadow(label="canary", share=0.01, max_in_flight=3)
    (rollout,) = parse(
        'rollout { model: "m" canary {} steps { percent: 5 percent: 25 percent: 100 hold_s: 600 } }'
    )
    assert rollout.steps == Steps(buckets=(500, 2_500, 10_000), hold_s=600)
    assert rollout.canary_buckets == 500
    assert parse('rollout { model: "m" }') == (Rollout(model="m", salt="m"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "expected a ladle.v1.RolloutConfig in text format"),
        ('rollout { model: "m" mirror {} }', "no field named"),
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
        ('rollout { model: "m" shadow {} }', "shadow: percent: expected more than 0, up to 100"),
        ('rollout { model: "m" shadow { percent: nan } }', "up to 100, got nan"),
        (
            'rollout { model: "m" shadow { label: "stable" percent: 1 } }',
            "shadow: expected another label than stable's, got 'stable'",
        ),
        (
            'rollout { model: "m" shadow { percent: 1 max_in_flight: 1001 } }',
            "max_in_flight: expected at most 1000, got 1001",
        ),
        (
            'rollout { model: "m" shadow { percent: 1 log: "log" } }',
            "shadow: log: expected an absolute path, got 'log'",
        ),
        (
            'rollout { model: "m" shadow { percent: 1 compare {} } }',
            "compare: expected atol, rtol or top_k, got none",
        ),
        (
            'rollout { model: "m" shadow { percent: 1 compare { atol: -1 } } }',
            "atol: expected 0 or more, got -1",
        ),
        (
            'rollout { model: "m" shadow { percent: 1'
            ' compare { output: "y" top_k: 1 } compare { output: "y" top_k: 2 } } }',
            "expected one compare for output 'y', got two",
        ),
        (
            'rollout { model: "m" canary {} guard { max_disagreement: 0.1 } }',
            "max_disagreement: expected a shadow of the canary",
        ),
        (
            'rollout { model: "m" canary {} shadow { label: "other" percent: 1 }'
            " guard { max_disagreement: 0.1 } }",
            "max_disagreement: expected a shadow of the canary",
        ),
        (
            'rollout { model: "m" canary {} guard { max_disagreement: 2 } }',
            "max_disagreement: expected 0 to 1, got 2",
        ),
        ('rollout { model: "m" steps {} }', "steps: expected a canary, got none"),
        (
            'rollout { model: "m" canary { percent: 5 } steps { percent: 5 hold_s: 1 } }',
            "steps: expected no percent of the canary beside them",
        ),
        ('rollout { model: "m" canary {} steps { hold_s: 1 } }', "expected a percent, got none"),
        (
            'rollout { model: "m" canary {} steps { percent: 5 } }',
            "steps: hold_s: expected 1 or more, got 0",
        ),
        (
            'rollout { model: "m" canary {} steps { percent: 25 percent: 5 hold_s: 1 } }',
            "percent: expected ascending ones, got 25, 5",
        ),
        (
            'rollout { model: "m" canary {} steps { percent: 200 hold_s: 1 } }',
            "steps: percent: expected 0 to 100, got 200",
        ),
        ('rollout { model: "m" sticky {} }', "expected the name of a header, got ''"),
        ('rollout { model: "m" sticky { metadata: "a b" } }', "the name of a header, got 'a b'"),
        ('rollout { model: "m" sticky { metadata: "x-bin" } }', "metadata that is text"),
    ],
)
def test_what_means_nothing_is_an_error(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        parse(text)
