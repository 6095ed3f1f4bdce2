"""Norms of every layer over time, as a heat map."""

from typing import TYPE_CHECKING

from keras_lwsam.plots import _columns, _maps, _rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def layer_norms(rows: list, column: str = "gradient_norm") -> "Figure":
    """Heat map of a quantity of the layers by time, perturbed ones marked.

    The colours are logarithmic where a norm changes by more than a factor of
    10; a cosine is between -1 and 1 on colours that diverge from 0. Norms of 0
    and numbers that are not known are grey.

    Args:
        rows: `LayerNormTracker.history`. Of rows of epochs and of batches
            those of epochs are drawn; of rows of batches alone, those, by step.
        column: Key of the rows to be drawn: `"gradient_norm"`,
            `"weight_norm"`, `"update_norm"`, `"update_ratio"`,
            `"perturbation_norm"` or `"cosine"`. Defaults to
            `"gradient_norm"`; where none is known, as of a plain
            `keras.Model`, weight norms take its place.

    Returns:
        A `matplotlib.figure.Figure`, between a column (3.5 inches) and a page
        (7.2 inches) wide.

    Raises:
        ImportError: If matplotlib is not installed.
        TypeError: If `rows` is not a list of dicts.
        ValueError: If there is nothing to draw: no row, no such column, no
            finite number in it.

    Example:

    >>> from keras_lwsam import plots
    >>> rows = [
    ...     {"epoch": epoch, "batch": None, "layer": layer,
    ...      "gradient_norm": norm / (1 + epoch), "selected": norm > 0.1}
    ...     for epoch in range(3)
    ...     for layer, norm in (("net/hidden", 0.1), ("net/output", 2.0))
    ... ]
    >>> plots.layer_norms(rows).axes[0].get_title()
    'Gradient norm of each layer\\n(dots: perturbed)'
    """
    rows = _rows.checked(rows, ("epoch", "layer", column))
    if column == "gradient_norm" and not _rows.known(rows, column):
        column = "weight_norm"
    _rows.refuse_unknown(rows, column)
    grid = _maps.Grid.of(rows, column)
    return _maps.heat_map(grid, f"{_columns.title(column)} of each layer")
