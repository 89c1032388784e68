"""The page about a version: as text, and as a browser shows it."""

from __future__ import annotations

import base64
import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ladle.export import PublishError
from ladle.export.models.cli import main
from ladle.export.report import svg
from ladle.export.report.evaluation import (
    EVALUATION_PATH,
    Evaluation,
    HeldOut,
    evaluate,
    read_evaluation,
    recorded_history,
    write_evaluation,
)
from ladle.export.report.page import charts_of, make_report
from ladle.export.report.plots import prepare_plots, write_plots
from ladle.protos.model_card import ModelCard

if TYPE_CHECKING:
    from ladle.export import Dataset, Exported

# A grey pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)
EVIL = "<script>document.title='run'</script>"
LABELS = ("cat", EVIL, '"><img src=http://127.0.0.1:9/x>')
EVALUATION = Evaluation(
    n_examples=3,
    confusion=((1, 0, 0), (1, 0, 0), (0, 0, 1)),
    held_out=(
        HeldOut(index=0, image=PNG, truth=0, scores=((0, 0.75), (1, 0.125), (2, 0.125))),
        HeldOut(index=1, image=PNG, truth=1, scores=((0, 0.5), (1, 0.25), (2, 0.25))),
        HeldOut(index=9, image=PNG, truth=1, scores=((0, 0.1), (1, 0.2), (2, 0.7))),
    ),
)
CARD = ModelCard(
    labels=LABELS,
    metrics={"accuracy": 2 / 3},
    signatures={"serving_default": {"inputs": {"<x>": {"dtype": "float32", "shape": [-1, 4]}}}},
    provenance={
        "recipe": EVIL,
        "data": {"name": "pets"},
        "history": {"epochs": [3, 4], "loss": [2.0, None], "val_loss": [1.0, 0.5]},
    },
)


@pytest.mark.e2e
def test_a_browser_shows_the_page_and_fetches_and_runs_nothing(
    tmp_path: Path, browser: Any
) -> None:
    path = tmp_path / "report.html"
    path.write_text(make_report("pets", 7, CARD, EVALUATION), encoding="utf-8")
    page = browser.new_page()
    requests: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(path.as_uri())
    assert page.title() == "pets, version 7"
    assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
    assert complaints == []
    shown = page.locator("figure.right, figure.wrong")
    captions = [text.strip() for text in shown.locator("figcaption").all_inner_texts()]
    assert captions == ["cat 75.0%", f"cat 50.0% (is {EVIL})", f"{LABELS[2]} 70.0% (is {EVIL})"]
    blue, red = "rgb(31, 95, 191)", "rgb(198, 47, 47)"
    colours = shown.locator("figcaption").evaluate_all(
        "captions => captions.map(c => getComputedStyle(c).color)"
    )
    assert colours == [blue, red, red]
    bars = shown.nth(1).locator("svg rect")
    assert bars.evaluate_all("bars => bars.map(b => getComputedStyle(b).fill)") == [
        red,
        blue,
        "rgb(168, 176, 186)",
    ]
    widths = [bars.nth(n).bounding_box()["width"] for n in range(3)]
    assert widths[0] == pytest.approx(2 * widths[1])
    assert page.evaluate("[...document.images].every(i => i.naturalWidth === 1)")
    assert page.locator(".charts svg polyline").count() == 1
    assert "serving_default" in page.locator("table").first.inner_text()
    overflow = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert page.evaluate(overflow)
    page.close()


def test_no_text_of_a_version_becomes_markup() -> None:
    page = make_report(EVIL, 1, CARD, EVALUATION)
    assert "<script" not in page
    assert "<img src=http" not in page
    assert "default-src 'none'" in page


def test_a_version_that_nothing_is_known_of_has_a_page_too() -> None:
    page = make_report("pets", 1, None, None)
    assert "no model card" in page
    assert "No answers to held-out examples" in page


@pytest.mark.parametrize(
    "history",
    [
        None,
        [],
        {"loss": 3},
        {"loss": ["x"]},
        {"epochs": ["1"], "loss": [1.0, 2.0]},
        {"epochs": [1, 10**400], "loss": [1.0, 2.0]},
        {"loss": [10**400, 1.0, 1e308, -1e308]},
    ],
)
def test_a_strange_history_draws_no_more_than_it_can(history: Any) -> None:
    for chart in charts_of(history).values():
        ET.fromstring(chart)


def test_charts_are_whole_images_that_hold_their_numbers(tmp_path: Path) -> None:
    write_plots(
        tmp_path, {"epochs": [1, 2], "loss": [1.0, 0.5], "a/b": [0.1, 0.2]}, EVALUATION, LABELS
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a_b.svg",
        "confusion.svg",
        "loss.svg",
    ]
    (line,) = ET.parse(tmp_path / "loss.svg").getroot().findall("{*}polyline")
    (first, last) = [tuple(map(float, p.split(","))) for p in line.attrib["points"].split()]
    assert first[0] < last[0]
    assert first[1] < last[1]  # down the page: the loss falls
    matrix = ET.parse(tmp_path / "confusion.svg").getroot()
    told = [title.text for title in matrix.iter("{http://www.w3.org/2000/svg}title")]
    assert told == [
        "cat taken for cat: 1",
        f"{EVIL} taken for cat: 1",
        f"{LABELS[2]} taken for {LABELS[2]}: 1",
    ]
    pairs = Evaluation(n_examples=2, pairs=((1.0, 1.5), (2.0, 2.5)))
    write_plots(tmp_path / ".", {}, pairs, ())
    points = ET.parse(tmp_path / "predictions.svg").getroot()
    assert len(points.findall("{*}circle")) == 2


def test_plots_that_cannot_be_written_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PublishError, match=r"plots: cannot write into .*: Not a directory"):
        prepare_plots(tmp_path / "file" / "plots")
    (tmp_path / "confusion.svg").mkdir()
    with pytest.raises(PublishError, match=r"plots: cannot write into .*: Is a directory"):
        write_plots(tmp_path, {}, EVALUATION, LABELS)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (1, 30, [5, 10, 15, 20, 25, 30]), (3, 3, [3])],
)
def test_ticks_are_round_numbers(low: float, high: float, expected: list[float]) -> None:
    assert svg.ticks(low, high) == pytest.approx(expected)


def test_numbers_far_out_are_not_drawn() -> None:
    chart = svg.points("p", [(1.0, 2.0), (1e308, -1e308)], "x", "y")
    assert chart.count("<circle") == 1


def test_an_evaluation_comes_back_from_its_file(tmp_path: Path) -> None:
    write_evaluation(EVALUATION, tmp_path)
    assert read_evaluation(tmp_path) == EVALUATION
    assert read_evaluation(tmp_path / "elsewhere") is None


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"confusion": [[1, 2]]},
        {"held_out": [{}]},
        {"held_out": [{"index": 0, "image": "no", "truth": 0, "scores": [[0, 1]]}]},
        {"held_out": [{"index": 0, "image": None, "truth": 0, "scores": []}]},
        {"pairs": [[1, 1e999]]},
        {"pairs": 3},
        {"n_examples": 1e999},
        {"pairs": [[1, 10**400]]},
        {"held_out": [{"index": 0, "image": None, "truth": 0, "scores": [[0, 10**400]]}]},
    ],
)
def test_a_damaged_evaluation_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    version = tmp_path / "m" / "1"
    (version / "assets.extra").mkdir(parents=True)
    text = json.dumps(json.loads(EVALUATION.to_json()) | change)
    (version / EVALUATION_PATH).write_text(text)
    assert main(["report", str(version), "--output", str(tmp_path / "out.html")]) == 1
    line = capsys.readouterr().err
    assert line.startswith(f"ladle models: {version}/{EVALUATION_PATH}: cannot be read: ")
    assert line.count("\n") == 1


def test_the_command_writes_the_page_of_a_published_version(
    exported: Exported, digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "page.html"
    assert main(["report", str(exported.path), "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"Report of version 1: {output}\n"
    page = output.read_text(encoding="utf-8")
    assert page.count("data:image/png;base64") == page.count("<figcaption>") > 12
    assert f"accuracy {exported.accuracy:.4f}" in page
    evaluation = read_evaluation(exported.path)
    assert evaluation is not None
    assert evaluation.confusion is not None
    counts = np.array(evaluation.confusion)
    assert counts.sum(axis=1).tolist() == np.bincount(digits.y_test).tolist()
    assert counts.trace() / len(digits.y_test) == exported.accuracy
    assert [one.truth for one in evaluation.held_out] == [
        int(digits.y_test[one.index]) for one in evaluation.held_out
    ]
    assert main(["report", str(exported.path), "--output", str(tmp_path)]) == 1
    assert "cannot be written: Is a directory" in capsys.readouterr().err


def test_what_is_recorded_is_bounded(small: Dataset) -> None:
    rng = np.random.default_rng(0)
    n_classes, n_examples = 150, 400
    large = replace(
        small,
        labels=tuple(map(str, range(n_classes))),
        x_test=rng.integers(0, 256, (n_examples, 200, 300, 5), np.uint8),
        x_train=rng.integers(0, 256, (12, 200, 300, 5), np.uint8),
        y_test=rng.integers(0, n_classes, n_examples),
    )
    probabilities = rng.dirichlet(np.ones(n_classes), n_examples).astype(np.float32)
    evaluation = evaluate(large, probabilities)
    assert evaluation.confusion is None
    assert len(evaluation.held_out) == 18
    for one in evaluation.held_out:
        assert len(one.scores) <= 11
        assert one.truth in dict(one.scores)
        assert one.predicted[0] == probabilities[one.index].argmax()
    assert len(evaluation.to_json()) < 1 << 18
    assert Evaluation.from_json(evaluation.to_json()) == evaluation


def test_features_have_no_images_and_numbers_are_pairs(small: Dataset) -> None:
    rng = np.random.default_rng(0)
    features = replace(
        small,
        x_train=rng.normal(size=(12, 3)).astype(np.float32),
        x_test=rng.normal(size=(6, 3)).astype(np.float32),
    )
    assert {one.image for one in evaluate(features, np.eye(6, 3, dtype=np.float32)).held_out} == {
        None
    }
    numbers = replace(
        features,
        labels=(),
        y_train=np.arange(12, dtype=np.float32),
        y_test=np.arange(6, dtype=np.float32),
    )
    outputs = np.array([0, 1, 2, np.nan, 4, 5.5], np.float32)
    pairs = evaluate(numbers, outputs).pairs
    assert pairs == ((0, 0), (1, 1), (2, 2), (4, 4), (5, 5.5))


def test_a_history_keeps_at_most_a_thousand_epochs() -> None:
    history = {"loss": [float(n) for n in range(2500)], "accuracy": [float("nan")] * 2500}
    recorded = recorded_history(history, first_epoch=11)
    assert len(recorded["loss"]) == 834
    assert recorded["loss"][-1] == 2499
    assert recorded["epochs"][-1] == 2510
    assert set(recorded["accuracy"]) == {None}
    assert recorded_history({}, 1) == {}


def test_examples_of_every_class_and_the_worst_mistakes_are_recorded(small: Dataset) -> None:
    """Also of data that come class by class."""
    sorted_by_class = replace(
        small,
        x_test=np.zeros((90, 4, 4), np.uint8),
        y_test=np.arange(90) // 30,
    )
    outputs = np.full((90, 3), 0.1, np.float32)
    outputs[:, 0] = 0.8
    outputs[80] = (0.97, 0.01, 0.02)
    outputs[50] = (0.99, 0.005, 0.005)
    held_out = evaluate(sorted_by_class, outputs).held_out
    assert [one.truth for one in held_out[:12]] == [0] * 4 + [1] * 4 + [2] * 4
    assert [one.index for one in held_out[12:14]] == [50, 80]
    assert len(held_out) == 18


def test_what_the_export_warned_of_stands_above(small: Dataset) -> None:
    card = ModelCard(provenance={"warnings": ["<at chance>"], "data": {"notes": ["3 grey"]}})
    page = make_report("m", 1, card, None)
    assert '<p class="warning">&lt;at chance&gt;</p>' in page
    assert '<p class="warning">3 grey</p>' in page


def test_curves_have_their_last_values_beside_their_names_and_tell_each_to_who_points() -> None:
    history = {"loss": [0.5, 0.25], "val_loss": [0.75, None], "epochs": [3, 4]}
    (chart,) = charts_of(history).values()
    assert ">training 0.25<" in chart
    assert ">validation 0.75<" in chart
    assert "<title>epoch 4: training 0.25</title>" in chart
    assert ">epoch<" in chart
    long = charts_of({"loss": [1.0] * 500, "epochs": list(range(500))})["loss"]
    assert "<circle" not in long
    assert "loss" in charts_of({"loss": [None, None]})["loss"]
