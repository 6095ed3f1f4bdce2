"""Wrong arguments of selections and callbacks are refused."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_lwsam import LWSAMModel, callbacks, selection
from tests.refusals import (
    ADAPTIVE,
    COUNTED,
    NOT_A_COUNT,
    NOT_A_NORMALIZATION,
    NOT_A_NUMBER_OF_LAYERS,
    NOT_A_REFRESH,
    assert_checks,
    assert_refused,
    cleared_once,
    copies,
    two_blocks,
)
from tests.support import assert_equal

_clean_start = pytest.fixture(scope="module", autouse=True)(cleared_once)
network = pytest.fixture(two_blocks)


@pytest.mark.parametrize("selection_class", COUNTED)
@pytest.mark.parametrize(("error", "wrong", "right"), NOT_A_NUMBER_OF_LAYERS)
def test_num_layers(selection_class, error, wrong, right):
    assert_checks(selection_class, "num_layers", error, wrong, right)


@pytest.mark.parametrize("selection_class", COUNTED)
def test_more_layers_than_there_are(network, selection_class):
    before = copies(network)
    assert_refused(
        ValueError,
        "num_layers",
        "num_layers=6",
        lambda: LWSAMModel(network, layers=selection_class(6)),
    )
    assert_equal(copies(network), before)
    model = LWSAMModel(network, layers=selection_class(5))
    assert model.selected_layers == model.layer_paths


@pytest.mark.parametrize("selection_class", ADAPTIVE)
@pytest.mark.parametrize(("error", "wrong", "right"), NOT_A_REFRESH)
def test_refresh(selection_class, error, wrong, right):
    def make(refresh):
        return selection_class(2, refresh=refresh)

    assert_checks(make, "refresh", error, wrong, right)


@pytest.mark.parametrize("selection_class", ADAPTIVE[:2])
@pytest.mark.parametrize(("error", "wrong", "right"), NOT_A_NORMALIZATION)
def test_normalize(selection_class, error, wrong, right):
    def make(normalize):
        return selection_class(2, normalize=normalize)

    assert_checks(make, "normalize", error, wrong, right)


@pytest.mark.parametrize(
    ("error", "wrong", "right"),
    [
        (ValueError, -1, 0),
        (ValueError, 1.5, 1),
        (ValueError, "7", 7),
        (ValueError, None, 7),
        (ValueError, True, 1),
    ],
)
def test_seed(error, wrong, right):
    def make(seed):
        return selection.Random(2, seed=seed)

    assert_checks(make, "seed", error, wrong, right)


@pytest.mark.parametrize("name", ["num_layers", "refresh", "seed"])
def test_numpy_integer_is_an_integer(name):
    arguments = {"num_layers": 2, name: np.int64(3)}
    made = selection.Random(**arguments)
    assert made == selection.Random(**{**arguments, name: 3})
    assert type(made.get_config()[name]) is int


@pytest.mark.parametrize(
    ("error", "wrong", "right"),
    [
        (TypeError, 3, "3"),
        (TypeError, None, "head"),
        (TypeError, ["head"], "head"),
        (TypeError, b"head", "head"),
        (ValueError, "(", "()"),
        (ValueError, "[a", "[a]"),
        (ValueError, "*", ".*"),
    ],
)
def test_patterns(error, wrong, right):
    assert_refused(
        error, "patterns", repr(wrong), lambda: selection.ByPath("x", wrong)
    )
    assert selection.ByPath("x", right).patterns == ("x", right)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("Dense", layers.Dense),
        (int, layers.Dense),
        (None, layers.BatchNormalization),
        ([layers.Dense], layers.Dense),
        (keras.Variable, keras.Model),
    ],
)
def test_layer_classes(wrong, right):
    assert_refused(
        TypeError, "layer_classes", repr(wrong), lambda: selection.ByType(wrong)
    )
    assert selection.ByType(right).layer_classes == (right,)


def test_layer_instance_for_a_class():
    layer = layers.Dense(2)
    assert_refused(
        TypeError, "layer_classes", repr(layer), lambda: selection.ByType(layer)
    )
    assert selection.ByType(type(layer)).layer_classes == (layers.Dense,)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        (selection.ByType(layers.Conv2D), selection.ByType(layers.Dense)),
        (selection.ByPath("nowhere"), selection.ByPath("head")),
        (selection.ByPath("head/.*"), selection.ByPath("first/.*")),
    ],
)
def test_selection_without_match(network, wrong, right):
    before = copies(network)
    received = repr(wrong)
    if isinstance(wrong, selection.ByPath):
        received = repr(wrong.patterns[0])
    assert_refused(
        ValueError,
        "layers",
        received,
        lambda: LWSAMModel(network, layers=wrong),
    )
    assert_equal(copies(network), before)
    assert LWSAMModel(network, layers=right).selected_layers


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("all", selection.All()),
        (selection.All, selection.All()),
        (None, selection.OutputSide(1)),
        (3, selection.LargestGradientNorm(3)),
    ],
)
def test_selection_of_kernels_only(wrong, right):
    assert_checks(selection.KernelsOnly, "selection", TypeError, wrong, right)


@pytest.mark.parametrize("selection_class", COUNTED)
@pytest.mark.parametrize("num_layers", [1, 0.5])
def test_kernels_only_of_a_network_without_kernels(selection_class, num_layers):
    network = keras.Sequential(
        [keras.Input((4,)), layers.BatchNormalization(name="norm")]
    )
    before = copies(network)
    inner = selection_class(num_layers)
    with pytest.raises(ValueError, match=r"`(layers|num_layers)`"):
        LWSAMModel(network, layers=selection.KernelsOnly(inner))
    assert_equal(copies(network), before)
    assert LWSAMModel(network, layers=inner).selected_layers


@pytest.mark.parametrize(("error", "wrong", "right"), NOT_A_COUNT)
def test_every_of_the_tracker(error, wrong, right):
    tracker = callbacks.LayerNormTracker
    assert_checks(tracker, "every", error, wrong, right)


@pytest.mark.parametrize("name", ["csv_path", "plot_path", "log_dir"])
def test_paths_of_the_tracker(tmp_path, name):
    tracker = callbacks.LayerNormTracker
    assert_checks(tracker, name, TypeError, 3, tmp_path / "norms")
    tracker(**{name: str(tmp_path / "norms")})
