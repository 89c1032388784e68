"""The decisions: no model in use goes, and no more are loaded than may be, whatever comes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladle.server.core.models.residency import (
    Full,
    ResidencyOptions,
    Resident,
    begin,
    idle,
    make_room,
    surplus,
)

TWO = ResidencyOptions(max_models=2)


def resident(name: str, last_use: int = 0, **facts: object) -> Resident:
    """One that has long been loaded, unless told otherwise."""
    made = Resident(name, 1000.0, last_use)
    return made._replace(**facts)  # type: ignore[arg-type]


residents = st.lists(
    st.builds(
        Resident,
        name=st.text("abcdefgh", min_size=1, max_size=3),
        loaded_for_s=st.none() | st.floats(0, 100),
        last_use=st.integers(0, 20),
        idle_s=st.floats(0, 100),
        is_busy=st.booleans(),
        is_pinned=st.booleans(),
        nbytes=st.integers(0, 100),
    ),
    unique_by=lambda r: r.name,
    max_size=12,
)
limits = st.builds(
    ResidencyOptions,
    max_models=st.integers(0, 8),
    max_bytes=st.integers(0, 300),
    idle_s=st.sampled_from([0.0, 10.0, 50.0]),
    least_stay_s=st.sampled_from([0.0, 30.0]),
)


def test_the_least_recently_used_goes_first() -> None:
    loaded = [resident("a", 5), resident("b", 3), resident("c", 9)]
    assert surplus(loaded, TWO) == ["b"]
    assert surplus(loaded, replace(TWO, max_models=1)) == ["b", "a"]
    assert surplus(loaded, replace(TWO, max_models=0)) == []


@pytest.mark.parametrize(
    "facts", [{"is_busy": True}, {"is_pinned": True}, {"loaded_for_s": 29.0}], ids=str
)
def test_who_is_in_use_pinned_or_young_stays(facts: dict[str, object]) -> None:
    loaded = [resident("a", 1, **facts), resident("b", 2), resident("c", 3)]
    assert surplus(loaded, TWO) == ["b"]


def test_a_model_may_begin_to_load_if_another_can_give_up_its_place() -> None:
    assert begin([resident("a")], TWO) is None
    assert begin([resident("a"), resident("b")], TWO) is None
    assert begin([resident("a", is_busy=True), resident("b")], TWO) is None
    busy = [resident("a", is_busy=True), resident("b", is_busy=True)]
    assert begin(busy, TWO) == Full(1.0)
    young = [resident("a", loaded_for_s=10.0), resident("b", loaded_for_s=25.0)]
    assert begin(young, TWO) == Full(5.0)
    pinned = [resident("a", is_pinned=True), resident("b", is_pinned=True)]
    assert begin(pinned, TWO) == Full(None)


def test_each_place_that_is_given_up_is_given_once() -> None:
    """Two that load have claimed both: a third has to wait for one of them."""
    full = [resident("a"), resident("b"), resident("c", loaded_for_s=None)]
    assert begin(full, TWO) is None
    assert begin([*full, resident("d", loaded_for_s=None)], TWO) == Full(30.0)


def test_bytes_are_made_free_before_a_load_and_no_more_than_it_takes() -> None:
    limit = ResidencyOptions(max_bytes=100)
    loaded = [resident("a", 2, nbytes=40), resident("b", 1, nbytes=40)]
    assert make_room(loaded, "c", 20, limit) == []
    assert make_room(loaded, "c", 30, limit) == ["b"]
    assert make_room(loaded, "c", 61, limit) == ["b", "a"]
    assert make_room(loaded, "c", 101, limit) == Full(None)
    young = [resident("a", loaded_for_s=10.0, nbytes=90)]
    assert make_room(young, "c", 20, limit) == Full(20.0)
    assert make_room(loaded, "b", 70, limit) == Full(None), "its own older version may be in use"


def test_who_is_not_asked_for_goes_after_a_while() -> None:
    limit = ResidencyOptions(idle_s=10.0)
    loaded = [
        resident("a", idle_s=10.0),
        resident("b", idle_s=9.9),
        resident("c", idle_s=50.0, is_busy=True),
        resident("d", idle_s=50.0, is_pinned=True),
        resident("e", idle_s=50.0, loaded_for_s=None),
    ]
    assert idle(loaded, limit) == ["a"]
    assert idle(loaded, ResidencyOptions()) == []


@given(residents, limits, st.integers(0, 400))
def test_no_decision_unloads_who_must_stay(
    found: list[Resident], options: ResidencyOptions, needed: int
) -> None:
    by_name = {r.name: r for r in found}
    room = make_room(found, "new", needed, options)
    victims = [*surplus(found, options), *([] if isinstance(room, Full) else room)]
    for name in [*victims, *idle(found, options)]:
        gone = by_name[name]
        assert not gone.is_busy
        assert not gone.is_pinned
        assert gone.loaded_for_s is not None
    for name in victims:
        loaded_for_s = by_name[name].loaded_for_s
        assert loaded_for_s is not None
        assert loaded_for_s >= options.least_stay_s
    if not isinstance(room, Full) and options.max_bytes:
        left = sum(r.nbytes for r in found if r.name not in room)
        assert left + needed <= options.max_bytes


@given(
    st.integers(1, 4),
    st.lists(st.sampled_from(["ask", "loaded", "age", "busy", "done"]), max_size=40),
    st.randoms(use_true_random=False),
)
def test_no_more_are_available_than_may_be_whatever_the_order(
    most: int, events: list[str], chance: object
) -> None:
    """`surplus` runs after each load, as the residents' thread has it."""
    options = ResidencyOptions(max_models=most, least_stay_s=30.0)
    now: list[Resident] = []
    for number, event in enumerate(events):
        if event == "ask" and begin(now, options) is None:
            now.append(Resident(f"m{number}", None, number))
        elif event == "loaded":
            loading = [r for r in now if r.loaded_for_s is None][:1]
            now = [r._replace(loaded_for_s=0.0) if r in loading else r for r in now]
        elif event == "age":
            now = [
                r if r.loaded_for_s is None else r._replace(loaded_for_s=r.loaded_for_s + 31)
                for r in now
            ]
        elif event == "busy" and now:
            chosen = chance.choice(now)  # type: ignore[attr-defined]
            now = [r._replace(is_busy=True, last_use=number) if r is chosen else r for r in now]
        elif event == "done":
            now = [r._replace(is_busy=False) for r in now]
        gone = surplus(now, options)
        now = [r for r in now if r.name not in gone]
    quiet = [
        r._replace(is_busy=False, loaded_for_s=None if r.loaded_for_s is None else 100.0)
        for r in now
    ]
    gone = surplus(quiet, options)
    available = [r for r in quiet if r.loaded_for_s is not None and r.name not in gone]
    assert len(available) <= most
    assert len(now) <= 2 * most, "who loads has claimed the place of one that is loaded"
