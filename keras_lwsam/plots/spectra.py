"""Eigenvalues of the Hessian, and the sharpness of each layer."""

from typing import TYPE_CHECKING

import numpy as np

from keras_lwsam.plots import _columns, _maps, _panels, _rows, _scales, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# In the order in which a quantity is taken that was recorded.
LAYER_COLUMNS = ("eigenvalue_1", "trace", "sharpness", "average_sharpness")


def eigenvalue_spectrum(model_rows: list) -> "Figure":
    """The largest eigenvalues of the Hessian at each epoch.

    A line for the largest, the second and so on, or, of a single epoch, a stem
    for each.

    Args:
        model_rows: `SharpnessTracker.history` with at least one
            eigenvalue.

    Returns:
        A `matplotlib.figure.Figure`, a column (3.5 inches) wide.

    Raises:
        ImportError: If matplotlib is not installed.
        TypeError: If `model_rows` is not a list of dicts.
        ValueError: If there is no eigenvalue.

    Example:

    >>> from keras_lwsam import plots
    >>> rows = [
    ...     {"epoch": epoch, "eigenvalue_1": 9.0 - epoch, "eigenvalue_2": 2.0}
    ...     for epoch in range(3)
    ... ]
    >>> drawn = plots.eigenvalue_spectrum(rows)
    >>> [line.get_ydata().tolist() for line in drawn.axes[0].lines]
    [[9.0, 8.0, 7.0], [2.0, 2.0, 2.0]]
    """
    name = "model_rows"
    rows = _rows.checked(model_rows, name=name)
    columns = [c for c in _columns.eigenvalues(rows) if _rows.known(rows, c)]
    if not columns:
        _rows.refuse_unknown(rows, "eigenvalue_1", name)
    if len(set(_rows.times(rows))) == 1:
        return _stems([_rows.series(rows, c)[1][0] for c in columns], rows)
    return _lines({c: _rows.series(rows, c) for c in columns}, rows)


def layer_sharpness(rows: list, column: str | None = None) -> "Figure":
    """Sharpness or curvature of each layer: a heat map over epochs, or bars.

    Bars where there is one epoch only, with whiskers of one standard error
    where it is known.

    Args:
        rows: `SharpnessTracker.layer_history`.
        column: Key of the rows to be drawn. Defaults to `None`: the first of
            `"eigenvalue_1"`, `"trace"`, `"sharpness"` and
            `"average_sharpness"` that is known.

    Returns:
        A `matplotlib.figure.Figure`, between a column (3.5 inches) and a page
        (7.2 inches) wide.

    Raises:
        ImportError: If matplotlib is not installed.
        TypeError: If `rows` is not a list of dicts.
        ValueError: If there is nothing to draw.

    Example:

    >>> from keras_lwsam import plots
    >>> rows = [
    ...     {"epoch": 0, "layer": layer, "trace": trace, "trace_error": 0.5}
    ...     for layer, trace in (("net/hidden", 3.0), ("net/output", 7.0))
    ... ]
    >>> bars = plots.layer_sharpness(rows).axes[0].patches
    >>> [float(bar.get_width()) for bar in bars]
    [3.0, 7.0]
    """
    needed = ("epoch", "layer") + ((column,) if column else ())
    rows = _rows.checked(rows, needed)
    if column is None:
        known = [c for c in LAYER_COLUMNS if _rows.known(rows, c)]
        column = known[0] if known else LAYER_COLUMNS[0]
    _rows.refuse_unknown(rows, column)
    grid = _maps.Grid.of(rows, column)
    title = f"{_columns.title(column)} of each layer"
    if len(grid.times) > 1:
        return _maps.heat_map(grid, title)
    return _bars(grid, _rows.grid(rows, f"{column}_error")[2][:, 0], title)


def _stems(values, rows):
    drawn = style.figure(style.COLUMN, 2.2)
    axes = drawn.add_subplot()
    ranks = np.arange(1, len(values) + 1)
    scale = _scales.fitting(values)
    floor = scale.low / 2.0 if scale.kind == "log" else 0.0
    axes.vlines(ranks, floor, values, color=style.COLOURS[0], linewidth=1.0)
    axes.plot(ranks, values, "o", color=style.COLOURS[0], markersize=3.5)
    (epoch,) = set(_rows.times(rows))
    when = f"at epoch {epoch}" if epoch else "before training"
    title = f"Largest eigenvalues of the Hessian {when}"
    _panels.finish(axes, title, "rank", "eigenvalue (loss / weight²)", scale)
    if scale.kind != "log":
        axes.axhline(0.0, color=style.GREY, linewidth=0.6, zorder=0)
    axes.set_xlim(0.5, len(values) + 0.5)
    return drawn


def _lines(found, rows):
    import matplotlib

    names = [rf"$\lambda_{{{c.split('_')[1]}}}$" for c in found]
    drawn = style.figure(style.COLUMN, 2.5)
    axes = drawn.add_subplot()
    shades = matplotlib.colormaps[style.SEQUENTIAL](
        np.linspace(0.0, 0.85, len(found))
    )
    handles = []
    for i, (times, values) in enumerate(found.values()):
        look = style.look(i) | {"color": shades[i], "linewidth": 1.0}
        handles += _panels.line(axes, times, values, "", look)
        handles[-1].set_label(names[i])
    values = np.concatenate([values for _, values in found.values()])
    _panels.finish(
        axes,
        "Largest eigenvalues of the Hessian",
        _rows.time_axis(rows),
        "eigenvalue (loss / weight²)",
        _scales.fitting(values),
    )
    # All of them do not fit; those between are where they must be.
    shown = sorted({*np.linspace(0, len(found) - 1, 6).round().astype(int)})
    drawn.legend(
        [handles[i] for i in shown],
        [names[i] for i in shown],
        loc="outside right upper",
        fontsize=style.SMALL,
        frameon=False,
    )
    return drawn


def _bars(grid, errors, title):
    drawn = style.figure(style.COLUMN, grid.height)
    axes = drawn.add_subplot()
    values = grid.values[:, 0]
    axes.barh(range(len(values)), values, color=style.COLOURS[0], height=0.7)
    if np.isfinite(errors).any():
        axes.errorbar(
            values,
            range(len(values)),
            xerr=np.where(np.isfinite(errors), np.abs(errors), 0.0),
            fmt="none",
            ecolor="black",
            elinewidth=0.7,
            capsize=1.5,
        )
        title += " ± error"
    axes.axvline(0.0, color="black", linewidth=0.6)
    axes.set_ylim(len(values) - 0.5, -0.5)
    _maps.label_layers(axes, grid, grid.height - _maps.REST)
    style.dress(
        axes, title, _columns.label(grid.column), "layer (input side on top)"
    )
    _scales.linear(0.0, 1.0).mark(axes.xaxis)
    return drawn
