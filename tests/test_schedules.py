"""When to perturb, and how far."""

import keras
import numpy as np
import pytest

from keras_lwsam import methods, schedules
from keras_lwsam.schedules import Clock
from tests.backends import synchronize, to_numpy, traced
from tests.support import (
    MODES,
    XLA,
    assert_close,
    assert_equal,
    build_dense,
    weights_of,
)

GENERATOR = np.random.default_rng(3)
X = GENERATOR.normal(size=(48, 10)).astype("float32")
Y = GENERATOR.integers(0, 4, 48)
EVERY = {
    "every 2": schedules.EverySteps(2),
    "half of them": schedules.WithProbability(0.5, seed=1),
    "from epoch 1": schedules.FromEpoch(1),
    "last third": schedules.FromShare(2 / 3),
}
EXPECTED = {
    "every 2": [1, 0, 1, 0, 1, 0, 1, 0, 1],
    "from epoch 1": [0, 0, 0, 1, 1, 1, 1, 1, 1],
    "last third": [0, 0, 0, 0, 0, 0, 1, 1, 1],
}


def fit(model, epochs=3, batch_size=16, **kwargs):
    norms = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: norms.append(
            logs["gradient_norm"] * (batch + 1)
        )
    )
    model.fit(
        X,
        Y,
        batch_size=batch_size,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[note],
        **kwargs,
    )
    # The logs average over the epoch; a perturbed step adds its norm.
    steps = np.reshape(norms, (epochs, -1))
    added = np.diff(steps, axis=1, prepend=0.0)
    return (added.ravel() > 1e-4).astype(int).tolist()


def by_hand(perturbed):
    """The same training, each step by a model of its own kind."""
    sam, plain = build_dense(rho=0.1), build_dense(rho=0.0)
    for model in (sam, plain):
        model.optimizer.build(model.trainable_variables)
    for step, is_perturbed in enumerate(perturbed):
        now, other = (sam, plain) if is_perturbed else (plain, sam)
        rows = slice(16 * (step % 3), 16 * (step % 3) + 16)
        now.train_on_batch(X[rows], Y[rows])
        other.model.set_weights(now.model.get_weights())
        for a, b in zip(
            other.optimizer.variables, now.optimizer.variables, strict=True
        ):
            a.assign(b)
    return weights_of(sam.model)


@pytest.mark.parametrize("name", EVERY)
def test_perturbed_steps_are_those_of_the_schedule(name):
    model = build_dense(rho=0.1, schedule=EVERY[name])
    perturbed = fit(model)
    if name in EXPECTED:
        assert perturbed == EXPECTED[name]
    else:
        assert 0 < sum(perturbed) < 9
    assert model.trace_count == traced(2)
    assert_close(weights_of(model.model), by_hand(perturbed), 1e-6)


@pytest.mark.parametrize("mode", [XLA, "eager"])
def test_schedules_in_other_modes(mode):
    model = build_dense(rho=0.1, schedule=EVERY["every 2"], mode=MODES[mode])
    assert fit(model, 1) == [1, 0, 1]
    assert_close(weights_of(model.model), by_hand([1, 0, 1]), 1e-6)


@pytest.mark.not_torch
def test_several_steps_in_one_execution_follow_the_schedule():
    model = build_dense(
        rho=0.1,
        schedule=EVERY["every 2"],
        mode={"steps_per_execution": 2},
    )
    model.fit(X, Y, batch_size=16, epochs=3, shuffle=False, verbose=0)
    assert_close(weights_of(model.model), by_hand([1, 0] * 4 + [1]), 1e-6)


def test_a_run_that_was_stopped_keeps_its_schedule(tmp_path):
    whole = build_dense(rho=0.1, schedule=schedules.EverySteps(2))
    fit(whole, 2)
    part = build_dense(rho=0.1, schedule=schedules.EverySteps(2))
    fit(part, 1)
    part.save(tmp_path / "run.keras")
    again = keras.saving.load_model(tmp_path / "run.keras")
    assert again.schedule == schedules.EverySteps(2)
    fit(again, 1)
    assert_equal(weights_of(again.model), weights_of(whole.model))


def test_probability_is_what_it_says():
    always = schedules.WithProbability(1.0)
    never = schedules.WithProbability(0.0)
    some = schedules.WithProbability(0.3)
    clocks = [Clock(step=t) for t in range(2000)]
    assert all(always.perturbs(c) for c in clocks)
    assert not any(never.perturbs(c) for c in clocks)
    drawn = [some.perturbs(c) for c in clocks]
    assert np.mean(drawn) == pytest.approx(0.3, abs=0.04)
    assert drawn == [some.perturbs(c) for c in clocks]
    other = schedules.WithProbability(0.3, seed=1)
    assert drawn != [other.perturbs(c) for c in clocks]


def test_progress_of_the_clock():
    clock = Clock().at_epoch(0, 4, 10)
    assert clock.progress == 0.0
    assert clock.after(5).progress == 0.125
    assert clock.after(5).epoch_progress == 0.0
    assert clock.at_epoch(3, 4, 10).after(10).progress == 1.0
    assert clock.at_epoch(2, 4, None).after(7).progress == 0.5
    assert Clock(step=99).progress == 0.0
    assert Clock.from_array(clock.after(3).to_array()) == clock.after(3)


RADII = {
    "learning rate schedule": (
        keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.1, 0.3]),
        [0.1, 0.1, 0.1, 0.3, 0.3],
    ),
    "proportional": (schedules.ProportionalToLearningRate(2.0), None),
    "follow": (schedules.FollowLearningRate(0.02, 0.1, 0.0, 0.2), None),
}


@pytest.mark.parametrize("name", RADII)
def test_radius_of_each_step(name):
    rho, expected = RADII[name]
    rates = [0.2, 0.2, 0.15, 0.1, 0.0]
    if name == "proportional":
        expected = [2.0 * rate for rate in rates]
    if name == "follow":
        expected = [0.02 + 0.08 * rate / 0.2 for rate in rates]
    model = build_dense(methods.SAM(rho), optimizer=keras.optimizers.SGD(0.2))
    twin = build_dense(rho=0.05, optimizer=keras.optimizers.SGD(0.2))
    for step, (rate, radius) in enumerate(zip(rates, expected, strict=True)):
        rows = slice(8 * step, 8 * step + 8)
        twin = build_dense(
            methods.SAM(radius), optimizer=keras.optimizers.SGD(rate)
        )
        twin.model.set_weights(model.model.get_weights())
        model.optimizer.learning_rate = rate
        logs = model.train_on_batch(X[rows], Y[rows], return_dict=True)
        expected_logs = twin.train_on_batch(X[rows], Y[rows], return_dict=True)
        assert logs["sharpness"] == pytest.approx(
            expected_logs["sharpness"], rel=1e-4, abs=1e-6
        )
        assert_close(weights_of(model.model), weights_of(twin.model), 1e-6)


@pytest.mark.parametrize("name", RADII)
def test_methods_with_a_scheduled_radius_are_saved(name):
    for make in (methods.SAM, methods.GSAM, methods.GAM):
        method = make(RADII[name][0])
        config = keras.saving.serialize_keras_object(method)
        assert keras.saving.deserialize_keras_object(config) == method
        assert not method.is_plain


@pytest.mark.parametrize("make", [methods.AESAM, methods.AELookSAM])
def test_an_adaptive_threshold_moves_with_the_training(make):
    """From never to always; only the first step, without a past, is SAM's."""
    model = build_dense(make(0.1, lambda1=-1e9, lambda2=1e9))
    history = model.fit(
        X, Y, batch_size=16, epochs=4, shuffle=False, verbose=0
    ).history
    assert history["sharpness"][0] > 1e-4
    assert history["sharpness"][1] == 0.0
    assert min(history["sharpness"][2:]) > 1e-4


def test_fewer_entries_are_exchanged_as_training_goes_on():
    """0.5 (1 + cos(pi e / 2)) / 2 of the live ones: a half, then a quarter."""
    model = build_dense(
        methods.DynamicSparseSAM(0.1, sparsity=0.5, drop_rate=0.5)
    )
    model.optimizer.build(model.trainable_variables)
    masks = []

    def note(batch, logs=None):
        synchronize(model)
        state = model._state.memory()["masks"]
        masks.append(np.concatenate([np.ravel(to_numpy(m)) for m in state]))

    model.fit(
        X,
        Y,
        batch_size=16,
        epochs=2,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=note)],
    )
    total, live = len(masks[0]), int(len(masks[0]) * 0.5)
    assert all(mask.sum() == live for mask in masks)
    # Within an epoch nothing changes.
    np.testing.assert_array_equal(masks[0], masks[2])
    np.testing.assert_array_equal(masks[3], masks[5])
    dropped = ((masks[2] == 1) & (masks[3] == 0)).sum()
    assert dropped == int(np.float32(0.25) * live)
    assert total == 348


def test_a_fisher_mask_is_zero_first_and_then_has_its_share():
    model = build_dense(
        methods.FisherSparseSAM(0.1, sparsity=0.75, num_samples=8)
    )
    masks = []

    def note(batch, logs=None):
        synchronize(model)
        state = model._state.memory()["masks"]
        masks.append(np.concatenate([np.ravel(to_numpy(m)) for m in state]))

    masks_of = model._state.memory()["masks"]
    assert not any(np.any(to_numpy(m)) for m in masks_of)
    model.fit(
        X,
        Y,
        batch_size=16,
        epochs=2,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=note)],
    )
    assert all(mask.sum() == int(348 * 0.25) for mask in masks)
    np.testing.assert_array_equal(masks[0], masks[2])
    assert (masks[2] != masks[3]).any()
