"""When signatures are compiled: once, at the first run or before it, and so many at most."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from fakes import TIMEOUT_S, spec

from ladle.server.core.errors import FailedPrecondition, ServingError
from ladle.server.core.servable import Signature, TensorSpec
from ladle.server.saved_model.servable import SavedModelServable


class CountingSession:
    """Compiles callables that return their input, and counts them."""

    def __init__(self) -> None:
        self.compiled = 0
        self.may_compile = threading.Event()
        self.may_compile.set()
        self.failure: Exception | None = None

    def _make_callable_from_options(self, options: Any) -> Callable[..., list[Any]]:
        assert self.may_compile.wait(TIMEOUT_S)
        if self.failure is not None:
            raise self.failure
        self.compiled += 1
        return lambda x: [x]

    def close(self) -> None: ...


def servable_in(session: CountingSession, *names: str) -> SavedModelServable:
    y, lost = spec(-1), TensorSpec(0, None, unanswerable="a sparse tensor")
    return SavedModelServable(
        session,
        {name: Signature(name, {"x": spec(-1)}, {"y": y, "lost": lost}) for name in names or "f"},
        {},
        None,
        run_inline=True,
        all_dimensions=False,
    )


def run(servable: SavedModelServable, name: str = "f") -> None:
    servable.run(servable.signatures[name], {"x": np.ones(1, np.float32)}, ("y",))


def test_what_is_compiled_beforehand_is_not_compiled_at_the_first_run() -> None:
    session = CountingSession()
    servable = servable_in(session)

    servable.compile(servable.signatures["f"], ("y",))
    servable.compile(servable.signatures["f"], ("y",))
    assert (session.compiled, servable.used) == (1, [])
    run(servable)

    assert (session.compiled, servable.used) == (1, [("f", ("y",))])


def test_requests_that_come_together_compile_once() -> None:
    callers = 4
    session = CountingSession()
    servable = servable_in(session)
    session.may_compile.clear()
    together = threading.Barrier(callers + 1)

    def ask() -> None:
        together.wait(TIMEOUT_S)
        run(servable)

    with ThreadPoolExecutor(callers) as pool:
        asked = [pool.submit(ask) for _ in range(callers)]
        together.wait(TIMEOUT_S)
        session.may_compile.set()

    assert [future.exception() for future in asked] == [None] * callers
    assert session.compiled == 1


def test_what_never_ran_makes_room_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ladle.server.saved_model.servable._MAX_CALLABLES", 2)
    session = CountingSession()
    servable = servable_in(session, *"fghi")
    run(servable, "f")

    for name in "gh":  # there is room for one more
        servable.compile(servable.signatures[name], ("y",))
    assert session.compiled == 2
    run(servable, "i")

    assert servable.used == [("f", ("y",)), ("i", ("y",))]


def test_what_cannot_be_compiled_is_an_error_each_time() -> None:
    session = CountingSession()
    servable = servable_in(session)
    signature = servable.signatures["f"]

    with pytest.raises(FailedPrecondition, match="a sparse tensor"):
        servable.compile(signature, ("lost",))
    session.failure = ValueError("no kernel")
    with pytest.raises(ServingError, match="no kernel"):
        servable.compile(signature, ("y",))
    session.failure = None
    run(servable)

    assert servable.used == [("f", ("y",))]
