"""Attributes that are lent come back, in whatever order they are returned."""

import contextlib

import keras
import numpy as np
import pytest

from keras_lwsam import LWSAMModel, analysis
from keras_lwsam._lending import with_attributes
from tests.support import cross_entropy, dense_network, replicas


class Thing:
    def __init__(self):
        self.kept = "own"


def test_what_was_there_comes_back():
    thing = Thing()
    with with_attributes([(thing, {"kept": "lent", "new": 1})]):
        assert vars(thing) == {"kept": "lent", "new": 1}
    assert vars(thing) == {"kept": "own"}
    with (
        pytest.raises(KeyError),
        with_attributes([(thing, {"kept": "lent", "new": 1})]),
    ):
        raise KeyError
    assert vars(thing) == {"kept": "own"}


@pytest.mark.parametrize("values", [("a", "b"), ("a", "a"), ("own", "b")])
@pytest.mark.parametrize("first", [0, 1])
def test_replicas_take_turns(values, first):
    """Each lends, and they leave in any order, with any values."""
    thing = Thing()
    lent = [with_attributes([(thing, {"kept": v, "new": v})]) for v in values]
    for each in lent:
        each.__enter__()
    lent[first].__exit__(None, None, None)
    assert thing.kept == values[1 - first]
    lent[1 - first].__exit__(None, None, None)
    assert vars(thing) == {"kept": "own"}


def test_inside_each_other():
    thing = Thing()
    with with_attributes([(thing, {"kept": "outer"})]):
        with with_attributes([(thing, {"kept": "inner", "new": 1})]):
            assert thing.kept == "inner"
        assert vars(thing) == {"kept": "outer"}
    assert vars(thing) == {"kept": "own"}


@pytest.mark.parametrize("metrics", [None, ["accuracy"]])
def test_a_network_that_was_compiled_stays_so(metrics):
    network = dense_network()
    network.compile("sgd", cross_entropy(), metrics=metrics)
    x = np.random.default_rng(0).normal(size=(16, 10)).astype("float32")
    y = np.arange(16) % 4
    before = network.evaluate(x, y, verbose=0, return_dict=True)
    model = LWSAMModel(network)
    model.compile("sgd", cross_entropy(), metrics=metrics, run_eagerly=True)
    model.fit(x, y, verbose=0)
    model.evaluate(x, y, verbose=0)
    after = network.evaluate(x, y, verbose=0, return_dict=True)
    assert set(after) == set(before)
    assert after["loss"] != before["loss"]
    assert analysis.sharpness(network, x, y) > 0.0


@pytest.mark.tensorflow
@pytest.mark.parametrize("count", [None, 2])
def test_layers_of_16_bits_keep_their_policy(count):
    """With statistics that the replicas share, they wait for each other."""
    strategy = replicas(count) if count else None
    with strategy.scope() if strategy else contextlib.nullcontext():
        keras.utils.set_random_seed(0)
        network = keras.Sequential(
            [
                keras.Input((10,)),
                keras.layers.Dense(6, dtype="bfloat16"),
                keras.layers.BatchNormalization(
                    synchronized=True, dtype="bfloat16"
                ),
                keras.layers.Dense(4, dtype="bfloat16"),
            ]
        )
        model = LWSAMModel(network, layers="all")
        model.compile("sgd", cross_entropy(), run_eagerly=True)
    x = np.random.default_rng(0).normal(size=(16, 10)).astype("float32")
    model.fit(x, np.arange(16) % 4, batch_size=16, verbose=0)
    for layer in network.layers:
        assert layer.dtype_policy.name == "bfloat16"
        assert "call" not in vars(layer)
