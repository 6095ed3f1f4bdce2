"""What every method keeps to: one table, one contract."""

import keras
import numpy as np
import pytest

from keras_lwsam import LWSAMModel, methods, selection
from tests.backends import note, traced, wait
from tests.cases import CASES, KINDS, methods_daily
from tests.support import (
    assert_close,
    assert_equal,
    cross_entropy,
    distance,
    momentum_sgd,
    weights_of,
)

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(48, 10)).astype("float32")
Y = GENERATOR.integers(0, 4, 48)

every_method = pytest.mark.parametrize("name", CASES)


class Spy(keras.layers.Dense):
    """A dense layer that notes its kernel whenever it is called to train."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = []

    def call(self, inputs, training=None):
        if training:
            note(self.seen, self.kernel)
        return super().call(inputs)


def network(dense=keras.layers.Dense, normalization=True):
    """Dense layers, BatchNorm and dropout, small enough to trace quickly."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((10,)), dense(8, activation="tanh", name="first")]
    )
    if normalization:
        model.add(keras.layers.BatchNormalization(name="norm"))
        model.add(keras.layers.Dropout(0.2, seed=1))
    model.add(dense(6, activation="tanh", name="second"))
    model.add(dense(4, name="logits"))
    return model


def compiled(method, layers="all", net=None, **kwargs):
    model = LWSAMModel(net or network(), method, layers=layers)
    model.compile(momentum_sgd(), cross_entropy(), **kwargs)
    return model


def fit(model, epochs=2, begin=0, **kwargs):
    return model.fit(
        X,
        Y,
        batch_size=16,
        epochs=epochs,
        initial_epoch=begin,
        shuffle=False,
        verbose=0,
        **kwargs,
    ).history


def test_the_table_has_every_method():
    assert set(CASES) == set(methods.NAMES)
    for name, case in CASES.items():
        assert type(case.make()) is methods.NAMES[name]


@every_method
def test_comparable_printable_and_serializable(name):
    method = CASES[name].make()
    config = keras.saving.serialize_keras_object(method)
    again = keras.saving.deserialize_keras_object(config)
    assert again == method
    assert hash(again) == hash(method)
    assert repr(again) == repr(method)
    assert type(method).__name__ in repr(method)
    others = [c.make() for n, c in CASES.items() if n != name]
    assert method not in others


@pytest.fixture(scope="module")
def plain():
    keras.utils.set_random_seed(0)
    model = network()
    model.compile(momentum_sgd(), cross_entropy())
    keras.utils.set_random_seed(1)
    history = fit(model)
    return weights_of(model), history["loss"]


PLAIN = [name for name, case in CASES.items() if case.plain]


@pytest.mark.parametrize("name", PLAIN)
def test_without_a_radius_it_is_known_to_be_plain(name):
    """Before the step is traced: what runs then is one and the same program."""
    model = LWSAMModel(network(), CASES[name].plain(), layers="all")
    assert model._training.is_plain
    assert not CASES[name].make().is_plain


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ("gsam", "dynamic_sparse_sam", "momentum_sam", "smooth_out")
        else pytest.param(name, marks=pytest.mark.exhaustive)
        for name in PLAIN
    ],
)
def test_without_a_radius_it_is_fit_bit_for_bit(name, plain):
    model = compiled(CASES[name].plain())
    keras.utils.set_random_seed(1)
    history = fit(model)
    assert_equal(weights_of(model.model), plain[0])
    assert history["loss"] == plain[1]


@every_method
def test_no_layer_is_fit_bit_for_bit(name, plain):
    """Decided before the step is traced, for every method alike."""
    model = LWSAMModel(network(), CASES[name].make(), layers=[])
    assert model._training.is_plain
    assert not model._training.feeds_previous_batch


@every_method
def test_a_zero_gradient_gives_a_finite_step(name):
    model = compiled(
        CASES[name].make(), net=network(normalization=False), run_eagerly=True
    )
    before = weights_of(model.model)
    for _ in range(3):
        model.train_on_batch(X[:8], Y[:8], sample_weight=np.zeros(8, "float32"))
    # Chance alone moves the Langevin walk.
    assert_close(weights_of(model.model), before, 1e-3)


def visited(name, layers, loss=None, steps=2):
    """The kernels of both layers in every pass of the last step."""
    spied = network(Spy, normalization=False)
    model = LWSAMModel(spied, CASES[name].make(), layers=layers)
    model.compile(
        keras.optimizers.SGD(0.0), loss or cross_entropy(), run_eagerly=True
    )
    first, last = spied.get_layer("first"), spied.get_layer("logits")
    for step in range(steps):
        first.seen.clear()
        last.seen.clear()
        rows = slice(16 * step, 16 * step + 16)
        model.train_on_batch(X[rows], Y[rows])
        wait()
    return first, last, model


@pytest.mark.parametrize(
    "name", [n for n, c in CASES.items() if not c.moves_all]
)
def test_only_selected_layers_are_perturbed(name):
    first, last, _ = visited(name, "logits")
    start = keras.ops.convert_to_numpy(first.kernel)
    for kernel in first.seen:
        np.testing.assert_array_equal(kernel, start)
    assert len(last.seen) >= 1


@methods_daily(KINDS, of=[n for n, c in CASES.items() if c.normalizes])
def test_the_scale_of_the_loss_does_not_matter(name):
    """The visited points are the same under a hundredfold loss."""

    class Scaled(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return 100.0 * keras.losses.sparse_categorical_crossentropy(
                y_true, y_pred, from_logits=True
            )

    # After one step SLSAM's probabilities have seen the scale, by its rule.
    steps = 1 if name == "slsam" else 2
    _, once, _ = visited(name, "all", steps=steps)
    _, scaled, _ = visited(name, "all", Scaled(), steps=steps)
    assert len(once.seen) == len(scaled.seen)
    for a, b in zip(once.seen, scaled.seen, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6)


def steps_of(model):
    for step in range(5):
        rows = slice(8 * step, 8 * step + 8)
        model.train_on_batch(X[rows], Y[rows])
    return weights_of(getattr(model, "model", model))


@pytest.fixture(scope="module")
def plain_steps():
    model = network(normalization=False)
    model.compile(momentum_sgd(), cross_entropy())
    return steps_of(model)


@every_method
def test_it_acts_and_is_traced_once_for_each_kind_of_step(name, plain_steps):
    model = compiled(CASES[name].make(), net=network(normalization=False))
    assert distance(steps_of(model), plain_steps) > 1e-6
    assert model.trace_count == traced(CASES[name].traces)


@pytest.mark.parametrize(
    "name",
    [
        name
        # A process that is killed and started again shows it of the others.
        if name in ("sampa", "look_sam", "fisher_sparse_sam")
        else pytest.param(name, marks=pytest.mark.exhaustive)
        for name, case in CASES.items()
    ],
)
def test_stop_save_load_and_go_on(name, tmp_path):
    """Bit for bit the uninterrupted run, while layers are chosen again."""
    layers = selection.Random(2, refresh="epoch", seed=3)

    def make():
        keras.utils.set_random_seed(4)
        # What takes time is to trace; other tests of saving do.
        return compiled(CASES[name].make(), layers, run_eagerly=True)

    whole, part = make(), make()
    chosen = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: chosen.append(whole.selected_layers)
    )
    logs = fit(whole, 3, callbacks=[watch])
    assert chosen[0] != chosen[1] or chosen[1] != chosen[2]
    assert np.isfinite(
        np.concatenate([np.ravel(v) for v in logs.values()])
    ).all()
    keras.utils.set_random_seed(4)
    fit(part, 1)
    part.save(tmp_path / "run.keras")
    again = keras.saving.load_model(tmp_path / "run.keras")
    assert again.method == whole.method
    again.run_eagerly = True
    rest = fit(again, 3, begin=1)
    assert_equal(weights_of(again), weights_of(whole))
    for key, values in rest.items():
        assert values == logs[key][1:], key
