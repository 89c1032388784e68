"""A version's report: one HTML page that brings all it shows, and loads and runs nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ladle.export.models.text import flat
from ladle.export.report import svg
from ladle.export.report.evaluation import SHOWN_OF_CLASSES, Evaluation, HeldOut
from ladle.protos.model_card import ModelCard

_VALIDATION = "val_"
_LONGEST_VALUE = 300
_LARGEST_EPOCH = 2**53

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222b36; background: #fff;
  max-width: 1160px; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.2rem; border-bottom: 1px solid #dde2e8; }
.lead { color: #5b6673; margin-top: 0.3rem; }
table { border-collapse: collapse; margin-bottom: 1.2rem; }
th, td { text-align: left; vertical-align: top;
  padding: 0.2rem 1.2rem 0.2rem 0; overflow-wrap: anywhere; } th { font-weight: 600; }
.big { font-size: 1.6rem; font-weight: 600; margin-right: 2rem; }
.charts, .grid { display: flex; flex-wrap: wrap; gap: 0.8rem; }
figure { margin: 0; padding: 0.5rem; border: 1px solid #dde2e8; border-radius: 6px; }
figure .pair { display: flex; gap: 0.6rem; align-items: center; }
figure img { width: 104px; height: 104px; object-fit: contain; image-rendering: pixelated; }
figcaption { font-weight: 600; max-width: 320px; overflow-wrap: anywhere; }
.right figcaption { color: RIGHT; } .wrong figcaption { color: WRONG; }
.warning { border-left: 4px solid #e07b00; padding-left: 0.8rem; max-width: 60rem; }
svg { max-width: 100%; height: auto; } code { font-size: 0.9em; }
:root { color-scheme: light dark; }
@media (prefers-color-scheme: dark) {
  body { color: #dfe5ec; background: #14181d; } .lead { color: #9aa5b1; }
  h2, figure { border-color: #3a434e; } svg { filter: invert(0.9) hue-rotate(180deg); }
  .right figcaption { color: #7fb0ff; } .wrong figcaption { color: #ff9a9a; }
}
""".replace("RIGHT", svg.RIGHT).replace("WRONG", svg.WRONG)

# Even where a label were not escaped as it should be, no browser would run or fetch it.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def make_report(
    model: str, version: int, card: ModelCard | None, evaluation: Evaluation | None
) -> str:
    """Return the page for a version, with what is known of it; all text in it is escaped."""
    title = f"{model}, version {version}"
    parts = [f"<h1>{escape(title)}</h1>"]
    if card is None:
        parts.append('<p class="lead">This version has no model card: nothing is known of it.</p>')
        card = ModelCard()
    else:
        parts += _lead(card, evaluation)
    parts += _section("Training", _curves(card.provenance.get("history")), "charts")
    if evaluation is not None:
        parts += _evaluated(evaluation, card)
    else:
        parts.append("<p>No answers to held-out examples are recorded with this version.</p>")
    parts += _section("Model card", _card_tables(card))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def charts_of(history: Any) -> dict[str, str]:
    """Return a chart of each measure in a recorded history, with its validation; SVG by name."""
    if not isinstance(history, Mapping):
        return {}
    lines = {
        str(name): [v if isinstance(v, int | float) else None for v in values]
        for name, values in history.items()
        if name != "epochs" and isinstance(values, list) and values
    }
    longest = max(map(len, lines.values()), default=0)
    given = history.get("epochs")
    numbered = isinstance(given, list) and all(
        type(number) is int and abs(number) <= _LARGEST_EPOCH for number in given
    )
    epochs = given if numbered and given is not None else list(range(1, longest + 1))
    charts = {}
    for measure in dict.fromkeys(name.removeprefix(_VALIDATION) for name in lines):
        series = {
            told: lines[name]
            for told, name in (("training", measure), ("validation", f"{_VALIDATION}{measure}"))
            if name in lines and len(lines[name]) == len(epochs)
        }
        if series:
            charts[measure] = svg.curves(measure, series, epochs)
    return charts


def _lead(card: ModelCard, evaluation: Evaluation | None) -> list[str]:
    told = card.provenance
    data = told.get("data")
    name = data.get("name") if isinstance(data, Mapping) else None
    lead = [str(told[key]) for key in ("recipe", "created") if told.get(key)]
    if name:
        lead.insert(1, f"trained on {name}")
    metrics = "".join(
        f'<span class="big">{escape(key)} {value:.4f}</span>'
        for key, value in sorted(card.metrics.items())
    )
    on = "" if evaluation is None else f"on {evaluation.n_examples:,} held-out examples"
    return [
        f'<p class="lead">{escape(", ".join(lead))}</p>',
        f"<p>{metrics}{on}</p>",
        *_warnings(told.get("warnings")),
        *_warnings(data.get("notes") if isinstance(data, Mapping) else None),
    ]


def _warnings(told: Any) -> list[str]:
    """Return a paragraph for each sentence that the export has warned of."""
    sentences = told if isinstance(told, list) else []
    return [f'<p class="warning">{escape(str(sentence))}</p>' for sentence in sentences]


def _curves(history: Any) -> list[str]:
    return [f"<figure>{chart}</figure>" for chart in charts_of(history).values()]


def _evaluated(evaluation: Evaluation, card: ModelCard) -> list[str]:
    parts = []
    if evaluation.pairs:
        chart = svg.points("predictions", evaluation.pairs, "true value", "predicted value")
        parts += _section("Held-out examples", [chart])
    if evaluation.confusion:
        labels = [_label(card.labels, n) for n in range(len(evaluation.confusion))]
        chart = svg.confusion_matrix(evaluation.confusion, labels)
        parts += _section("Confusion matrix", [chart])
    of_classes = evaluation.held_out[:SHOWN_OF_CLASSES]
    worst = evaluation.held_out[SHOWN_OF_CLASSES:]
    for title, shown in (("Held-out examples", of_classes), ("Worst mistakes", worst)):
        parts += _section(title, [_figure(one, card.labels) for one in shown], "grid")
    return parts


def _figure(one: HeldOut, labels: Sequence[str]) -> str:
    predicted, share = one.predicted
    truth = _label(labels, one.truth)
    named = [(_label(labels, index), score) for index, score in one.scores]
    chart = svg.bars(named, _label(labels, predicted), truth)
    image = ""
    if one.image is not None:
        encoded = base64.b64encode(one.image).decode()
        image = f'<img alt="{escape(truth)}" src="data:image/png;base64,{encoded}">'
    caption = f"{_label(labels, predicted)} {share:.1%}"
    if not one.is_right:
        caption += f" (is {truth})"
    return (
        f'<figure class="{"right" if one.is_right else "wrong"}"><div class="pair">{image}{chart}'
        f"</div><figcaption>{escape(caption)}</figcaption></figure>"
    )


def _label(labels: Sequence[str], index: int) -> str:
    return labels[index] if 0 <= index < len(labels) else str(index)


def _card_tables(card: ModelCard) -> list[str]:
    rows: list[tuple[str, Any]] = []
    if card.labels:
        rows.append(("labels", ", ".join(card.labels)))
    if card.normalization is not None:
        told = card.normalization
        rows.append(("normalisation", f"(raw - {told.offset}) / {told.divisor}"))
    rows += [(f"output {name}", told) for name, told in card.outputs.items()]
    rows += [
        (key, value)
        for key, value in sorted(flat(card.provenance).items())
        if value not in (None, [], "") and not key.startswith("history")
    ]
    signatures = [
        (name, _tensors(told, "inputs"), _tensors(told, "outputs"))
        for name, told in card.signatures.items()
    ]
    return [
        _table(("signature", "inputs", "outputs"), signatures) if signatures else "",
        _table(("", ""), rows) if rows else "",
    ]


def _tensors(signature: Any, side: str) -> str:
    tensors = signature.get(side) if isinstance(signature, Mapping) else None
    if not isinstance(tensors, Mapping):
        return ""
    return "; ".join(
        f"{name} {told.get('dtype')} {told.get('shape')}" if isinstance(told, Mapping) else name
        for name, told in tensors.items()
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def line(cells: Sequence[Any], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(_shown(cell))}</{tag}>' for cell in cells)}</tr>"

    head = line(header, "th") if any(header) else ""
    return f"<table>{head}{''.join(line(row, 'td') for row in rows)}</table>"


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def _section(title: str, parts: Sequence[str], kind: str = "") -> list[str]:
    if not any(parts):
        return []
    return [f"<h2>{escape(title)}</h2>", f'<div class="{kind}">', *parts, "</div>"]
