"""Line charts as SVG, small enough to be read and kept in the repository."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT = 640, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 56, 48
# Told apart by who sees no red or green, too.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
_DASHES = ("", "6 3", "2 3", "8 2 2 2")


@dataclass(frozen=True)
class Chart:
    """Lines over an axis on which equal steps are equal factors."""

    title: str
    x_title: str
    y_title: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    """By what the legend calls them: points from left to right, x above 0."""

    def svg(self) -> str:
        """Return the picture."""
        xs = sorted({x for line in self.lines.values() for x, _ in line})
        steps = _steps(max(y for line in self.lines.values() for _, y in line))
        plot = _Plot(xs[0], xs[-1], steps[-1])
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
            f'font-family="sans-serif" font-size="12" role="img">',
            f"<title>{escape(self.title)}</title>",
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
            _text(_WIDTH / 2, 20, self.title, size=14),
            _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 10, self.x_title),
            f'<g transform="rotate(-90 16 {(_TOP + _HEIGHT - _BOTTOM) / 2:.0f})">',
            _text(16, (_TOP + _HEIGHT - _BOTTOM) / 2, self.y_title),
            "</g>",
        ]
        for y in steps:
            parts.append(f'<path d="M{_LEFT} {plot.y(y):.1f}H{_WIDTH - _RIGHT}" stroke="#dddddd"/>')
            parts.append(_text(_LEFT - 6, plot.y(y) + 4, f"{y:g}", anchor="end"))
        parts += [_text(plot.x(x), _HEIGHT - _BOTTOM + 16, f"{x:g}") for x in xs]
        for number, (name, line) in enumerate(self.lines.items()):
            parts += _line(name, [(plot.x(x), plot.y(y)) for x, y in line], number)
        return "\n".join([*parts, "</svg>", ""])


@dataclass(frozen=True)
class _Plot:
    least_x: float
    most_x: float
    most_y: float

    def x(self, x: float) -> float:
        span = math.log(self.most_x / self.least_x) or 1.0
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * math.log(x / self.least_x) / span

    def y(self, y: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * y / self.most_y


def _steps(most: float) -> list[float]:
    """Return round numbers from 0 to beyond `most`, some five of them."""
    rough = most / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough)
    return [step * n for n in range(math.ceil(most / step) + 1)]


def _line(name: str, points: Sequence[tuple[float, float]], number: int) -> list[str]:
    colour = _COLOURS[number % len(_COLOURS)]
    dash = _DASHES[number % len(_DASHES)]
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    legend_x = _LEFT + 4 + number * 190
    stroke = f'fill="none" stroke="{colour}" stroke-width="2"{dashed}'
    return [
        f'<path d="{path}" {stroke}/>',
        *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points),
        f'<path d="M{legend_x} 40h24" {stroke}/>',
        _text(legend_x + 30, 44, name, anchor="start"),
    ]


def _text(x: float, y: float, text: str, *, anchor: str = "middle", size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'fill="#333333">{escape(text)}</text>'
    )
