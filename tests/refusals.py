"""Arguments of the wrong kind, and how they must be refused."""

import math

import keras
import numpy as np
import pytest
from keras import layers

from keras_lwsam import LWSAMModel, selection
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


def two_blocks():
    """Two blocks and a head: five layers, two of the name `dense`."""
    inputs = keras.Input((4,))
    x = Block(name="first")(inputs)
    x = Block(name="second")(x)
    return keras.Model(inputs, layers.Dense(2, name="head")(x), name="net")


def cleared_once():
    """Once, not for each of hundreds of constructor calls: clearing is slow."""
    keras.utils.set_random_seed(0)
    yield
    keras.utils.clear_session()
