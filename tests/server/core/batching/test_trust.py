from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import DOUBLE, spec
from hypothesis import given
from hypothesis import strategies as st

from ladle.server.core.batching.trust import PROOF, TRANSITIONS, Event, Record, Standing, Trust
from ladle.server.core.servable import Signature

OUTPUTS = ("y",)
TWO = Signature("two", {"x": spec(-1)}, {"y": spec(-1), "z": spec(-1)})
STATEFUL = replace(DOUBLE, stateful="operation AssignAdd")
BOTH = replace(DOUBLE, name="a\0b", parts=("a", "b"))


def trust(signature: Signature = DOUBLE, **options: object) -> Trust:
    return Trust({signature.name: signature}, **options)  # type: ignore[arg-type]


def prove(proved: Trust, signature: Signature = DOUBLE, *outputs: str) -> None:
    for _ in range(PROOF):
        proved.agreed(signature, outputs or OUTPUTS, 8)


def test_a_signature_is_batched_after_enough_comparisons_and_not_before() -> None:
    tried = trust()
    news = []
    for _ in range(PROOF):
        assert tried.standing(DOUBLE, OUTPUTS) is Standing.ON_TRIAL
        news.append(tried.agreed(DOUBLE, OUTPUTS, 8))

    assert tried.standing(DOUBLE, OUTPUTS) is Standing.BATCHED
    assert news == [False] * (PROOF - 1) + [True]
    assert tried.status()["serving_default"].reason.startswith(f"{PROOF} batches")


def test_batches_have_no_more_rows_than_were_compared() -> None:
    tried = trust(TWO, card=("serving_default",))
    assert tried.most_rows(TWO, ("y",)) is None, "none runs in a batch"
    for rows in (2, 16, 3, 0):
        tried.agreed(TWO, ("y",), rows)
    tried.agreed(TWO, ("z",), 4)

    assert tried.most_rows(TWO, ("y",)) == 16
    assert tried.most_rows(TWO, ("y", "z")) == 4
    assert tried.most_rows(TWO, ("other",)) == 1
    assert tried.most_rows(DOUBLE, OUTPUTS) is None, "the card vouches for it"


def test_one_difference_is_final() -> None:
    tried = trust()
    prove(tried)
    assert tried.differed(DOUBLE, "output 'y' was 1 alone")
    assert not tried.differed(DOUBLE, "another")
    prove(tried)

    assert tried.standing(DOUBLE, OUTPUTS) is Standing.ALONE
    assert tried.status()["serving_default"] == (Standing.ALONE, "output 'y' was 1 alone")


def test_each_output_is_proved_by_itself_and_a_difference_in_one_counts_for_all() -> None:
    tried = trust(TWO)
    prove(tried, TWO, "y")
    assert tried.standing(TWO, ("y",)) is Standing.BATCHED
    assert tried.standing(TWO, ("y", "z")) is Standing.ON_TRIAL

    tried.differed(TWO, "output 'z' ...")

    assert tried.standing(TWO, ("y",)) is Standing.ALONE


def test_the_user_vouches_for_every_signature_whatever_runs_have_shown() -> None:
    tried = trust(STATEFUL)
    assert tried.status()["serving_default"] == (Standing.ALONE, "operation AssignAdd")
    tried.differed(STATEFUL, "output 'y' ...")

    tried.vouched_by = "batching_params.pbtxt"
    assert tried.status()["serving_default"] == (Standing.VOUCHED, "batching_params.pbtxt")

    tried.lost_rows(STATEFUL, "output 'y': expected 4 rows")
    assert tried.standing(STATEFUL, OUTPUTS) is Standing.ALONE
    assert tried.status()["serving_default"].reason == "output 'y': expected 4 rows"


def test_the_card_vouches_for_rows_and_not_for_state() -> None:
    card = ("serving_default",)
    assert trust(card=card).standing(DOUBLE, OUTPUTS) is Standing.VOUCHED
    assert trust(card=card).standing(TWO, OUTPUTS) is Standing.ON_TRIAL
    assert trust(STATEFUL, card=card).standing(STATEFUL, OUTPUTS) is Standing.ALONE


def test_signatures_that_run_as_one_are_held_to_each_of_them() -> None:
    a, b = replace(DOUBLE, name="a"), replace(DOUBLE, name="b")
    vouched = Trust({"a": a, "b": b}, card=("a", "b"))
    assert vouched.standing(BOTH, OUTPUTS) is Standing.VOUCHED
    tried = Trust({"a": a, "b": b}, card=("a",))
    assert tried.standing(BOTH, OUTPUTS) is Standing.ON_TRIAL

    tried.differed(b, "output 'y' ...")

    assert tried.standing(BOTH, OUTPUTS) is Standing.ALONE


def test_combinations_that_callers_choose_are_bounded() -> None:
    tried = Trust({"a": DOUBLE})
    combinations = [replace(BOTH, name=f"a\0{n}", parts=("a", str(n))) for n in range(1000)]
    for each in combinations:
        if tried.standing(each, OUTPUTS) is Standing.ON_TRIAL:
            tried.agreed(each, OUTPUTS, 8)

    on_trial = [c for c in combinations if tried.standing(c, OUTPUTS) is Standing.ON_TRIAL]
    assert 0 < len(on_trial) < 100


EVENTS = st.lists(st.sampled_from(["agree y", "agree y z", "differ", "lose rows"]), max_size=100)


@given(
    first=st.sampled_from(Standing), events=EVENTS, outputs=st.sampled_from([("y",), ("y", "z")])
)
def test_standings_only_ever_take_the_ways_of_the_table(
    first: Standing, events: list[str], outputs: tuple[str, ...]
) -> None:
    record = Record()
    standing = first
    for event in events:
        match event.split():
            case ["agree", *agreed]:
                record = record.with_agreement(agreed, 8)
            case ["differ"]:
                record = record.with_difference("why")
            case _:
                record = record.with_lost_rows("why")
        after = record.standing(outputs, first)
        ways = {TRANSITIONS.get((standing, event), standing) for event in Event}
        assert after in ways | {standing}
        standing = after
    if first is Standing.ON_TRIAL and standing is Standing.BATCHED:
        assert sum(e.startswith("agree") for e in events) >= PROOF
    if first is Standing.VOUCHED:
        assert (standing is Standing.ALONE) == ("lose rows" in events)
    if first is not Standing.VOUCHED and {"differ", "lose rows"} & set(events):
        assert standing is Standing.ALONE


@pytest.mark.parametrize("event", Event)
def test_nothing_leads_out_of_running_alone(event: Event) -> None:
    assert (Standing.ALONE, event) not in TRANSITIONS
