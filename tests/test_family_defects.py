"""Defects of the family that were found by reading, each with its name."""

import keras
import numpy as np
import pytest

from keras_lwsam import LWSAMModel, methods, schedules, selection
from keras_lwsam.schedules import Clock
from tests.backends import to_numpy
from tests.support import (
    assert_close,
    assert_equal,
    cross_entropy,
    dense_network,
    mirrored,
    momentum_sgd,
    weights_of,
)

GENERATOR = np.random.default_rng(3)
X = GENERATOR.normal(size=(48, 10)).astype("float32")
Y = GENERATOR.integers(0, 4, 48)
EAGER = {"run_eagerly": True}


def compiled(method, optimizer=None, network=None, loss=None, **kwargs):
    mode = {k: kwargs.pop(k) for k in ("run_eagerly",) if k in kwargs}
    kwargs.setdefault("layers", "all")
    model = LWSAMModel(network or dense_network(), method, **kwargs)
    loss = loss or cross_entropy()
    model.compile(optimizer or momentum_sgd(), loss, **mode)
    return model


def fit(model, epochs=2, **kwargs):
    options = {"batch_size": 16, "shuffle": False, "verbose": 0, **kwargs}
    return model.fit(X, Y, epochs=epochs, **options).history


def live_entries(model):
    masks = [to_numpy(m) for m in model._state.memory()["masks"]]
    assert all(np.isin(m, (0.0, 1.0)).all() for m in masks)
    return int(sum(m.sum() for m in masks))


SPARSE = {
    "fisher once": lambda: methods.FisherSparseSAM(num_samples=4, refresh=None),
    "fisher": lambda: methods.FisherSparseSAM(num_samples=4),
    "fisher every 3": lambda: methods.FisherSparseSAM(num_samples=4, refresh=3),
    "dynamic once": lambda: methods.DynamicSparseSAM(refresh=None),
    "dynamic": methods.DynamicSparseSAM,
}
LATE = {
    "from epoch 1": schedules.FromEpoch(1),
    "by chance": schedules.WithProbability(0.4, seed=1),
}


@pytest.mark.parametrize(
    "late",
    ["from epoch 1", pytest.param("by chance", marks=pytest.mark.exhaustive)],
)
@pytest.mark.parametrize("sparse", SPARSE)
def test_masks_of_steps_that_a_schedule_put_off(sparse, late):
    model = compiled(SPARSE[sparse](), schedule=LATE[late], run_eagerly=True)
    fit(model)
    assert live_entries(model) == 348 // 2


def test_due_refreshes_are_put_off_not_lost():
    method = methods.Scheduled(
        methods.FisherSparseSAM(refresh=3), schedules.EverySteps(2)
    )
    clock, phases = Clock(), []
    for _ in range(13):
        phase = method.phase(clock)
        phases.append(phase if isinstance(phase, str) else phase[1])
        clock = clock.after(1, idle=phases[-1] == "rests")
    assert phases[::2] == ["first", *["keep", "refresh", "refresh"] * 2]


def test_masks_of_thawed_layers():
    network = dense_network()
    network.layers[0].trainable = False
    model = compiled(methods.DynamicSparseSAM(refresh=None), network=network)
    fit(model, 1)
    network.layers[0].trainable = True
    model.compile(momentum_sgd(), cross_entropy())
    fit(model, 1)
    assert live_entries(model) == 348 // 2


def test_masks_under_batch_splits():
    model = compiled(
        methods.DynamicSparseSAM(refresh=1),
        num_batch_splits=3,
        run_eagerly=True,
    )
    fit(model)
    assert live_entries(model) == 348 // 2


PER_SAMPLE = {
    "esam": methods.ESAM(0.1, beta=1.0),
    "ksam": methods.KSAM(0.1),
    "delta_sam": methods.DeltaSAM(0.1),
    "ausam": methods.AUSAM(0.1),
}


@pytest.mark.parametrize(
    "name",
    [
        # On JAX its slopes are those behind the softmax.
        pytest.param(name, marks=pytest.mark.not_jax)
        if name == "delta_sam"
        else name
        for name in PER_SAMPLE
    ],
)
def test_losses_of_samples_behind_a_softmax(name):
    ends = []
    for activation, from_logits in ((None, True), ("softmax", False)):
        keras.utils.set_random_seed(3)
        network = dense_network()
        network.layers[-1].activation = keras.activations.get(activation)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits)
        model = compiled(PER_SAMPLE[name], network=network, loss=loss)
        model.train_on_batch(X[:16], Y[:16])
        ends.append(weights_of(network))
    assert_close(*ends, 1e-6)


@pytest.mark.parametrize("positions", [6, 5])
def test_losses_of_samples_with_a_value_for_each_position(positions):
    """The same choice of samples as from the means over positions."""
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [keras.Input((positions, 10)), keras.layers.Dense(4)]
    )
    x = GENERATOR.normal(size=(6, positions, 10)).astype("float32")
    y = GENERATOR.integers(0, 4, (6, positions))
    values = keras.losses.sparse_categorical_crossentropy(
        y, network(x), from_logits=True
    )
    chosen = np.sort(np.argsort(-np.mean(to_numpy(values), axis=1))[:3])
    twin = keras.models.clone_model(network)
    twin.set_weights(network.get_weights())
    compiled(methods.KSAM(0.1), network=network).train_on_batch(x, y)
    compiled(methods.SAM(0.1), network=twin).train_on_batch(
        x[chosen], y[chosen]
    )
    assert_close(weights_of(network), weights_of(twin), 1e-6)


@pytest.mark.parametrize("reduction", ["mean_with_sample_weight"])
def test_reductions_that_hide_the_losses_of_samples(reduction):
    loss = keras.losses.SparseCategoricalCrossentropy(True, reduction=reduction)
    for method in (methods.KSAM(), methods.ImbSAM([9, 30, 30, 30])):
        model = compiled(method, loss=loss)
        with pytest.raises(ValueError, match=r"every sample.*reduction"):
            model.train_on_batch(X[:16], Y[:16])


def test_decoupled_displacement_and_accumulated_gradients():
    optimizer = momentum_sgd(gradient_accumulation_steps=2)
    model = compiled(methods.WSAM(), optimizer)
    before = weights_of(model.model)
    with pytest.raises(ValueError, match=r"accumulates.*Received"):
        model.train_on_batch(X[:16], Y[:16])
    assert_equal(weights_of(model.model), before)


def test_decoupled_displacement_keeps_constraints():
    network = dense_network()
    kernel = network.layers[1].kernel
    kernel.constraint = keras.constraints.NonNeg()
    model = compiled(methods.WSAM(0.5), network=network)
    for _ in range(3):
        model.train_on_batch(X[:16], Y[:16])
        assert kernel.numpy().min() >= 0.0


class WithoutRegularization(keras.Model):
    """A network whose own loss leaves regularization out."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(
            4, kernel_regularizer=keras.regularizers.L2(10.0)
        )

    def call(self, x):
        return self.dense(x)

    def compute_loss(self, x, y, y_pred, sample_weight, training=True):
        return cross_entropy()(y, y_pred, sample_weight)


def test_nothing_is_subtracted_that_was_not_added():
    ends = []
    for strength in (10.0, 0.0):
        keras.utils.set_random_seed(0)
        network = WithoutRegularization()
        network(X)
        network.dense.kernel_regularizer.l2 = strength
        network.dense.kernel.regularizer = network.dense.kernel_regularizer
        model = compiled(methods.ImbSAM([9, 9, 30, 30], 0.1), network=network)
        model.train_on_batch(X[:16], Y[:16])
        ends.append(weights_of(network))
    assert_close(*ends, 1e-7)


def test_norms_of_layers_are_those_of_gradients():
    """Not of what is handed to the optimizer."""
    for method in (
        methods.SLSAM(1e-6, share=0.3),
        methods.EntropySGD(steps=2),
        methods.GAM(1e-6, 1e-6),
    ):
        norms = []
        for each in (method, methods.SAM(1e-6)):
            model = compiled(each, run_eagerly=True)
            model.train_on_batch(X[:16], Y[:16])
            norms.append(list(model.layer_gradient_norms.values()))
        np.testing.assert_allclose(*norms, rtol=1e-3)


@pytest.mark.not_torch
def test_clocks_agree_after_a_partial_execution():
    """Ten batches in executions of four: the last has two."""
    model = compiled("sam")
    model.compile(momentum_sgd(), cross_entropy(), steps_per_execution=4)
    fit(model, 3, batch_size=5)
    assert model._state.steps_taken() == 30
    model._training.begin_epoch(3, 4, 10)
    assert model._training.clock.step == 30


def test_the_length_of_training_ends_with_it():
    method = methods.Scheduled(methods.SAM(0.1), schedules.FromShare(0.5))
    model = compiled(method)
    fit(model, 2)
    clock = model._training.clock
    assert clock.progress == 0.0
    assert method.phase(clock) == "rests"
    assert float(model._state.time().progress) == 0.0


def test_a_radius_stays_between_its_bounds():
    follow = schedules.FollowLearningRate(0.01, 0.1, 0.01, 0.1)
    assert float(follow(0.0)) == pytest.approx(0.01)
    assert float(follow(0.5)) == pytest.approx(0.1)


@pytest.mark.parametrize("structure", [list, dict])
def test_bisam_looks_into_structures_of_losses(structure):
    loss = keras.losses.SparseCategoricalCrossentropy()
    network = dense_network()
    network = keras.Model(network.inputs[0], network.outputs)
    loss = [loss] if structure is list else {network.output_names[0]: loss}
    model = compiled(methods.BiSAM(), network=network, loss=loss)
    with pytest.raises(ValueError, match="needs logits"):
        model.train_on_batch(X[:16], Y[:16])


def test_imbsam_needs_a_count_for_every_label():
    model = compiled(methods.ImbSAM([9, 30]), run_eagerly=True)
    with pytest.raises(ValueError, match=r"class_counts.*Received"):
        model.train_on_batch(X[:16], Y[:16])


def test_sampa_goes_on_with_batches_of_another_structure(tmp_path):
    model = compiled(methods.SAMPa())
    fit(model, 1)
    model.save(tmp_path / "run.keras")
    again = keras.saving.load_model(tmp_path / "run.keras")
    with pytest.raises(ValueError, match=r"another structure.*Received"):
        again.fit(X, Y, sample_weight=np.ones(48), verbose=0)


def test_sampa_in_a_loop_of_ones_own_is_refused():
    model = compiled(methods.SAMPa())
    with pytest.raises(ValueError, match=r"batch of the step before.*Received"):
        model.train_step((X[:16], Y[:16]))


def test_sampa_in_parts_of_a_smaller_last_batch():
    model = compiled(methods.SAMPa(), num_batch_splits=4, run_eagerly=True)
    history = model.fit(X[:18], Y[:18], batch_size=16, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_sampa_starts_where_a_schedule_lets_it():
    """A plain step is the start of its recursion, as its own first step is."""
    late = compiled(methods.SAMPa(0.3), schedule=schedules.FromEpoch(1))
    options = {"batch_size": 16, "epochs": 2, "shuffle": False, "verbose": 0}
    late.fit(X[:16], Y[:16], **options)
    once = compiled(methods.SAMPa(0.3))
    for _ in range(2):
        once.train_on_batch(X[:16], Y[:16])
    assert_close(weights_of(late.model), weights_of(once.model), 1e-6)


@pytest.mark.tensorflow
@pytest.mark.parametrize(("name", "bad"), [("wsam", 0), ("friendly_sam", 1)])
def test_an_overflow_on_one_replica_skips_the_step_on_all(name, bad):
    """Weights, the method's memory and the replicas themselves stay."""
    keras.config.set_dtype_policy("mixed_float16")
    with mirrored().scope():
        model = compiled(methods.get(name, rho=0.1))
    model.fit(X[:16], Y[:16], batch_size=16, verbose=0)
    watched = [v for v in model.variables if "memory" in v.path]
    watched += model.model.trainable_variables
    before = [[r.numpy() for r in v.value.values] for v in watched]
    x = X[:16].copy()
    x[8 * bad] = np.inf
    model.fit(x, Y[:16], batch_size=16, shuffle=False, verbose=0)
    for variable, replicas in zip(watched, before, strict=True):
        for replica, old in zip(variable.value.values, replicas, strict=True):
            np.testing.assert_array_equal(replica.numpy(), old)
    model.fit(X[:16], Y[:16], batch_size=16, verbose=0)
    assert (model.model.get_weights()[0] != before[-6][0]).any()


def test_selection_follows_gradients_under_slsam():
    """Layers that were not active do not lose their norm."""
    chosen = []
    for method in (methods.SLSAM(1e-5, share=0.5), methods.SAM(1e-5)):
        model = compiled(
            method,
            keras.optimizers.SGD(1e-4),
            layers=selection.LargestGradientNorm(1),
            run_eagerly=True,
        )
        fit(model)
        chosen.append(model.selected_layers)
    assert chosen[0] == chosen[1]
