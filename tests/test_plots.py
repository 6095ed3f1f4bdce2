"""Every picture of `plots`: legible, labelled, and of right input only."""

import functools
import itertools
import subprocess
import sys

import numpy as np
import pytest

import keras_lwsam
from keras_lwsam import plots
from keras_lwsam.plots import style
from tests import recorded
from tests.pictures import drawn, is_seen, is_within

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


@functools.cache
def seen(picture):
    """A picture of the table, drawn once, and the texts that are seen."""
    figure = PICTURES[picture]()
    return figure, drawn(figure)


@pytest.mark.parametrize("picture", PICTURES)
def test_every_text_is_legible_and_whole(picture):
    figure, texts = seen(picture)
    width, height = figure.get_size_inches()
    assert style.COLUMN <= width <= style.PAGE
    assert height <= style.TALLEST
    page = figure.bbox.padded(1.0)
    for text in texts:
        assert text.get_fontsize() >= 7.0, text.get_text()
        box = text.get_window_extent()
        assert page.contains(*box.min), text.get_text()
        assert page.contains(*box.max), text.get_text()


@pytest.mark.parametrize("picture", sorted(set(PICTURES) - {"surface"}))
def test_labels_of_ticks_do_not_overlap(picture):
    figure, _ = seen(picture)
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            boxes = [
                tick.label1.get_window_extent()
                for tick in axis.get_major_ticks()
                if is_within(tick, axis) and is_seen(tick.label1)
            ]
            for one, other in itertools.pairwise(boxes):
                assert not one.overlaps(other), axes.get_title()


@pytest.mark.parametrize("picture", PICTURES)
def test_everything_has_a_title_and_labels(picture):
    figure, _ = seen(picture)
    titles = [axes.get_title() for axes in figure.axes]
    assert figure.get_suptitle() or any(titles)
    assert any(axes.get_xlabel() for axes in figure.axes)


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
