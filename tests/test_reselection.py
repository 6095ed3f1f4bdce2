"""Layers are chosen again while training."""

import keras
import numpy as np
import pytest

from keras_lwsam import LWSAMModel, methods, selection
from tests.backends import traced
from tests.support import (
    MODES,
    assert_equal,
    convolutional_network,
    cross_entropy,
    image_data,
    momentum_sgd,
    weights_of,
)


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
    assert 3 <= distinct <= len(model.layer_paths)
    assert model.trace_count == traced(distinct)


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
        assert model.trace_count == traced(1)


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


@pytest.mark.not_torch
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
    assert model.watched is False
    fit(model, 1)
    assert model.trace_count == traced(2)  # With and without measuring.


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
