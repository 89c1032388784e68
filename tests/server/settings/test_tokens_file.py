from __future__ import annotations

import hashlib
import json
import logging
import threading
from pathlib import Path

import pytest
from fakes import TIMEOUT_S, FakeClock

from ladle.server.core.access import Grant, Kind, Tokens
from ladle.server.core.batching.plan import Priority
from ladle.server.core.errors import InvalidArgument
from ladle.server.settings.tokens_file import TokensFile, parse

ONE = "0123456789abcdef"
TWO = "fedcba9876543210"


def line(**fields: object) -> str:
    return json.dumps(fields) + "\n"


def test_a_line_says_what_its_token_is_good_for() -> None:
    digest = hashlib.sha256(TWO.encode()).hexdigest()
    tokens = parse(
        "# ours\n\n"
        + line(token=ONE, name="web", models=["digits"], kinds=["predict"])
        + line(sha256=digest.upper(), priority="low")
    )

    web, other = tokens.find(ONE), tokens.find(TWO)
    assert web is not None
    assert other is not None
    assert web == Grant("web", frozenset({Kind.PREDICT}), ("digits",))
    assert (other.name, other.models) == ("line 4", ("*",))
    assert (web.highest, other.highest) == (Priority.HIGH, Priority.LOW)
    assert other.kinds == {Kind.PREDICT, Kind.METADATA}
    assert tokens.find(digest) is None  # the digest is not the token


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "at least one token"),
        ("# nothing\n", "at least one token"),
        (ONE, "line 1: expected a JSON object"),
        ("[" * 100_000, "line 1: expected a JSON object"),
        ('["x"]', "line 1: expected a JSON object"),
        (line(token=ONE) + line(token=ONE), "line 2: the token of 'line 1' once more"),
        (
            line(token=ONE, priority="urgent"),
            "priority: expected high, normal or low, got 'urgent'",
        ),
        (line(token=ONE, priority=1), "priority: expected high, normal or low, got 1"),
        (line(token="short"), "16 characters or more"),
        (line(token="with a blank 0123"), "no blank"),
        (line(token=ONE + "\n"), "printable ASCII"),
        (line(token=17), "printable ASCII"),
        (line(), "either token or sha256"),
        (line(token=ONE, sha256="00" * 32), "either token or sha256"),
        (line(sha256="00"), "64 hexadecimal digits"),
        (line(sha256=7), "64 hexadecimal digits"),
        (line(token=ONE, kinds=["root"]), "kinds: expected some of .*'admin', 'metadata'"),
        (line(token=ONE, kinds=["open"]), "kinds: expected some of"),
        (line(token=ONE, kinds="predict"), "kinds: expected a list"),
        (line(token=ONE, models=[]), "models: expected a list of at least one"),
        (line(token=ONE, models=[1]), "models: expected a list"),
        (line(token=ONE, model=["x"]), r"got \['model'\]"),
        (line(token=ONE, name=1), "name: expected printable text"),
        (line(token=ONE, name="a\nb"), "name: expected printable text"),
        (line(token=ONE, name="x" * 101), "at most 100 characters"),
    ],
)
def test_a_wrong_file_is_told_by_its_line_and_never_by_its_tokens(text: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says) as raised:
        parse(text)
    assert ONE not in raised.value.message


def test_a_changed_file_counts_and_a_broken_one_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tokens"
    path.write_text(line(token=ONE))
    put: list[Tokens] = []
    file = TokensFile(path, put.append)
    assert file.read().find(ONE)

    file.step()
    assert put == []

    path.write_text(line(token=TWO))
    file.step()
    assert [(t.find(ONE) is None, t.find(TWO) is not None) for t in put] == [(True, True)]

    with caplog.at_level(logging.ERROR):
        for broken in (b"{", b"\xff", b"x" * (1 << 20) + b"x"):
            path.write_bytes(broken)
            file.step()
            file.step()
        path.unlink()
        file.step()
    assert len(put) == 1
    messages = [record.message for record in caplog.records]
    assert len(messages) == 4  # each problem once
    assert all(m.startswith(f"tokens left unchanged: {path}: ") for m in messages)


def test_the_file_is_looked_at_every_second(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(line(token=ONE))
    clock = FakeClock()
    put = threading.Event()
    file = TokensFile(path, lambda _: put.set(), clock=clock)
    file.read()
    path.write_text(line(token=TWO))
    file.start()
    clock.wait_until_sleeping(1)
    assert not put.is_set()
    clock.advance(1)
    assert put.wait(TIMEOUT_S)
    file.stop()


def test_a_file_that_is_not_there_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="can't be read: No such file"):
        TokensFile(tmp_path / "none", lambda _: None).read()
