"""Charts as the text of an SVG image: curves, a confusion matrix, bars, and points.

Each is a whole image, fit for a file of its own or for the middle of an HTML page. All text is
escaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

RIGHT = "#1f5fbf"
WRONG = "#c62f2f"
_OTHER = "#a8b0ba"
_INK = "#222b36"
_GRID = "#dde2e8"
_SERIES = (RIGHT, "#e07b00", "#2b8a3e", "#7b3fa0")
_FONT = 'font-family="system-ui, sans-serif"'
_CHARACTER_WIDTH = 6.5
_LONGEST_LABEL = 18
_LARGEST = 1e100

_WIDTH, _HEIGHT = 460, 280
_LEFT, _TOP, _FOOT, _SIDE = 58, 34, 38, 16
_MOST_NUMBERED_CLASSES = 20
_MOST_POINTS = 60
_LEGEND = 130


def curves(title: str, series: Mapping[str, Sequence[float | None]], epochs: Sequence[int]) -> str:
    """Draw a line for each of `series` over `epochs`, which are as long; None leaves a gap.

    Each line's name has its last number beside it, and points tell their numbers to who points at
    them, where they are not too many.
    """
    values = [v for line in series.values() for v in line if v is not None and _is_drawn(v)]
    x = _Scale(min(epochs, default=1), max(epochs, default=1), _LEFT, _WIDTH - _SIDE)
    y = _Scale(min(values, default=0), max(values, default=1), _HEIGHT - _FOOT, _TOP)
    body = [*_axes(x, y, "epoch", whole_x=True)]
    for index, (name, line) in enumerate(series.items()):
        colour = _SERIES[index % len(_SERIES)]
        stretches = _stretches(epochs, line)
        for stretch in stretches:
            if len(stretch) == 1 or len(epochs) <= _MOST_POINTS:
                body += [
                    _dot(x.at(epoch), y.at(value), colour, f"epoch {epoch}: {name} {value:.4g}")
                    for epoch, value in stretch
                ]
            if len(stretch) == 1:
                continue
            points = " ".join(f"{x.at(epoch):.1f},{y.at(value):.1f}" for epoch, value in stretch)
            body.append(
                f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
            )
        last = f" {stretches[-1][-1][1]:.4g}" if stretches else ""
        place = _WIDTH - _SIDE - _LEGEND * index
        body.append(_text(place, 18, f"{name}{last}", "end", fill=colour))
    body.append(_text(_LEFT, 18, title, bold=True))
    return _image(_WIDTH, _HEIGHT, title, body)


def confusion_matrix(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """Draw how often an example of the row's class was taken for the column's.

    A cell's colour is its share of the row: blue where that is right, red where it is wrong.
    """
    n = len(labels)
    numbered = n <= _MOST_NUMBERED_CLASSES
    cell = 34 if numbered else max(4, 480 // n)
    margin = _CHARACTER_WIDTH * max(len(_short(label)) for label in labels) + 30
    size = n * cell
    body = [_text(margin, 14, "predicted", bold=True), _text(4, margin - 6, "is", bold=True)]
    step = 1 if numbered else -(-n * 12 // size)  # as many names as there is room for
    for index, label in enumerate(labels):
        middle = margin + (index + 0.5) * cell
        if index % step == 0:
            if len(label) * _CHARACTER_WIDTH < cell * step:
                body.append(_text(middle, margin - 6, label, "middle"))
            else:
                turned = f'transform="rotate(-90 {middle + 4:.1f} {margin - 6:.1f})"'
                body.append(_text(middle + 4, margin - 6, _short(label), more=turned))
            body.append(_text(margin - 6, middle + 4, _short(label), "end"))
    for row, of_class in enumerate(counts):
        total = max(sum(of_class), 1)
        for column, count in enumerate(of_class):
            if not count:
                continue
            share = count / total
            left, top = margin + column * cell, margin + row * cell
            told = f"{labels[row]} taken for {labels[column]}: {count}"
            body.append(
                f'<rect x="{left:.1f}" y="{top:.1f}" width="{cell}" height="{cell}"'
                f' fill="{RIGHT if row == column else WRONG}"'
                f' fill-opacity="{0.12 + 0.88 * share:.3f}"><title>{escape(told)}</title></rect>'
            )
            if numbered:
                ink = "#fff" if share > 0.5 else _INK
                body.append(
                    _text(left + cell / 2, top + cell / 2 + 4, str(count), "middle", fill=ink)
                )
    body.append(
        f'<rect x="{margin:.1f}" y="{margin:.1f}" width="{size}" height="{size}" fill="none"'
        f' stroke="{_GRID}"/>'
    )
    return _image(margin + size + 8, margin + size + 8, "confusion matrix", body)


def bars(scores: Sequence[tuple[str, float]], predicted: str, truth: str) -> str:
    """Draw probabilities as bars; the prediction's blue or red, and the truth's, if missed, blue.

    Args:
        scores: Labels with their probabilities, 0 to 1, in the order to show them.
        predicted: The label that was predicted.
        truth: The right one.
    """
    row, bar = 15, 90
    margin = _CHARACTER_WIDTH * max((len(_short(label)) for label, _ in scores), default=0) + 8
    body = []
    for index, (label, score) in enumerate(scores):
        top = index * row
        colour = RIGHT if label == truth else WRONG if label == predicted else _OTHER
        body.append(_text(margin - 4, top + 11, _short(label), "end", size=11))
        body.append(
            f'<rect x="{margin:.1f}" y="{top + 2}" width="{max(bar * score, 0.5):.1f}"'
            f' height="{row - 4}" fill="{colour}"/>'
        )
        body.append(_text(margin + bar + 4, top + 11, f"{score:.0%}", size=11))
    return _image(margin + bar + 38, len(scores) * row, "class probabilities", body)


def points(title: str, pairs: Sequence[tuple[float, float]], x_name: str, y_name: str) -> str:
    """Draw a point for each pair, and the line on which both numbers are the same."""
    pairs = [pair for pair in pairs if all(map(_is_drawn, pair))]
    numbers = [number for pair in pairs for number in pair]
    low, high = min(numbers, default=0), max(numbers, default=1)
    x = _Scale(low, high, _LEFT, _WIDTH - _SIDE)
    y = _Scale(low, high, _HEIGHT - _FOOT, _TOP)
    body = [*_axes(x, y, x_name)]
    body.append(
        f'<line x1="{x.at(x.low):.1f}" y1="{y.at(y.low):.1f}" x2="{x.at(x.high):.1f}"'
        f' y2="{y.at(y.high):.1f}" stroke="{_OTHER}" stroke-dasharray="4 3"/>'
    )
    body += [_dot(x.at(a), y.at(b), RIGHT, f"{x_name} {a:.4g}, {y_name} {b:.4g}") for a, b in pairs]
    body.append(_text(_LEFT, 18, title, bold=True))
    body.append(_text(_WIDTH - _SIDE, 18, y_name, "end"))
    return _image(_WIDTH, _HEIGHT, title, body)


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Return round numbers from `low` to `high`: steps of 1, 2 or 5 times a power of ten."""
    span = high - low
    if not span > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(power * f for f in (1, 2, 5, 10) if span / (power * f) <= about)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _is_drawn(number: float) -> bool:
    """Return whether a scale can be made with it: it is not NaN, and not far out."""
    return abs(number) <= _LARGEST


class _Scale:
    """From numbers `low` to `high` to places `start` to `end` in the image."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        if high <= low:
            room = max(abs(low), 1.0) / 2
            low, high = low - room, high + room
        self.low, self.high = low, high
        self.start, self.end = start, end

    def at(self, number: float) -> float:
        share = (number - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def _axes(x: _Scale, y: _Scale, x_name: str, *, whole_x: bool = False) -> list[str]:
    body = []
    for number in ticks(y.low, y.high):
        place = y.at(number)
        body.append(
            f'<line x1="{x.start}" y1="{place:.1f}" x2="{x.end}" y2="{place:.1f}"'
            f' stroke="{_GRID}"/>'
        )
        body.append(_text(x.start - 6, place + 4, f"{number:.4g}", "end"))
    for number in ticks(x.low, x.high):
        if whole_x and number != round(number):
            continue
        body.append(_text(x.at(number), y.start + 16, f"{number:.6g}", "middle"))
    body.append(_text((x.start + x.end) / 2, y.start + 32, x_name, "middle"))
    return body


def _stretches(
    epochs: Sequence[int], line: Sequence[float | None]
) -> list[list[tuple[int, float]]]:
    """Return the parts of a line between its gaps."""
    stretches: list[list[tuple[int, float]]] = [[]]
    for epoch, value in zip(epochs, line, strict=True):
        if value is not None and _is_drawn(value):
            stretches[-1].append((epoch, value))
        elif stretches[-1]:
            stretches.append([])
    return [stretch for stretch in stretches if stretch]


def _dot(x: float, y: float, colour: str, told: str) -> str:
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}" fill-opacity="0.7">'
        f"<title>{escape(told)}</title></circle>"
    )


def _text(
    x: float,
    y: float,
    text: str,
    anchor: str = "start",
    *,
    fill: str = _INK,
    bold: bool = False,
    size: int = 12,
    more: str = "",
) -> str:
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}"'
        f' font-size="{size}"{weight} {more}>{escape(text)}</text>'
    )


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…"


def _image(width: float, height: float, title: str, body: Sequence[str]) -> str:
    # As a file of its own it needs the namespace; in a page the parser knows.
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}"'
        f' viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title)}" {_FONT}>'
        + "".join(body)
        + "</svg>\n"
    )
