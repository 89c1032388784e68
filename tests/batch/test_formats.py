"""`ladle predict` reads every format and writes every other."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batch.conftest import POISON, Predict, answer
from numpy.typing import NDArray
from PIL import Image

from ladle.batch import cli
from ladle.client import ModelCard, Normalization
from ladle.client.inputs.examples import to_example
from ladle.client.testing import FunctionModel, FunctionServer
from ladle.protos.files.records import frame

ROWS = 40


@pytest.fixture
def x() -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, POISON, (ROWS, 4), dtype=np.uint8)


def totals(path: Path) -> list[int]:
    parts = [pq.read_table(part) for part in sorted(path.glob("part-*.parquet"))]
    whole = pa.concat_tables(parts)
    assert whole["row"].to_pylist() == list(range(ROWS))
    listed: list[int] = whole["total"].to_pylist()
    return listed


@pytest.mark.parametrize("input_format", ["npz", "parquet", "csv", "jsonl", "tfrecord"])
def test_every_format_is_read(
    predict: Predict, x: NDArray[np.uint8], tmp_path: Path, input_format: str
) -> None:
    path = tmp_path / f"in.{input_format}"
    arguments: tuple[str, ...] = ()
    match input_format:
        case "npz":
            np.savez(path, x=x, other=np.arange(ROWS))
        case "parquet":
            pq.write_table(pa.table({"id": range(ROWS), "x": x.tolist()}), path)
        case "csv":
            rows = [
                ["id", "v0", "v1", "v2", "v3"],
                *([n, *row] for n, row in enumerate(x.tolist())),
            ]
            with path.open("w", newline="") as file:
                csv.writer(file).writerows(rows)
            arguments = ("--map", "x=v*")
        case "jsonl":
            path.write_text("".join(json.dumps({"pixels": row}) + "\n" for row in x.tolist()))
        case "tfrecord":
            records = [to_example({"x": row}).SerializeToString() for row in x.tolist()]
            path.write_bytes(b"".join(map(frame, records)))
            arguments = ("--map", "x=x:uint8")
    out = tmp_path / "out"
    assert predict("--input", path, "--output", out, *arguments) == 0
    assert totals(out) == answer(x)["total"].tolist()


@pytest.mark.parametrize("output_format", ["parquet", "jsonl", "csv", "npy"])
def test_every_format_is_written(
    predict: Predict, x: NDArray[np.uint8], tmp_path: Path, output_format: str
) -> None:
    pq.write_table(
        pa.table({"id": range(100, 100 + ROWS), "x": x.tolist()}), tmp_path / "in.parquet"
    )
    out = tmp_path / "out"
    arguments = ("--input", tmp_path / "in.parquet", "--output", out, "--keep", "id")
    assert predict(*arguments, "--output-format", output_format, "--shard-rows", 25) == 0
    expected = answer(x)
    columns: dict[str, Any]
    match output_format:
        case "parquet":
            whole = pa.concat_tables([pq.read_table(p) for p in sorted(out.glob("*.parquet"))])
            columns = whole.to_pydict()
            assert whole.schema.field("scores").type == pa.list_(pa.float32(), 2)
        case "jsonl":
            lines = [
                line for p in sorted(out.glob("part-*")) for line in p.read_text().splitlines()
            ]
            read = [json.loads(line) for line in lines]
            columns = {name: [row[name] for row in read] for name in read[0]}
        case "csv":
            texts = [part.read_text().splitlines() for part in sorted(out.glob("part-*"))]
            rows = [row for lines in texts for row in csv.DictReader(lines)]
            columns = {name: [float(row[name]) for row in rows] for name in rows[0]}
            pairs = zip(columns.pop("scores_0"), columns.pop("scores_1"), strict=True)
            columns["scores"] = [list(pair) for pair in pairs]
        case _:
            columns = {
                name: np.concatenate([np.load(p) for p in sorted(out.glob(f"part-*.{name}.npy"))])
                for name in ("row", "id", "scores", "total")
            }
            assert columns["scores"].dtype == np.float32
            columns = {name: array.tolist() for name, array in columns.items()}
    assert columns == {
        "row": list(range(ROWS)),
        "id": list(range(100, 100 + ROWS)),
        "scores": expected["scores"].tolist(),
        "total": expected["total"].tolist(),
    }


def serve(model: FunctionModel, *arguments: object) -> int:
    with FunctionServer({"m": model}) as server:
        fixed = ["--server", server.address, "--model", "m"]
        return cli.main([*fixed, *map(str, arguments)])


def test_strings_nans_and_lists_of_any_length_survive(tmp_path: Path) -> None:
    def run(inputs: dict[str, NDArray[Any]]) -> dict[str, Any]:
        count = len(inputs["text"])
        length = len(inputs["text"][0])
        numbers = np.full((count, length), np.nan, np.float32)
        numbers[:, 0] = np.inf
        return {
            "loud": np.array([text.upper() for text in inputs["text"]], object),
            "raw": np.array([b"\xff"] * count, object),
            "any": numbers,
        }

    model = FunctionModel(
        run,
        inputs={"text": (object, (-1,))},
        outputs={
            "loud": (object, (-1,)),
            "raw": (object, (-1,)),
            "any": ("float32", (-1, -1)),
        },
    )
    (tmp_path / "in.jsonl").write_text('{"text": "ab"}\n{"text": "cde"}\n')
    arguments = ("--input", tmp_path / "in.jsonl", "--rows-per-request", 1)
    assert serve(model, *arguments, "--output", tmp_path / "p") == 0
    [table] = [pq.read_table(part) for part in (tmp_path / "p").glob("part-*")]
    assert table["loud"].to_pylist() == [b"AB", b"CDE"]
    assert [len(row) for row in table["any"].to_pylist()] == [2, 3]
    jsonl = ("--output", tmp_path / "j", "--output-format", "jsonl")
    assert serve(model, *arguments, *jsonl) == 0
    first = json.loads((tmp_path / "j" / "part-00000.jsonl").read_text().splitlines()[0])
    assert first == {
        "row": 0,
        "loud": "AB",
        "raw": {"b64": "/w=="},
        "any": ["Infinity", "NaN"],
    }


@pytest.mark.parametrize("output_format", ["jsonl", "parquet"])
def test_features_of_records_are_kept_as_they_are(
    predict: Predict, x: NDArray[np.uint8], tmp_path: Path, output_format: str
) -> None:
    path = tmp_path / "in.tfrecord"
    features: list[dict[str, Any]] = [
        {"x": row, "id": number, "half": number / 2, "list": [number, 1], "name": f"n{number}"}
        for number, row in enumerate(x.tolist())
    ]
    path.write_bytes(b"".join(frame(to_example(each).SerializeToString()) for each in features))
    out = tmp_path / "out"
    arguments = ("--input", path, "--output", out, "--map", "x=x:uint8")
    keep = ("--keep", "id,half,list,name", "--output-format", output_format)
    assert predict(*arguments, *keep) == 0
    if output_format == "jsonl":
        rows = [json.loads(line) for line in (out / "part-00000.jsonl").read_text().splitlines()]
    else:
        rows = pq.read_table(out / "part-00000.parquet").to_pylist()
        rows = [{**row, "name": row["name"].decode()} for row in rows]
    kept = ("id", "half", "list", "name")
    assert [{name: row[name] for name in kept} for row in rows] == [
        {name: each[name] for name in kept} for each in features
    ]


def test_values_may_be_missing_in_what_is_kept(
    predict: Predict, x: NDArray[np.uint8], tmp_path: Path
) -> None:
    ids = [None if number % 3 else number for number in range(ROWS)]
    lines = [
        json.dumps({"x": row, "id": id_, "no": None})
        for row, id_ in zip(x.tolist(), ids, strict=True)
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    out = tmp_path / "out"
    assert predict("--input", tmp_path / "in.jsonl", "--output", out, "--keep", "id,no") == 0
    kept = pq.read_table(out / "part-00000.parquet").to_pydict()
    assert (kept["id"], kept["no"]) == (ids, [None] * ROWS)


@pytest.mark.parametrize("output_format", ["jsonl", "parquet"])
def test_text_that_is_cut_amid_an_emoji_fails_alone_and_can_be_kept(
    tmp_path: Path, output_format: str
) -> None:
    model = FunctionModel(
        lambda inputs: {"length": [len(text) for text in inputs["text"]]},
        inputs={"text": (object, (-1,))},
        outputs={"length": ("int64", (-1,))},
    )
    texts = ["ab", "c\ud83d", "d"]
    lines = [json.dumps({"text": text, "note": text[::-1]}) for text in texts]
    lines += [json.dumps({"text": "e", "note": "\ud83d"})]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    out = tmp_path / "out"
    arguments = ("--input", tmp_path / "in.jsonl", "--output", out, "--map", "text=text")
    assert serve(model, *arguments, "--keep", "note", "--output-format", output_format) == 3
    [failed] = map(json.loads, (out / "_failed-00000.jsonl").read_text().splitlines())
    assert (failed["row"], failed["code"]) == (1, "INVALID_ARGUMENT")
    assert "expected what UTF-8 can say, got '\\ud83d' in it" in failed["reason"]
    if output_format == "jsonl":
        rows = [json.loads(line) for line in (out / "part-00000.jsonl").read_text().splitlines()]
        assert [row["note"] for row in rows] == ["ba", "d", "\ud83d"]
    else:
        kept = pq.read_table(out / "part-00000.parquet").to_pydict()
        assert kept["note"] == ["ba", "d", "\\ud83d"]


@pytest.mark.parametrize(
    ("output_format", "message"),
    [
        ("csv", "rows are of another type than those before"),
        ("npy", "text and bytes have no place in .npy files"),
    ],
)
def test_what_a_format_has_no_place_for_is_told(
    output_format: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = FunctionModel(
        lambda inputs: {"any": inputs["x"], "text": np.array([b"a"] * len(inputs["x"]), object)},
        inputs={"x": ("float32", (-1, -1))},
        outputs={"any": ("float32", (-1, -1)), "text": (object, (-1,))},
    )
    (tmp_path / "in.jsonl").write_text("[1, 2]\n[1]\n")
    out = ("--output", tmp_path / "out", "--output-format", output_format)
    assert serve(model, "--input", tmp_path / "in.jsonl", *out) == 1
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize(
    ("names", "output_format", "message"),
    [
        (("a/b", "a_b"), "npy", "two columns of the output would both be part-00000.a_b.npy"),
        (("Scores", "scores"), "npy", "two columns of the output would both be part-00000.scores"),
        (("scores", "scores_0"), "csv", 'the output would have two columns "scores_0"'),
    ],
)
def test_outputs_that_would_take_each_others_place_are_refused(
    names: tuple[str, str],
    output_format: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = FunctionModel(
        lambda inputs: {
            names[0]: np.zeros((len(inputs["x"]), 2)),
            names[1]: np.ones(len(inputs["x"])),
        },
        inputs={"x": ("float32", (-1,))},
        outputs={names[0]: ("float32", (-1, 2)), names[1]: ("float32", (-1,))},
    )
    np.save(tmp_path / "x.npy", np.zeros(3, np.float32))
    out = ("--output", tmp_path / "out", "--output-format", output_format)
    assert serve(model, "--input", tmp_path / "x.npy", *out) == 1
    told = capsys.readouterr().err
    assert message in told
    assert "leave one out with --keep or --outputs" in told
    assert len(told.splitlines()) == 1


def grey_model(**card: Any) -> FunctionModel:
    def run(inputs: dict[str, NDArray[Any]]) -> dict[str, Any]:
        dark = inputs["images"].mean(axis=(1, 2)) < 0.5
        return {"probabilities": np.stack([dark, ~dark], axis=1).astype(np.float32)}

    return FunctionModel(
        run,
        inputs={"images": ("float32", (-1, 2, 2))},
        outputs={"probabilities": ("float32", (-1, 2))},
        card=ModelCard(labels=("dark", "light"), normalization=Normalization(divisor=255)),
        **card,
    )


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (5, 3), "white").save(folder / "a.png")
    (folder / "b.png").write_bytes(b"what")
    Image.new("L", (2, 2), 10).save(folder / "c.jpg")
    return folder


def test_images_are_decoded_and_one_that_is_none_fails(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert serve(grey_model(), "--input", images, "--output", out) == 3
    [table] = [pq.read_table(part) for part in out.glob("part-*")]
    assert table["row"].to_pylist() == [0, 2]
    assert table["path"].to_pylist() == [str(images / "a.png"), str(images / "c.jpg")]
    assert table["probabilities"].to_pylist() == [[0, 1], [1, 0]]
    [failed] = map(json.loads, (out / "_failed-00000.jsonl").read_text().splitlines())
    assert failed["row"] == 1
    assert "it is no image of a format that Pillow reads" in failed["reason"]


def test_images_may_have_names_that_are_no_utf8(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = (images / "a.png").rename(images / os.fsdecode(b"caf\xe9.png"))
    (images / "b.png").rename(images / os.fsdecode(b"b\xe9.png"))
    out = tmp_path / "out"
    assert serve(grey_model(), "--input", images, "--output", out) == 3
    table = pq.read_table(out / "part-00000.parquet")
    assert table["path"].to_pylist() == [str(images / "c.jpg"), f"{images}/caf\\udce9.png"]
    [failed] = map(json.loads, (out / "_failed-00000.jsonl").read_text().splitlines())
    assert failed["row"] == 0
    capsys.readouterr()
    assert serve(grey_model(), "--input", good) == 0
    assert "caf\\udce9.png (version 1)" in capsys.readouterr().out


def test_numbers_of_text_that_may_be_raw_pixels_have_to_be_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.jsonl").write_text("[0, 0, 0, 0]\n[255, 255, 255, 255]\n")
    arguments = ("--input", tmp_path / "in.jsonl", "--output", tmp_path / "out")
    assert serve(grey_model(), *arguments) == 1
    assert "--map images=value:uint8" in capsys.readouterr().err
    assert serve(grey_model(), *arguments, "--map", "images=value:uint8") == 0
    [table] = [pq.read_table(part) for part in (tmp_path / "out").glob("part-*")]
    assert table["probabilities"].to_pylist() == [[1, 0], [0, 1]]


def test_rows_of_the_wrong_shape_or_dtype_end_the_run_before_anything_is_sent(
    predict: Predict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "in.npy", np.zeros((5, 4), np.float32))
    assert predict("--input", tmp_path / "in.npy", "--output", tmp_path / "out") == 1
    assert 'input "x" of model "m" version 1: expected uint8 [-1, 4], got float32' in (
        capsys.readouterr().err
    )


# One image or array, printed.


def test_the_classes_of_an_image_are_printed(
    images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve(grey_model(), "--input", images / "a.png") == 0
    assert capsys.readouterr().out == (
        f"{images / 'a.png'} (version 1)\n  light  1.0000\n  dark   0.0000\n"
    )
    assert serve(grey_model(), "--input", images / "c.jpg", "--json", "--top", 1) == 0
    assert json.loads(capsys.readouterr().out) == [
        {
            "row": 0,
            "path": str(images / "c.jpg"),
            "version": 1,
            "classes": [{"label": "dark", "score": 1.0, "class_index": 0}],
        }
    ]


@pytest.mark.parametrize(
    "array", [np.full((2, 2), 255, np.uint8), np.full((1, 2, 2), 255, np.uint8)]
)
def test_an_array_may_be_one_example_or_a_batch(
    array: NDArray[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", array)
    assert serve(grey_model(), "--input", tmp_path / "x.npy") == 0
    assert capsys.readouterr().out == "row 0 (version 1)\n  light  1.0000\n  dark   0.0000\n"


def test_an_image_is_drawn_beside_its_bar_chart(images: Path, tmp_path: Path) -> None:
    chart = tmp_path / "chart.png"
    arguments = ("--input", images / "a.png", images / "c.jpg", "--plot", chart)
    assert serve(grey_model(), *arguments) == 0
    with Image.open(chart) as drawn:
        assert drawn.width > 400


def test_a_model_without_classes_prints_its_outputs(
    predict: Predict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", np.array([[1, 2, 3, 4]], np.uint8))
    assert predict("--input", tmp_path / "x.npy", "--outputs", "total") == 0
    assert capsys.readouterr().out == "row 0 (version 1)\n  total: 10\n"


def test_numbers_that_json_lacks_are_printed_as_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = FunctionModel(
        lambda inputs: {"y": inputs["x"]},
        inputs={"x": ("float32", (-1,))},
        outputs={"y": ("float32", (-1,))},
    )
    np.save(tmp_path / "x.npy", np.array([np.nan, -np.inf, 1], np.float32))
    assert serve(model, "--input", tmp_path / "x.npy", "--json") == 0
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert [row["outputs"]["y"] for row in told] == ["NaN", "-Infinity", 1.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("b.png", "it is no image of a format that Pillow reads"),
        ("gone.png", "gone.png: no such file or folder"),
    ],
)
def test_an_image_that_cant_be_read_is_one_line(
    images: Path, name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve(grey_model(), "--input", images / name) == 1
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1


def test_an_output_that_is_no_row_for_each_input_is_not_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = FunctionModel(
        lambda inputs: {"count": [len(inputs["x"])]},
        inputs={"x": ("float32", (-1,))},
        outputs={"count": ("int64", (-1,))},
    )
    np.save(tmp_path / "x.npy", np.zeros(3, np.float32))
    assert serve(model, "--input", tmp_path / "x.npy") == 1
    assert 'output "count": expected 3 rows for as many inputs, got shape [1]' in (
        capsys.readouterr().err
    )


def test_many_rows_are_not_printed(
    predict: Predict, x: NDArray[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", x)
    assert predict("--input", tmp_path / "x.npy") == 1
    assert "40 rows are too many to be printed; --output says" in capsys.readouterr().err
