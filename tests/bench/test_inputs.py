from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from ladle.bench import inputs
from ladle.client import Signature, TensorSpec
from ladle.protos import dtypes


def spec(dtype: object, *shape: int) -> TensorSpec:
    return TensorSpec(dtypes.from_numpy(np.dtype(dtype)), shape)  # type: ignore[call-overload]


def test_inputs_are_made_as_the_signature_declares_them() -> None:
    declared = {
        "pixels": spec(np.uint8, -1, 8, 8, 3),
        "floats": spec(np.float32, -1, 4),
        "halves": spec(np.float16, -1),
        "ids": spec(np.int64, -1, -1),
        "flag": spec(np.bool_),
        "text": spec(object, -1),
    }
    signature = Signature(declared, {}, optional=frozenset(["flag"]))
    made = inputs.made(signature, rows=5)
    assert {name: array.shape for name, array in made.items()} == {
        "pixels": (5, 8, 8, 3),
        "floats": (5, 4),
        "halves": (5,),
        "ids": (5, inputs.OPEN_SIZE),
        "text": (5,),
    }
    for name, array in made.items():
        assert array.dtype == declared[name].dtype
    assert made["pixels"].max() > 127
    assert 0 <= made["floats"].min() <= made["floats"].max() <= 1
    assert set(made["ids"].ravel().tolist()) <= {0, 1}
    assert made["text"].tolist() == [b"text"] * 5
    assert inputs.rows_of(made) == 5


def test_an_input_of_any_rank_takes_a_file() -> None:
    signature = Signature({"x": TensorSpec(1, None)}, {})
    with pytest.raises(ValueError, match='input "x": its rank is open; give a file with --input'):
        inputs.made(signature, 1)


def test_a_file_is_sent_in_parts_again_and_again(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(5))
    parts = inputs.read(tmp_path / "x.npy", rows=2)
    sent = [np.asarray(part).tolist() for part in islice(inputs.repeated(parts), 4)]
    assert sent == [[0, 1], [2, 3], [4], [0, 1]]
    np.savez(tmp_path / "x.npz", a=np.arange(2), b=np.zeros((2, 3), np.float32))
    (part,) = inputs.read(tmp_path / "x.npz", rows=8)
    assert inputs.in_words(part) == "a int64 [2], b float32 [2, 3]"
    assert inputs.in_words(parts[0]) == "the only input int64 [2]"


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "none.npy", np.zeros((0, 3)))
    np.save(tmp_path / "scalar.npy", np.float32(1))
    np.savez(tmp_path / "uneven.npz", a=np.arange(2), b=np.arange(3))
    (tmp_path / "text.npy").write_text("no array")
    for name in ("none.npy", "scalar.npy", "uneven.npz"):
        with pytest.raises(ValueError, match=f"{name}: expected as many rows in each array"):
            inputs.read(tmp_path / name, 1)
    with pytest.raises(ValueError, match="pickle"):
        inputs.read(tmp_path / "text.npy", 1)
