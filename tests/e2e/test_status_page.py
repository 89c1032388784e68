"""The status page, as a browser shows it."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import playwright
import pytest
from fakes import TIMEOUT_S, FakeLoader, FakeServable, until
from numpy.typing import NDArray

from ladle.client import Client
from ladle.export import load_data
from ladle.protos.model_card import ModelCard, Normalization
from ladle.server import Config, Server
from ladle.server.core.servable import Signature, TensorSpec
from ladle.server.core.servable_id import ServableId

pytestmark = pytest.mark.e2e

# Playwright brings one.
NODE = Path(playwright.__file__).parent / "driver" / "node"
EVIL = "<img src=x onerror=document.title='run'>"


@contextmanager
def serving(config: Path, *models: tuple[str, Path], **settings: Any) -> Iterator[Server]:
    """A server on models by name and base path."""
    listed = "".join(
        f"config {{ name: {json.dumps(name)} base_path: {json.dumps(str(path))} "
        'model_platform: "tensorflow" }\n'
        for name, path in models
    )
    config.write_text(f"model_config_list {{ {listed} }}")
    load = settings.pop("load", None)
    defaults = {
        "port": None,
        "rest_api_port": None,
        "model_config_file": str(config),
        "file_system_poll_wait_seconds": 0.05,
        "max_num_load_retries": 0,
        "drain_grace_seconds": 0,
    }
    server = Server(Config(**defaults | settings), load=load)
    server.start()
    try:
        yield server
    finally:
        server.stop(lame_duck=False)


@contextmanager
def opened(browser: Any, server: Server) -> Iterator[Any]:
    """The server's page, once it has heard from the server; it may throw or log no error."""
    complaints: list[str] = []
    page = browser.new_page()
    page.set_default_timeout(TIMEOUT_S * 1000)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda line: complaints.append(line.text) if "Content Security" in line.text else None,
    )
    page.goto(f"http://127.0.0.1:{server.addresses[-1].rpartition(':')[2]}/")
    page.wait_for_selector("#ready:not(:has-text('connecting'))")
    try:
        yield page
        assert complaints == []
        assert page.title() == "ladle"
    finally:
        page.close()


@pytest.fixture(scope="module")
def served_digits(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("page") / "models", ("digits", digits)) as server:
        yield server


def inner_texts(page: Any, selector: str) -> list[str]:
    """Return the texts of elements at one moment: the page draws them anew each second."""
    script = "selector => [...document.querySelectorAll(selector)].map(found => found.innerText)"
    texts: list[str] = page.evaluate(script, selector)
    return texts


def bars(page: Any) -> dict[str, float]:
    """The classes of the chart, with their percentages."""
    page.wait_for_selector(".bar")
    names = inner_texts(page, ".bar .name")
    values = inner_texts(page, ".bar .value")
    return {n: float(v.rstrip(" %")) for n, v in zip(names, values, strict=True)}


def shown_pixels(page: Any) -> NDArray[np.float32]:
    """What the page says that the model gets, [height, width], 0 to 1."""
    grey = page.evaluate(
        """() => {
          const { width, height } = document.getElementById("preview");
          const context = document.getElementById("preview").getContext("2d");
          const { data } = context.getImageData(0, 0, width, height);
          return [height, width, ...data.filter((_, i) => i % 4 === 0)];
        }"""
    )
    height, width = grey[:2]
    pixels: NDArray[np.float32] = np.array(grey[2:], np.float32).reshape(height, width)
    return pixels / np.float32(255)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A grey image as a file."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_a_drawn_digit_is_classified(browser: Any, served_digits: Server) -> None:
    with opened(browser, served_digits) as page:
        canvas = page.locator("#canvas")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        angles = np.linspace(0, 2 * np.pi, 30)
        points = [
            (
                box["x"] + box["width"] * (0.5 + 0.22 * np.sin(angle)),
                box["y"] + box["height"] * (0.5 - 0.35 * np.cos(angle)),
            )
            for angle in angles
        ]
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point)
        page.mouse.up()
        chart = bars(page)
        assert list(chart) == [str(digit) for digit in range(10)]
        assert sum(chart.values()) == pytest.approx(100, abs=1)
        answer = page.locator(".answer").inner_text()
        assert answer == "0"
        assert chart[answer] == max(chart.values())
        # The same pixels over gRPC are the same digit.
        port = served_digits.addresses[0].rpartition(":")[2]
        with Client(f"127.0.0.1:{port}", timeout=TIMEOUT_S) as client:
            raw = np.round(shown_pixels(page)[None] * 16).astype(np.uint8)
            outputs = client.predict("digits", raw, signature="serving_uint8")
            assert chart[answer] == pytest.approx(100 * outputs["probabilities"][0, 0], abs=0.06)
        # And it was counted.
        page.wait_for_selector(".tile:has-text('median latency') b:has-text('ms')")
        page.click("#clear")
        assert page.locator(".bar").count() == 0


def test_a_picture_that_is_chosen_is_classified(browser: Any, served_digits: Server) -> None:
    held_out = load_data("digits")
    port = served_digits.addresses[0].rpartition(":")[2]
    with Client(f"127.0.0.1:{port}", timeout=TIMEOUT_S) as client:
        expected = client.predict("digits", held_out.x_test[:1], signature="serving_uint8")
    picture = png((held_out.x_test[0].astype(int) * 255 // 16).astype(np.uint8))
    with opened(browser, served_digits) as page:
        file = {"name": "digit.png", "mimeType": "image/png", "buffer": picture}
        page.set_input_files("#file", file)
        assert bars(page)
        assert int(page.locator(".answer").inner_text()) == int(expected["class_id"][0])
        page.set_input_files("#file", file | {"buffer": b"no picture"})
        page.wait_for_selector("#picture-result .alert")
        told = page.locator("#picture-result .alert").inner_text()
        assert told == "digit.png is no picture that this browser can read"


def test_json_can_be_sent_to_any_signature(browser: Any, served_digits: Server) -> None:
    with opened(browser, served_digits) as page:
        page.click("#tab-json")
        page.select_option("#signature", "serving_default")
        page.click("#send")
        page.wait_for_selector("#json-result pre.json")
        answer = json.loads(page.locator("#json-result pre.json").inner_text())
        assert len(answer["outputs"]["probabilities"][0]) == 10
        page.fill("#body", '{"instances": [')
        page.click("#send")
        page.wait_for_selector("#json-result .alert")
        assert "JSON Parse error" in page.locator("#json-result .alert").inner_text()


def test_the_model_is_described(browser: Any, served_digits: Server) -> None:
    with opened(browser, served_digits) as page:
        card = page.locator("article")
        assert card.locator("h3").inner_text() == "digits"
        assert card.locator("td.number").inner_text() == "1"
        assert card.locator("td .badge").first.inner_text() == "AVAILABLE"
        assert "accuracy" in card.inner_text()
        card.locator("summary").click()
        signatures = card.locator("details").inner_text()
        assert "serving_uint8: images uint8 [-1, 8, 8] → " in signatures
        assert "batches: " in signatures
        assert page.locator("#ready").inner_text() == "ready"


PROGRAMS = {"curl": ["sh"], "Python": [sys.executable, "-"], "Node": [str(NODE), "-"]}


def copied(page: Any, result: str, name: str) -> str:
    """The command or program that a button shows."""
    page.click(f"{result} .copy button:text-is('{name}')")
    page.wait_for_selector(f"{result} .snippet:not(:empty)")
    return str(page.locator(f"{result} .snippet").inner_text())


def printed(name: str, program: str, folder: Path, **environment: str) -> str:
    """What a program that was copied prints, run as it stands."""
    done = subprocess.run(
        PROGRAMS[name],
        input=program,
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | environment,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_was_tried_can_be_copied_and_run(
    name: str, browser: Any, served_digits: Server, tmp_path: Path
) -> None:
    with opened(browser, served_digits) as page:
        page.click("#tab-json")
        page.select_option("#signature", "serving_uint8")
        page.click("#send")
        page.wait_for_selector("#json-result pre.json")
        answer = json.loads(page.locator("#json-result pre.json").inner_text())
        program = copied(page, "#json-result", name)
    again = printed(name, program, tmp_path)
    assert json.loads(again.replace("'", '"')) == answer


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_text_of_a_request_ends_the_quotes_around_it(
    name: str, browser: Any, tmp_path: Path
) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "tokens").write_text(json.dumps({"token": "a-token-for-everything"}) + "\n")
    settings = {"load": FakeLoader(), "auth_tokens_file": str(tmp_path / "tokens")}
    odd = """it's `${1}` \\ \\u0027 "" ''' $HOME !! é"""
    with serving(tmp_path / "models", ("m'$(id)`", tmp_path / "m"), **settings) as server:
        with opened(browser, server) as page:
            page.fill("#token", "a-token-for-everything")
            page.click("#sign-in button")
            page.wait_for_selector("article")
            page.fill("#body", json.dumps({"note": odd, "instances": [[1, 2.5]]}))
            page.click("#send")
            page.wait_for_selector("#json-result pre.json")
            program = copied(page, "#json-result", name)
        assert "a-token-for-everything" not in program
        token = {"LADLE_TOKEN": "a-token-for-everything"}
        again = json.loads(printed(name, program, tmp_path, **token).replace("'", '"'))
        assert again == {"predictions": [[2.0, 5.0]]}


def test_a_large_input_is_shortened_and_sent_whole(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    spec = TensorSpec(1, (-1, 100, 100))
    large = Signature("serving_default", {"x": spec}, {"y": spec})
    servable = FakeServable(signatures=(large,))
    models = ("m", tmp_path / "m")
    with (
        serving(tmp_path / "models", models, load=lambda *_: servable) as server,
        opened(browser, server) as page,
    ):
        page.wait_for_selector("#body", state="visible")
        assert "…" in page.input_value("#body")
        assert len(page.input_value("#body")) < 1000
        assert "all 10,000 zeros are sent" in page.locator("#body-about").inner_text()
        page.click("#send")
        page.wait_for_selector("#json-result pre.json")
        shown = page.locator("#json-result pre.json").inner_text()
        assert re.search(r"… \([\d,]+ characters\)$", shown)
        assert "--data-binary @request.json" in copied(page, "#json-result", "curl")
        with page.expect_download() as saved:
            page.click("#json-result button:text-is('save request.json')")
        saved.value.save_as(tmp_path / "request.json")
        sent = json.loads((tmp_path / "request.json").read_text())
        assert np.shape(sent["inputs"]) == (1, 100, 100)
        for name in PROGRAMS:
            again = printed(name, copied(page, "#json-result", name), tmp_path)
            assert np.shape(json.loads(again.replace("'", '"'))["outputs"]) == (1, 100, 100)


@pytest.mark.parametrize(("channels", "ground"), [(1, 0), (3, 255)])
def test_colour_pictures_are_drawn_on_white(
    browser: Any, tmp_path: Path, channels: int, ground: int
) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    spec = TensorSpec(4, (-1, 8, 8, channels))
    signature = Signature("serving_uint8", {"x": spec}, {"y": spec})
    card = ModelCard(labels=("a", "b"), normalization=Normalization(offset=0.0, divisor=255.0))
    servable = FakeServable(signatures=(signature,), card_json=card.to_json())
    models = ("m", tmp_path / "m")
    with (
        serving(tmp_path / "models", models, load=lambda *_: servable) as server,
        opened(browser, server) as page,
    ):
        page.wait_for_selector("#canvas", state="visible")
        corner = "() => [...document.getElementById('canvas').getContext('2d')"
        corner += ".getImageData(0, 0, 1, 1).data.slice(0, 3)]"
        assert page.evaluate(corner) == [ground] * 3
        box = page.locator("#canvas").bounding_box()
        page.mouse.move(box["x"] + 60, box["y"] + 60)
        page.mouse.down()
        page.mouse.move(box["x"] + 220, box["y"] + 220, steps=5)
        page.mouse.up()
        page.wait_for_selector("#picture-result .copy")
        pixels = shown_pixels(page)
        mean = float(pixels.mean())
        assert mean > 0.5 if ground else mean < 0.5
        assert pixels.min() < 0.5 < 0.8 < pixels.max()


def test_the_page_of_the_api_says_what_a_model_takes(browser: Any, served_digits: Server) -> None:
    with opened(browser, served_digits) as page:
        page.wait_for_selector("#metrics", state="visible")
        assert page.locator("#metrics").get_attribute("href") == "monitoring/prometheus/metrics"
        page.click("nav a:text-is('docs')")
        predict = page.locator("article:has-text('/v1/models/digits:predict')")
        predict.wait_for()
        assert "instances: integer 0 to 255 [any, 8, 8]" in predict.inner_text()
        page.click("nav a:text-is('status')")
        page.wait_for_selector("#ready:not(:has-text('connecting'))")


def test_links_bring_the_token_with_them(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "tokens").write_text(json.dumps({"token": "a-token-for-everything"}) + "\n")
    settings = {"load": FakeLoader(), "auth_tokens_file": str(tmp_path / "tokens")}
    with (
        serving(tmp_path / "models", ("m", tmp_path / "m"), **settings) as server,
        opened(browser, server) as page,
    ):
        page.fill("#token", "a-token-for-everything")
        page.click("#sign-in button")
        page.wait_for_selector("article")
        with page.expect_popup() as opened_metrics:
            page.click("#metrics")
        opened_metrics.value.wait_for_selector("text=ladle_")
        page.click("nav a:text-is('docs')")
        page.wait_for_selector("article:has-text('/v1/models/m:predict')")
        page.click("nav a:text-is('status')")
        page.wait_for_selector("#ready:not(:has-text('connecting'))")


def test_a_server_without_models_says_so(browser: Any, tmp_path: Path) -> None:
    with serving(tmp_path / "models", load=FakeLoader()) as server, opened(browser, server) as page:
        page.wait_for_selector("#no-models", state="visible")
        assert page.locator("#try").is_hidden()
        assert page.locator("#ready").inner_text() == "not ready"


def test_a_failed_model_says_why_beside_one_that_is_well(browser: Any, tmp_path: Path) -> None:
    for name in "good", "bad":
        (tmp_path / name / "1").mkdir(parents=True)
    (tmp_path / "good" / ".ladle-labels.json").write_text(json.dumps({EVIL: 1}))
    loader = FakeLoader()

    def load(servable_id: Any, path: Path) -> Any:
        if path.parent.name == "bad":
            raise ValueError(EVIL)
        return loader(servable_id, path)

    models = (EVIL, tmp_path / "bad"), ("good", tmp_path / "good")
    with (
        serving(tmp_path / "models", *models, load=load) as server,
        opened(browser, server) as page,
    ):
        page.wait_for_selector("article >> nth=1")
        bad, good = page.locator("article").all()
        assert bad.locator("h3").inner_text() == EVIL
        assert bad.locator("td .badge").inner_text() == "END"
        assert bad.locator("td .alert").is_visible()
        assert good.locator("td .badge").first.inner_text() == "AVAILABLE"
        assert EVIL in good.inner_text()
        # Without a model card there is nothing to draw for.
        assert page.locator("#tab-picture").is_disabled()
        page.fill("#body", '{"instances": [[1, 2.5]]}')
        page.click("#send")
        page.wait_for_selector("#json-result pre.json")
        assert page.locator("#json-result pre.json").inner_text() == '{"predictions":[[2.0,5.0]]}'


def test_the_page_follows_what_changes(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    models = ("m", tmp_path / "m")
    with (
        serving(tmp_path / "models", models, load=FakeLoader()) as server,
        opened(browser, server) as page,
    ):
        page.wait_for_selector("td.number:has-text('1')")
        (tmp_path / "m" / "2").mkdir()
        page.wait_for_selector("td.number:has-text('2')")
        server.stop(lame_duck=False)
        page.wait_for_selector("#problem", state="visible")
        assert page.locator("#problem").inner_text() == "The server does not answer."


def test_both_versions_of_a_rollout_are_side_by_side(browser: Any, tmp_path: Path) -> None:
    for version in "12":
        (tmp_path / "m" / version).mkdir(parents=True)
    (tmp_path / "m" / ".ladle-labels.json").write_text('{"stable": 1, "canary": 2}')
    (tmp_path / "rollout.txt").write_text('rollout { model: "m" canary { percent: 12.5 } }')
    models = ("m", tmp_path / "m")
    more = {"rollout_file": str(tmp_path / "rollout.txt")}
    with (
        serving(tmp_path / "models", models, load=FakeLoader(), **more) as server,
        opened(browser, server) as page,
    ):
        page.wait_for_selector("table.rollout tbody tr >> nth=1")
        stable, canary = inner_texts(page, "table.rollout tbody tr")
        assert stable.startswith("stable version 1\t87.50 %")
        assert canary.startswith("canary version 2\t12.50 %")


def test_how_a_canary_answers_stands_beside_how_stable_does(browser: Any, tmp_path: Path) -> None:
    for version in "12":
        (tmp_path / "m" / version).mkdir(parents=True)
    (tmp_path / "m" / ".ladle-labels.json").write_text('{"stable": 1, "canary": 2}')
    (tmp_path / "rollout.txt").write_text(
        'rollout { model: "m" canary { percent: 0 } shadow { percent: 100 } }'
    )
    models, loader = ("m", tmp_path / "m"), FakeLoader()
    more = {"rollout_file": str(tmp_path / "rollout.txt")}
    with (
        serving(tmp_path / "models", models, load=loader, **more) as server,
        opened(browser, server) as page,
    ):
        shadow = loader.loaded[ServableId("m", 2)]
        shadow.function = lambda inputs: {"y": inputs["x"][:, ::-1] * np.float32(2)}
        url = f"{page.url}v1/models/m:predict"

        def compared() -> bool:
            urlopen(Request(url, b'{"instances": [[1, 2]]}'), timeout=TIMEOUT_S).close()
            found = server.snapshot()["m"].shadow
            return found is not None and found.requests > 0

        until(compared)
        page.wait_for_selector("table.shadow tbody tr")
        canary = page.locator("table.rollout tbody tr").nth(1).inner_text()
        assert re.search(r"100 % of [\d,]+ rows$", canary)
        assert page.locator(".verdict").inner_text().startswith("no verdict The canary: it had 0")
        (output,) = inner_texts(page, "table.shadow tbody tr")
        assert output.split("\t") == ["y", "100 %", "100 %", "2", "2", "0.5", "0.5", "0"]


def test_a_server_with_tokens_asks_for_one(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    tokens = tmp_path / "tokens"
    tokens.write_text(json.dumps({"token": "a-token-for-everything"}) + "\n")
    models = ("m", tmp_path / "m")
    settings = {"load": FakeLoader(), "auth_tokens_file": str(tokens)}
    with (
        serving(tmp_path / "models", models, **settings) as server,
        opened(browser, server) as page,
    ):
        page.wait_for_selector("#sign-in", state="visible")
        assert page.locator("article").count() == 0
        page.fill("#token", "a-token-for-everything")
        page.click("#sign-in button")
        page.wait_for_selector("article")
        assert page.locator("#sign-in").is_hidden()
        page.click("#send")
        page.wait_for_selector("#json-result pre.json")
