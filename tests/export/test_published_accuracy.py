"""The accuracy that is published is the accuracy that callers get, for data of several kinds."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checking import run_in_this_process
from fakes import TIMEOUT_S
from numpy.typing import NDArray
from PIL import Image

from ladle.batch.cli import main as ladle_predict
from ladle.client import Client
from ladle.export import TrainingOptions, export_model, load_data
from ladle.server import Config, Server

pytestmark = pytest.mark.e2e
RNG = np.random.default_rng(5)
N = 200
OPTIONS = TrainingOptions(epochs=6, batch_size=16)
HALF_A_PERCENT = 0.005


class Kind(NamedTuple):
    """Data of one kind: what is trained on, and the same held-out examples as raw files."""

    name: str
    accuracy: float
    files: Sequence[Path]
    """What `ladle predict` reads, in the order of the truth."""
    given: Any
    """What `Client.predict` is given."""
    truth: list[Any]
    """Labels; or for each example 0 or 1 for each label that it may have."""
    others: Sequence[Path] = ()
    """The same examples in files of other formats, each by itself."""


def draw(label: int) -> NDArray[np.uint8]:
    """A picture whose class is where it is bright, above or below, with much noise."""
    pixels = RNG.integers(0, 256, (36, 24, 3))
    half = pixels[:18] if label else pixels[18:]
    half += 40
    return np.clip(pixels, 0, 255).astype(np.uint8)


def save(path: Path, pixels: NDArray[np.uint8], index: int, kind: str) -> Path:
    image = Image.fromarray(pixels)
    if kind == "grey" or (kind == "mixed" and index % 3 == 0):
        image = image.convert("L")
    elif kind == "mixed" and index % 3 == 1:
        image = image.convert("RGBA")
    if kind == "mixed":
        image = image.resize((24 + index % 9, 36 + index % 5))
    if kind != "photos":
        image.save(path := path.with_suffix(".png"))
        return path
    # Stored turned by 90 degrees, and marked so: no program shows another picture.
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif, quality=90)
    return path


def pictures(folder: Path, kind: str) -> Kind:
    files, truth = [], []
    for part, count in (("train", N), ("test", N)):
        for index in range(count):
            label = index % 2
            path = folder / part / ("top" if label else "bottom") / f"{index:03}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path = save(path, draw(label), index, kind)
            if part == "test":
                files.append(path)
                truth.append(path.parent.name)
    exported = export_model(folder / "m" / kind, load_data(folder, size=(18, 12)), options=OPTIONS)
    return Kind(kind, exported.accuracy, files, files, truth)


def table(folder: Path) -> Kind:
    rows = RNG.normal([40, 30_000, 0.01], [12, 9_000, 0.004], (N * 5, 3))
    score = (rows[:, 0] - 40) / 12 - (rows[:, 1] - 30_000) / 9_000
    labels = np.where(score + RNG.normal(0, 0.5, N * 5) > 0, "stays", "goes")
    lines = [[a, label, b, c] for (a, b, c), label in zip(rows.tolist(), labels, strict=True)]
    write_csv(folder / "t.csv", ["age", "label", "income", "rate"], lines)
    dataset = load_data(folder / "t.csv")
    exported = export_model(folder / "m" / "table", dataset, options=OPTIONS)
    held_out = dataset.x_test
    path = folder / "other order.csv"
    write_csv(path, ["income", "rate", "age"], held_out[:, [1, 2, 0]].tolist())
    given = {"income": held_out[:, 1], "rate": held_out[:, 2], "age": held_out[:, 0]}
    truth = [dataset.labels[index] for index in dataset.y_test]
    return Kind("table", exported.accuracy, [path], given, truth)


def write_csv(path: Path, header: list[str], rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def sequences(folder: Path) -> Kind:
    """Sequences [steps, features] that rise or fall, in noise."""
    labels = np.arange(N * 2) % 2
    slope = np.linspace(-1, 1, 12)[:, None] * np.where(labels, 1, -1)[:, None, None]
    values = (RNG.normal(0, 1.5, (N * 2, 12, 2)) + slope).astype(np.float32)
    arrays = {"x_train": values[:N], "y_train": labels[:N]}
    arrays |= {"x_test": values[N:], "y_test": labels[N:]}
    np.savez(folder / "s.npz", **arrays)  # type: ignore[arg-type]
    exported = export_model(
        folder / "m" / "sequences", load_data(folder / "s.npz"), options=OPTIONS
    )
    np.save(folder / "s.npy", values[N:])
    truth = [str(label) for label in labels[N:]]
    return Kind("sequences", exported.accuracy, [folder / "s.npy"], values[N:], truth)


def two_classes(folder: Path) -> Kind:
    """A model of one's own with a sigmoid, and a layer that normalises."""
    import keras

    labels = np.arange(N * 2) % 2
    images = (RNG.integers(0, 200, (N * 2, 6, 6)) + 40 * labels[:, None, None]).astype(np.uint8)
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Flatten()]
    output = keras.layers.Dense(1, activation="sigmoid")
    keras.Sequential([keras.Input((6, 6)), *layers, output]).save(folder / "m.keras")
    arrays = {"x_train": images[:N], "y_train": labels[:N]}
    arrays |= {"x_test": images[N:], "y_test": labels[N:]}
    np.savez(folder / "two.npz", **arrays)  # type: ignore[arg-type]
    exported = export_model(
        folder / "m" / "two",
        load_data(folder / "two.npz"),
        model=str(folder / "m.keras"),
        options=replace(OPTIONS, epochs=20, learning_rate=0.03),
    )
    np.save(folder / "two.npy", images[N:])
    truth = [str(label) for label in labels[N:]]
    return Kind("two", exported.accuracy, [folder / "two.npy"], images[N:], truth)


def texts(folder: Path) -> Kind:
    """Texts of words that say nothing, and of some that often say which of three classes it is."""
    telling = (("goal", "match"), ("vote", "law"), ("star", "film"))
    rows = []
    for index in range(N * 3):
        of_class = index % 3
        given = RNG.integers(0, 3) if RNG.random() < 0.2 else of_class
        words = [f"w{n}" for n in RNG.integers(0, 40, 6)] + list(telling[given])
        rows.append([", ".join(RNG.permutation(words)), ("sport", "state", "show")[of_class]])
    write_csv(folder / "texts.csv", ["review", "label"], rows)
    dataset = load_data(folder / "texts.csv")
    exported = export_model(folder / "m" / "texts", dataset, options=OPTIONS)
    truth = [dataset.labels[index] for index in dataset.y_test]
    given_texts = dataset.x_test.tolist()
    write_csv(folder / "asked.csv", ["number", "review"], list(enumerate(given_texts)))
    lines = [json.dumps({"review": text, "number": n}) for n, text in enumerate(given_texts)]
    (folder / "asked.jsonl").write_text("\n".join(lines))
    pq.write_table(pa.table({"review": given_texts}), folder / "asked.parquet")
    others = [folder / "asked.jsonl", folder / "asked.parquet"]
    given_by_name = {"review": given_texts}
    return Kind("texts", exported.accuracy, [folder / "asked.csv"], given_by_name, truth, others)


def several_labels(folder: Path) -> Kind:
    """Numbers that say for each of three labels, with noise, whether an example has it."""
    labels = RNG.integers(0, 2, (N * 2, 3))
    values = (labels @ RNG.normal(0, 2, (3, 8)) + RNG.normal(0, 1, (N * 2, 8))).astype(np.float32)
    arrays = {"x_train": values[:N], "y_train": labels[:N]}
    arrays |= {"x_test": values[N:], "y_test": labels[N:]}
    np.savez(folder / "several.npz", **arrays)  # type: ignore[arg-type]
    dataset = load_data(folder / "several.npz")
    exported = export_model(folder / "m" / "several", dataset, options=OPTIONS)
    np.save(folder / "several.npy", values[N:])
    files = [folder / "several.npy"]
    return Kind("several", exported.accuracy, files, values[N:], labels[N:].tolist())


KINDS: dict[str, Callable[[Path], Kind]] = {
    "photos with EXIF": lambda folder: pictures(folder, "photos"),
    "mixed modes and sizes": lambda folder: pictures(folder, "mixed"),
    "grey": lambda folder: pictures(folder, "grey"),
    "table": table,
    "sequences": sequences,
    "two classes": two_classes,
    "texts": texts,
    "several labels": several_labels,
}


@pytest.fixture
def serve() -> Iterator[Callable[[str, Path], str]]:
    servers = []

    def start(name: str, base_path: Path) -> str:
        settings: dict[str, Any] = {
            "port": None,
            "model_name": name,
            "model_base_path": str(base_path),
            "drain_grace_seconds": 0,
        }
        server = Server(Config(**settings))
        servers.append(server)
        server.open()
        return server.addresses[0]

    yield start
    for server in servers:
        server.stop(lame_duck=False)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's
@pytest.mark.parametrize("kind", KINDS)
def test_callers_get_the_accuracy_that_is_published(
    kind: str,
    tmp_path: Path,
    serve: Callable[[str, Path], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ladle.export.saved_model.checked.run_in_subprocess", run_in_this_process)
    data = KINDS[kind](tmp_path)
    assert 0.6 < data.accuracy <= 1
    address = serve(data.name, tmp_path / "m" / data.name)
    with Client(address) as client:
        client.wait_until_ready(data.name, timeout=TIMEOUT_S * 6)
        labels = client.metadata(data.name).card.labels  # type: ignore[union-attr]
        told = client.predict(data.name, data.given)
    found = told["indicators"] if "indicators" in told else [labels[i] for i in told["class_id"]]
    by_client = np.mean(np.array(found) == np.array(data.truth))
    assert abs(by_client - data.accuracy) <= HALF_A_PERCENT

    for number, files in enumerate([data.files, *([file] for file in data.others)]):
        output = tmp_path / f"out-{number}"
        arguments = ["--server", address, "--model", data.name, "--output", str(output)]
        arguments += ["--output-format", "csv", "--input", *map(str, files)]
        assert ladle_predict(arguments) == 0
        with next(output.glob("part-*.csv")).open(newline="") as file:
            rows = list(csv.DictReader(file))
        answers = [
            row.get("label") or [int(row[f"indicators_{n}"]) for n in range(3)] for row in rows
        ]
        by_command = np.mean(np.array(answers) == np.array(data.truth))
        assert abs(by_command - data.accuracy) <= HALF_A_PERCENT
