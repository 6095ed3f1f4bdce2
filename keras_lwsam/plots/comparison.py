"""Several runs beside each other, in one figure."""

import os
from typing import TYPE_CHECKING

from keras_lwsam.plots import _maps, _names, _panels, _rows, style
from keras_lwsam.plots.run import Run, read

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ABREAST = 3


def comparison(runs: dict[str, str | os.PathLike | Run]) -> "Figure":
    """Several runs side by side: curves, and heat maps on one colour scale.

    Training loss, accuracy on the validation data (else the loss there),
    gradient norm, sharpness and the largest eigenvalue of the Hessian by
    epoch, one line a run; below, the gradient norms of the layers, a map a
    run, or their weight norms where no run has gradient norms. What no run has
    is left out.

    Args:
        runs: A dict from the name of each run to its directory, or to what
            `read_run` made of it.

    Returns:
        A `matplotlib.figure.Figure`, a page (7.2 inches) wide.

    Raises:
        ImportError: If matplotlib is not installed.
        TypeError: If `runs` is not a dict of paths or runs.
        ValueError: If there is nothing to draw, or a directory is not a run.

    Example:

    >>> from keras_lwsam import plots
    >>> def run(name, loss):
    ...     return plots.Run(name, history=[{"epoch": 0, "loss": loss}])
    >>> drawn = plots.comparison({"SGD": run("a", 2.0), "SAM": run("b", 1.0)})
    >>> [line.get_label() for line in drawn.axes[0].lines]
    ['SGD', 'SAM']
    """
    runs = _checked(runs)
    panels, grids = parts(runs)
    if not panels and not grids:
        raise ValueError(
            "There is nothing to compare: no run has a loss, a norm or a "
            f"sharpness. Received: runs={list(runs)}"
        )
    return _draw(list(runs), panels, grids)


def parts(runs):
    """What there is to compare: panels of curves, and grids of layers."""
    return _panels_of(runs), _grids_of(runs)


def _checked(runs):
    if not isinstance(runs, dict):
        raise TypeError(
            "`runs` must be a dict from the name of each run to its directory "
            "or to what `read_run` made of it. "
            f"Received: runs={runs!r} (of type {type(runs).__name__})"
        )
    if not runs:
        raise ValueError(
            "There is nothing to compare: there is no run. Received: runs={}"
        )
    return {
        str(name): run if isinstance(run, Run) else read(run)
        for name, run in runs.items()
    }


def _panels_of(runs):
    """Columns to draw, each with a dict from run to rows."""
    history = _part(runs, "history")
    norms = _part(runs, "layer_norms_model")
    sharpness = _part(runs, "sharpness")
    found = [
        ("loss", history),
        (_validation(history), history),
        ("gradient_norm", norms),
        ("sharpness", sharpness),
        ("eigenvalue_1", sharpness),
    ]
    return [
        (column, rows)
        for column, rows in found
        if any(_rows.known(own, column) for own in rows.values())
    ]


def _part(runs, attribute):
    parts = {name: getattr(run, attribute) for name, run in runs.items()}
    return {n: _rows.checked(rows) if rows else [] for n, rows in parts.items()}


def _validation(history):
    """The accuracy on the validation data, else the loss on it."""
    keys = [key for rows in history.values() for row in rows for key in row]
    keys = dict.fromkeys(key for key in keys if key.startswith("val_"))
    accuracies = [key for key in keys if key.endswith("accuracy")]
    return accuracies[0] if accuracies else "val_loss"


def _grids_of(runs):
    norms = _part(runs, "layer_norms")
    for column in ("gradient_norm", "weight_norm"):
        grids = {
            name: _maps.Grid.of(rows, column)
            for name, rows in norms.items()
            if _rows.known(rows, column)
        }
        if grids:
            return grids
    return {}


def _draw(names, panels, grids):
    lines = -(-len(panels) // ABREAST)
    upper = 1.5 * lines
    abreast, map_lines, size = _arrangement(list(grids.values()))
    lower = size[1] * map_lines
    below = style.legend_height(_names.shortened(names), style.PAGE)
    drawn = style.figure(style.PAGE, 0.4 + upper + lower + below)
    style.heading(drawn, "Comparison")
    halves = drawn.add_gridspec(2, 1, height_ratios=[upper, lower])
    handles = []
    if panels:
        cells = halves[0].subgridspec(lines, min(len(panels), ABREAST))
        for cell, (column, rows) in zip(cells, panels, strict=False):
            handles = _panels.fill(drawn, [cell], [column], rows)
    if grids:
        cells = halves[1].subgridspec(map_lines, abreast)
        _maps.maps(drawn, cells, grids, size)
    style.legend(drawn, handles)
    return drawn


def _arrangement(grids):
    """Maps in a row, rows of maps, and inches of each."""
    if not grids:
        return 1, 0, (0.0, 1e-9)
    same = all(grid.layers == grids[0].layers for grid in grids)
    abreast = min(len(grids), ABREAST if same else 2)
    height = max(1.7, min(5.0, 0.8 + 0.12 * max(len(g.layers) for g in grids)))
    return abreast, -(-len(grids) // abreast), (style.PAGE / abreast, height)
