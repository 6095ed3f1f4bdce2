"""Heat maps of layers by time."""

import dataclasses
import math

import numpy as np

from keras_lwsam.plots import _columns, _names, _rows, _scales, style

# Inches that a cell, a label beside it and the rest of the picture take.
CELL, LABEL, REST = 0.2, 0.112, 1.0
BAR = 1.2


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
    """What a heat map shows: an array, layers by times, and what is marked."""

    column: str
    layers: list
    times: list
    time_axis: str
    values: np.ndarray
    marks: tuple

    @classmethod
    def of(cls, rows, column):
        """The grid of rows; a norm of 0 is as good as unknown."""
        layers, times, values = _rows.grid(rows, column)
        if not _columns.has_sign(column):
            values = np.where(values > 0.0, values, np.nan)
        ys = {layer: y for y, layer in enumerate(layers)}
        xs = {time: x for x, time in enumerate(times)}
        marks = tuple(
            (xs[time], ys[row["layer"]])
            for time, row in zip(_rows.times(rows), rows, strict=True)
            if row.get("selected") in (True, "True")
        )
        return cls(column, layers, times, _rows.time_axis(rows), values, marks)

    @property
    def remarks(self):
        """What dots and grey cells mean, where there are any."""
        grey = "unknown" if _columns.has_sign(self.column) else "0 or unknown"
        dots = ["dots: perturbed"] if self.marks else []
        cells = [f"grey: {grey}"] if np.isnan(self.values).any() else []
        return ", ".join(dots + cells)

    @property
    def names(self):
        """The layers, no longer than can be read."""
        return [_names.plain(n) for n in _names.shortened(self.layers)]

    @property
    def label_width(self):
        """Inches that the names take."""
        return max(map(style.text_width, self.names))

    @property
    def width(self):
        """Inches that the whole picture takes."""
        wanted = self.label_width + BAR + max(1.2, CELL * len(self.times))
        return float(np.clip(wanted, style.COLUMN, style.PAGE))

    @property
    def height(self):
        """Inches that the whole picture takes."""
        wanted = REST + 0.15 * len(self.layers)
        return float(np.clip(wanted, 2.2, style.TALLEST))


def scale_of(grids):
    """One scale for all grids of a column."""
    values = np.concatenate([grid.values.ravel() for grid in grids])
    if grids[0].column == "cosine":
        return _scales.linear(-1.0, 1.0)
    scale = _scales.fitting(values, ratio=10.0)
    return _scales.around_zero(scale) if scale.low < 0.0 else scale


def draw(axes, grid, scale, size):
    """A heat map in axes of `size`, width and height in inches."""
    import matplotlib

    signed = scale.low < 0.0
    colours = style.DIVERGING if signed else style.SEQUENTIAL
    image = axes.imshow(
        np.ma.masked_invalid(grid.values),
        aspect="auto",
        cmap=matplotlib.colormaps[colours].with_extremes(bad="0.82"),
        norm=scale.norm(),
        interpolation="nearest",
    )
    width, height = size
    cell = min(width / len(grid.times), height / len(grid.layers))
    if grid.marks:
        dot = float(np.clip(72 * 0.45 * cell, 0.8, 4.0))
        # White on black is seen on every colour of the map.
        axes.plot(
            *zip(*grid.marks, strict=True),
            linestyle="none",
            marker="o",
            markersize=dot,
            markerfacecolor="white",
            markeredgecolor="black",
            markeredgewidth=0.18 * dot,
        )
    shown = _round(grid.times, max(2.0, width / 0.35))
    axes.set_xticks(shown, [grid.times[x] for x in shown])
    label_layers(axes, grid, height)
    return image


def label_layers(axes, grid, height):
    """Names as many layers as have room in `height` inches."""
    every = math.ceil(len(grid.layers) / max(1.0, height / LABEL))
    axes.set_yticks(range(0, len(grid.layers), every), grid.names[::every])


def _round(times, most):
    """Indices of at most so many times, round ones if they are in a row."""
    at_least = len(times) / most
    steps = (s * 10**power for power in range(9) for s in (1, 2, 5))
    step = next(step for step in steps if step >= at_least)
    in_a_row = times[-1] - times[0] == len(times) - 1
    start = -times[0] % step if in_a_row and step < len(times) else 0
    return range(start, len(times), step)


def bar(drawn, image, axes, scale, column, height):
    """A colour bar of `height` inches with name, unit and scale."""
    label = _columns.name(column)
    notes = ", ".join(filter(None, (_columns.unit(column), scale.note)))
    bar = drawn.colorbar(
        image, ax=axes, aspect=height / 0.1, fraction=0.3, pad=0.02
    )
    bar.set_label(
        f"{label}\n({notes})" if notes else label, fontsize=style.SMALL
    )
    bar.ax.tick_params(which="both", labelsize=style.SMALL, width=0.6)
    scale.mark(bar.ax.yaxis)
    return bar


def heat_map(grid, title):
    """A figure of one heat map."""
    drawn = style.figure(grid.width, grid.height)
    axes = drawn.add_subplot()
    scale = scale_of([grid])
    inner = grid.width - grid.label_width - BAR, grid.height - REST
    image = draw(axes, grid, scale, inner)
    remarks = f"\n({grid.remarks})" if grid.remarks else ""
    style.dress(
        axes, title + remarks, grid.time_axis, "layer (input side on top)"
    )
    bar(drawn, image, axes, scale, grid.column, inner[1])
    return drawn


def maps(drawn, cells, grids, size):
    """Heat maps of several runs beside each other, with one colour scale.

    Args:
        drawn: The figure.
        cells: A grid of cells, one a map.
        grids: A dict from title to `Grid`.
        size: Inches that each may take: width, height.
    """
    scale = scale_of(list(grids.values()))
    first = next(iter(grids.values()))
    same = all(grid.layers == first.layers for grid in grids.values())
    titles = _names.shortened(list(grids), 24)
    labels = first.label_width / cells.ncols if same else first.label_width
    inner = size[0] - labels - 0.4, size[1] - 0.7
    every = []
    for i, (title, grid) in enumerate(zip(titles, grids.values(), strict=True)):
        axes = drawn.add_subplot(cells[i])
        labelled = not same or i % cells.ncols == 0
        image = draw(axes, grid, scale, inner)
        remarks = f"\n({grid.remarks})" if grid.remarks else ""
        style.dress(axes, _names.plain(title) + remarks, grid.time_axis, "")
        axes.tick_params(labelleft=labelled)
        every.append(axes)
    whole = size[1] * cells.nrows - 0.7
    bar(drawn, image, every, scale, first.column, whole)
