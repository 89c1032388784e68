from __future__ import annotations

from pathlib import Path

import pytest

from ladle.server.core.errors import InvalidArgument, ServingError
from ladle.server.core.lifecycle.registry import Book
from ladle.server.core.lifecycle.states import Load, State, Unload

ONE = {1: Path("/m/1")}
TWO = {2: Path("/m/2")}
BAD = InvalidArgument("no good")


@pytest.fixture
def book() -> Book:
    return Book("availability_preserving")


def go(book: Book, version: int, *states: State, error: ServingError | None = None) -> None:
    """Take a version of the model `m` through its states."""
    entry = book.versions("m")[version]
    for state in states:
        if state is State.END:
            entry.end(error)
        else:
            entry.move(state)


def load(book: Book, version: int) -> None:
    go(book, version, State.LOADING, State.AVAILABLE)


def fail(book: Book, version: int) -> None:
    go(book, version, State.LOADING, State.END, error=BAD)


def test_saying_the_same_again_changes_nothing(book: Book) -> None:
    book.expect("m")
    assert book.aspire("m", ONE)
    assert not book.aspire("m", ONE)
    load(book, 1)
    assert not book.aspire("m", ONE)
    assert book.aspire("m", ONE | TWO)
    fail(book, 2)
    assert not book.aspire("m", ONE | TWO)
    assert book.aspire("m", ONE)
    assert not book.aspire("m", ONE)
    assert book.aspire("m", ONE | TWO), "it was left out since it failed"


def test_what_is_next_follows_what_is_wanted(book: Book) -> None:
    book.aspire("m", ONE)
    assert book.next_action("m") == Load(1)
    load(book, 1)
    book.aspire("m", TWO)
    assert book.next_action("m") == Load(2)
    load(book, 2)
    assert book.next_action("m") == Unload(1)
    go(book, 1, State.UNLOADING, State.END)
    assert book.next_action("m") is None
    assert book.next_action("unknown") is None


def test_only_what_no_thread_could_load_begins_again_by_itself(book: Book) -> None:
    book.aspire("m", ONE | TWO)
    go(book, 1, State.END, error=BAD)
    fail(book, 2)

    book.tidy("m")

    assert {v: e.state for v, e in book.versions("m").items()} == {1: State.START, 2: State.END}


def test_a_model_is_settled_once_nothing_of_it_is_on_the_way(book: Book) -> None:
    book.expect("m")
    assert (book.is_settled("m"), book.is_coming("m")) == (False, True)
    book.report("m", "copying", final=False)
    assert (book.is_settled("m"), book.is_coming("m")) == (False, True)
    book.report("m", "nothing there", final=True)
    assert (book.is_settled("m"), book.is_coming("m")) == (True, False)
    book.aspire("m", ONE)
    assert (book.is_settled("m"), book.is_coming("m")) == (False, True)
    load(book, 1)
    assert (book.is_settled("m"), book.is_coming("m")) == (True, False)


@pytest.mark.parametrize("why", ["withdrawn", "no source", "failed", "stopped"])
def test_what_will_not_come_is_not_waited_for(book: Book, why: str) -> None:
    book.expect("m")
    if why == "withdrawn":
        book.withdraw("m")
    elif why == "no source":
        book.source_stopped()
    elif why == "failed":
        book.aspire("m", ONE)
        fail(book, 1)
    else:
        book.stop()

    assert not book.is_coming("m")
    assert book.is_settled("m") is (why != "stopped")


def test_a_version_that_is_tried_again_is_no_reason_to_wait(book: Book) -> None:
    book.aspire("m", ONE)
    fail(book, 1)
    assert book.start_over(book.versions("m")[1], attempt=1)

    assert not book.is_coming("m")
    assert not book.is_settled("m")


def test_only_what_has_failed_and_is_still_wanted_starts_over(book: Book) -> None:
    book.aspire("m", ONE)
    first = book.versions("m")[1]
    assert not book.start_over(first), "it has not failed"
    fail(book, 1)
    assert book.start_over(first)
    assert not book.start_over(first), "another stands for the version by now"
    fail(book, 1)
    book.stop()
    assert not book.start_over(book.versions("m")[1])


def test_a_version_that_is_wanted_again_while_it_unloads_begins_without_old_failures(
    book: Book,
) -> None:
    book.aspire("m", ONE)
    fail(book, 1)
    assert book.start_over(book.versions("m")[1], attempt=3)
    load(book, 1)
    book.aspire("m", TWO)
    go(book, 1, State.UNLOADING)
    book.aspire("m", ONE | TWO)
    go(book, 1, State.END)

    book.tidy("m")

    assert (book.versions("m")[1].state, book.versions("m")[1].attempt) == (State.START, 0)
    assert book.is_coming("m")
