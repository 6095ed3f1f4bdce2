"""Networks and a reference step for the defects of peers."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_lwsam import LWSAMModel
from tests.backends import differentiated, to_numpy
from tests.support import (
    MODES,
    assert_close,
    dense_network,
    distance,
    weights_of,
)

RHO = 0.1
EAGER = MODES["eager"]
TWO_MODES = {name: MODES[name] for name in ("graph", "eager")}


class AddLoss(layers.Layer):
    """Adds the mean square of its inputs to the loss."""

    def __init__(self, strength):
        super().__init__()
        self.strength = strength

    def call(self, inputs):
        squares = keras.ops.mean(keras.ops.square(inputs))
        self.add_loss(self.strength * squares)
        return inputs


class UnusedWeight(layers.Layer):
    """Owns a weight that has no influence on what it returns."""

    def build(self, input_shape):
        self.unused = self.add_weight(shape=(3,), name="unused")

    def call(self, inputs):
        return inputs


class FirstPassOnly(layers.Layer):
    """Uses its weight in every other call of training."""

    def build(self, input_shape):
        self.calls = 0
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def call(self, inputs, training=None):
        self.calls += bool(training)
        return inputs * self.scale if self.calls % 2 else inputs


@keras.saving.register_keras_serializable(package="tests")
class FailsOnCall(layers.Layer):
    """Raises in one call, counted down from `countdown`."""

    countdown = 0

    def call(self, inputs):
        self.countdown -= 1
        if self.countdown == 0:
            raise RuntimeError("this pass fails")
        return inputs


def mean_squared_error():
    return keras.losses.MeanSquaredError()


def data(count=8, width=4, outputs=2):
    """Random inputs and targets for a regression."""
    generator = np.random.default_rng(0)
    x = 2.0 * generator.normal(size=(count, width)) + 1.0
    y = generator.normal(size=(count, outputs))
    return x.astype("float32"), y.astype("float32")


def small_network():
    return dense_network(sizes=(4, 6, 2))


def normalized_network(dropout=0.3):
    """BatchNorm and dropout between two dense layers."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(6, name="hidden"),
            layers.BatchNormalization(name="norm"),
            layers.Activation("tanh"),
            layers.Dropout(dropout, seed=1),
            FailsOnCall(),
            layers.Dense(2, name="output"),
        ]
    )


def with_layer(make_layer):
    """Two dense layers and another one between them."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(6, activation="tanh", name="hidden"),
            make_layer(),
            layers.Dense(2, name="output"),
        ]
    )


def wrap(network, learning_rate=0.1, loss="mse", mode=EAGER, **arguments):
    """A compiled SAM of the whole network, or as `arguments` say."""
    model = LWSAMModel(network, **{"layers": "all", "rho": RHO, **arguments})
    model.compile(keras.optimizers.SGD(learning_rate), loss, **mode)
    return model


def evaluate(network, x, y, training=True, loss=None):
    """Loss and gradients of a plain pass."""
    loss = loss or mean_squared_error()

    def compute():
        predictions = network(x, training=training)
        return loss(y, predictions) + sum(network.losses), None

    (value, _), gradients = differentiated(network, compute)
    loss = float(to_numpy(value))
    return loss, [None if g is None else to_numpy(g) for g in gradients]


def norm(arrays):
    """L2 norm over a list of arrays."""
    squares = [np.sum(np.square(a, dtype="float64")) for a in arrays]
    return float(np.sqrt(sum(squares)))


def ascend(network, gradients):
    """Moves the trainable weights along their gradients by `RHO`."""
    factor = RHO / norm([g for g in gradients if g is not None])
    for v, g in zip(network.trainable_variables, gradients, strict=True):
        if g is not None:
            v.assign(v.numpy() + np.float32(factor) * g)


def assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def reference_step(network, x, y, learning_rate=0.1, loss=None):
    """One step of SAM with SGD, by mutating and restoring.

    Returns:
        `(clean loss, loss at the perturbed weights, clean gradient norm)`.
    """
    variables = network.trainable_variables
    state = network.non_trainable_variables
    weights = [v.numpy().copy() for v in variables]
    state_before = [v.numpy().copy() for v in state]
    clean_loss, clean = evaluate(network, x, y, loss=loss)
    state_after = [v.numpy().copy() for v in state]
    ascend(network, clean)
    assign(state, state_before)
    sharp_loss, sharp = evaluate(network, x, y, loss=loss)
    assign(state, state_after)
    for v, w, g in zip(variables, weights, sharp, strict=True):
        v.assign(w if g is None else w - np.float32(learning_rate) * g)
    return clean_loss, sharp_loss, norm([g for g in clean if g is not None])


def every_variable(model):
    """Copies of the variables of network, method, optimizer and metrics."""
    variables = [
        *model.variables,
        *model.optimizer.variables,
        *(v for metric in model.metrics for v in metric.variables),
    ]
    return [v.numpy().copy() for v in variables]


def assert_step_is_that_of_reference(
    make_network,
    x,
    y,
    loss="mse",
    reference_loss=None,
    learning_rate=0.1,
    **mode,
):
    """One step of the package and one that mutates and restores agree."""
    network, twin = make_network(), make_network()
    before = weights_of(network)
    model = wrap(network, learning_rate, loss, mode)
    logs = model.train_on_batch(x, y, return_dict=True)
    clean, sharp, length = reference_step(
        twin, x, y, learning_rate, reference_loss
    )
    assert sharp - clean > 1e-3
    assert logs["loss"] == pytest.approx(clean, rel=1e-5)
    assert logs["sharpness"] == pytest.approx(sharp - clean, rel=1e-3)
    assert logs["gradient_norm"] == pytest.approx(length, rel=1e-5)
    assert distance(weights_of(network), before) > 1e-4
    assert_close(weights_of(network), weights_of(twin), 2e-6)
    return network, before


def regularized(strength):
    regularizer = keras.regularizers.L2(strength)
    return with_layer(lambda: layers.Dense(6, kernel_regularizer=regularizer))


def with_added_loss(strength):
    return with_layer(lambda: AddLoss(strength))


def two_outputs(structure):
    """A network with outputs `a` and `b` of unequal shape."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    x = layers.Dense(6, activation="tanh")(inputs)
    outputs = {
        "a": layers.Dense(2, name="a")(x),
        "b": layers.Dense(3, name="b")(x),
    }
    if structure == "list":
        outputs = list(outputs.values())
    return keras.Model(inputs, outputs)


def targets_of_two_outputs(structure, count=8):
    y = {"a": data(count)[1], "b": data(count, outputs=3)[1]}
    return y if structure == "dict" else list(y.values())
