from __future__ import annotations

import hmac

import pytest

from ladle.server.core.access import (
    ANYBODY,
    PRIORITY_KEY,
    Access,
    Grant,
    Kind,
    Tokens,
    digest_of,
    read_priority,
)
from ladle.server.core.batching.plan import Priority
from ladle.server.core.errors import InvalidArgument, PermissionDenied, Unauthenticated

WEB = Grant("web", frozenset({Kind.PREDICT}), ("digits", "fashion*"))
OPERATOR = Grant("operator", frozenset(Kind))
TOKENS = Tokens({digest_of("of-the-web-site-0"): WEB, digest_of("of-the-operator-0"): OPERATOR})


def test_a_token_is_good_for_what_the_file_says() -> None:
    access = Access(TOKENS)

    assert access.admit(Kind.PREDICT, "Bearer of-the-web-site-0", local=False) is WEB
    assert access.admit(Kind.ADMIN, "bearer  of-the-operator-0 ", local=False) is OPERATOR
    with pytest.raises(PermissionDenied, match=r"'web' is for predict methods: .* one of admin"):
        access.admit(Kind.ADMIN, "Bearer of-the-web-site-0", local=False)


@pytest.mark.parametrize(
    ("asked", "highest", "given"),
    [
        (None, Priority.HIGH, "normal"),
        ("high", Priority.HIGH, "high"),
        ("low", Priority.HIGH, "low"),
        ("High", Priority.NORMAL, "normal"),
        (None, Priority.LOW, "low"),
        ("high", Priority.LOW, "low"),
    ],
)
def test_a_request_has_no_higher_priority_than_its_token_allows(
    asked: str | None, highest: Priority, given: str
) -> None:
    grant = Grant("batch", frozenset({Kind.PREDICT}), highest=highest)
    access = Access(Tokens({digest_of("of-the-batches-00"): grant}))
    sent = {"authorization": "Bearer of-the-batches-00", "x": "y"}
    if asked is not None:
        sent[PRIORITY_KEY] = asked

    metadata = access.capped(sent.get)

    assert metadata(PRIORITY_KEY) == given
    assert metadata("x") == "y"
    assert Access().capped(sent.get)(PRIORITY_KEY) == asked


def test_another_word_than_those_for_priorities_is_refused() -> None:
    with pytest.raises(
        InvalidArgument, match=r"^ladle-priority: expected high, normal or low, got 'urgent'$"
    ):
        read_priority("urgent")


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "of-the-operator-0",
        "Basic of-the-operator-0",
        "Bearer of-the",
    ],
)
@pytest.mark.parametrize("kind", [Kind.PREDICT, Kind.METADATA, Kind.ADMIN, None])
def test_without_a_token_nothing_is_done_not_even_on_the_same_machine(
    authorization: str | None, kind: Kind | None
) -> None:
    with pytest.raises(Unauthenticated):
        Access(TOKENS).admit(kind, authorization, local=True)


def test_health_is_told_to_anybody() -> None:
    assert Access(TOKENS).admit(Kind.OPEN, None, local=False) is ANYBODY


def test_any_token_may_learn_that_there_is_no_such_method() -> None:
    assert Access(TOKENS).admit(None, "Bearer of-the-web-site-0", local=False) is WEB


def test_without_tokens_only_this_machine_changes_what_is_served() -> None:
    for kind in (Kind.PREDICT, Kind.METADATA, Kind.OPEN, None):
        assert Access().admit(kind, None, local=False) is ANYBODY
    assert Access().admit(Kind.ADMIN, None, local=True) is ANYBODY
    assert Access(allow_remote_admin=True).admit(Kind.ADMIN, None, local=False) is ANYBODY
    with pytest.raises(PermissionDenied, match=r"--auth_tokens_file .* --allow_remote_admin"):
        Access().admit(Kind.ADMIN, None, local=False)


def test_every_model_of_a_request_has_to_be_one_of_the_tokens() -> None:
    WEB.require_models([])
    WEB.require_models(["digits", "fashion", "fashion_v2"])
    OPERATOR.require_models(["anything"])
    OPERATOR.require_models(None)
    for names in (["digits", "secret"], ["digit"], ["DIGITS"], [""], ["digits\n"]):
        with pytest.raises(PermissionDenied, match="is for models named digits, fashion"):
            WEB.require_models(names)
    with pytest.raises(PermissionDenied, match="all models"):
        WEB.require_models(None)


def test_nothing_but_a_star_is_special_in_a_models_pattern() -> None:
    odd = Grant("odd", frozenset(Kind), ("v[1]", "m?", "a*[b]?z"))
    odd.require_models(["v[1]", "m?", "a[b]?z", "a and [b]?z"])
    for name in ("v1", "m1", "m", "abcz", "a[b]xz"):
        with pytest.raises(PermissionDenied, match="is for models named"):
            odd.require_models([name])


def test_looking_for_a_token_looks_at_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the time it takes tells nobody which one was nearly right."""
    compared: list[bytes] = []
    compare_digest = hmac.compare_digest

    def compare(known: bytes, digest: bytes) -> bool:
        compared.append(known)
        return compare_digest(known, digest)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for token in ("of-the-web-site-0", "of-the-operator-0", "of nobody", "\udcff"):
        compared.clear()
        TOKENS.find(token)
        assert len(compared) == 2
        assert all(len(digest) == 32 for digest in compared)
