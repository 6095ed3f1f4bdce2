"""Quantities over time, as lines."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from keras_lwsam.plots import _columns, _names, _panels, _rows, _scales, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# So many lines can be told apart at the width of a column.
NAMED = 6

MODEL_COLUMNS = _columns.NORMS
SHARPNESS_COLUMNS = (
    "sharpness",
    "average_sharpness",
    "eigenvalue_1",
    "trace",
    "loss",
)


def norm_curves(
    rows: list,
    column: str = "gradient_norm",
    layers: Sequence[str] | None = None,
) -> "Figure":
    """One line a layer over time; the six largest are named.

    Args:
        rows: `LayerNormTracker.history`. Of rows of epochs and of batches
            those of epochs are drawn; of rows of batches alone, those, by step.
        column: Key of the rows to be drawn, such as `"update_ratio"`.
            Defaults to `"gradient_norm"`.
        layers: Paths of the layers to draw. Defaults to `None`: all. Of more
            than six those with the largest median are named, the others grey.

    Returns:
        A `matplotlib.figure.Figure`, a column (3.5 inches) wide.

    Raises:
        ImportError: If matplotlib is not installed.
        TypeError: If `rows` is not a list of dicts, or `layers` is a string.
        ValueError: If there is nothing to draw, or no such layer.

    Example:

    >>> from keras_lwsam import plots
    >>> rows = [
    ...     {"epoch": epoch, "batch": None, "layer": layer,
    ...      "weight_norm": norm + epoch}
    ...     for epoch in range(3)
    ...     for layer, norm in (("net/hidden", 1.0), ("net/output", 2.0))
    ... ]
    >>> drawn = plots.norm_curves(rows, "weight_norm")
    >>> [line.get_ydata().tolist() for line in drawn.axes[0].lines]
    [[2.0, 3.0, 4.0], [1.0, 2.0, 3.0]]
    """
    rows = _rows.checked(rows, ("epoch", "layer", column))
    rows = _of_layers(rows, layers)
    _rows.refuse_unknown(rows, column)
    found = {
        layer: _rows.series(own, column)
        for layer, own in _rows.by_layer(rows).items()
    }
    found = {
        layer: (times, _positive(values, column))
        for layer, (times, values) in found.items()
    }
    order = sorted(found, key=lambda layer: -_size(found[layer][1]))
    named = dict(zip(order, _names.shortened(order[:NAMED]), strict=False))
    rest = len(order) - len(named)
    grey = f"{rest} other layer{'s' * (rest > 1)}"
    labels = [*named.values(), *[grey] * bool(rest)]
    drawn = style.figure(
        style.COLUMN, 2.2 + style.legend_height(labels, style.COLUMN)
    )
    axes = drawn.add_subplot()
    handles = []
    for i, (layer, name) in enumerate(named.items()):
        handles += _panels.line(axes, *found[layer], name, style.look(i))
    for layer in order[NAMED:]:
        thin = {"color": style.GREY, "linewidth": 0.5, "zorder": 1}
        thin |= {"marker": ".", "markersize": 2.0}
        handles[NAMED:] = _panels.line(axes, *found[layer], grey, thin, 0)
    values = np.concatenate([values for _, values in found.values()])
    _panels.finish(
        axes,
        f"{_columns.title(column)} of each layer",
        _rows.time_axis(rows),
        _columns.label(column),
        _scales.fitting(values),
    )
    style.legend(drawn, handles)
    return drawn


def model_norm_curves(model_rows: list) -> "Figure":
    """Norms of the whole model over time, a small panel each.

    Gradient, weight, update and perturbation norm, the ratio of update and
    weight norm, and the cosine of clean and sharp gradient. What is not known
    is left out.

    Args:
        model_rows: `LayerNormTracker.model_history`. Of rows of epochs and of
            batches those of epochs are drawn.

    Returns:
        A `matplotlib.figure.Figure`, a column (3.5 inches) wide.

    Raises:
        ImportError: If matplotlib is not installed.
        TypeError: If `model_rows` is not a list of dicts.
        ValueError: If there is nothing to draw.

    Example:

    >>> from keras_lwsam import plots
    >>> rows = [
    ...     {"epoch": epoch, "batch": None, "weight_norm": 3.0, "cosine": 0.9}
    ...     for epoch in range(3)
    ... ]
    >>> drawn = plots.model_norm_curves(rows)
    >>> [axes.get_title() for axes in drawn.axes]
    ['Weight norm', 'Cosine of gradients']
    """
    rows = _rows.checked(model_rows, name="model_rows")
    return _panels.panels(
        {"model": rows}, MODEL_COLUMNS, "Norms of the model", "model_rows"
    )


def sharpness_curves(model_rows_by_run: dict[str, list]) -> "Figure":
    """Sharpness and curvature of one or several runs over time.

    A panel each for the loss increase at the radius, the mean loss increase
    under noise and the trace of the Hessian (both within one standard error),
    the largest eigenvalue of the Hessian, and the loss.

    Args:
        model_rows_by_run: A dict from the name of each run to its
            `SharpnessTracker.history`.

    Returns:
        A `matplotlib.figure.Figure`, a column (3.5 inches) wide.

    Raises:
        ImportError: If matplotlib is not installed.
        TypeError: If it is not a dict of lists of dicts.
        ValueError: If there is nothing to draw.

    Example:

    >>> from keras_lwsam import plots
    >>> def rows(scale):
    ...     return [
    ...         {"epoch": epoch, "trace": scale / (2 + epoch), "trace_error": 1}
    ...         for epoch in range(-1, 3)
    ...     ]
    >>> drawn = plots.sharpness_curves({"SGD": rows(200), "SAM": rows(50)})
    >>> [axes.get_title() for axes in drawn.axes]
    ['Hessian trace']
    """
    name = "model_rows_by_run"
    runs = _panels.checked_runs(model_rows_by_run, name)
    return _panels.panels(runs, SHARPNESS_COLUMNS, "Sharpness", name)


def training_curves(history_by_run: dict[str, list]) -> "Figure":
    """Every metric of one or several runs over time, a panel each.

    A metric and its value on the validation data share one scale.

    Args:
        history_by_run: A dict from the name of each run to its rows, as
            `keras.callbacks.CSVLogger` writes them: dicts with `epoch`, `loss`
            and what else there is.

    Returns:
        A `matplotlib.figure.Figure`, a column (3.5 inches) wide.

    Raises:
        ImportError: If matplotlib is not installed.
        TypeError: If it is not a dict of lists of dicts.
        ValueError: If there is nothing to draw.

    Example:

    >>> from keras_lwsam import plots
    >>> rows = [
    ...     {"epoch": epoch, "loss": 1 / (1 + epoch), "val_loss": 0.5}
    ...     for epoch in range(3)
    ... ]
    >>> drawn = plots.training_curves({"SGD": rows})
    >>> [axes.get_title() for axes in drawn.axes]
    ['Loss', 'Validation loss']
    """
    name = "history_by_run"
    runs = _panels.checked_runs(history_by_run, name)
    return _panels.panels(runs, _metrics(runs), "Training", name)


def _metrics(runs):
    """All columns; each is followed by its twin of the validation data."""
    rows = [row for rows in runs.values() for row in rows]
    found = list(dict.fromkeys(key for row in rows for key in row))
    found = [c for c in found if c not in _rows.TIMES and _rows.known(rows, c)]
    names = dict.fromkeys(column.removeprefix("val_") for column in found)
    return [
        column
        for name in sorted(names, key=lambda name: name != "loss")
        for column in (name, f"val_{name}")
        if column in found
    ]


def _of_layers(rows, layers):
    if layers is None:
        return rows
    known = list(_rows.by_layer(rows))
    if isinstance(layers, str):
        raise TypeError(
            "`layers` must be a list of layer paths, or None for all. "
            f"Received: layers={layers!r} (of type str)"
        )
    unknown = [layer for layer in layers if layer not in known]
    if unknown or not len(layers):
        raise ValueError(
            "`layers` must name layers of the rows. "
            f"Received: layers={layers!r}. Not among the layers: {unknown}. "
            f"The layers: {known}"
        )
    return [row for row in rows if row["layer"] in layers]


def _positive(values, column):
    if _columns.has_sign(column):
        return values
    return np.where(values > 0.0, values, np.nan)


def _size(values):
    values = np.abs(values[np.isfinite(values)])
    return float(np.median(values)) if len(values) else -1.0
