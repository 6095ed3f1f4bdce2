"""Products that costs predict are those that a step executes: counted."""

import functools

import keras
import numpy as np
import pytest
from keras import layers

from benchmarks import networks as benchmarked
from benchmarks import operations
from benchmarks.networks import Positions
from keras_lwsam import LWSAMModel, _layers, costs, selection
from keras_lwsam._engines.tensorflow import operations as traced
from tests import networks
from tests.support import cross_entropy

pytestmark = pytest.mark.tensorflow


def number_of_products(counts):
    return sum(counts[kind] for kind in operations.PRODUCTS)


def executed(network, x, y, chosen=None):
    """How many products a step executes, and the weights it perturbs."""
    model, perturbed = network, ()
    if chosen is not None:
        model = LWSAMModel(network, layers=chosen)
        perturbed = model._adaptation.weight_indices()
    model.compile("sgd", cross_entropy(), jit_compile=False)
    return number_of_products(operations.executed(model, x, y)), perturbed


def predicted(network, x):
    """The cost of a network on which nothing costs but products, one each."""
    found = _layers.all_layers(network)
    weights = [weight for layer in found for weight in layer.weights]
    made_of = [
        operation._replace(
            work=number_of_products(operations.by_kind({operation.kind: 1}))
        )
        for operation in traced.of_network(network, _symbolic(x), weights)
    ]
    return costs.tabulate(made_of, found, network.trainable_variables).work


def _symbolic(x):
    return keras.tree.map_structure(
        lambda part: keras.KerasTensor(part.shape, str(part.dtype)), x
    )


def check(make, *choices):
    """Products of a plain step, and of steps that perturb some layers."""
    network, x, y = make()
    work = predicted(network, x)
    plain, _ = executed(network, x, y)
    assert work.plain == plain
    for chosen in choices:
        network, x, y = make()
        count, perturbed = executed(network, x, y, chosen)
        assert work.cost(perturbed) * plain == pytest.approx(count), chosen


def of_benchmarks(name):
    network = benchmarked.BUILDERS[name]()
    return network, *benchmarked.batch(network, 4)


SHARES = [selection.OutputSide(share) for share in (0.1, 0.25, 0.5)]


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", benchmarked.BUILDERS)
def test_networks_of_the_benchmarks(name):
    make = functools.partial(of_benchmarks, name)
    check(make, *SHARES, selection.All(), selection.InputSide(1))


def vectors(size=8):
    return np.random.default_rng(0).normal(size=(4, size)).astype("float32")


def branches():
    inputs = keras.Input((8,))
    left = layers.Dense(4, name="left")(inputs)
    right = layers.Dense(5, activation="relu", name="right")(inputs)
    x = layers.Concatenate()([left, layers.Dense(6, name="right2")(right)])
    x = layers.Add()([layers.Dense(4)(x), layers.Dense(4)(inputs)])
    return keras.Model(inputs, layers.Dense(3)(x)), vectors(), np.zeros(4)


def convolutions():
    network = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, strides=2),
            layers.DepthwiseConv2D(3, padding="same"),
            layers.SeparableConv2D(5, 2),
            layers.BatchNormalization(),
            layers.Dropout(0.3),
            layers.Conv2DTranspose(4, 3, strides=2),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3))
    return network, x.astype("float32"), np.zeros(4)


def lstm():
    return recurrent(layers.LSTM(6))


def several_recurrent(unroll=False):
    return recurrent(
        layers.LSTM(6, return_sequences=True, unroll=unroll),
        layers.Bidirectional(layers.GRU(4, unroll=unroll)),
    )


def recurrent(*loops):
    network = keras.Sequential(
        [keras.Input((7, 5)), *loops, layers.Dense(8), layers.Dense(3)]
    )
    x = np.random.default_rng(0).normal(size=(4, 7, 5)).astype("float32")
    return network, x, np.zeros(4)


class StopGradient(layers.Layer):
    def call(self, inputs):
        return keras.ops.stop_gradient(inputs)


def stopped():
    inputs = keras.Input((8,))
    x = StopGradient()(layers.Dense(6)(inputs))
    x = layers.Dense(4)(x) + layers.Dense(4)(inputs)
    return keras.Model(inputs, layers.Dense(3)(x)), vectors(), np.zeros(4)


class Conditional(layers.Layer):
    def build(self, input_shape):
        self.dense = layers.Dense(input_shape[-1])
        self.dense.build(input_shape)

    def call(self, inputs):
        return keras.ops.cond(
            keras.ops.sum(inputs) > 0,
            lambda: self.dense(inputs),
            lambda: 2.0 * inputs,
        )


def conditional():
    network = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(5),
            Conditional(),
            layers.Dense(4),
            layers.Dense(3),
        ]
    )
    return network, vectors(), np.zeros(4)


def mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        return branches()
    finally:
        keras.config.set_dtype_policy("float32")


exhaustive = functools.partial(pytest.param, marks=pytest.mark.exhaustive)


@pytest.mark.parametrize(
    "make",
    [
        branches,
        convolutions,
        lstm,
        networks.subclassed,
        networks.shared_layer,
        networks.frozen_part,
        networks.attention,
        exhaustive(networks.nested),
        exhaustive(stopped),
        exhaustive(conditional),
        exhaustive(mixed_precision),
        exhaustive(several_recurrent),
        exhaustive(
            functools.partial(several_recurrent, unroll=True), id="unrolled"
        ),
        exhaustive(networks.two_inputs_as_dict),
        exhaustive(networks.embedding),
        exhaustive(networks.masked_lstm),
        exhaustive(networks.weight_without_gradient),
        exhaustive(networks.no_training_argument),
    ],
)
# The wrapper trains what has a gradient; Keras warns of the rest.
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_networks_of_every_kind(make):
    check(make, Positions(-1), Positions(0))


@pytest.mark.exhaustive
@pytest.mark.parametrize("make", [branches, convolutions, several_recurrent])
def test_each_layer_and_kernel_alone(make):
    found = costs.layer_costs(make()[0]).layers
    alone = [Positions(i) for i in range(len(found))]
    kernels = map(selection.KernelsOnly, alone)
    check(make, *alone, *kernels, Positions(1, -1), selection.All())
