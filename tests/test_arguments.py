"""Wrong arguments are refused, by name, and leave everything as it was.

Each case pairs a wrong argument with a right one next to it.
"""

import math
import re

import keras
import numpy as np
import pytest
from keras import layers

from keras_lwsam import LWSAMModel, callbacks, methods, selection
from tests.support import assert_equal

NAN, INFINITY = math.nan, math.inf
NOT_REAL = [
    (TypeError, "0.5", 0.5),
    (TypeError, True, 1),
    (TypeError, [0.5], np.float32(0.5)),
    (TypeError, 1j, 1.0),
    (ValueError, NAN, 0.0),
    (ValueError, INFINITY, 1.0),
    (ValueError, -INFINITY, 1.0),
]
NOT_A_RADIUS = [
    *NOT_REAL,
    (ValueError, -0.1, 0.1),
    (ValueError, -1, 1),
    (ValueError, np.float32(-2.0), np.float32(2.0)),
]
NOT_A_SHARE = [*NOT_REAL, (ValueError, -0.1, 0.0), (ValueError, 1.5, 1.0)]
NOT_A_NUMBER_OF_LAYERS = [
    (TypeError, "2", 2),
    (TypeError, True, 1),
    (TypeError, None, 1),
    (TypeError, [2], np.int64(2)),
    (ValueError, -1, 0),
    (ValueError, 0.0, 0.01),
    (ValueError, -0.5, 0.5),
    (ValueError, 1.5, 1.0),
    (ValueError, NAN, 1.0),
    (ValueError, INFINITY, 1.0),
]
NOT_A_BOOLEAN = [
    (TypeError, 1, True),
    (TypeError, 0, False),
    (TypeError, "yes", True),
    (TypeError, None, False),
]
NOT_A_REFRESH = [
    (ValueError, "step", "epoch"),
    (ValueError, 0, 1),
    (ValueError, -3, 3),
    (ValueError, 1.5, 2),
    (ValueError, True, 1),
    (ValueError, [1], None),
]
NOT_A_NORMALIZATION = [
    (ValueError, "sizes", "size"),
    (ValueError, "Weight", "weight"),
    (ValueError, 1, None),
    (ValueError, True, None),
]
NOT_A_COUNT = [
    (TypeError, 1.5, 1),
    (TypeError, "2", 2),
    (TypeError, True, None),
    (TypeError, "epoch", None),
    (ValueError, 0, 1),
    (ValueError, -1, np.int64(1)),
]
ADAPTIVE = [
    selection.LargestGradientNorm,
    selection.SmallestGradientNorm,
    selection.Random,
]
COUNTED = [*ADAPTIVE, selection.OutputSide, selection.InputSide]


@pytest.fixture(scope="module", autouse=True)
def _clean_start():
    """Once, not for each of hundreds of constructor calls: clearing is slow."""
    keras.utils.set_random_seed(0)
    yield
    keras.utils.clear_session()


class Block(layers.Layer):
    """A dense layer and its BatchNorm, each a layer of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4, name="dense")
        self.norm = layers.BatchNormalization(name="norm")

    def build(self, input_shape):
        self.dense.build(input_shape)
        self.norm.build(input_shape)

    def call(self, inputs):
        return self.norm(self.dense(inputs))


@pytest.fixture
def network():
    """Two blocks and a head: five layers, two of the name `dense`."""
    inputs = keras.Input((4,))
    x = Block(name="first")(inputs)
    x = Block(name="second")(x)
    return keras.Model(inputs, layers.Dense(2, name="head")(x), name="net")


def copies(network):
    return [v.numpy().copy() for v in network.variables]


def assert_refused(error, name, received, call):
    """`call` raises `error`, naming the argument and what it received."""
    with pytest.raises(error) as caught:
        call()
    assert caught.type is error
    message = str(caught.value)
    assert f"`{name}`" in message
    assert "Received: " in message
    assert received in message.split("Received: ", 1)[1]


def assert_checks(function, name, error, wrong, right):
    """`function` refuses one value of an argument and takes another."""
    assert_refused(error, name, repr(wrong), lambda: function(**{name: wrong}))
    function(**{name: right})


def assert_model_checks(network, name, error, wrong, right):
    """The same of `LWSAMModel`, which leaves the network as it was."""
    before = copies(network)
    assert_refused(
        error, name, repr(wrong), lambda: LWSAMModel(network, **{name: wrong})
    )
    assert_equal(copies(network), before)
    return LWSAMModel(network, **{name: right})


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
