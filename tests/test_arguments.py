"""Wrong arguments of the model are refused, and nothing has changed."""

import re

import keras
import numpy as np
import pytest
from keras import layers

from keras_lwsam import LWSAMModel, methods, selection
from tests.refusals import (
    INFINITY,
    NAN,
    NOT_A_BOOLEAN,
    NOT_A_RADIUS,
    NOT_A_SHARE,
    assert_checks,
    assert_model_checks,
    assert_refused,
    cleared_once,
    copies,
    two_blocks,
)
from tests.support import assert_equal

_clean_start = pytest.fixture(scope="module", autouse=True)(cleared_once)
network = pytest.fixture(two_blocks)


@pytest.mark.parametrize(("error", "wrong", "right"), NOT_A_RADIUS)
def test_rho_of_the_model(network, error, wrong, right):
    model = assert_model_checks(network, "rho", error, wrong, right)
    assert model.method.rho == right


@pytest.mark.parametrize("method", [methods.SAM, methods.GNP])
@pytest.mark.parametrize(("error", "wrong", "right"), NOT_A_RADIUS)
def test_rho_of_a_method(method, error, wrong, right):
    assert_checks(method, "rho", error, wrong, right)


@pytest.mark.parametrize(("error", "wrong", "right"), NOT_A_SHARE)
def test_alpha(error, wrong, right):
    assert_checks(methods.GNP, "alpha", error, wrong, right)


def test_rho_too_large_for_a_float(network):
    model = assert_model_checks(network, "rho", ValueError, 10**400, 10**30)
    assert model.method.rho == 1e30


@pytest.mark.parametrize("rho", [0.05, 0.1, 0.0])
def test_rho_given_twice(network, rho):
    before = copies(network)
    method = methods.SAM(rho=0.1)
    assert_refused(
        ValueError,
        "rho",
        f"rho={rho}",
        lambda: LWSAMModel(network, method, rho=rho),
    )
    assert_equal(copies(network), before)
    assert LWSAMModel(network, method).method is method


@pytest.mark.parametrize(
    ("error", "wrong", "right"),
    [
        (ValueError, "samm", "sam"),
        (ValueError, "", "sam"),
        (ValueError, "no such method", "gnp"),
        (TypeError, None, "sam"),
        (TypeError, 0.05, "sam"),
        (TypeError, ["sam"], "sam"),
        (TypeError, methods.SAM, methods.SAM()),
    ],
)
def test_method(network, error, wrong, right):
    assert_model_checks(network, "method", error, wrong, right)


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("samm", "sam"), ("SAM", "sam"), ("sma", "sam"), ("GNP", "gnp")],
)
def test_unknown_method_suggests_the_nearest(wrong, nearest):
    with pytest.raises(ValueError, match=re.escape(repr(wrong))) as caught:
        methods.get(wrong)
    assert f"Did you mean {nearest!r}" in str(caught.value)
    assert type(methods.get(nearest)).__name__.lower() == nearest


def test_method_of_no_near_name_suggests_none_but_lists_all():
    with pytest.raises(ValueError, match="`method`") as caught:
        methods.get("zzzz")
    assert "Did you mean" not in str(caught.value)
    for name in methods.NAMES:
        assert f" {name}" in str(caught.value)


@pytest.mark.parametrize(
    ("error", "wrong", "right"),
    [
        (TypeError, True, 1),
        (TypeError, {"head": 1}, ["head"]),
        (TypeError, b"head", "head"),
        (TypeError, selection.All, selection.All()),
        (TypeError, layers.Dense, selection.ByType(layers.Dense)),
        (TypeError, np.array([1]), 1),
        (ValueError, -1, 1),
        (ValueError, 6, 5),
        (ValueError, 0.0, 0.01),
        (ValueError, 1.5, 1.0),
        (ValueError, -0.5, 0.5),
        (ValueError, NAN, 0.5),
        (ValueError, INFINITY, 0.5),
        (ValueError, "nowhere", "head"),
        (ValueError, "first", "first/.*"),
        (ValueError, "dense", "first/dense"),
        (ValueError, "norm", ".*/norm"),
        (ValueError, "(", "head"),
        (ValueError, "first/[", "first/[a-z]*"),
        (ValueError, "ALL", "all"),
    ],
)
def test_layers(network, error, wrong, right):
    model = assert_model_checks(network, "layers", error, wrong, right)
    assert model.selected_layers


@pytest.mark.parametrize(
    ("error", "wrong", "right"),
    [
        (TypeError, 3, "first/dense"),
        (TypeError, None, "first/dense"),
        (TypeError, selection.All(), ".*"),
        (ValueError, "nowhere", "first/dense"),
        (ValueError, "norm", "second/norm"),
        (ValueError, "*", ".*"),
    ],
)
def test_list_of_layers(network, error, wrong, right):
    before = copies(network)
    assert_refused(
        error,
        "layers",
        repr(wrong),
        lambda: LWSAMModel(network, layers=["head", wrong]),
    )
    assert_equal(copies(network), before)
    model = LWSAMModel(network, layers=["head", right])
    assert "head" in model.selected_layers


def test_message_of_a_pattern_without_match_lists_the_paths(network):
    paths = LWSAMModel(network).layer_paths
    with pytest.raises(ValueError, match="nowhere") as caught:
        LWSAMModel(network, layers="nowhere")
    assert repr(paths) in str(caught.value)


def test_message_of_an_ambiguous_name_lists_its_layers(network):
    with pytest.raises(ValueError, match="ambiguous") as caught:
        LWSAMModel(network, layers="dense")
    assert repr(["first/dense", "second/dense"]) in str(caught.value)


@pytest.mark.parametrize(
    ("error", "wrong", "right"),
    [
        (ValueError, "al", "all"),
        (ValueError, "Selected", "selected"),
        (ValueError, None, "selected"),
        (ValueError, True, "all"),
        (ValueError, 2, "all"),
        (ValueError, ["all"], "all"),
    ],
)
def test_perturbation_norm(network, error, wrong, right):
    assert_model_checks(network, "perturbation_norm", error, wrong, right)


@pytest.mark.parametrize("name", ["sync_perturbation", "sharpness_metrics"])
@pytest.mark.parametrize(("error", "wrong", "right"), NOT_A_BOOLEAN)
def test_booleans(network, name, error, wrong, right):
    assert_model_checks(network, name, error, wrong, right)


def test_misspelt_argument(network):
    before = copies(network)
    with pytest.raises((TypeError, ValueError), match=r"layer.*3"):
        LWSAMModel(network, layer=3)
    assert_equal(copies(network), before)
    LWSAMModel(network, layers=3)


@pytest.mark.parametrize(
    "wrong",
    [None, "net", 3, keras.Model, [], lambda x: x],
    ids=["none", "name", "number", "class", "list", "function"],
)
def test_not_a_model(network, wrong):
    assert_refused(TypeError, "model", repr(wrong), lambda: LWSAMModel(wrong))
    LWSAMModel(network)


def test_layer_that_is_not_a_model():
    layer = layers.Dense(2)
    layer.build((None, 4))
    before = [w.copy() for w in layer.get_weights()]
    assert_refused(TypeError, "model", repr(layer), lambda: LWSAMModel(layer))
    assert_equal(layer.get_weights(), before)
    LWSAMModel(keras.Sequential([keras.Input((4,)), layer]))


class Subclassed(keras.Model):
    """Two layers that are built by the first call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = layers.Dense(3)
        self.head = layers.Dense(2)

    def call(self, inputs):
        return self.head(self.hidden(inputs))


class OwnStep(Subclassed):
    """Trains in its own way."""

    def train_step(self, data):
        return {}


class OwnLoss(Subclassed):
    """Computes its loss in its own way."""

    def compute_loss(self, *args, **kwargs):
        return super().compute_loss(*args, **kwargs)


@pytest.mark.parametrize(
    "make_network",
    [
        lambda: Subclassed(name="unbuilt"),
        lambda: keras.Sequential([layers.Dense(2)], name="unbuilt"),
        lambda: keras.Sequential(
            [layers.Dense(3), Subclassed()], name="unbuilt"
        ),
    ],
    ids=["subclassed", "sequential", "nested"],
)
def test_unbuilt_network(make_network):
    network = make_network()
    assert_refused(
        ValueError, "model", "'unbuilt'", lambda: LWSAMModel(network)
    )
    assert not network.built
    network(np.zeros((1, 4)))
    assert LWSAMModel(network).layer_paths


@pytest.mark.not_tensorflow
def test_network_that_reads_strings():
    kind = keras.Input((1,), name="kind", dtype="string")
    codes = layers.StringLookup(vocabulary=["cat"], output_mode="one_hot")
    network = keras.Model(kind, layers.Dense(2)(codes(kind)))
    with pytest.raises(ValueError, match=r"strings.*data\.map.*\['kind'\]"):
        LWSAMModel(network)


def test_network_with_an_unbuilt_layer_inside():
    network = Subclassed(name="half")
    network.built = True
    network.hidden.build((None, 4))
    before = copies(network)
    assert_refused(ValueError, "model", "'half'", lambda: LWSAMModel(network))
    assert_equal(copies(network), before)
    network.head.build((None, 3))
    assert len(LWSAMModel(network).layer_paths) == 2


def test_network_with_its_own_train_step():
    own_step, own_loss = OwnStep(name="own"), OwnLoss(name="own")
    for network in (own_step, own_loss):
        network(np.zeros((1, 4)))
    before = copies(own_step)
    assert_refused(ValueError, "model", "'own'", lambda: LWSAMModel(own_step))
    assert_equal(copies(own_step), before)
    LWSAMModel(own_loss)


def test_wrapped_twice(network):
    model = LWSAMModel(network, name="wrapper")
    before = copies(model)
    assert_refused(ValueError, "model", "'wrapper'", lambda: LWSAMModel(model))
    assert_equal(copies(model), before)
    LWSAMModel(model.model)


def test_no_trainable_layer(network):
    network.trainable = False
    before = copies(network)
    assert_refused(ValueError, "model", "'net'", lambda: LWSAMModel(network))
    assert_equal(copies(network), before)
    assert not network.trainable
    network.trainable = True
    LWSAMModel(network)


def test_no_weights_at_all():
    network = keras.Sequential(
        [keras.Input((4,)), layers.Activation("relu")], name="empty"
    )
    assert_refused(ValueError, "model", "'empty'", lambda: LWSAMModel(network))
    network.add(layers.Dense(2))
    LWSAMModel(network)


def test_frozen_after_wrapping(network):
    model = LWSAMModel(network)
    network.trainable = False
    model.compile("sgd", "mse", run_eagerly=True)
    before = copies(network)
    x, y = np.ones((2, 4)), np.ones((2, 2))
    assert_refused(
        ValueError, "model", "'net'", lambda: model.train_on_batch(x, y)
    )
    assert_equal(copies(network), before)
    network.trainable = True
    model.compile("sgd", "mse", run_eagerly=True)
    model.train_on_batch(x, y)
