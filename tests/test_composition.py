"""Methods around methods: parts of the batch, and renormalization."""

import itertools

import keras
import numpy as np
import pytest

from keras_lwsam import LWSAMModel, methods, schedules
from tests.backends import gradients_of
from tests.cases import CASES, KINDS, daily, methods_daily
from tests.support import (
    MODES,
    assert_close,
    assert_equal,
    build_dense,
    cross_entropy,
    dense_network,
    distance,
    momentum_sgd,
    weights_of,
)

GENERATOR = np.random.default_rng(3)
X = GENERATOR.normal(size=(48, 10)).astype("float32")
Y = GENERATOR.integers(0, 4, 48)


def train(model):
    model.fit(X, Y, batch_size=16, shuffle=False, verbose=0)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("count", [3, 4])
def test_splits_are_the_mean_of_their_parts(count, mode):
    """Sixteen samples in three parts are five, five and six."""
    model = build_dense(rho=0.1, num_batch_splits=count, mode=mode)
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
    def gradient():
        return gradients_of(
            network, lambda: cross_entropy()(y, network(x, training=True))
        )

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
    daily(
        # In a graph: where the size of a batch is not known before it is there.
        itertools.product(CASES, ("eager", "graph")),
        lambda name, mode: (
            name in (KINDS if mode == "eager" else ("ksam", "imbsam"))
        ),
    ),
)
def test_every_method_takes_splits_and_schedules(name, mode):
    """Also of a last batch that is smaller than the number of parts."""
    model = build_dense(
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
    one = build_dense(methods.StableSAM(0.1, normalize=True), layers="dense2")
    other = build_dense(methods.Renormalized(methods.SAM(0.1)), layers="dense2")
    train(one)
    train(other)
    assert_equal(weights_of(one.model), weights_of(other.model))


@methods_daily(KINDS)
def test_renormalization_of_every_method(name):
    """The gradient that is applied is as long as the clean one, on S."""
    method = CASES[name].make()
    if name == "wsam":
        # The part outside the optimizer would be in the way of measuring.
        method = methods.WSAM(0.1, decouple=False)
    model = build_dense(
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
        model = build_dense(rho=0.1, num_batch_splits=count)
        train(model)
        ends.append(weights_of(model.model))
    assert_close(ends[0], ends[1], 1e-6)
    assert distance(ends[0], ends[2]) > 1e-5
