"""Pictures of each layer: maps of norms and of sharpness, and names."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_lwsam import plots
from keras_lwsam.plots import _names
from tests import recorded
from tests.pictures import drawn


def test_norms_of_layers_are_the_rows():
    rows = recorded.layer_norms()
    axes, colours = plots.layer_norms(rows).axes
    (image,) = axes.images
    values = np.array([row["gradient_norm"] for row in rows]).reshape(3, 4).T
    assert np.array_equal(image.get_array(), values)
    assert [t.get_text() for t in axes.get_yticklabels()] == [*recorded.LAYERS]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "2", "3"]
    (dots,) = axes.lines
    assert [*zip(*dots.get_data(), strict=True)] == [(0, 3), (1, 3), (2, 3)]
    assert axes.get_title() == "Gradient norm of each layer\n(dots: perturbed)"
    assert (axes.get_xlabel(), type(image.norm).__name__) == (
        "epoch",
        "LogNorm",
    )
    assert colours.get_ylabel() == "gradient norm\n(L2, log scale)"


def test_norms_that_hardly_differ_are_linear():
    axes, colours = plots.layer_norms(
        recorded.layer_norms(), "weight_norm"
    ).axes
    assert type(axes.images[0].norm).__name__ == "Normalize"
    assert colours.get_ylabel() == "weight norm\n(L2)"


def test_weight_norms_take_the_place_of_gradient_norms():
    rows = recorded.layer_norms(gradient_norm=np.nan, selected=False)
    axes = plots.layer_norms(rows).axes[0]
    assert axes.get_title() == "Weight norm of each layer"
    assert not axes.lines


def test_cosines_diverge_from_zero():
    axes, colours = plots.layer_norms(recorded.layer_norms(), "cosine").axes
    (image,) = axes.images
    assert (image.norm.vmin, image.norm.vmax) == (-1.0, 1.0)
    assert image.get_cmap().name == "PuOr"
    assert np.ma.count_masked(image.get_array()) == 9
    assert "grey: unknown" in axes.get_title()
    assert "clean and sharp" in colours.get_ylabel()


def test_norms_of_zero_are_grey():
    axes = plots.layer_norms(recorded.layer_norms(), "perturbation_norm").axes[
        0
    ]
    assert np.ma.count_masked(axes.images[0].get_array()) == 9
    assert "grey: 0 or unknown" in axes.get_title()
    nothing = plots.layer_norms(recorded.layer_norms(gradient_norm=0.0))
    assert nothing.axes[0].images[0].get_array().mask.all()


def test_batches_are_drawn_by_step_unless_there_are_epochs():
    rows = recorded.layer_norms(epochs=2, batches=(1, 3, None))
    both = plots.layer_norms(rows).axes[0]
    assert both.get_xlabel() == "epoch"
    assert both.images[0].get_array().shape == (4, 2)
    batches = [row for row in rows if row["batch"] is not None]
    steps = plots.layer_norms(batches).axes[0]
    assert steps.get_xlabel() == "step"
    labels = [label.get_text() for label in steps.get_xticklabels()]
    assert labels == ["2", "4", "6", "8"]
    assert plots.norm_curves(batches).axes[0].get_xlabel() == "step"


def test_rows_of_a_table_are_read_alike():
    texts = [
        {k: "" if v is None else str(v) for k, v in row.items()}
        for row in recorded.layer_norms()
    ]
    axes = plots.layer_norms(texts).axes[0]
    rows = plots.layer_norms(recorded.layer_norms()).axes[0]
    assert np.array_equal(
        axes.images[0].get_array(), rows.images[0].get_array()
    )
    assert len(axes.lines[0].get_xdata()) == len(rows.lines[0].get_xdata())


def test_a_deep_network_and_a_long_run_are_legible():
    layers = [
        f"backbone/transformer_layer_{i // 6}/attention/{'qkvonf'[i % 6]}_dense"
        for i in range(150)
    ]
    figure = plots.layer_norms(recorded.layer_norms(layers, 300))
    axes = figure.axes[0]
    drawn(figure)
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert len(set(labels)) == len(labels) == 75
    assert max(map(len, labels)) <= 40
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
    assert [t.get_text() for t in axes.get_xticklabels()][:2] == ["50", "100"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab/_", max_size=90), min_size=1, unique=True))
def test_shortened_names_differ_and_are_short(names):
    short = _names.shortened(names)
    assert len(set(short)) == len(names)
    assert max(map(len, short)) <= 60


def test_sharpness_of_layers_as_map_and_as_bars():
    rows = recorded.layer_sharpness()
    image = plots.layer_sharpness(rows).axes[0].images[0]
    assert image.get_array().shape == (4, 4)
    signed = plots.layer_sharpness(rows, "trace").axes[0].images[0]
    assert signed.norm.vmin == -signed.norm.vmax < 0.0
    axes = plots.layer_sharpness(rows[:4], "trace").axes[0]
    assert [bar.get_width() for bar in axes.patches] == [
        row["trace"] for row in rows[:4]
    ]
    segments = axes.collections[0].get_segments()
    widths = [end[0] - start[0] for start, end in segments]
    assert widths == pytest.approx([2.0 * 1.5] * 4)
    assert axes.get_title() == "Hessian trace of each layer ± error"
    assert axes.get_xlabel() == "Hessian trace (loss / weight²)"
