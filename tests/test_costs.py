"""The table of costs: its numbers, on what network it knows, its errors."""

import functools

import keras
import numpy as np
import pytest
from keras import layers

from keras_lwsam import LWSAMModel, costs
from keras_lwsam._work import REPEATED
from tests import networks
from tests.backends import BACKEND
from tests.support import convolutional_network, image_data


def vectors(size=8):
    return np.random.default_rng(0).normal(size=(4, size)).astype("float32")


def test_floating_point_operations_of_dense_layers():
    network = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(32, use_bias=False, name="first"),
            layers.Dense(16, use_bias=False, name="second"),
        ]
    )
    table = costs.layer_costs(network, batch_size=10)
    first, second = 2 * 10 * 64 * 32, 2 * 10 * 32 * 16
    assert table.work.plain == 2 * first + 3 * second
    assert [layer.parameters for layer in table.layers] == [64 * 32, 32 * 16]
    shares = [layer.share for layer in table.layers]
    plain = table.work.plain
    assert shares == pytest.approx([2 * first / plain, 3 * second / plain])
    # Alone: forward again, backward to its kernel; through the second, to its
    # input only.
    assert [layer.alone for layer in table.layers] == pytest.approx(
        [1 + (2 * first + 2 * second) / plain, 1 + 2 * second / plain]
    )
    assert table.predict(
        [layer.path for layer in table.layers]
    ) == pytest.approx(2.0)
    assert table.predict(table.layers[1].path) == table.layers[1].alone
    assert table.predict([]) == 1.0


@pytest.mark.parametrize(
    ("layer", "shape", "multiplications"),
    [
        (layers.Conv1D(4, 3, use_bias=False), (9, 2), 7 * 4 * 3 * 2),
        (layers.Conv2D(6, 3, use_bias=False), (8, 8, 2), 36 * 6 * 9 * 2),
        (
            layers.Conv2D(6, 3, groups=2, use_bias=False),
            (8, 8, 4),
            36 * 6 * 9 * 2,
        ),
        (layers.Conv3D(4, 2, use_bias=False), (4, 4, 4, 3), 27 * 4 * 8 * 3),
        (
            layers.Conv2DTranspose(6, 2, strides=2, use_bias=False),
            (4, 4, 3),
            16 * 3 * 4 * 6,
        ),
        (
            layers.Conv3DTranspose(6, 2, strides=2, use_bias=False),
            (4, 4, 4, 3),
            64 * 3 * 8 * 6,
        ),
        (layers.DepthwiseConv2D(3, use_bias=False), (8, 8, 2), 36 * 9 * 2),
        (layers.EinsumDense("abc,cde->abde", (5, 2, 3)), (5, 4), 5 * 4 * 6),
        (layers.EinsumDense("...c,cd->...d", 7), (5, 4), 5 * 4 * 7),
        (layers.Dense(7, use_bias=False), (5, 4), 5 * 4 * 7),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_floating_point_operations_of_layers(layer, shape, multiplications):
    network = keras.Sequential([keras.Input(shape), layer])
    table = costs.layer_costs(network, batch_size=10)
    # Forward, and backward to the kernel alone.
    expected = 2 * 2 * 10 * multiplications
    # On JAX some kernels are turned round.
    tolerance = 0.01 if BACKEND == "jax" else 0.0
    assert table.work.plain == pytest.approx(expected, rel=tolerance)


def test_a_loop_counts_as_often_as_it_runs():
    @functools.cache
    def work(length):
        network = keras.Sequential([keras.Input((None, 5)), layers.GRU(4)])
        return costs.layer_costs(network, length=length).work.plain

    assert work(40) - work(30) == pytest.approx(work(30) - work(20))
    assert work(40) == pytest.approx(4 * work(10), rel=0.02)


def test_tables_of_a_convolutional_network():
    network = convolutional_network()
    table = costs.layer_costs(network)
    paths = [layer.path for layer in table.layers]
    assert paths == LWSAMModel(network).layer_paths
    alone = [layer.alone for layer in table.layers]
    assert alone == sorted(alone, reverse=True)
    assert sum(layer.share for layer in table.layers) == pytest.approx(1, 0.05)
    assert table.predict(paths) == pytest.approx(2, abs=0.05)
    # The shares hardly depend on the number of samples.
    single = costs.layer_costs(network, batch_size=1)
    assert [layer.alone for layer in single.layers] == pytest.approx(
        alone, rel=0.02
    )


def test_frozen_layers_are_not_in_the_table():
    network, _, _ = networks.frozen_part()
    paths = [layer.path for layer in costs.layer_costs(network).layers]
    assert paths == LWSAMModel(network).layer_paths
    assert len(paths) == 2


def test_measuring_all_layers_costs_a_whole_backward_pass():
    """As `perturbation_norm="all"` does."""
    network = convolutional_network()
    table = costs.layer_costs(network)
    everything = [i for own in table.weights.values() for i in own]
    last = table.weights["logits"]
    # On JAX reductions and broadcasts have other shares: 1.592.
    least = 1.59 if BACKEND == "jax" else 1.6
    assert least < table.work.cost(last, measured=everything) < 1.7
    assert table.work.cost(last) < 1.01
    assert table.work.cost((), measured=everything) == 1.0


def test_tracing_leaves_the_network_alone():
    network = convolutional_network()
    x, _ = image_data(4)
    before = [np.array(v) for v in network.variables]
    predictions = network.predict(x, verbose=0)
    costs.layer_costs(network)
    for variable, old in zip(network.variables, before, strict=True):
        np.testing.assert_array_equal(variable, old)
    np.testing.assert_array_equal(network.predict(x, verbose=0), predictions)


def test_inputs_of_subclassed_networks():
    network, x, _ = networks.subclassed()
    known = costs.layer_costs(network)
    assert costs.layer_costs(network, keras.KerasTensor((None, 5))) == known
    assert costs.layer_costs(network, x) != known  # 12 samples, not 32.
    assert costs.layer_costs(network, batch_size=12) == costs.layer_costs(
        network, x
    )

    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def call(self, inputs):
            return self.dense(inputs["a"]) + self.dense(inputs["b"])

    network = Two()
    network({"a": vectors(), "b": vectors()})
    assert costs.layer_costs(network).layers[0].alone == pytest.approx(2, 0.1)


def test_errors():
    network = convolutional_network()
    with pytest.raises(TypeError, match=r"keras\.Model.*Received: network=3"):
        costs.layer_costs(3)
    unbuilt = keras.Sequential([layers.Dense(3)])
    with pytest.raises(ValueError, match=r"must be built.*Received"):
        costs.layer_costs(unbuilt)
    with pytest.raises(ValueError, match=r"`batch_size`.*Received: .*0"):
        costs.layer_costs(network, batch_size=0)
    with pytest.raises(TypeError, match=r"`length`.*Received: .*'8'"):
        costs.layer_costs(network, length="8")
    with pytest.raises(ValueError, match=r"(?s)these shapes.*Received: .*7, 7"):
        costs.layer_costs(network, keras.KerasTensor((None, 7, 7, 5)))
    with pytest.raises(ValueError, match=r"can be perturbed.*Received: .*no"):
        costs.layer_costs(network).predict(["no"])

    class Unknown(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)
            self.dense.build((None, 8))
            self.built = True

        def call(self, inputs):
            return self.dense(inputs)

    with pytest.raises(ValueError, match=r"know its inputs.*Received"):
        costs.layer_costs(Unknown())
    assert costs.layer_costs(Unknown(), vectors()).layers


def test_speeds_are_those_of_the_part_of_the_network():
    """By hand: three layers, a unit of work for each of their products."""
    layer = [frozenset([i]) for i in range(3)]
    upstream = [frozenset(range(i + 1)) for i in range(3)]
    work = costs.Work(
        forward=dict.fromkeys(upstream, 1.0),
        # Of the kernels, and of the inputs of the second and third layer.
        backward={
            layer[0]: 2.0,
            layer[1]: 1.0,
            layer[2]: 1.0,
            upstream[1]: 1.0,
        },
        trained=upstream[2],
    )
    cuts = [(2,), (1, 2), (0, 1, 2)]
    assert [work.cost(cut) for cut in cuts] == [1 + 2 / 8, 1 + 5 / 8, 2.0]
    timed = work.timed(zip(cuts, (0.5, 0.75, 1.5), strict=True))
    assert [timed.cost(cut) for cut in cuts] == pytest.approx([1.5, 1.75, 2.5])
    assert timed.plain == pytest.approx(work.plain)
    # Twice as long for a unit in the last part and the first; 2/3 between.
    assert timed.cost([0]) == pytest.approx(1 + (2 + 2 / 3 + 2 + 4 + 2 / 3) / 8)
    assert timed.cost([1]) == pytest.approx(1 + (2 + 2 / 3 + 2 / 3 * 2) / 8)
    assert timed.cost([]) == 1.0


def test_what_is_repeated_is_as_fast_as_the_first_part():
    weights = frozenset([0])
    work = costs.Work(
        forward={weights | {REPEATED}: 1.0, frozenset([REPEATED]): 1.0},
        backward={weights: 2.0},
        trained=weights,
    )
    assert work.cost(weights) == 2.0
    assert work.timed([(weights, 0.5)]).cost(weights) == pytest.approx(1.5)
    # A weight that has no gradient is not moved, and its steps tell nothing.
    assert work.timed([([1], 0.5)]).cost(weights) == 2.0
