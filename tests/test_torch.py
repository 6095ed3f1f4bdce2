"""What PyTorch computes once, and what it does not compute."""

import keras
import numpy as np
import pytest
from keras import layers

from benchmarks import networks, step_cost
from keras_lwsam import LWSAMModel, _timing, selection
from tests.support import (
    assert_close,
    assert_equal,
    cross_entropy,
    momentum_sgd,
    weights_of,
)

pytestmark = pytest.mark.torch

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(8, 6)).astype("float32")
Y = GENERATOR.integers(0, 3, 8)


class Counted(layers.Dense):
    """A dense layer that counts its calls, and backward passes through it."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.calls = 0
        self.backward_passes = 0

    def call(self, inputs, training=None):
        self.calls += 1
        outputs = super().call(inputs)
        if outputs.requires_grad:
            outputs.grad_fn.register_hook(self.count)
        return outputs

    def count(self, *_):
        self.backward_passes += 1


class Subclassed(keras.Model):
    """The same layers, called in a way that nobody else sees."""

    def __init__(self, parts):
        super().__init__()
        self.parts = parts

    def call(self, x, training=None):
        for part in self.parts:
            x = part(x)
        return x


def parts():
    return [
        Counted(8, activation="tanh", name="first"),
        layers.BatchNormalization(name="norm"),
        layers.Dropout(0.5, name="drop"),
        Counted(8, activation="tanh", name="second"),
        layers.ActivityRegularization(0.1),
        Counted(3, name="logits"),
    ]


def functional():
    inputs = x = keras.Input((6,))
    for part in parts():
        x = part(x)
    return keras.Model(inputs, x)


def sequential():
    return keras.Sequential([keras.Input((6,)), *parts()])


def nested():
    inputs = keras.Input((6,))
    inner = sequential()
    return keras.Model(inputs, inner(inputs) * 2.0)


def subclassed():
    network = Subclassed(parts())
    network(X)
    return network


def counts_of(make, chosen, **kwargs):
    """Calls and backward passes of the three dense layers, in two steps."""
    keras.utils.set_random_seed(0)
    model = LWSAMModel(make(), layers=chosen, **kwargs)
    model.compile(momentum_sgd(), cross_entropy())
    counted = [
        layer
        for layer in model.model._flatten_layers()
        if isinstance(layer, Counted)
    ]
    # Keras builds losses and metrics before the first step.
    model.train_on_batch(X, Y)
    for layer in counted:
        layer.calls = layer.backward_passes = 0
    for _ in range(2):
        model.train_on_batch(X, Y)
    found = {x.name: (x.calls, x.backward_passes) for x in counted}
    return [found[name] for name in ("first", "second", "logits")]


@pytest.mark.parametrize("make", [functional, sequential, nested])
@pytest.mark.parametrize("upstream", [0, 1, 2])
def test_what_lies_upstream_is_computed_once(make, upstream):
    """Forward; and the first backward pass ends at the first layer chosen."""
    names = ["first", "second", "logits"][upstream:]
    found = counts_of(make, [rf"(.*/)?{name}" for name in names])
    assert found[:upstream] == [(2, 2)] * upstream
    assert found[upstream:] == [(4, 4)] * (3 - upstream)


def test_a_gradient_of_all_walks_back_through_what_is_shared():
    found = counts_of(
        functional, selection.OutputSide(1), perturbation_norm="all"
    )
    assert found == [(2, 4), (2, 4), (4, 4)]


def test_a_subclassed_network_only_saves_the_backward_pass():
    found = counts_of(subclassed, ["logits"])
    assert found == [(4, 2), (4, 2), (4, 4)]


@pytest.mark.parametrize("make", [functional, subclassed])
def test_both_passes_draw_the_same(make, monkeypatch):
    """Of dropout without a seed, which draws from PyTorch's own generator."""
    import torch

    drawn = []
    dropout = torch.nn.functional.dropout

    def noted(*args, **kwargs):
        outputs = dropout(*args, **kwargs)
        drawn.append(outputs.detach().numpy() == 0.0)
        return outputs

    monkeypatch.setattr(torch.nn.functional, "dropout", noted)
    counts_of(make, "all")
    one, again, other, once_more = drawn[-4:]
    np.testing.assert_array_equal(one, again)
    np.testing.assert_array_equal(other, once_more)
    assert (one != other).any()


@pytest.mark.parametrize("make", [functional, sequential, nested, subclassed])
def test_what_is_taken_over_changes_no_number(make, monkeypatch):
    ends = []
    for shares in (True, False):
        if not shares:
            from keras_lwsam import _functional as parts_of

            monkeypatch.setattr(parts_of, "functional_parts", lambda _: [])
        keras.utils.set_random_seed(0)
        model = LWSAMModel(make(), layers=["logits"])
        model.compile(momentum_sgd(), cross_entropy())
        model.fit(X, Y, batch_size=4, epochs=3, shuffle=False, verbose=0)
        ends.append(weights_of(model))
    assert_equal(*ends)


def test_steps_are_not_compiled():
    """As files of other backends ask for it, which are compiled by XLA."""
    ends = []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(0)
        model = LWSAMModel(sequential(), layers=["logits"])
        model.compile(momentum_sgd(), cross_entropy(), jit_compile=jit_compile)
        model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
        ends.append(weights_of(model))
    assert_equal(*ends)


class Limited(layers.Layer):
    """A layer of sequences that may not be long."""

    def compute_output_shape(self, shape):
        return shape

    def call(self, x):
        if x.shape[1] > 16:
            raise ValueError("too long")
        return x


def test_modules_of_pytorch_are_refused():
    import torch

    inputs = keras.Input((6,))
    module = layers.TorchModuleWrapper(
        torch.nn.Linear(6, 3), output_shape=(None, 3), name="module"
    )
    network = keras.Model(inputs, module(inputs))
    with pytest.raises(ValueError, match=r"modules of PyTorch.*\['module'\]"):
        LWSAMModel(network)


class AddsInPlace(layers.Layer):
    """Changes the tensor that it is given."""

    def build(self, shape):
        self.factor = self.add_weight(shape=shape[1:], initializer="ones")

    def call(self, x):
        return x.add_(1.0) * self.factor


def in_place():
    inputs = keras.Input((6,))
    x = layers.Dense(8, name="first")(inputs)
    x = AddsInPlace(name="second")(x)
    return keras.Model(inputs, layers.Dense(3, name="logits")(x))


def reading_another():
    """A function reads the weights of another layer, as tied weights may."""
    inputs = keras.Input((6,))
    first = layers.Dense(6, name="first", use_bias=False)
    x = first(inputs)
    tied = layers.Lambda(lambda t: t @ keras.ops.transpose(first.kernel))
    both = layers.Concatenate()([keras.ops.tanh(x), tied(inputs)])
    return keras.Model(inputs, layers.Dense(3, name="logits")(both))


def rematerialized():
    """Activations are computed again on the way back."""
    with keras.RematScope(mode="full"):
        return keras.Sequential(
            [
                keras.Input((6,)),
                layers.Dense(8, activation="tanh", name="first"),
                layers.Dense(8, activation="tanh", name="second"),
                layers.Dense(3, name="logits"),
            ]
        )


@pytest.mark.parametrize(
    ("make", "chosen"),
    [
        (in_place, ["second", "logits"]),
        (reading_another, "all"),
        (rematerialized, "all"),
        (rematerialized, ["second"]),
    ],
)
def test_what_must_not_be_taken_over(make, chosen):
    """Against SAM by hand: two plain steps, at weights that are moved."""
    keras.utils.set_random_seed(0)
    network = make()
    start = network.get_weights()

    def gradients(at):
        network.set_weights(at)
        network.compile(keras.optimizers.SGD(1.0), cross_entropy())
        network.train_on_batch(X, Y)
        return [a - b for a, b in zip(at, network.get_weights(), strict=True)]

    clean = gradients(start)
    is_moved = [
        chosen == "all" or v.path.split("/")[-2] in chosen
        for v in network.trainable_variables
    ]
    norm = np.sqrt(
        sum(np.sum(g**2) for g, m in zip(clean, is_moved, strict=True) if m)
    )
    moved = [
        w + 0.1 * g / norm if m else w
        for w, g, m in zip(start, clean, is_moved, strict=True)
    ]
    sharp = gradients(moved)
    network.set_weights(start)
    model = LWSAMModel(network, rho=0.1, layers=chosen)
    model.compile(keras.optimizers.SGD(1.0), cross_entropy())
    model.train_on_batch(X, Y)
    expected = [w - g for w, g in zip(start, sharp, strict=True)]
    assert_close(network.get_weights(), expected, 1e-6)


def test_an_open_dimension_with_a_limit():
    """Keras calls a network with 83 where nothing is said."""
    inputs = keras.Input((None, 6))
    x = layers.Dense(8, name="first")(Limited()(inputs))
    x = layers.GlobalAveragePooling1D()(x)
    network = keras.Model(inputs, layers.Dense(3, name="last")(x))
    model = LWSAMModel(network)
    assert model.layer_paths == ["first", "last"]
    assert model.cost(length=16).overhead > 0.0


@pytest.mark.parametrize("way", ["last 10%", "last 50%", "SAM"])
@pytest.mark.parametrize("name", ["resnet20", "vit", "mlp"])
def test_predicted_work_is_what_is_executed(name, way):
    """Of products; a layer that holds others is computed again as a whole."""
    from torch.utils.flop_counter import FlopCounterMode

    counted = {}
    for each in ("plain", way):
        keras.utils.set_random_seed(0)
        network = networks.BUILDERS[name]()
        x, y = networks.batch(network, 2)
        model = network
        if each != "plain":
            model = LWSAMModel(network, **step_cost.arguments(each))
        model.compile(momentum_sgd(), cross_entropy())
        model.train_on_batch(x, y)
        with FlopCounterMode(display=False) as counter:
            model.train_on_batch(x, y)
        counted[each] = counter.get_total_flops()
    executed = counted[way] / counted["plain"]
    predicted = 1.0 + model.cost(batch_size=2).overhead
    assert predicted == pytest.approx(executed, abs=0.02)


def test_a_measured_price(monkeypatch):
    """Steps that are timed leave no trace."""
    monkeypatch.setattr(_timing, "_SECONDS", 1.0)
    model = LWSAMModel(sequential(), layers=["logits"])
    model.compile(momentum_sgd(), cross_entropy())
    before = weights_of(model)
    assert np.isfinite(model.cost(timed=True).overhead)
    assert_equal(weights_of(model), before)


def test_a_radius_of_zero_is_fit_where_a_layer_is_called_twice():
    """On the same tensor, in 16 bits: two gradients, each rounded by itself."""
    keras.config.set_dtype_policy("bfloat16")
    ends = []
    for wrap in (False, True):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((6,))
        shared = keras.layers.Dense(6)
        hidden = keras.layers.Dense(10)(inputs)
        joined = keras.layers.Concatenate()([shared(hidden), shared(hidden)])
        network = keras.Model(inputs, keras.layers.Dense(3)(joined))
        model = LWSAMModel(network, rho=0.0) if wrap else network
        model.compile(momentum_sgd(), cross_entropy())
        for _ in range(3):
            model.train_on_batch(X, Y)
        ends.append(weights_of(network))
    assert_equal(*ends)
