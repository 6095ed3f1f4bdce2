"""Configuration and last numbers of runs, as rows of texts."""

import json
import math

from keras_lwsam.plots import _columns, _rows

# Attribute of a run, who recorded it, and what is shown: all where `None`.
PARTS = (
    ("history", "training log", None),
    ("layer_norms_model", "layer norms", _columns.NORMS),
    (
        "sharpness",
        "sharpness",
        ("sharpness", "average_sharpness", "trace", "eigenvalue_1", "loss"),
    ),
)


def configuration(values):
    """Tables of a nested dict: a title each, and rows of key and value.

    >>> configuration({"rho": 0.05, "model": {"name": "net", "depth": [1, 2]}})
    {'run': [('rho', '0.05')], 'model': [('name', 'net'), ('depth', '1, 2')]}
    """
    tables = {"run": []}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            tables.setdefault(str(key), []).extend(_flat(value))
        else:
            tables["run"].append((str(key), _plain(value)))
    return {title: rows for title, rows in tables.items() if rows}


def last_numbers(runs):
    """Rows of a quantity, who recorded it, and its last value in each run."""
    found = {}
    for name, run in runs.items():
        for attribute, source, columns in PARTS:
            rows = getattr(run, attribute)
            for quantity, value in _last(rows, columns) if rows else ():
                found.setdefault((quantity, source), {})[name] = value
    return [
        (quantity, source, *(values.get(name, "") for name in runs))
        for (quantity, source), values in found.items()
    ]


def _last(rows, columns):
    rows = _rows.checked(rows)
    times = _rows.times(rows)
    # Of two rows of one epoch the later counts, as in pictures.
    time, index = max((time, i) for i, time in enumerate(times))
    row = rows[index]
    yield _rows.time_axis(rows).split()[0].capitalize(), str(time)
    for column in columns or row:
        if column in row and column not in _rows.TIMES:
            error = _rows.number(row.get(f"{column}_error"))
            text = f"{_rows.number(row[column]):.4g}"
            if math.isfinite(error):
                text += f" ± {error:.2g}"
            yield _columns.title(column), text


def _flat(values, prefix=""):
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _plain(value)


def _plain(value):
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and _is_flat(value):
        return ", ".join(map(_plain, value))
    return json.dumps(value, ensure_ascii=False)


def _is_flat(values):
    return not any(isinstance(value, dict | list) for value in values)
