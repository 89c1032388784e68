from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladle.protos import wire
from ladle.protos.files.signatures import read_signatures
from ladle.protos.tensorflow_pb import SignatureDef

ONE = SignatureDef(method_name="tensorflow/serving/predict").SerializeToString()
OTHER = SignatureDef(method_name="other").SerializeToString()


def message(*parts: tuple[int, bytes]) -> bytes:
    return b"".join(wire.join(wire.bytes_field(number, [value])) for number, value in parts)


def graph(tags: str, **signatures: bytes) -> tuple[int, bytes]:
    """A MetaGraphDef, with a large graph between its tags and its signatures."""
    info = message(*((4, tag.encode()) for tag in tags.split()))
    entries = [(5, message((1, n.encode()), (2, s))) for n, s in signatures.items()]
    return 2, message((1, info), (2, b"\x0a" * 5000), *entries)


def write(folder: Path, *graphs: tuple[int, bytes]) -> bytes:
    data = b"\x08\x01" + message(*graphs)
    (folder / "saved_model.pb").write_bytes(data)
    return data


def test_the_signatures_of_the_graph_with_just_these_tags(tmp_path: Path) -> None:
    write(tmp_path, graph("serve gpu", a=OTHER), graph("serve", serving_default=ONE, b=OTHER))

    assert read_signatures(tmp_path, ["serve"]) == {"serving_default": ONE, "b": OTHER}
    assert read_signatures(tmp_path, ("gpu", "serve")) == {"a": OTHER}
    assert read_signatures(tmp_path, ("train",)) is None


def test_a_graph_without_signatures_has_none(tmp_path: Path) -> None:
    write(tmp_path, graph("serve"))
    assert read_signatures(tmp_path, ["serve"]) == {}


def test_other_forms_of_a_model_and_no_model_say_nothing(tmp_path: Path) -> None:
    assert read_signatures(tmp_path, ["serve"]) is None
    (tmp_path / "saved_model.pbtxt").write_text("meta_graphs {}")
    assert read_signatures(tmp_path, ["serve"]) is None
    (tmp_path / "saved_model.pb").mkdir()
    assert read_signatures(tmp_path, ["serve"]) is None


@pytest.mark.parametrize("missing", [1, 40, 5100])
def test_what_is_cut_short_says_nothing(tmp_path: Path, missing: int) -> None:
    data = write(tmp_path, graph("serve", serving_default=ONE))
    (tmp_path / "saved_model.pb").write_bytes(data[:-missing])
    assert read_signatures(tmp_path, ["serve"]) is None


@given(st.binary(max_size=200))
def test_whatever_the_bytes_nothing_is_raised(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "saved_model.pb").write_bytes(data)
    read_signatures(folder, ["serve"])
