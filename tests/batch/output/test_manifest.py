from __future__ import annotations

from dataclasses import replace

import pytest

from ladle.batch.errors import BatchError, ChangedError
from ladle.batch.output.manifest import Manifest, Shard, resumed

SHARD = Shard(files=("part-00000.parquet",), start=0, stop=40, failed=2, versions=(3,))
EMPTY = Manifest(input="sha256:1", settings={"model": "m", "map": {"x": ["a"]}}, version=3)
FOUND = EMPTY.with_shard(SHARD)


def test_it_survives_the_way_to_the_file_and_back() -> None:
    assert Manifest.from_json(FOUND.to_json()) == FOUND
    assert Manifest.from_json(replace(EMPTY, is_complete=True).to_json()).is_complete


def test_it_counts_rows_and_failures() -> None:
    two = FOUND.with_shard(Shard(files=(), start=40, stop=41, failed=1, versions=()))
    assert (EMPTY.rows, FOUND.rows, two.rows, two.failed) == (0, 40, 41, 3)


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2}', '{"format": 1}', "{" * 100_000])
def test_what_is_no_manifest_is_told_in_one_line(text: str) -> None:
    with pytest.raises(BatchError, match=r"^_manifest.json: .*$"):
        Manifest.from_json(text)


def test_the_same_job_goes_on() -> None:
    assert resumed(FOUND, EMPTY, allow_changed_input=False, allow_changed_model=False) == FOUND


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (replace(EMPTY, input="sha256:2"), "the input has changed since 40 of its rows were done"),
        (replace(EMPTY, version=4), "version 3 of the model answered 40 rows and version 4"),
        (replace(EMPTY, settings={**EMPTY.settings, "keep": ["a"]}), "another keep: null, not"),
        (replace(EMPTY, settings={"model": "n"}), "another map"),
    ],
)
def test_another_job_does_not_go_on(wanted: Manifest, message: str) -> None:
    with pytest.raises(ChangedError, match=message):
        resumed(FOUND, wanted, allow_changed_input=False, allow_changed_model=False)


def test_a_changed_input_or_model_goes_on_where_that_is_allowed() -> None:
    changed = replace(EMPTY, input="sha256:2", version=4)
    manifest = resumed(FOUND, changed, allow_changed_input=True, allow_changed_model=True)
    assert (manifest.input, manifest.version, manifest.shards) == ("sha256:2", 4, (SHARD,))


def test_what_was_complete_is_not_where_the_input_has_changed() -> None:
    done, changed = replace(FOUND, is_complete=True), replace(EMPTY, input="sha256:2")
    assert resumed(done, EMPTY, allow_changed_input=True, allow_changed_model=False).is_complete
    longer = resumed(done, changed, allow_changed_input=True, allow_changed_model=False)
    assert not longer.is_complete


def test_other_settings_never_go_on() -> None:
    with pytest.raises(ChangedError, match="--restart"):
        resumed(
            FOUND,
            replace(EMPTY, settings={}),
            allow_changed_input=True,
            allow_changed_model=True,
        )
