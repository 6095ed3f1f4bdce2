"""What a picture shows, in words, for those who do not see it."""

import numpy as np

from keras_lwsam.plots import _columns, _rows


def curves(runs, columns):
    """Where each line starts and ends; of several runs, the first six.

    >>> rows = [{"epoch": 0, "loss": 2.5}, {"epoch": 1, "loss": 1.0}]
    >>> curves({"SAM": rows}, ["loss"])
    'Lines by epoch. Loss from 2.5 to 1.'
    """
    runs = {name: _rows.checked(rows) for name, rows in runs.items() if rows}
    times = _rows.time_axis(next(iter(runs.values()))).split()[0]
    sentences = [f"Lines by {times}."]
    for name, rows in [*runs.items()][:6]:
        courses = filter(None, (_course(rows, column) for column in columns))
        who = f"{name}: " if len(runs) > 1 else ""
        text = who + ", ".join(courses)
        sentences.append(f"{text[:1].upper()}{text[1:]}.")
    if len(runs) > 6:
        sentences.append(f"And {len(runs) - 6} more runs.")
    return " ".join(sentences)


def heat_map(rows, column):
    """The size of a map, its range, and where its largest value is."""
    rows = _rows.checked(rows)
    layers, times, values = _rows.grid(rows, column)
    y, x = np.unravel_index(np.nanargmax(values), values.shape)
    axis = _rows.time_axis(rows).split()[0]
    return (
        f"{_columns.title(column)} of {_count(len(layers), 'layer')} by "
        f"{_count(len(times), axis)}, from {np.nanmin(values):.3g} to "
        f"{values[y, x]:.3g}, the largest in layer {layers[y]} at "
        f"{axis} {times[x]}."
    )


def comparison(columns, maps):
    """Which panels and maps there are, of which runs."""
    names = ", ".join(map(_columns.name, columns))
    lines = f"A panel each, with one line a run: {names}. " * bool(columns)
    layers = ", ".join(maps)
    return lines + f"A heat map of the layers of each: {layers}." * bool(maps)


def landscape(landscape):
    """The size of a landscape and its range."""
    losses = np.asarray(landscape.losses, float)
    finite = losses[np.isfinite(losses)]
    size = " by ".join(map(str, losses.shape))
    hidden = losses.size - finite.size
    return (
        f"{landscape.name}: losses from {finite.min():.3g} to "
        f"{finite.max():.3g} at {size} places along "
        f"{' and '.join(landscape.labels)}"
        + (f"; {_count(hidden, 'loss', 'es')} not finite." if hidden else ".")
    )


def _course(rows, column):
    values = _rows.series(rows, column)[1]
    values = values[np.isfinite(values)]
    if not len(values):
        return ""
    return f"{_columns.name(column)} from {values[0]:.3g} to {values[-1]:.3g}"


def _count(number, noun, plural="s"):
    return f"{number} {noun}{plural if number != 1 else ''}"
