"""Rows of a history, checked and arranged for drawing."""

import math

import numpy as np

TIMES = ("epoch", "batch")


def checked(rows, needed=("epoch",), name="rows"):
    """The rows of whole epochs, or those of batches if there are no others."""
    try:
        rows = list(rows)
        wrong = [row for row in rows if not hasattr(row, "keys")]
    except TypeError:
        rows, wrong = [], [rows]
    if wrong:
        raise TypeError(
            f"`{name}` must be a list of dicts, such as the `history` of a "
            f"tracker. Received: {name} with {wrong[0]!r} "
            f"(of type {type(wrong[0]).__name__})"
        )
    if not rows:
        raise ValueError(
            "There is nothing to draw: no epoch has been recorded. Train with "
            f"the tracker among the callbacks first. Received: {name}={rows!r}"
        )
    for column in needed:
        if any(column not in row for row in rows):
            keys = sorted({key for row in rows for key in row})
            raise ValueError(
                f"Each of the `{name}` must have the key {column!r}. "
                f"Received: rows with the keys {keys}"
            )
    return [row for row in rows if not _is_batch(row)] or rows


def known(rows, column):
    """Whether any row has a finite number there."""
    return any(math.isfinite(number(row.get(column))) for row in rows)


def refuse_unknown(rows, column, name="rows"):
    """Raises where a column has no finite number."""
    if not known(rows, column):
        there = [c for c in rows[0] if c not in TIMES and known(rows, c)]
        raise ValueError(
            f"There is nothing to draw: no row has a finite {column!r}. "
            f"Columns that have one: {there}. Received: {name} of "
            f"{len(rows)} entries"
        )


def number(value):
    """A float; NaN for what is no number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def time_axis(rows):
    """The label of the axis of time."""
    if _is_batch(rows[0]):
        return "step"
    start = min(int(row["epoch"]) for row in rows) < 0
    return "epoch (0: start)" if start else "epoch"


def times(rows):
    """When each row was recorded, as in `time_axis`.

    Epochs are counted from 1, so that 0 is before training. An epoch is taken
    to have as many steps as its last recorded batch tells.
    """
    if not rows or not _is_batch(rows[0]):
        return [int(row["epoch"]) + 1 for row in rows]
    steps = 1 + max(int(row["batch"]) for row in rows)
    return [int(r["epoch"]) * steps + int(r["batch"]) + 1 for r in rows]


def series(rows, column):
    """Times, increasing, and values at them. The later of two rows counts."""
    found = {
        time: number(row.get(column))
        for time, row in zip(times(rows), rows, strict=True)
    }
    found = dict(sorted(found.items()))
    values = np.array(list(found.values()), float)
    return np.array(list(found)), np.where(np.isfinite(values), values, np.nan)


def by_layer(rows):
    """A dict from layer to its rows, in the order of the network."""
    found = {}
    for row in rows:
        found.setdefault(row["layer"], []).append(row)
    return found


def grid(rows, column):
    """Layers, times, and an array of values: layers by times."""
    moments = times(rows)
    layers = {layer: y for y, layer in enumerate(by_layer(rows))}
    columns = {time: x for x, time in enumerate(sorted(set(moments)))}
    values = np.full((len(layers), len(columns)), np.nan)
    for time, row in zip(moments, rows, strict=True):
        value = number(row.get(column))
        if math.isfinite(value):
            values[layers[row["layer"]], columns[time]] = value
    return list(layers), list(columns), values


def _is_batch(row):
    """Whether a row is of a batch; a table says "" of a whole epoch."""
    return row.get("batch") not in (None, "")
