"""Selections: which layers, from what is known of them."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lwsam import LWSAMModel, selection
from keras_lwsam._layers import LayerWeights, all_layers
from tests.support import (
    convolutional_network,
    dense_network,
)

NUM_LAYERS = 6


class Weight:
    def __init__(self, shape):
        self.shape = shape


def layers_of(count=NUM_LAYERS, kernels=()):
    return [
        LayerWeights(
            f"layer{i}",
            None,
            (i,),
            (Weight((2, 3) if i in kernels else (4,)),),
        )
        for i in range(count)
    ]


def observe(norms, selected=(), refreshes=1):
    return selection.Observations(
        np.square(norms), tuple(f"layer{i}" for i in selected), refreshes
    )


@given(
    norms=st.lists(
        st.just(0.0) | st.floats(1e-6, 1e6),
        min_size=NUM_LAYERS,
        max_size=NUM_LAYERS,
    ),
    count=st.integers(0, NUM_LAYERS),
)
def test_largest_and_smallest_norms(norms, count):
    layers = layers_of()
    observations = observe(np.array(norms))
    largest = selection.LargestGradientNorm(count).resolve(layers, observations)
    smallest = selection.SmallestGradientNorm(count).resolve(
        layers, observations
    )
    for chosen in (largest, smallest):
        assert len(chosen) == count
        assert list(chosen) == sorted(set(chosen))
    rest = [norms[i] for i in range(NUM_LAYERS) if i not in largest]
    if largest and rest:
        assert min(norms[i] for i in largest) >= max(rest) * (1 - 1e-12)
    rest = [norms[i] for i in range(NUM_LAYERS) if i not in smallest]
    if smallest and rest:
        assert max(norms[i] for i in smallest) <= min(rest) * (1 + 1e-12)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (selection.All(), (0, 1, 2, 3, 4, 5)),
        (selection.OutputSide(2), (4, 5)),
        (selection.InputSide(2), (0, 1)),
        (selection.OutputSide(0.5), (3, 4, 5)),
        (selection.OutputSide(0.01), (5,)),
        (selection.OutputSide(np.int64(2)), (4, 5)),
        (selection.LargestGradientNorm(2), (4, 5)),
        (selection.ByPath("layer1", "layer[45]"), (1, 4, 5)),
        (selection.ByPath(), ()),
    ],
)
def test_before_anything_is_known(chosen, expected):
    assert chosen.resolve(layers_of()) == expected


def test_near_ties_do_not_flip():
    chosen = selection.LargestGradientNorm(1)
    layers = layers_of(2)
    selected = chosen.resolve(layers, observe([1.0, 1.01]))
    assert selected == (1,)
    for noise in (1.05, 0.97, 1.08, 1.0):
        selected = chosen.resolve(layers, observe([noise, 1.0], selected))
        assert selected == (1,)
    assert chosen.resolve(layers, observe([1.2, 1.0], selected)) == (0,)


def test_smallest_does_not_flip_either():
    chosen = selection.SmallestGradientNorm(1)
    layers = layers_of(2)
    assert chosen.resolve(layers, observe([1.0, 1.05], (1,))) == (1,)
    assert chosen.resolve(layers, observe([1.0, 1.2], (1,))) == (0,)


def test_normalization_by_size_and_by_weight():
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(100, use_bias=False, name="large"),
            keras.layers.Dense(1, use_bias=False, name="small"),
        ]
    )
    network.set_weights([np.full((4, 100), 1e-3), np.full((100, 1), 10.0)])
    layers = all_layers(network)
    seen = selection.Observations(np.array([16.0, 9.0]))
    pick = selection.LargestGradientNorm
    assert pick(1).resolve(layers, seen) == (0,)
    assert pick(1, normalize="size").resolve(layers, seen) == (1,)
    seen = selection.Observations(np.array([9.0, 16.0]))
    assert pick(1).resolve(layers, seen) == (1,)
    assert pick(1, normalize="weight").resolve(layers, seen) == (0,)


def test_random_draws_depend_on_seed_and_count_alone():
    layers = layers_of(20)
    chosen = selection.Random(5, seed=3)
    first = chosen.resolve(layers, observe(np.ones(20), refreshes=1))
    again = selection.Random(5, seed=3).resolve(
        layers, observe(np.zeros(20), selected=(1,), refreshes=1)
    )
    later = chosen.resolve(layers, observe(np.ones(20), refreshes=2))
    assert first == again
    assert first != later
    assert len(set(first)) == 5


def test_kernels_only():
    layers = layers_of(kernels=(1, 3))
    chosen = selection.KernelsOnly(selection.All())
    assert chosen.resolve(layers) == (1, 3)
    chosen = selection.KernelsOnly(selection.LargestGradientNorm(1))
    assert chosen.refresh == "epoch"
    norms = observe([9.0, 1.0, 9.0, 2.0, 9.0, 9.0])
    assert chosen.resolve(layers, norms) == (3,)


def test_kernels_only_leaves_biases_out_of_norms():
    """A layer with a large bias gradient is not critical for its kernel."""
    network = dense_network(sizes=(4, 5, 3))
    layers = all_layers(network)
    squared = np.array([1.0, 100.0, 4.0, 0.0])  # kernel, bias, kernel, bias
    seen = selection.Observations(squared)
    pick = selection.LargestGradientNorm(1)
    assert pick.resolve(layers, seen) == (0,)
    assert selection.KernelsOnly(pick).resolve(layers, seen) == (1,)


@pytest.mark.parametrize(
    "chosen",
    [
        selection.All(),
        selection.LargestGradientNorm(3, 100, "size"),
        selection.SmallestGradientNorm(0.5),
        selection.Random(2, None, 5),
        selection.OutputSide(2),
        selection.InputSide(0.25),
        selection.ByPath("a", "b/.*"),
        selection.ByType(keras.layers.Dense, keras.layers.BatchNormalization),
        selection.KernelsOnly(selection.OutputSide(1)),
    ],
    ids=lambda s: type(s).__name__,
)
def test_round_trip(chosen):
    config = keras.saving.serialize_keras_object(chosen)
    assert keras.saving.deserialize_keras_object(config) == chosen


def test_by_type_is_sam_on():
    network = convolutional_network()
    model = LWSAMModel(
        network, layers=selection.ByType(keras.layers.BatchNormalization)
    )
    assert model.selected_layers == ["norm1", "norm2"]


def test_layers_of_a_network_come_in_the_order_of_use():
    inputs = keras.Input((4,))
    last = keras.layers.Dense(2, name="made_first")
    first = keras.layers.Dense(4, name="made_last")
    network = keras.Model(inputs, last(first(inputs)))
    assert LWSAMModel(network).layer_paths == ["made_last", "made_first"]


def test_namesakes_are_told_apart():
    class Pair(keras.layers.Layer):
        def __init__(self):
            super().__init__(name="pair")
            self.parts = [keras.layers.Dense(3, name="same") for _ in "ab"]

        def call(self, inputs):
            return self.parts[1](self.parts[0](inputs))

    inputs = keras.Input((3,))
    network = keras.Model(inputs, Pair()(inputs))
    model = LWSAMModel(network, layers="pair/same:2")
    assert model.layer_paths == ["pair/same:1", "pair/same:2"]
    assert model.selected_layers == ["pair/same:2"]
    with pytest.raises(ValueError, match="ambiguous"):
        LWSAMModel(network, layers="pair/same")
