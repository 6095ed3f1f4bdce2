"""When to perturb, and how far; parts of the batch; renormalization."""

import keras
import numpy as np
import pytest

from keras_lwsam import LWSAMModel, methods, schedules
from keras_lwsam.schedules import Clock
from tests.cases import CASES
from tests.support import (
    MODES,
    assert_close,
    assert_equal,
    cross_entropy,
    dense_network,
    distance,
    momentum_sgd,
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


def build(method="sam", layers="all", optimizer=None, mode=None, **kwargs):
    model = LWSAMModel(dense_network(), method, layers=layers, **kwargs)
    model.compile(optimizer or momentum_sgd(), cross_entropy(), **(mode or {}))
    return model


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
    sam, plain = build(rho=0.1), build(rho=0.0)
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
    model = build(rho=0.1, schedule=EVERY[name])
    perturbed = fit(model)
    if name in EXPECTED:
        assert perturbed == EXPECTED[name]
    else:
        assert 0 < sum(perturbed) < 9
    assert model.trace_count == 2
    assert_close(weights_of(model.model), by_hand(perturbed), 1e-6)


@pytest.mark.parametrize("mode", ["xla", "eager"])
def test_schedules_in_other_modes(mode):
    model = build(rho=0.1, schedule=EVERY["every 2"], mode=MODES[mode])
    assert fit(model, 1) == [1, 0, 1]
    assert_close(weights_of(model.model), by_hand([1, 0, 1]), 1e-6)


def test_several_steps_in_one_execution_follow_the_schedule():
    model = build(
        rho=0.1,
        schedule=EVERY["every 2"],
        mode={"steps_per_execution": 2},
    )
    model.fit(X, Y, batch_size=16, epochs=3, shuffle=False, verbose=0)
    assert_close(weights_of(model.model), by_hand([1, 0] * 4 + [1]), 1e-6)


def test_a_run_that_was_stopped_keeps_its_schedule(tmp_path):
    whole = build(rho=0.1, schedule=schedules.EverySteps(2))
    fit(whole, 2)
    part = build(rho=0.1, schedule=schedules.EverySteps(2))
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
    model = build(methods.SAM(rho), optimizer=keras.optimizers.SGD(0.2))
    twin = build(rho=0.05, optimizer=keras.optimizers.SGD(0.2))
    for step, (rate, radius) in enumerate(zip(rates, expected, strict=True)):
        rows = slice(8 * step, 8 * step + 8)
        twin = build(methods.SAM(radius), optimizer=keras.optimizers.SGD(rate))
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


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("count", [3, 4])
def test_splits_are_the_mean_of_their_parts(count, mode):
    """Sixteen samples in three parts are five, five and six."""
    model = build(rho=0.1, num_batch_splits=count, mode=mode)
    network = dense_network()
    optimizer = momentum_sgd()
    optimizer.build(network.trainable_variables)
    for step in range(2):
        rows = slice(16 * step, 16 * step + 16)
        model.train_on_batch(X[rows], Y[rows])
        total = [0.0] * 6
        for part in np.split(
            np.arange(16 * step, 16 * step + 16),
            [i * 16 // count for i in range(1, count)],
        ):
            sharp = sharp_gradient(network, X[part], Y[part])
            total = [
                t + len(part) / 16 * s
                for t, s in zip(total, sharp, strict=True)
            ]
        optimizer.apply(
            [keras.ops.convert_to_tensor(t) for t in total],
            network.trainable_variables,
        )
        assert_close(weights_of(model.model), weights_of(network), 1e-6)


def sharp_gradient(network, x, y):
    import tensorflow as tf

    def gradient():
        with tf.GradientTape() as tape:
            loss = cross_entropy()(y, network(x, training=True))
        return [g.numpy() for g in tape.gradient(loss, network.weights)]

    values, clean = weights_of(network), gradient()
    length = np.sqrt(sum((g**2).sum() for g in clean))
    network.set_weights(
        [v + 0.1 * g / length for v, g in zip(values, clean, strict=True)]
    )
    sharp = gradient()
    network.set_weights(values)
    return sharp


@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, "eager") for name in CASES]
    # Where the size of a batch is not known before it is there.
    + [(name, "graph") for name in ("sam", "sampa", "ksam", "imbsam")],
)
def test_every_method_takes_splits_and_schedules(name, mode):
    """Also of a last batch that is smaller than the number of parts."""
    model = build(
        CASES[name].make(),
        schedule=schedules.EverySteps(2),
        num_batch_splits=3,
        mode=MODES[mode],
    )
    logs = model.fit(X[:34], Y[:34], batch_size=16, verbose=0).history
    assert np.isfinite(logs["loss"]).all()
    assert all(np.isfinite(w).all() for w in weights_of(model.model))
    again = LWSAMModel.from_config(model.get_config())
    assert again.num_batch_splits == 3
    assert again.schedule == schedules.EverySteps(2)


def test_splits_take_any_structure_and_report_the_whole_batch():
    keras.utils.set_random_seed(0)
    inputs = {
        "a": keras.Input((3,), name="a"),
        "b": keras.Input((2,), name="b"),
    }
    joined = keras.layers.Concatenate()([inputs["a"], inputs["b"]])
    outputs = {
        "one": keras.layers.Dense(1, name="one")(joined),
        "two": keras.layers.Dense(2, name="two")(joined),
    }
    network = keras.Model(inputs, outputs)
    model = LWSAMModel(network, layers="all", rho=0.0, num_batch_splits=4)
    split = LWSAMModel(network, layers="all", rho=1e-7, num_batch_splits=4)
    x = {"a": X[:12, :3], "b": X[:12, 3:5]}
    y = {"one": X[:12, 5:6], "two": X[:12, 6:8]}
    logs = []
    for each in (model, split):
        each.compile(
            keras.optimizers.SGD(0.0),
            loss={"one": "mse", "two": "mae"},
            metrics={"one": ["mae"], "two": ["mse"]},
        )
        logs.append(
            each.train_on_batch(
                x, y, sample_weight=np.ones(12, "float32"), return_dict=True
            )
        )
    for key, value in logs[0].items():
        if key not in ("sharpness", "gradient_norm"):
            assert logs[1][key] == pytest.approx(value, rel=1e-4), key


def test_stable_sam_is_renormalized_sam():
    one = build(methods.StableSAM(0.1, normalize=True), layers="dense2")
    other = build(methods.Renormalized(methods.SAM(0.1)), layers="dense2")
    fit(one, 1)
    fit(other, 1)
    assert_equal(weights_of(one.model), weights_of(other.model))


@pytest.mark.parametrize("name", CASES)
def test_renormalization_of_every_method(name):
    """The gradient that is applied is as long as the clean one, on S."""
    method = CASES[name].make()
    if name == "wsam":
        # The part outside the optimizer would be in the way of measuring.
        method = methods.WSAM(0.1, decouple=False)
    model = build(
        methods.Renormalized(method),
        optimizer=keras.optimizers.SGD(1.0),
        mode=MODES["eager"],
    )
    takes_no_clean_gradient = name in (
        "sampa",
        "smooth_out",
        "momentum_sam",
        "async_sam",
        "bisam",
        "delta_sam",
        "imbsam",
    )
    if takes_no_clean_gradient:
        with pytest.raises(ValueError, match="clean gradient"):
            model.train_on_batch(X[:16], Y[:16])
        return
    before = weights_of(model.model)
    logs = model.train_on_batch(X[:16], Y[:16], return_dict=True)
    moved = zip(weights_of(model.model), before, strict=True)
    length = np.sqrt(sum(np.sum((a - b) ** 2) for a, b in moved))
    assert length == pytest.approx(logs["gradient_norm"], rel=1e-4)


def test_methods_around_methods_are_saved():
    method = methods.Renormalized(
        methods.Scheduled(methods.FriendlySAM(), schedules.FromEpoch(2))
    )
    config = keras.saving.serialize_keras_object(method)
    assert keras.saving.deserialize_keras_object(config) == method


def test_control_splits_matter():
    ends = []
    for count in (None, 1, 4):
        model = build(rho=0.1, num_batch_splits=count)
        fit(model, 1)
        ends.append(weights_of(model.model))
    assert_close(ends[0], ends[1], 1e-6)
    assert distance(ends[0], ends[2]) > 1e-5


@pytest.mark.parametrize("make", [methods.AESAM, methods.AELookSAM])
def test_an_adaptive_threshold_moves_with_the_training(make):
    """From never to always; only the first step, without a past, is SAM's."""
    model = build(make(0.1, lambda1=-1e9, lambda2=1e9))
    history = model.fit(
        X, Y, batch_size=16, epochs=4, shuffle=False, verbose=0
    ).history
    assert history["sharpness"][0] > 1e-4
    assert history["sharpness"][1] == 0.0
    assert min(history["sharpness"][2:]) > 1e-4


def test_fewer_entries_are_exchanged_as_training_goes_on():
    """0.5 (1 + cos(pi e / 2)) / 2 of the live ones: a half, then a quarter."""
    model = build(methods.DynamicSparseSAM(0.1, sparsity=0.5, drop_rate=0.5))
    model.optimizer.build(model.trainable_variables)
    masks = []

    def note(batch, logs=None):
        state = model._state.memory()["masks"]
        masks.append(np.concatenate([np.ravel(m) for m in state]))

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
    model = build(methods.FisherSparseSAM(0.1, sparsity=0.75, num_samples=8))
    masks = []

    def note(batch, logs=None):
        state = model._state.memory()["masks"]
        masks.append(np.concatenate([np.ravel(m) for m in state]))

    assert not any(np.any(m) for m in model._state.memory()["masks"])
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
