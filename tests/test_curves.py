"""Curves over the epochs: what the lines are, and comparisons of runs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_lwsam import plots
from keras_lwsam.plots import style
from tests import recorded
from tests.pictures import NUMBERS, drawn


def test_the_largest_layers_are_named():
    layers = [f"net/{i}" for i in range(9)]
    rows = [
        row | {"weight_norm": 1.0 + int(row["layer"][4:])}
        for row in recorded.layer_norms(layers)
    ]
    figure = plots.norm_curves(rows, "weight_norm")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        *(f"net/{i}" for i in (8, 7, 6, 5, 4, 3)),
        "3 other layers",
    ]
    lines = figure.axes[0].lines
    assert [set(line.get_ydata()) for line in lines[:2]] == [{9.0}, {8.0}]
    assert {line.get_color() for line in lines[6:]} == {style.GREY}
    few = plots.norm_curves(rows, "weight_norm", ["net/2", "net/0"])
    assert [line.get_label() for line in few.axes[0].lines] == [
        "net/2",
        "net/0",
    ]


def test_a_line_has_a_gap_where_nothing_is_known():
    rows = recorded.model_norms(4)
    rows[1]["gradient_norm"] = np.inf
    del rows[2]["gradient_norm"]
    values = plots.model_norm_curves(rows).axes[0].lines[0].get_ydata()
    assert np.isnan(values).tolist() == [False, True, True, False]


def test_a_point_between_gaps_has_a_marker():
    rows = recorded.layer_norms([f"net/{i}" for i in range(9)], 40)
    for row in rows:
        row["cosine"] = 0.5 if row["epoch"] in (17, 30) else np.nan
    for line in plots.norm_curves(rows, "cosine").axes[0].lines:
        assert {17, 30} <= set(line.get_markevery())
        assert line.get_marker() not in ("", "None")


def test_the_later_row_of_an_epoch_counts():
    rows = [{"epoch": e, "loss": loss} for e, loss in ((0, 3), (1, 2), (0, 1))]
    line = plots.training_curves({"resumed": rows}).axes[0].lines[0]
    assert line.get_xydata().tolist() == [[1.0, 1.0], [2.0, 2.0]]


def test_panels_of_the_model():
    figure = plots.model_norm_curves(recorded.model_norms())
    assert [axes.get_title() for axes in figure.axes] == [
        "Gradient norm",
        "Weight norm",
        "Update norm",
        "Relative update",
        "Perturbation norm",
        "Cosine of gradients",
    ]
    assert [axes.get_ylabel() for axes in figure.axes[2:4]] == [
        "L2",
        "update / weight",
    ]


def test_sharpness_has_bands_of_one_error_and_starts_before_training():
    rows = recorded.sharpness()
    runs = {"SGD": rows, "SAM": recorded.sharpness(seed=1)}
    figure = plots.sharpness_curves(runs)
    assert "one standard error" in figure.get_suptitle()
    sharp, average, eigenvalue, trace, loss = figure.axes
    assert sharp.lines[0].get_xdata().tolist() == [0, 1, 2, 3]
    assert "0: start" in loss.get_xlabel()
    assert [len(axes.collections) for axes in (sharp, eigenvalue)] == [0, 0]
    band = average.collections[0].get_datalim(average.transData)
    middle = np.array([row["average_sharpness"] for row in rows])
    assert band.ymin == pytest.approx(middle.min() - 0.001)
    assert band.ymax == pytest.approx(middle.max() + 0.001)
    assert len(trace.collections) == len(trace.lines) == 2


def test_runs_can_be_told_apart_without_colour():
    looks = [style.look(i) for i in range(35)]
    assert len({(look["linestyle"], look["marker"]) for look in looks}) == 35
    runs = {f"run {i}": recorded.history() for i in range(7)}
    lines = plots.training_curves(runs).axes[0].lines
    assert len({line.get_marker() for line in lines}) == 7


def test_a_metric_and_its_validation_share_a_scale():
    # The validation data first, as a table may have it.
    rows = [
        {"val_loss": 1e4} | row | {"val_loss": 1e4 * row["loss"]}
        for row in recorded.history()
    ]
    figure = plots.training_curves({"SAM": rows})
    loss, validation, *_ = figure.axes
    assert [axes.get_title() for axes in figure.axes] == [
        "Loss",
        "Validation loss",
        "Accuracy",
        "Validation accuracy",
    ]
    assert loss.get_ylim() == validation.get_ylim()
    assert loss.get_yscale() == validation.get_yscale() == "log"


def test_names_of_runs_are_written_as_they_are():
    names = ["_hidden", "$x$", "a\nb", "<b>", "\ud800"]
    figure = plots.training_curves({n: recorded.history() for n in names})
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 5
    drawn(figure)
    assert not any("\n" in text.get_text() for text in legend.get_texts())


def test_eigenvalues_by_epoch_and_of_one_epoch():
    rows = recorded.sharpness(eigenvalues=3)
    figure = plots.eigenvalue_spectrum(rows)
    for rank, line in enumerate(figure.axes[0].lines, start=1):
        expected = [row[f"eigenvalue_{rank}"] for row in rows]
        assert line.get_ydata().tolist() == expected
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [rf"$\lambda_{{{rank}}}$" for rank in (1, 2, 3)]
    axes = plots.eigenvalue_spectrum(rows[:1]).axes[0]
    assert axes.lines[0].get_xydata().tolist() == [
        [rank, rows[0][f"eigenvalue_{rank}"]] for rank in (1, 2, 3)
    ]
    assert "before training" in axes.get_title()


def test_comparison_has_one_colour_scale_and_one_line_a_run(tmp_path):
    run = recorded.run(seed=1)
    run.layer_norms[0]["gradient_norm"] = 1e3
    folder = recorded.write(tmp_path / "sam", run)
    figure = plots.comparison({"SGD": recorded.run("SGD"), "SAM": folder})
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:5] == [
        "Loss",
        "Validation accuracy",
        "Gradient norm",
        "Sharpness",
        "Largest eigenvalue",
    ]
    assert all(len(axes.lines) == 2 for axes in figure.axes[:5])
    one, other = (axes.images[0] for axes in figure.axes[5:7])
    assert one.norm.vmin == other.norm.vmin
    assert one.norm.vmax == other.norm.vmax
    assert other.norm.vmax == other.get_array().max() == 1e3
    assert one.norm.vmin == min(one.get_array().min(), other.get_array().min())
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["SGD", "SAM"]


def test_comparison_of_runs_that_know_different_things():
    some = plots.Run("some", history=[{"epoch": 0, "loss": 1.0, "val_loss": 2}])
    other = plots.Run("other", layer_norms=recorded.layer_norms())
    figure = plots.comparison({"some": some, "other": other})
    drawn(figure)
    titles = [axes.get_title().split("\n")[0] for axes in figure.axes]
    assert titles == ["Loss", "Validation loss", "other", ""]
    assert len(figure.legends[0].get_texts()) == 2


def draw_any_numbers(data, many_layers, epochs):
    """NaN, infinities, zeros, signs and huge ranges, and any shape."""
    rows = [
        {
            "epoch": epoch,
            "layer": f"net/{layer}",
            "gradient_norm": data.draw(NUMBERS),
            "weight_norm": 1.0,
            "trace": data.draw(NUMBERS),
            "trace_error": data.draw(NUMBERS),
            "eigenvalue_1": 1.0,
            "loss": data.draw(NUMBERS),
            "selected": data.draw(st.booleans()),
        }
        for epoch in range(epochs)
        for layer in range(many_layers)
    ]
    own = rows[::many_layers]
    figures = [
        plots.layer_norms(rows),
        plots.norm_curves(rows, "weight_norm"),
        plots.model_norm_curves(own),
        plots.sharpness_curves({"a": own, "b": own}),
        plots.layer_sharpness(rows),
        plots.comparison({"a": plots.Run("a", history=own, layer_norms=rows)}),
    ]
    for column in ("trace", "loss"):
        if any(np.isfinite(row[column]) for row in rows):
            figures.append(plots.layer_sharpness(rows, column))
            figures.append(plots.norm_curves(rows, column))
    for figure in figures:
        figure.draw_without_rendering()


ANY = given(st.data(), st.integers(1, 12), st.integers(1, 12))


@settings(max_examples=2, deadline=None)
@ANY
def test_any_numbers_can_be_drawn(data, many_layers, epochs):
    draw_any_numbers(data, many_layers, epochs)


@pytest.mark.exhaustive
@settings(max_examples=20, deadline=None)
@ANY
def test_many_numbers_can_be_drawn(data, many_layers, epochs):
    draw_any_numbers(data, many_layers, epochs)
