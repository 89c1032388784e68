from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ladle.server.core.remote.decisions import (
    Base,
    Schedule,
    Sight,
    agreed,
    base_of,
    judge,
    next_wait_s,
    sight_of,
)
from ladle.store.layout import VersionFile, VersionListing, version_listing
from ladle.store.store import Listing, StoredObject

SCHEDULE = Schedule(wait_s=15, settle_s=30)
NUMBERS = st.frozensets(st.integers(1, 5))


def listing(*files: VersionFile, manifest: str = "", claimed: bool = False) -> VersionListing:
    objects = [StoredObject(f"m/1/{f.path}", f.size, f.etag, 1000.0) for f in files]
    if manifest:
        objects.append(StoredObject("m/1/_ladle_manifest.json", 9, manifest, 1000.0))
    if claimed:
        objects.append(StoredObject("m/1/_ladle_claim", 0, "c", 1000.0))
    return version_listing("m/1", objects)


A = VersionFile("a", 3, "1")
SUM = "0" * 64


def base(*versions: int, hidden: frozenset[int] = frozenset()) -> Base:
    return Base({v: str(v) for v in versions}, hidden, frozenset(map(str, versions)))


@given(st.floats(0, 1), st.integers(0, 10_000))
def test_waits_are_jittered_grow_with_failures_and_end_at_five_minutes(
    chance: float, failures: int
) -> None:
    usual = next_wait_s(SCHEDULE, 0, chance)
    assert 11.99 <= usual <= 18.01
    after = next_wait_s(SCHEDULE, failures, chance)
    assert usual <= after <= 360.01
    if failures >= 5:
        assert after >= 239.9


def test_an_unsettled_version_is_looked_at_when_it_has_settled() -> None:
    short = Schedule(wait_s=15, settle_s=2)
    assert 2 <= next_wait_s(short, 0, 1.0, unsettled=True) <= 2.4
    assert 15 <= next_wait_s(SCHEDULE, 0, 0.0, unsettled=True) <= 18


def test_versions_labels_and_markers_are_told_apart() -> None:
    objects = [StoredObject(f"m/{n}", 1, "e", 0.0) for n in (".ladle-hidden-3", "7", "readme")]
    found = base_of(Listing(("1", "003", "x"), tuple(objects)))
    assert found.folders == {1: "1"}
    assert found.hidden == {3}


@given(NUMBERS, NUMBERS, NUMBERS)
def test_a_version_goes_only_after_two_looks_that_agree(
    before: frozenset[int], now: frozenset[int], served: frozenset[int]
) -> None:
    believed = agreed(base(*before), base(*now), served).folders
    assert believed.keys() >= now
    for version in served - now:
        is_gone = version not in believed
        assert is_gone == (version not in before and bool(now))


def test_an_empty_listing_takes_nothing_away_however_often_it_comes() -> None:
    shown = base(1, 2)
    for _ in range(5):
        empty = base()
        assert agreed(shown, empty, {2}).folders == {2: "2"}
        shown = empty


def test_what_is_hidden_goes_at_once() -> None:
    assert agreed(base(1, 2), base(1, hidden=frozenset({2})), {2}).folders == {1: "1"}


def decided(
    seen: VersionListing,
    manifest: dict[str, VersionFile] | None = None,
    *,
    since_s: float = 0.0,
    changed: bool = False,
    wall_s: float = 1000.0,
) -> tuple[bool, str, bool]:
    verdict = judge(
        seen,
        manifest,
        Sight("x", 100.0 - since_s, changed),
        settle_s=30,
        now_s=100.0,
        wall_s=wall_s,
    )
    return bool(verdict.files), verdict.problem, verdict.final


def test_with_a_manifest_a_version_is_whole_at_once() -> None:
    manifest = {"a": VersionFile("a", 3, sha256=SUM)}
    assert decided(listing(A, manifest="m"), manifest) == (True, "", False)


def test_what_a_manifest_lists_has_to_be_there_in_its_size() -> None:
    manifest = {"a": VersionFile("a", 4, sha256=SUM), "b": VersionFile("b", 1, sha256=SUM)}
    ok, problem, final = decided(listing(A, manifest="m"), manifest)
    assert (ok, final) == (False, False)
    assert problem == "a has 3 bytes: _ladle_manifest.json expects 4"
    del manifest["a"]
    ok, problem, final = decided(listing(A, manifest="m"), manifest, since_s=31)
    assert (ok, final) == (False, True)
    assert problem == "_ladle_manifest.json lists b, which is not there"


def test_a_claim_without_a_manifest_is_never_taken() -> None:
    assert decided(listing(A, claimed=True), since_s=1e6) == (
        False,
        "it is being published: it has no manifest yet",
        True,
    )


def test_without_a_manifest_a_version_has_to_stay_the_same() -> None:
    assert not decided(listing(A))[0]
    assert not decided(listing(A), since_s=29)[0]
    assert decided(listing(A), since_s=30)[0]
    # Long done, as far as a clock that is a little wrong can tell.
    assert not decided(listing(A), wall_s=1000 + 3599)[0]
    assert decided(listing(A), wall_s=1000 + 3600)[0]
    assert not decided(listing(A), wall_s=1e9, changed=True)[0]


def test_a_sight_begins_anew_with_each_change() -> None:
    first = sight_of(None, listing(A), 1.0)
    assert sight_of(first, listing(A), 2.0) is first
    for other in (listing(A._replace(etag="2")), listing(A, VersionFile("b", 0, "1"))):
        assert sight_of(first, other, 3.0) == Sight(other.fingerprint, 3.0, changed=True)
    with_manifest = sight_of(first, listing(A, manifest="m"), 4.0)
    assert with_manifest.since_s == 4.0
