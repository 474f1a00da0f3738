"""What the plots of these samples share: axes with round numbers, their grids, files that are whole or not there."""

import math
import os

MOST_TICKS = 7


class BadInput(Exception):
    """What is wrong with an input, as one line."""


def number_text(value):
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


class Axis:
    """From values to places between two ends of the picture."""

    def __init__(self, values, begin, end, from_zero=False):
        self.low, self.high = min(values), max(values)
        if from_zero:
            self.low = min(self.low, 0)
        if self.low == self.high:
            self.low, self.high = self.low - 0.5, self.high + 0.5
        self.begin, self.end = begin, end

    def place(self, value):
        return self.begin + (value - self.low) / (self.high - self.low) * (self.end - self.begin)

    def ticks(self):
        """Round numbers: 1, 2 or 5 times a power of ten apart."""
        rough = (self.high - self.low) / MOST_TICKS
        power = 10 ** math.floor(math.log10(rough))
        distance = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
        first = math.ceil(self.low / distance - 1e-9)
        last = math.floor(self.high / distance + 1e-9)
        return [i * distance for i in range(first, last + 1)]

    text = staticmethod(number_text)


class LogAxis(Axis):
    """Of positive values; equal ratios are equal distances. Ticks are `steps` times powers of `base`."""

    def __init__(self, values, begin, end, base=10, steps=(1, 2, 5)):
        super().__init__([math.log(value, base) for value in values], begin, end)
        self.base, self.steps = base, steps

    def place(self, value):
        return super().place(math.log(value, self.base))

    def ticks(self):
        powers = range(math.floor(self.low + 1e-9), math.ceil(self.high - 1e-9) + 1)
        values = [step * self.base**power for power in powers for step in self.steps]
        return [value for value in values if self.low - 1e-9 <= math.log(value, self.base) <= self.high + 1e-9]


def grid_svg(x, y):
    """Lines and numbers at the ticks, and the two axes."""
    left, right, top, bottom = x.begin, x.end, y.end, y.begin
    parts = []
    for value in x.ticks():
        place = x.place(value)
        parts.append(f'<line class="grid" x1="{place:.1f}" y1="{top}" x2="{place:.1f}" y2="{bottom}"/>')
        parts.append(f'<text x="{place:.1f}" y="{bottom + 16}" text-anchor="middle">{x.text(value)}</text>')
    for value in y.ticks():
        place = y.place(value)
        parts.append(f'<line class="grid" x1="{left}" y1="{place:.1f}" x2="{right}" y2="{place:.1f}"/>')
        parts.append(f'<text x="{left - 8}" y="{place + 4:.1f}" text-anchor="end">{y.text(value)}</text>')
    parts.append(f'<path class="axis" d="M{left},{top} V{bottom} H{right}"/>')
    return parts


def write_whole(path, text):
    temporary = path + ".tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)
