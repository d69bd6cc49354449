"""Line charts: a few series over labelled axes, as an RGB picture."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]

GREY: Colour = (150, 150, 150)
BLUE: Colour = (40, 100, 190)
ORANGE: Colour = (220, 120, 30)
GREEN: Colour = (50, 140, 70)
INK: Colour = (40, 40, 40)

_GRID: Colour = (228, 228, 228)
_SUPERSAMPLE = 2
_WIDTH, _HEIGHT = 720, 540
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 44, 58  # margins around the plot


@dataclass(frozen=True)
class Series:
    """A line through points (x, y); `dots` marks each of them as well."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: Colour
    dots: bool = False


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
) -> Picture:
    """Draws the series over a grid; what lies outside the ranges is drawn at their border."""
    size = _WIDTH * _SUPERSAMPLE, _HEIGHT * _SUPERSAMPLE
    canvas = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=14 * _SUPERSAMPLE)

    def at(x: float, y: float) -> tuple[float, float]:
        """The canvas's pixel of a point in the plot."""
        right = float(np.clip((x - x_range[0]) / (x_range[1] - x_range[0]), 0, 1))
        up = float(np.clip((y - y_range[0]) / (y_range[1] - y_range[0]), 0, 1))
        across = _LEFT + right * (_WIDTH - _LEFT - _RIGHT)
        down = _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)
        return across * _SUPERSAMPLE, down * _SUPERSAMPLE

    gap = 8 * _SUPERSAMPLE
    for x in _ticks(*x_range):
        pen.line([at(x, y_range[0]), at(x, y_range[1])], fill=_GRID, width=_SUPERSAMPLE)
        pen.text((at(x, 0)[0], at(0, y_range[0])[1] + gap), f"{x:g}", fill=INK, font=font, anchor="mt")
    for y in _ticks(*y_range):
        pen.line([at(x_range[0], y), at(x_range[1], y)], fill=_GRID, width=_SUPERSAMPLE)
        pen.text((at(x_range[0], 0)[0] - gap, at(0, y)[1]), f"{y:g}", fill=INK, font=font, anchor="rm")
    for number, line in enumerate(series):
        points = [at(float(x), float(y)) for x, y in zip(line.x, line.y, strict=True)]
        pen.line(points, fill=line.colour, width=2 * _SUPERSAMPLE, joint="curve")
        for x, y in points if line.dots else ():
            radius = 4 * _SUPERSAMPLE
            pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=line.colour)
        left, top = at(*(x_range[0], y_range[1]))
        row = top + (18 + 22 * number) * _SUPERSAMPLE
        pen.line([(left + 2 * gap, row), (left + 5 * gap, row)], fill=line.colour, width=3 * _SUPERSAMPLE)
        pen.text((left + 6 * gap, row), line.name, fill=INK, font=font, anchor="lm")
    middle = at(sum(x_range) / 2, 0)[0]
    pen.text((middle, 22 * _SUPERSAMPLE), title, fill=INK, font=font, anchor="mm")
    pen.text((middle, size[1] - 16 * _SUPERSAMPLE), x_label, fill=INK, font=font, anchor="mm")
    _write_upwards(canvas, y_label, font)
    return np.array(canvas.resize((_WIDTH, _HEIGHT), Image.Resampling.LANCZOS))


def _write_upwards(
    canvas: Image.Image, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> None:
    strip = Image.new("RGB", (canvas.height, 24 * _SUPERSAMPLE), "white")
    middle = canvas.height - (_TOP + (_HEIGHT - _TOP - _BOTTOM) / 2) * _SUPERSAMPLE
    ImageDraw.Draw(strip).text((middle, strip.height / 2), text, fill=INK, font=font, anchor="mm")
    canvas.paste(strip.transpose(Image.Transpose.ROTATE_90), (0, 0))


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from low to high, four to ten of them."""
    step = 10.0 ** np.floor(np.log10((high - low) / 4))
    step *= next(times for times in (1, 2, 5, 10) if (high - low) / (step * times) <= 10)
    return [
        float(round(step * n, 10))
        for n in range(int(np.ceil(low / step - 1e-9)), int(high / step + 1e-9) + 1)
    ]
