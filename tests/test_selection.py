"""Selections, and how `fit` follows them."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lwsam import LWSAMModel, methods, selection
from keras_lwsam._layers import LayerWeights, all_layers
from tests.support import (
    MODES,
    assert_equal,
    convolutional_network,
    cross_entropy,
    dense_network,
    image_data,
    momentum_sgd,
    weights_of,
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


def compiled(layers, method="sam", **mode):
    model = LWSAMModel(convolutional_network(), method, layers=layers)
    model.compile(momentum_sgd(), cross_entropy(), **mode)
    return model


class Recorder(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.selections = []

    def on_epoch_end(self, epoch, logs=None):
        self.selections.append(tuple(self.model.selected_layers))


def fit(model, epochs=1, callbacks=(), initial_epoch=0):
    x, y = image_data(48)
    return model.fit(
        x,
        y,
        batch_size=16,
        epochs=epochs,
        initial_epoch=initial_epoch,
        verbose=0,
        shuffle=False,
        callbacks=list(callbacks),
    )


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_each_epoch_perturbs_the_critical_layers_of_the_one_before(mode):
    model = compiled(2, **mode)
    norms = []

    class Check(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 0:
                assert model.selected_layers == model.layer_paths[-2:]
            else:
                best = sorted(norms[-1], key=norms[-1].get)[-1]
                assert best in model.selected_layers

        def on_epoch_end(self, epoch, logs=None):
            norms.append(model.epoch_layer_gradient_norms)

    fit(model, 3, [Check()])
    assert len(norms) == 3


def test_traces_are_bounded_by_distinct_selections():
    """Going back to an earlier set of layers does not trace again."""
    model = compiled(selection.Random(1, refresh="epoch"))
    recorder = Recorder()
    fit(model, 30, [recorder])
    distinct = len(set(recorder.selections))
    assert 3 <= distinct <= NUM_LAYERS
    assert model.trace_count == distinct


def test_refresh_after_so_many_steps():
    model = compiled(selection.Random(2, refresh=4))
    seen = []

    class Steps(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(tuple(model.selected_layers))

    fit(model, 4, [Steps()])
    changes = [i for i in range(1, 12) if seen[i] != seen[i - 1]]
    assert changes
    assert all(i % 4 == 0 for i in changes)


def test_a_loop_of_ones_own_refreshes_by_hand():
    model = compiled(selection.LargestGradientNorm(1))
    x, y = image_data(16)
    model.train_on_batch(x, y)
    norms = model.layer_gradient_norms
    best = max(norms, key=norms.get)
    chosen = model.refresh_selection()
    assert chosen == model.selected_layers
    assert norms[chosen[0]] >= norms[best] / 1.1


def test_static_selections_never_change():
    for layers in ("all", "hidden", selection.OutputSide(2)):
        model = compiled(layers)
        recorder = Recorder()
        fit(model, 3, [recorder])
        assert len(set(recorder.selections)) == 1
        assert model.trace_count == 1


def test_adapting_equals_the_same_selections_given_by_hand():
    adaptive = compiled(selection.Random(2))
    recorder = Recorder()
    fit(adaptive, 4, [recorder])
    assert len(set(recorder.selections)) > 1
    network = convolutional_network()
    optimizer = momentum_sgd()
    for epoch, chosen in enumerate(recorder.selections):
        keras.utils.set_random_seed(9)
        model = LWSAMModel(network, layers=list(chosen))
        model.compile(optimizer, cross_entropy())
        fit(model, epoch + 1, initial_epoch=epoch)
    assert_equal(weights_of(network), weights_of(adaptive.model))


def test_freezing_between_fits():
    model = compiled(2)
    fit(model, 2)
    for name in ("logits", "hidden"):
        model.get_layer(name).trainable = False
    model.compile(momentum_sgd(), cross_entropy())
    before = weights_of(model.get_layer("logits"))
    fit(model, 2)
    assert "logits" not in model.layer_paths
    assert set(model.selected_layers) <= set(model.layer_paths)
    assert_equal(weights_of(model.get_layer("logits")), before)
    assert "logits" not in model.layer_gradient_norms


def test_everything_frozen_is_an_error():
    model = compiled(2)
    model.model.trainable = False
    model.compile(momentum_sgd(), cross_entropy())
    with pytest.raises(ValueError, match="no trainable layer"):
        fit(model)


def test_gaining_weights_is_an_error():
    model = compiled(2)
    dense = model.get_layer("hidden")
    dense.enable_lora(2)
    model.compile(momentum_sgd(), cross_entropy())
    with pytest.raises(ValueError, match="gained weights"):
        fit(model)


def test_kernels_only_with_gnp_trains():
    """The KDD 2024 paper's own rule."""
    rule = selection.KernelsOnly(selection.LargestGradientNorm(2))
    model = compiled(rule, methods.GNP())
    fit(model, 3)
    assert len(model.selected_layers) == 2
    assert not any("norm" in path for path in model.selected_layers)


def test_freezing_then_saving_keeps_the_selection(tmp_path):
    for layers, frozen in (("conv2", "conv1"), (1, "conv1")):
        model = compiled(layers)
        fit(model, 2)
        model.get_layer(frozen).trainable = False
        chosen = model.selected_layers
        model.compile(momentum_sgd(), cross_entropy())
        model.optimizer.build(model.trainable_variables)
        model.save(tmp_path / "run.keras")
        again = keras.saving.load_model(tmp_path / "run.keras")
        if chosen != [frozen]:
            assert again.selected_layers == chosen
        assert frozen not in again.layer_paths


def test_steps_are_batches_in_a_loop_of_ones_own():
    model = compiled(selection.Random(1, refresh=4), steps_per_execution=4)
    x, y = image_data(16)
    for _ in range(4):
        model.train_on_batch(x, y)
        assert model._adaptation.refreshes == 0
    model.train_on_batch(x, y)
    assert model._adaptation.refreshes == 1


def test_a_list_of_callbacks_of_ones_own():
    model = compiled(selection.Random(1))
    recorder = Recorder()
    given = keras.callbacks.CallbackList(
        [recorder], add_history=True, model=model
    )
    before = list(given.callbacks)
    x, y = image_data(16)
    model.fit(x, y, epochs=6, callbacks=given, verbose=0)
    assert len(set(recorder.selections)) > 1
    assert given.callbacks == before


def test_an_interrupted_fit_stops_measuring():
    from keras_lwsam import callbacks

    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    model = LWSAMModel(convolutional_network(), rho=0.0)
    model.compile(momentum_sgd(), cross_entropy())
    with pytest.raises(KeyboardInterrupt):
        fit(model, 1, [callbacks.LayerNormTracker(), Interrupt()])
    assert model.measures_plain_steps is False
    fit(model, 1)
    assert model.trace_count == 2  # With and without measuring.


def test_the_norm_of_all_layers_leaves_overwritten_weights_out():
    class Overwriting(keras.layers.Layer):
        def build(self, input_shape):
            self.scale = self.add_weight(shape=(), initializer="ones")
            self.scale.overwrite_with_gradient = True

        def call(self, inputs):
            return inputs + 1e3 * (self.scale - self.scale * 0.999)

    network = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3), Overwriting()]
    )
    model = LWSAMModel(network, layers="all", perturbation_norm="all", rho=0.1)
    model.compile("sgd", "mse")
    weights = model._adaptation.perturbable_indices()
    assert len(weights) == 2
    log = model.train_on_batch(
        np.ones((4, 4)), np.zeros((4, 3)), return_dict=True
    )
    assert log["sharpness"] > 1e-2
