from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeLoader, FakeServable

from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.batching.trust import Standing
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.servable_id import ServableId
from ladle.server.settings.batching_parameters import (
    BatchingConfig,
    BatchingLoader,
    parse,
    vouched_by_card,
)

MODEL = ServableId("m", 1)


def load(loader: BatchingLoader, path: Path) -> BatchingServable:
    servable = loader(MODEL, path)
    assert isinstance(servable, BatchingServable)
    return servable


def test_every_parameter_is_read() -> None:
    options = parse("""
        max_batch_size { value: 64 }
        batch_timeout_micros { value: 1500 }
        max_enqueued_batches { value: 7 }
        num_batch_threads { value: 3 }
        thread_pool_name { value: "batch" }
        allowed_batch_sizes: 16
        allowed_batch_sizes: 64
        pad_variable_length_inputs: true
        enable_large_batch_splitting { value: true }
        max_execution_batch_size { value: 16 }
    """)

    assert options == BatchOptions(
        max_batch_size=64,
        batch_timeout_s=0.0015,
        max_enqueued_batches=7,
        num_batch_threads=3,
        allowed_batch_sizes=(16, 64),
        pad_variable_length_inputs=True,
        enable_large_batch_splitting=True,
        max_execution_batch_size=16,
        refuse_larger=True,
    )


def test_absent_parameters_are_upstreams() -> None:
    options = parse("")

    assert options.max_batch_size == 1000
    assert options.batch_timeout_s == 0
    assert options.max_enqueued_batches == 10
    assert options.refuse_larger


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max_batch_size: 64", "expected BatchingParameters in text format: 1:17"),
        ("max_batch_size { value: 0 }", "max_batch_size: expected 1 or more, got 0"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_s: expected 0 or more"),
        ("allowed_batch_sizes: 8", "the last of them max_batch_size, which is 1000"),
    ],
)
def test_what_is_wrong_is_told(text: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        parse(text)


def test_a_file_that_is_rewritten_takes_effect_without_a_reload(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "params.txt"
    file.write_text("max_batch_size { value: 8 }")
    fakes = FakeLoader()
    loader = BatchingLoader(fakes, BatchingConfig(enabled=True, file=file))
    servable = load(loader, tmp_path)
    assert servable.options == parse("max_batch_size { value: 8 }")

    file.write_text("max_batch_size { value: 4 }")
    loader.step()
    assert servable.options == parse("max_batch_size { value: 4 }")

    file.write_text("max_batch_size { value: -4 }")
    loader.step()
    loader.step()
    assert servable.options == parse("max_batch_size { value: 4 }")
    assert caplog.text.count("max_batch_size: expected 1 or more, got -4") == 1
    assert len(fakes.attempts) == 1


def test_each_version_may_bring_its_own(tmp_path: Path) -> None:
    """As upstream: one without the file is not batched, and threads are everyone's."""
    common, own, bare = tmp_path / "params.txt", tmp_path / "1", tmp_path / "2"
    common.write_text("num_batch_threads { value: 5 } max_batch_size { value: 9 }")
    own.mkdir()
    (own / "batching_params.pbtxt").write_text("max_batch_size { value: 3 }")
    bare.mkdir()
    loader = BatchingLoader(FakeLoader(), BatchingConfig(enabled=True, file=common, per_model=True))

    options = load(loader, own).options
    assert options is not None
    assert (options.max_batch_size, options.num_batch_threads) == (3, 5)
    assert load(loader, bare).options is None


def test_without_batching_no_file_is_read(tmp_path: Path) -> None:
    config = BatchingConfig(enabled=False, file=tmp_path / "missing", per_model=True)

    assert load(BatchingLoader(FakeLoader(), config), tmp_path).options is None


def test_a_version_with_wrong_parameters_does_not_load(tmp_path: Path) -> None:
    (tmp_path / "batching_params.pbtxt").write_text("max_batch_size { value: 0 }")
    fakes = FakeLoader()
    loader = BatchingLoader(fakes, BatchingConfig(enabled=True, per_model=True))

    with pytest.raises(InvalidArgument, match=r"batching_params.pbtxt: max_batch_size"):
        loader(MODEL, tmp_path)
    assert fakes.attempts == []


def test_a_wrong_file_for_all_models_is_told_at_the_start(tmp_path: Path) -> None:
    config = BatchingConfig(enabled=True, file=tmp_path / "missing")

    with pytest.raises(InvalidArgument, match="missing: can't be read"):
        BatchingLoader(FakeLoader(), config).start()


OWN = "batching_params.pbtxt"


def decided(path: Path, name: str = "m", **config: Any) -> tuple[object, str]:
    loader = BatchingLoader(FakeLoader(), BatchingConfig(**{"enabled": None, **config}))
    return loader.decide(name, path)


def test_without_any_word_of_the_user_each_signature_earns_its_batches(tmp_path: Path) -> None:
    assert decided(tmp_path) == (BatchOptions(), "")
    loader = BatchingLoader(FakeLoader(), BatchingConfig(enabled=None))
    assert load(loader, tmp_path).standings()["serving_default"].standing is Standing.ON_TRIAL


def test_the_user_vouches_by_a_flag_or_by_a_file(tmp_path: Path) -> None:
    common = tmp_path / "params.txt"
    common.write_text("max_batch_size { value: 9 }")
    assert decided(tmp_path, enabled=True) == (BatchOptions(), "--enable_batching")
    options, said_by = decided(tmp_path, file=common)
    assert (options, said_by) == (parse(common.read_text()), "--batching_parameters_file")

    (tmp_path / OWN).write_text("max_batch_size { value: 3 }")
    own = parse("max_batch_size { value: 3 }")
    assert decided(tmp_path) == (own, f"{OWN} in the version's folder")
    assert decided(tmp_path, enabled=True)[1] == "--enable_batching", "as upstream"
    assert decided(tmp_path, file=common)[1] == "--batching_parameters_file", "as upstream"


@pytest.mark.parametrize(
    "text", ["off", "off\n", "# rows mix\r\noff  # all of them\r\n", "\ufeffoff"]
)
def test_a_versions_own_file_switches_batches_off_whatever_the_flags(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / OWN).write_text(text, encoding="utf-8")
    flags: list[dict[str, Any]] = [{}, {"enabled": True}, {"enabled": True, "per_model": True}]
    for config in flags:
        assert decided(tmp_path, **config) == (None, f"{OWN} in the version's folder")


def test_a_flag_switches_batches_of_models_off(tmp_path: Path) -> None:
    (tmp_path / OWN).write_text("")
    unbatched = frozenset(("a", "b"))
    assert decided(tmp_path, "b", enabled=True, unbatched=unbatched) == (None, "--unbatched_models")
    assert decided(tmp_path, "c", enabled=True, unbatched=unbatched)[1] == "--enable_batching"


def test_an_own_file_that_appears_or_goes_takes_effect_without_a_reload(tmp_path: Path) -> None:
    loader = BatchingLoader(FakeLoader(), BatchingConfig(enabled=None))
    servable = load(loader, tmp_path)
    for text, standing in (
        ("", Standing.VOUCHED),
        ("off", Standing.ALONE),
        (None, Standing.ON_TRIAL),
    ):
        if text is None:
            (tmp_path / OWN).unlink()
        else:
            (tmp_path / OWN).write_text(text)
        loader.step()
        assert servable.standings()["serving_default"].standing is standing


def test_what_is_no_file_is_told_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / OWN)
    with pytest.raises(InvalidArgument, match="expected a regular file"):
        decided(tmp_path)


@pytest.mark.parametrize(
    ("card", "names"),
    [
        ('{"format": 1, "row_independent_signatures": ["a", "b"]}', {"a", "b"}),
        ('{"format": 1, "row_independent_signatures": "a"}', set()),
        ('{"format": 1}', set()),
        ("[]", set()),
        ("junk", set()),
        (None, set()),
    ],
)
def test_the_model_card_vouches_for_signatures(card: str | None, names: set[str]) -> None:
    assert vouched_by_card(card) == names


def test_a_signature_that_the_card_names_is_batched_from_the_start(tmp_path: Path) -> None:
    card = '{"format": 1, "row_independent_signatures": ["serving_default"]}'
    loader = BatchingLoader(
        lambda _id, _path: FakeServable(card_json=card), BatchingConfig(enabled=None)
    )
    assert load(loader, tmp_path).standings()["serving_default"].standing is Standing.VOUCHED
