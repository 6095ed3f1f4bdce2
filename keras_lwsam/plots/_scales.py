"""Linear and logarithmic scales, chosen by what is to be shown."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Scale:
    """A scale of an axis or of a colour bar, from `low` to `high`."""

    kind: str
    low: float
    high: float
    threshold: float = 0.0

    @property
    def note(self):
        """What a label should say of it."""
        return {
            "linear": "",
            "log": "log scale",
            "symlog": "symmetric log scale",
        }[self.kind]

    def norm(self):
        """It, for colours."""
        from matplotlib import colors

        if self.kind == "log":
            return colors.LogNorm(self.low, self.high)
        if self.kind == "symlog":
            return colors.SymLogNorm(
                self.threshold, vmin=self.low, vmax=self.high
            )
        return colors.Normalize(self.low, self.high)

    def apply(self, axes):
        """Scales the y axis."""
        if self.kind == "symlog":
            axes.set_yscale("symlog", linthresh=self.threshold)
        else:
            axes.set_yscale(self.kind)
        self.mark(axes.yaxis)

    def mark(self, axis):
        """Sets legible ticks on an axis that already has this scale."""
        from matplotlib import ticker

        if self.kind == "linear":
            axis.set_major_locator(ticker.MaxNLocator(5, steps=[1, 2, 5, 10]))
            axis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        elif self.kind == "log" and self.high / self.low < 300.0:
            axis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
            axis.set_minor_formatter(ticker.NullFormatter())


def fitting(values, ratio=30.0):
    """Logarithmic if the finite values differ by more than `ratio`."""
    values = np.asarray(values, float)
    # Between larger numbers there is no difference that is finite.
    values = values[np.abs(values) < 1e300]
    if not len(values):
        return Scale("linear", 0.0, 1.0)
    low, high = float(values.min()), float(values.max())
    if low > 0.0 and high / low > ratio:
        return Scale("log", low, high)
    sizes = np.abs(values[values != 0.0])
    largest = float(sizes.max(initial=0.0))
    if len(sizes) and largest > 1e3 * np.median(sizes):
        return Scale("symlog", low, high, largest / 1e3)
    return linear(low, high)


def linear(low, high):
    """Linear; a single value is in the middle."""
    if low == high:
        margin = 0.1 * abs(low) or 1.0
        low, high = low - margin, high + margin
    return Scale("linear", low, high)


def around_zero(scale):
    """As far below 0 as above it."""
    end = max(abs(scale.low), abs(scale.high))
    return dataclasses.replace(scale, low=-end, high=end)
