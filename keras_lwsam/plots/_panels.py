"""Small panels, one a quantity, with one line a run."""

import textwrap

import numpy as np

from keras_lwsam.plots import _columns, _names, _rows, _scales, style

PANEL = 1.35


def checked_runs(runs, name):
    """A dict from names to rows that can be drawn."""
    if not isinstance(runs, dict):
        raise TypeError(
            f"`{name}` must be a dict from the name of each run to its rows. "
            f"Received: {name}={runs!r} (of type {type(runs).__name__})"
        )
    if not runs:
        raise ValueError(
            f"There is nothing to draw: there is no run. Received: {name}={{}}"
        )
    return {
        str(run): _rows.checked(rows, name=f"{name}[{run!r}]")
        for run, rows in runs.items()
    }


def panels(runs, columns, title, name):
    """A figure with a panel for each column that any run knows."""
    everything = [row for rows in runs.values() for row in rows]
    columns = [c for c in columns if _rows.known(everything, c)]
    if not columns:
        raise ValueError(
            "There is nothing to draw: no row has a finite number to show. "
            f"Received: {name} with the keys "
            f"{sorted({key for row in everything for key in row})}"
        )
    labels = _names.shortened(list(runs)) if len(runs) > 1 else []
    lines, width = -(-len(columns) // 2), style.COLUMN
    drawn = style.figure(
        width, 0.5 + PANEL * lines + style.legend_height(labels, width)
    )
    errors = any(_rows.known(everything, f"{c}_error") for c in columns)
    bands = "\n(bands: one standard error)" * errors
    style.heading(drawn, title + bands)
    grid = drawn.add_gridspec(lines, min(2, len(columns)))
    handles = fill(drawn, grid, columns, runs)
    for axes in drawn.axes[:-2]:
        axes.set_xlabel("")
    style.legend(drawn, handles if labels else [])
    return drawn


def fill(drawn, grid, columns, runs):
    """Panels in the cells of a grid. Returns a line of each run."""
    axes, handles = {}, []
    for cell, column in zip(grid, columns, strict=False):
        partner = axes.get(column.removeprefix("val_"))
        axes[column] = drawn.add_subplot(cell, sharey=partner)
        handles = panel(axes[column], column, runs)
    twins = {f"val_{column}" for column in axes}
    for column, own in axes.items():
        if column not in twins:
            shared = filter(None, [own, axes.get(f"val_{column}")])
            _scales.fitting(np.concatenate([*map(_drawn, shared)])).apply(own)
    return handles


def panel(axes, column, runs):
    """One line a run, with a band of one standard error where known."""
    handles = []
    names = _names.shortened(list(runs))
    for i, (name, rows) in enumerate(zip(names, runs.values(), strict=True)):
        times, values = _rows.series(rows, column)
        look = style.look(i)
        handles += line(axes, times, values, name, look)
        error = _rows.series(rows, f"{column}_error")[1]
        if np.isfinite(error).any():
            axes.fill_between(
                times,
                values - error,
                values + error,
                color=look["color"],
                alpha=0.25,
                linewidth=0.0,
            )
    everything = [row for rows in runs.values() for row in rows]
    style.dress(
        axes,
        textwrap.fill(_columns.title(column), 28),
        _rows.time_axis(everything),
        _columns.unit(column),
    )
    style.whole_numbers(axes.xaxis)
    return handles


def line(axes, times, values, name, look, marks=8):
    """A line with about so many markers, and one where a point is alone."""
    known = np.pad(np.isfinite(values), 1)
    alone = known[1:-1] & ~known[:-2] & ~known[2:]
    regular = np.zeros(len(times), bool)
    if marks:
        regular[:: max(1, len(times) // marks)] = True
    at = np.flatnonzero(alone | regular).tolist()
    return axes.plot(
        times, values, label=_names.plain(name), markevery=at, **look
    )


def _drawn(axes):
    """The values of all lines, and the ends of all bands."""
    lines = [line.get_ydata() for line in axes.lines]
    return np.concatenate([*lines, axes.dataLim.intervaly])


def finish(axes, title, x, y, scale):
    """Title, labels and scales of an axes of lines."""
    scale.apply(axes)
    note = f"\n{scale.note}" if scale.note else ""
    style.dress(axes, title, x, y + note)
    style.whole_numbers(axes.xaxis)
