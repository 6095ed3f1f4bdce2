"""Objectives whose curvature is known, for the tests of `analysis`."""

import contextlib

import keras
import numpy as np
from keras import layers, ops

from tests.backends import BACKEND, allowed_float64

# Of a loss in float64: Keras rounds it to float32 on JAX. (On PyTorch it rounds
# all that comes of it.)
ROUNDING = 1e-7 if BACKEND == "jax" else 1e-14


@contextlib.contextmanager
def in_float64():
    """Everything in float64: networks, losses, regularizers. A decorator."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        with allowed_float64():
            yield
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")


def compiled(network, loss="mse", **kwargs):
    network.compile("sgd", loss, **{"run_eagerly": True, **kwargs})
    return network


def normalizing_network(seed=0, dropout=0.2):
    """BatchNorm, dropout and a regularizer on as few weights as can be."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(4, kernel_regularizer="l2", name="hidden"),
            layers.BatchNormalization(name="norm"),
            layers.Activation("tanh"),
            layers.Dropout(dropout, seed=1),
            layers.Dense(3, name="logits"),
        ],
        name="normalizing",
    )


def vector_data(count=12):
    """Data of `normalizing_network`."""
    return random(count, 5).astype("float32"), np.arange(count) % 3


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def written_out(objective):
    """The whole Hessian, from its products."""
    return np.stack([objective.product(row) for row in np.eye(objective.size)])


def eigenvalues_of(matrix, k):
    return np.linalg.eigvalsh(matrix)[::-1][:k]


PATHS = [None, ["a"], ["b"], ["b", "a"]]


class Quadratic:
    """Two linear layers side by side with the mean squared error.

    Its vector of weights holds the kernel of `a`, the bias of `a` and the
    kernel of `b`, and its Hessian is everywhere the same.
    """

    def __init__(self, size_a=3, size_b=2, outputs=1, count=40, **compilation):
        inputs = [keras.Input((size_a,)), keras.Input((size_b,))]
        a = layers.Dense(outputs, name="a", bias_initializer="ones")
        b = layers.Dense(outputs, name="b", use_bias=False)
        sums = layers.Add()([a(inputs[0]), b(inputs[1])])
        self.model = compiled(keras.Model(inputs, sums), **compilation)
        self.x = [random(count, size_a), random(count, size_b, seed=1)]
        self.y = random(count, outputs, seed=2)
        self.data = (self.model, self.x, self.y)
        self.design = np.hstack([self.x[0], np.ones((count, 1)), self.x[1]])
        weights = [*a.get_weights(), *b.get_weights()]
        weights[1] = weights[1][None]
        self.residual = self.design @ np.vstack(weights) - self.y
        self.gradient = 2.0 / self.y.size * self.design.T @ self.residual
        self.gradient = self.gradient.reshape(-1)
        self.hessian = np.kron(
            2.0 / self.y.size * self.design.T @ self.design, np.eye(outputs)
        )
        self.blocks = {
            "a": np.repeat(
                [True, False], [(size_a + 1) * outputs, b.count_params()]
            )
        }
        self.blocks["b"] = ~self.blocks["a"]

    def places(self, paths):
        if paths is None:
            return np.ones(len(self.hessian), bool)
        return np.any([self.blocks[path] for path in paths], axis=0)

    def block(self, paths):
        return self.hessian[np.ix_(*[np.flatnonzero(self.places(paths))] * 2)]


class Pull(layers.Layer):
    """Hands on what it is given, with a loss of its own."""

    def call(self, inputs):
        self.add_loss(0.2 * ops.mean(ops.sum(ops.square(inputs), axis=-1)))
        return inputs
