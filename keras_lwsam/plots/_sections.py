"""The sections of a report: tables and pictures of what was recorded."""

import math

from keras_lwsam.plots import (
    _alt,
    _columns,
    _html,
    _rows,
    _tables,
    curves,
    landscapes,
    layers,
    spectra,
)
from keras_lwsam.plots.comparison import comparison, parts


def of_run(run):
    """A list of headings and their contents; what is empty is left out."""
    return _filled(
        {
            "Configuration": _configuration(run),
            "Last numbers": _last_numbers({"last value": run}),
            "Training": _training({run.name: run}),
            "Norms of the layers": _norms(run),
            "Sharpness": [*_sharpness({run.name: run}), *_curvature(run)],
            "Loss landscapes": _landscapes(run),
        }
    )


def of_comparison(runs):
    """The same of several runs, side by side."""
    return _filled(
        {
            "Last numbers": _last_numbers(runs),
            "Side by side": _side_by_side(runs),
            "Training": _training(runs),
            "Sharpness": _sharpness(runs),
        }
    )


def _filled(sections):
    found = {head: "".join(parts) for head, parts in sections.items()}
    return [(head, body) for head, body in found.items() if body]


def _configuration(run):
    for title, rows in _tables.configuration(run.configuration).items():
        yield _html.table(f"Configuration: {title}", ["key", "value"], rows)


def _last_numbers(runs):
    rows = _tables.last_numbers(runs)
    if rows:
        header = ["quantity", "recorded by", *runs]
        yield _html.table("The last value of each quantity", header, rows)


def _training(runs):
    histories, columns = _known(runs, "history", None)
    if columns:
        yield _html.picture(
            curves.training_curves(histories),
            _alt.curves(histories, columns),
            "What training logged at the end of each epoch.",
        )


def _norms(run):
    models, columns = _known(
        {run.name: run}, "layer_norms_model", _columns.NORMS
    )
    if columns:
        yield _html.picture(
            curves.model_norm_curves(models[run.name]),
            _alt.curves(models, columns),
            "Norms over all layers, and the cosine between the gradient at "
            "the weights and at the perturbed ones.",
        )
    rows = _whole(run.layer_norms)
    columns = [c for c in _columns.NORMS if _shows(rows, c)]
    for column in columns[:1]:
        yield _html.picture(
            curves.norm_curves(rows, column),
            _alt.heat_map(rows, column),
            f"{_columns.title(column)} of the layers, the largest by name.",
        )
    for column in columns:
        yield _html.picture(
            layers.layer_norms(rows, column),
            _alt.heat_map(rows, column),
            f"{_columns.title(column)} of each layer by time.",
        )


def _sharpness(runs):
    found, columns = _known(runs, "sharpness", curves.SHARPNESS_COLUMNS)
    if columns:
        yield _html.picture(
            curves.sharpness_curves(found),
            _alt.curves(found, columns),
            "How much the loss rises nearby, and how much it curves.",
        )


def _curvature(run):
    rows = _whole(run.sharpness)
    columns = [c for c in _columns.eigenvalues(rows) if _rows.known(rows, c)]
    if columns:
        yield _html.picture(
            spectra.eigenvalue_spectrum(rows),
            _alt.curves({run.name: rows}, columns),
            "The largest eigenvalues of the Hessian of the loss.",
        )
    rows = _whole(run.sharpness_layers)
    for column in spectra.LAYER_COLUMNS:
        if _rows.known(rows, column):
            yield _html.picture(
                spectra.layer_sharpness(rows, column),
                _alt.heat_map(rows, column),
                f"{_columns.title(column)} of each layer by itself.",
            )


def _landscapes(run):
    for file, landscape in run.landscapes.items():
        try:
            drawn = [landscapes.landscape(landscape)]
        except ValueError as error:
            yield f"<p>{_html.text(file)} is not drawn. {_html.text(error)}</p>"
            continue
        if landscape.losses.ndim == 2:
            drawn.append(landscapes.surface(landscape))
        for figure in drawn:
            yield _html.picture(
                figure, _alt.landscape(landscape), f"{file}.npz"
            )


def _side_by_side(runs):
    panels, grids = parts(runs)
    if panels or grids:
        yield _html.picture(
            comparison(runs),
            _alt.comparison([column for column, _ in panels], grids),
            "The runs beside each other; maps of layers have one colour scale.",
        )


def _known(runs, attribute, columns):
    """The rows of those runs that have any, and the columns with numbers."""
    found = {n: _whole(getattr(run, attribute)) for n, run in runs.items()}
    found = {name: rows for name, rows in found.items() if rows}
    rows = [row for own in found.values() for row in own]
    if columns is None:
        columns = dict.fromkeys(key for row in rows for key in row)
    return found, [
        c for c in columns if c not in _rows.TIMES and _rows.known(rows, c)
    ]


def _whole(rows):
    return _rows.checked(rows) if rows else []


def _shows(rows, column):
    """Whether a heat map has anything but grey."""
    values = [_rows.number(row.get(column)) for row in rows]
    return any(
        math.isfinite(value) and (value or _columns.has_sign(column))
        for value in values
    )
