"""Small SVG plots, drawn by hand: axes, dots, lines, bars and images, in units that stay readable on a phone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np

from state_hf.reporting.markup import element, number

WIDTH = 360
"""Width of every plot in its own units: about that of a phone, so that text is shown at its true size there."""


MAX_DOTS = 800
"""More dots than this only make a page large: `telling_dots` chooses."""


@dataclass
class Axis:
    """One axis of a plot.

    Args:
        low, high: Its ends, in the unit of the data; `high` may be the smaller, for an axis that runs backwards.
        label: What it measures, with the unit.
        log: Whether it is logarithmic; both ends are then positive.
        ticks: Where it is marked; chosen if not given.
        names: What stands at each of `ticks`; their numbers if not given.
    """

    low: float
    high: float
    label: str = ""
    log: bool = False
    ticks: Sequence[float] | None = None
    names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.high == self.low:
            self.low, self.high = self.low - 0.5, self.low + 0.5

    def place(self, values: float | np.ndarray) -> np.ndarray:
        """Where values lie between the ends, as a fraction; those outside are put on the nearer end."""
        low, high, values = self.low, self.high, np.asarray(values, dtype=float)
        if self.log:
            low, high, values = math.log10(low), math.log10(high), np.log10(np.maximum(values, low))
        return np.clip((values - low) / (high - low), 0, 1)

    def marks(self) -> list[tuple[float, str]]:
        """The ticks and what stands at them."""
        if self.ticks is None:
            self.ticks = _log_ticks(self.low, self.high) if self.log else _linear_ticks(self.low, self.high)
        names = self.names if self.names is not None else [number(tick) for tick in self.ticks]
        return list(zip(self.ticks, names, strict=True))


class Plot:
    """A pair of axes in an SVG element, `svg`, that the drawing methods add to.

    Args:
        description: What the plot shows, for screen readers.
        x, y: The axes.
        height: Height in the plot's units.
        left, right, top, bottom: Margins in the plot's units.
    """

    def __init__(
        self,
        description: str,
        x: Axis,
        y: Axis,
        *,
        height: float = 260,
        left: float = 46,
        right: float = 12,
        top: float = 10,
        bottom: float = 38,
    ) -> None:
        self.x_axis, self.y_axis = x, y
        self.left, self.top = left, top
        self.inner_width, self.inner_height = WIDTH - left - right, height - top - bottom
        self.svg = element(
            "svg", element("title", description), viewBox=f"0 0 {WIDTH} {height:g}", role="img", class_="plot"
        )
        self._draw_axes()

    def x(self, values: float | np.ndarray) -> np.ndarray:
        """Horizontal positions of values, in the plot's units."""
        return self.left + self.x_axis.place(values) * self.inner_width

    def y(self, values: float | np.ndarray) -> np.ndarray:
        """Vertical positions of values, in the plot's units."""
        return self.top + (1 - self.y_axis.place(values)) * self.inner_height

    def dots(self, x: np.ndarray, y: np.ndarray, class_: str, *, size: float = 4) -> None:
        """Round dots; one path for all of them keeps the page small."""
        if len(x):
            path = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in zip(self.x(x), self.y(y), strict=True))
            self.svg.append(element("path", d=path, class_=f"dots {class_}", stroke_width=size))

    def line(self, x: np.ndarray, y: np.ndarray, class_: str) -> None:
        """A line through points."""
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(self.x(np.asarray(x)), self.y(np.asarray(y)), strict=True))
        self.svg.append(element("polyline", points=points, class_=f"line {class_}"))

    def band(self, x: np.ndarray, low: np.ndarray, high: np.ndarray, class_: str) -> None:
        """The area between two lines."""
        across, down, up = self.x(x), self.y(low), self.y(high)
        there = [f"{a:.1f},{b:.1f}" for a, b in zip(across, up, strict=True)]
        back = [f"{a:.1f},{b:.1f}" for a, b in zip(across[::-1], down[::-1], strict=True)]
        self.svg.append(element("polygon", points=" ".join(there + back), class_=f"band {class_}"))

    def text(self, x: float, y: float, text: str, *, anchor: str = "start", class_: str = "label") -> None:
        """Text at a place given in the plot's units, with a halo that keeps it readable over dots."""
        self.svg.append(element("text", text, x=float(x), y=float(y), text_anchor=anchor, class_=class_))

    def name_dots(self, x: np.ndarray, y: np.ndarray, names: np.ndarray, importance: np.ndarray) -> None:
        """Write the names of the six most important dots, leaving out those that would lie over another name."""
        taken: list[tuple[float, float, float]] = []
        for index in np.argsort(-importance, kind="stable")[:40]:
            name, across, down = shortened(str(names[index]), 12), float(self.x(x[index])), float(self.y(y[index]))
            width = 6.5 * len(name) + 5
            to_left = across > self.left + self.inner_width * 0.65
            start, stop = (across - width, across) if to_left else (across, across + width)
            if any(abs(down - b) < 12 and start < right and left < stop for left, right, b in taken):
                continue
            self.text(across + (-5 if to_left else 5), down + 3.5, name, anchor="end" if to_left else "start")
            taken.append((start, stop, down))
            if len(taken) == 6:
                return

    def image(self, url: str) -> None:
        """An image that fills the axes, its first row at the top."""
        self.svg.append(
            element(
                "image",
                href=url,
                x=self.left,
                y=self.top,
                width=self.inner_width,
                height=self.inner_height,
                preserveAspectRatio="none",
                class_="pixels",
            )
        )

    def _draw_axes(self) -> None:
        bottom, right = self.top + self.inner_height, self.left + self.inner_width
        for value, name in self.x_axis.marks():
            place = float(self.x(value))
            self.svg.append(element("line", x1=place, x2=place, y1=self.top, y2=bottom, class_="grid"))
            self.text(place, bottom + 13, name, anchor="middle", class_="tick")
        for value, name in self.y_axis.marks():
            place = float(self.y(value))
            self.svg.append(element("line", x1=self.left, x2=right, y1=place, y2=place, class_="grid"))
            self.text(self.left - 5, place + 3.5, name, anchor="end", class_="tick")
        self.text((self.left + right) / 2, bottom + 30, self.x_axis.label, anchor="middle", class_="axis")
        middle = self.top + self.inner_height / 2
        if self.y_axis.label:
            label = element(
                "text",
                self.y_axis.label,
                transform=f"translate(11 {middle:.1f}) rotate(-90)",
                text_anchor="middle",
                class_="axis",
            )
            self.svg.append(label)


def telling_dots(importance: np.ndarray) -> np.ndarray:
    """Indices to draw: the most important half, and the others at even steps down their order."""
    order = np.argsort(-importance, kind="stable")
    if len(order) <= MAX_DOTS:
        return order
    first, rest = order[: MAX_DOTS // 2], order[MAX_DOTS // 2 :]
    return np.concatenate([first, rest[np.linspace(0, len(rest) - 1, MAX_DOTS // 2).astype(int)]])


def shortened(text: str, length: int) -> str:
    """The text, cut to a length with an ellipsis."""
    return text if len(text) <= length else text[: length - 1] + "…"


def bars(
    description: str, rows: Sequence[tuple[str, float, str]], low: float, high: float, *, names_above: bool = False
) -> ElementTree.Element:
    """Horizontal bars from zero, each with its name at the left or above, and its value at the right.

    Args:
        description: What the bars show, for screen readers.
        rows: Name, value and CSS class of each bar; NaN draws no bar.
        low, high: Ends of the scale that the bars share; zero lies between them.
        names_above: Whether names, which are long then, stand above their bars.

    Returns:
        The SVG element.
    """
    left, right = 6 if names_above else 84, 56
    row_height, gap = (36, 15) if names_above else (20, 0)
    width = WIDTH - left - right
    axis = Axis(min(low, 0.0), max(high, 0.0))
    zero = left + float(axis.place(0.0)) * width
    height = row_height * len(rows) + 4
    svg = element("svg", element("title", description), viewBox=f"0 0 {WIDTH} {height}", role="img", class_="plot")
    svg.append(element("line", x1=zero, x2=zero, y1=0, y2=height, class_="zero"))
    for index, (name, value, class_) in enumerate(rows):
        top = index * row_height + 4 + gap
        place = {"x": left + 3, "y": top - 4} if names_above else {"x": left - 6, "y": top + 11.5, "text_anchor": "end"}
        svg.append(element("text", name, class_="tick label", **place))
        svg.append(element("text", number(value), x=WIDTH - 4, y=top + 11.5, text_anchor="end", class_="value"))
        if math.isfinite(value):
            end = left + float(axis.place(value)) * width
            start, stop = sorted((zero, end))
            svg.append(element("rect", x=start, y=top, width=max(stop - start, 1.5), height=14, class_=f"bar {class_}"))
    return svg


def _linear_ticks(low: float, high: float, target: int = 5) -> list[float]:
    rough = (high - low) / target
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
    stride = max(1, math.ceil(len(powers) / 6))
    return [10.0**power for power in powers][::stride]
