"""`plots`: what the pictures show, say, and leave out."""

import itertools
import subprocess
import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_lwsam
from keras_lwsam import plots
from keras_lwsam.plots import _names, style
from tests import recorded

PICTURES = {
    "layer_norms": lambda: plots.layer_norms(recorded.layer_norms()),
    "one_layer": lambda: plots.layer_norms(recorded.layer_norms(("a",), 1)),
    "cosine": lambda: plots.layer_norms(recorded.layer_norms(), "cosine"),
    "steps": lambda: plots.layer_norms(
        recorded.layer_norms(epochs=2, batches=range(40))
    ),
    "norm_curves": lambda: plots.norm_curves(
        recorded.layer_norms([f"{'net/' * 9}{i}/dense" for i in range(20)])
    ),
    "model_norms": lambda: plots.model_norm_curves(recorded.model_norms()),
    "one_epoch": lambda: plots.model_norm_curves(recorded.model_norms(1)),
    "sharpness": lambda: plots.sharpness_curves(
        {f"run {i}": recorded.sharpness(seed=i) for i in range(5)}
    ),
    "training": lambda: plots.training_curves({"SAM": recorded.history(30)}),
    "spectrum": lambda: plots.eigenvalue_spectrum(
        recorded.sharpness(eigenvalues=12)
    ),
    "stems": lambda: plots.eigenvalue_spectrum(recorded.sharpness(0)),
    "layer_sharpness": lambda: plots.layer_sharpness(
        recorded.layer_sharpness()
    ),
    "bars": lambda: plots.layer_sharpness(recorded.layer_sharpness(epochs=0)),
    "line": lambda: plots.landscape(recorded.line()),
    "plane": lambda: plots.landscape(recorded.plane()),
    "surface": lambda: plots.surface(recorded.plane()),
    "comparison": lambda: plots.comparison(
        {name: recorded.run(name) for name in ("SGD", "SAM", "layer-wise")}
    ),
    "other_networks": lambda: plots.comparison(
        {"a": recorded.run(), "b": recorded.run(layers=("other/dense",))}
    ),
}


def drawn(figure):
    """The figure, laid out; every text in it that is seen."""
    from matplotlib.axis import Axis
    from matplotlib.text import Text

    figure.draw_without_rendering()
    beyond = {
        label
        for axis in figure.findobj(Axis)
        for tick in axis.get_major_ticks() + axis.get_minor_ticks()
        if not _is_within(tick, axis)
        for label in (tick.label1, tick.label2)
    }
    return [t for t in figure.findobj(Text) if _seen(t) and t not in beyond]


def _seen(text):
    return text.get_visible() and text.get_text().strip()


def _is_within(tick, axis):
    low, high = sorted(axis.get_view_interval())
    return low <= tick.get_loc() <= high


@pytest.mark.parametrize("picture", PICTURES)
def test_every_text_is_legible_and_whole(picture):
    figure = PICTURES[picture]()
    texts = drawn(figure)
    width, height = figure.get_size_inches()
    assert style.COLUMN <= width <= style.PAGE
    assert height <= style.TALLEST
    seen = figure.bbox.padded(1.0)
    for text in texts:
        assert text.get_fontsize() >= 7.0, text.get_text()
        box = text.get_window_extent()
        assert seen.contains(*box.min), text.get_text()
        assert seen.contains(*box.max), text.get_text()


@pytest.mark.parametrize("picture", sorted(set(PICTURES) - {"surface"}))
def test_labels_of_ticks_do_not_overlap(picture):
    figure = PICTURES[picture]()
    drawn(figure)
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            boxes = [
                tick.label1.get_window_extent()
                for tick in axis.get_major_ticks()
                if _is_within(tick, axis) and _seen(tick.label1)
            ]
            for one, other in itertools.pairwise(boxes):
                assert not one.overlaps(other), axes.get_title()


@pytest.mark.parametrize("picture", PICTURES)
def test_everything_has_a_title_and_labels(picture):
    figure = PICTURES[picture]()
    titles = [axes.get_title() for axes in figure.axes]
    assert figure.get_suptitle() or any(titles)
    assert any(axes.get_xlabel() for axes in figure.axes)


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


def test_landscape_along_a_line():
    axes = plots.landscape(recorded.line()).axes[0]
    losses, place = axes.lines
    assert np.isnan(losses.get_ydata()).sum() == 1
    assert place.get_xydata().tolist() == [[0.0, 1.0]]
    assert [text.get_text() for text in axes.texts] == ["trained"]
    assert axes.get_title() == "Along a line\n(grey: loss not finite)"
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "random direction",
        "loss",
    )


def test_landscape_over_a_plane():
    axes, colours = plots.landscape(recorded.plane()).axes
    assert axes.get_xlabel() == "component 1\n(80.0 % of variance)"
    assert axes.get_ylabel() == "component 2\n(15.0 % of variance)"
    (path,) = axes.lines
    assert path.get_xydata().tolist() == recorded.plane().path.tolist()
    labels = {text.get_text() for text in axes.texts}
    assert labels == {"start", "epoch 1", "end"}
    assert colours.get_ylabel() == "loss"


def test_huge_losses_are_logarithmic_and_say_so():
    bowl = recorded.plane().losses
    huge = np.exp(8.0 * bowl)
    huge[0, 0] = np.nan
    axes, colours = plots.landscape(recorded.plane(huge)).axes
    assert colours.get_ylabel() == "loss (log scale)"
    assert "grey" in axes.get_title()
    height = plots.surface(recorded.plane(huge)).axes[0]
    assert height.get_zlabel() == "loss (log10)"
    assert height.get_zlim()[1] < np.log10(np.nanmax(huge)) + 2.0
    assert plots.surface(recorded.plane()).axes[0].get_zlabel() == "loss"


def test_labels_of_a_path_leave_each_other_room():
    many = recorded.plane()
    course = np.linspace(-1.9, 0.0, 200)
    path = np.stack([course, 0.1 * course], 1)
    many = types.SimpleNamespace(
        losses=many.losses,
        coordinates=many.coordinates,
        labels=many.labels,
        explained=(),
        name="many",
        path=path,
        path_labels=[f"epoch {i}" for i in range(200)],
    )
    figure = plots.landscape(many)
    drawn(figure)
    texts = figure.axes[0].texts
    assert {"epoch 0", "epoch 199"} <= {text.get_text() for text in texts}
    boxes = [text.get_window_extent() for text in texts]
    assert not any(
        one.overlaps(other)
        for i, one in enumerate(boxes)
        for other in boxes[:i]
    )


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


NUMBERS = st.floats(width=32) | st.sampled_from([0.0, 1.0, 1.0])


@settings(max_examples=8, deadline=None)
@given(st.data(), st.integers(1, 12), st.integers(1, 12))
def test_any_numbers_can_be_drawn(data, many_layers, epochs):
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


@settings(max_examples=8, deadline=None)
@given(st.data(), st.integers(2, 7), st.integers(2, 7))
def test_any_landscape_can_be_drawn(data, width, height):
    size = width * height
    values = data.draw(st.lists(NUMBERS, min_size=size, max_size=size))
    losses = np.array(values).reshape(width, height)
    losses[0, 0] = 1.0
    plane = types.SimpleNamespace(
        losses=losses,
        coordinates=(np.arange(width), np.arange(height)),
        labels=("one", "other"),
        explained=(),
        name="any",
        path=np.array([[0.0, 0.0], [9.0, 9.0]]),
        path_labels=("here", "outside"),
    )
    line = types.SimpleNamespace(**vars(plane))
    line.losses, line.coordinates = losses[:, 0], (np.arange(width),)
    line.path, line.labels = np.array([[0.5]]), ("one",)
    line.path_labels = ("here",)
    for figure in (
        plots.landscape(plane),
        plots.surface(plane),
        plots.landscape(line),
    ):
        figure.draw_without_rendering()


ROW = {"epoch": 0, "layer": "a", "gradient_norm": 1.0, "weight_norm": 1.0}

WRONG = {
    "no rows": (ValueError, lambda: plots.layer_norms([])),
    "not rows": (TypeError, lambda: plots.layer_norms(3)),
    "not dicts": (TypeError, lambda: plots.layer_norms([1, 2])),
    "no column": (ValueError, lambda: plots.layer_norms([ROW], "norm")),
    "no layer": (ValueError, lambda: plots.layer_norms([{"epoch": 0}])),
    "no number": (
        ValueError,
        lambda: plots.layer_norms([ROW | {"cosine": np.nan}], "cosine"),
    ),
    "not a layer": (
        ValueError,
        lambda: plots.norm_curves([ROW], layers=["b"]),
    ),
    "no such layers": (ValueError, lambda: plots.norm_curves([ROW], layers=[])),
    "one string": (TypeError, lambda: plots.norm_curves([ROW], layers="a")),
    "nothing": (ValueError, lambda: plots.model_norm_curves([{"epoch": 0}])),
    "a list": (TypeError, lambda: plots.sharpness_curves([ROW])),
    "no runs": (ValueError, lambda: plots.training_curves({})),
    "an empty run": (ValueError, lambda: plots.training_curves({"a": []})),
    "no eigenvalue": (ValueError, lambda: plots.eigenvalue_spectrum([ROW])),
    "no sharpness": (ValueError, lambda: plots.layer_sharpness([ROW])),
    "no landscape": (TypeError, lambda: plots.landscape([1.0])),
    "a surface of a line": (
        ValueError,
        lambda: plots.surface(recorded.line()),
    ),
    "no finite loss": (
        ValueError,
        lambda: plots.landscape(recorded.plane(np.full((9, 7), np.nan))),
    ),
    "not runs": (TypeError, lambda: plots.comparison([])),
    "no run": (ValueError, lambda: plots.comparison({})),
    "nothing to compare": (
        ValueError,
        lambda: plots.comparison({"a": plots.Run("a")}),
    ),
    "not a directory": (ValueError, lambda: plots.comparison({"a": "/none"})),
    "not a path": (TypeError, lambda: plots.comparison({"a": 3})),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_refused(case):
    error, call = WRONG[case]
    with pytest.raises(error, match="Received: "):
        call()


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"keras-lwsam\[plots\]"):
        plots.layer_norms(recorded.layer_norms())


def test_importing_plots_imports_nothing_heavy():
    code = (
        "import sys, types; package = types.ModuleType('keras_lwsam');"
        f"package.__path__ = {[*keras_lwsam.__path__]};"
        "sys.modules['keras_lwsam'] = package; import keras_lwsam.plots;"
        "print({m.split('.')[0] for m in sys.modules}"
        " & {'matplotlib', 'keras', 'tensorflow', 'pandas', 'scipy'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_everything_public_is_documented():
    for name in plots.__all__:
        assert ">>>" in getattr(plots, name).__doc__, name
