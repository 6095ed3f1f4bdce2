"""What a `LayerNormTracker` records is what the step did: computed again."""

import keras
import numpy as np
import pytest

from keras_lwsam import LWSAMModel, callbacks, methods, schedules, step
from keras_lwsam.callbacks.layer_norm_tracker import SCALARS
from tests.backends import gradients_of
from tests.cases import CASES
from tests.curvature import normalizing_network, vector_data
from tests.support import (
    cross_entropy,
    dense_network,
    momentum_sgd,
    replicas,
)

RHO = 0.1


def inputs(count):
    """Those of `dense_network`."""
    generator = np.random.default_rng(0)
    return generator.normal(size=(count, 10)).astype("float32")


class Weights(keras.callbacks.Callback):
    """The weights before the first batch and after each."""

    def on_train_begin(self, logs=None):
        self.seen = [self.model.model.get_weights()]

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(self.model.model.get_weights())


def train(model, x, y, epochs=1, batch_size=16, **kwargs):
    if not model.compiled:
        kwargs = {"run_eagerly": True, **kwargs}
        model.compile(momentum_sgd(), cross_entropy(), **kwargs)
    tracker = callbacks.LayerNormTracker(every=1)
    weights = Weights()
    model.fit(
        x,
        y,
        batch_size=batch_size,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[tracker, weights],
    )
    return tracker, weights.seen


def gradients(network, values, x, y):
    """Those of the loss at some values, by a tape of its own."""
    network.set_weights(values)
    return gradients_of(
        network, lambda: cross_entropy()(y, network(x, training=True))
    )


def norm(arrays):
    return np.sqrt(sum(np.sum(np.square(a, dtype="float64")) for a in arrays))


def reference(network, before, after, x, y, selected):
    """The columns of each layer and of the model, for one step of SAM."""
    clean = gradients(network, before, x, y)
    paths = [layer.name for layer in network.layers for _ in layer.weights]
    taken = [path in selected for path in paths]
    length = norm([g for g, t in zip(clean, taken, strict=True) if t])
    epsilon = [
        RHO * g / length if t else 0.0 * g
        for g, t in zip(clean, taken, strict=True)
    ]
    moved = [w + e for w, e in zip(before, epsilon, strict=True)]
    sharp = gradients(network, moved, x, y)
    update = [a - b for a, b in zip(after, before, strict=True)]

    def columns(places, known):
        def pick(arrays, of=places):
            return [arrays[i] for i in of]

        inner = sum(np.sum(clean[i] * sharp[i]) for i in known)
        lengths = norm(pick(clean, known)) * norm(pick(sharp, known))
        return {
            "gradient_norm": norm(pick(sharp)),
            "weight_norm": norm(pick(after)),
            "update_norm": norm(pick(update)),
            "update_ratio": norm(pick(update)) / norm(pick(after)),
            "perturbation_norm": norm(pick(epsilon)),
            "cosine": inner / lengths if known else np.nan,
        }

    every = range(len(paths))
    known = [i for i in every if taken[i]]
    rows = {}
    for path in dict.fromkeys(paths):
        places = [i for i in every if paths[i] == path]
        rows[path] = columns(places, [i for i in places if i in known])
    return rows, columns(every, known)


def assert_row(row, expected):
    for column, value in expected.items():
        assert row[column] == pytest.approx(value, rel=2e-4, nan_ok=True), (
            column
        )


LAST = ("dense2", "dense3")
COLUMNS = [
    (LAST, False),
    ("all", True),
    pytest.param(LAST, True, marks=pytest.mark.exhaustive),
    pytest.param("all", False, marks=pytest.mark.exhaustive),
]


@pytest.mark.parametrize(("selected", "eagerly"), COLUMNS)
def test_every_column_of_every_layer(selected, eagerly):
    network = dense_network()
    paths = [layer.name for layer in network.layers]
    wanted = paths if selected == "all" else list(selected)
    patterns = "all" if selected == "all" else [f".*{p}" for p in selected]
    x = inputs(48)
    y = np.arange(48) % 4
    model = LWSAMModel(network, layers=patterns, rho=RHO)
    tracker, weights = train(model, x, y, run_eagerly=eagerly)
    steps = [r for r in tracker.model_history if r["batch"] is not None]
    assert len(steps) == 3
    for i, of_model in enumerate(steps):
        part = slice(16 * i, 16 * i + 16)
        rows, total = reference(
            network, weights[i], weights[i + 1], x[part], y[part], wanted
        )
        assert_row(of_model, total)
        found = [r for r in tracker.history if r["batch"] == i]
        assert len(found) == 3
        for row in found:
            assert_row(row, rows[row["layer"].split("/")[-1]])


def test_an_epoch_is_the_root_mean_square_of_its_steps():
    """And the cosine that of the summed products and squares."""
    model = LWSAMModel(dense_network(), layers="all", rho=RHO)
    x = inputs(48)
    tracker, weights = train(model, x, np.arange(48) % 4, epochs=2)
    for epoch in (0, 1):
        rows = [r for r in tracker.model_history if r["epoch"] == epoch]
        *steps, whole = rows
        assert [r["batch"] for r in rows] == [0, 1, 2, None]
        for column in ("gradient_norm", "update_norm", "perturbation_norm"):
            squares = [r[column] ** 2 for r in steps]
            assert whole[column] == pytest.approx(np.sqrt(np.mean(squares)))
        assert whole["weight_norm"] == steps[-1]["weight_norm"]
    parts = [
        reference(
            model.model,
            weights[i],
            weights[i + 1],
            x[16 * i : 16 * i + 16],
            (np.arange(48) % 4)[16 * i : 16 * i + 16],
            [layer.name for layer in model.model.layers],
        )[1]
        for i in range(3)
    ]
    sharp = [p["gradient_norm"] for p in parts]
    clean = [
        norm(
            gradients(
                model.model,
                weights[i],
                x[16 * i : 16 * i + 16],
                (np.arange(48) % 4)[16 * i : 16 * i + 16],
            )
        )
        for i in range(3)
    ]
    inner = sum(
        p["cosine"] * s * c for p, s, c in zip(parts, sharp, clean, strict=True)
    )
    expected = inner / norm(sharp) / norm(clean)
    whole = tracker.model_history[3]
    assert whole["cosine"] == pytest.approx(expected, rel=1e-5)


def test_the_model_is_all_layers_together():
    model = LWSAMModel(normalizing_network(), layers=2, rho=RHO)
    tracker, _ = train(model, *vector_data(32))
    of_model = tracker.model_history[-1]
    rows = tracker.history[-3:]
    for column in (
        "gradient_norm",
        "weight_norm",
        "update_norm",
        "perturbation_norm",
    ):
        total = norm([[r[column] for r in rows]])
        assert of_model[column] == pytest.approx(total, rel=1e-5)
    assert of_model["perturbation_norm"] == pytest.approx(RHO, rel=1e-5)
    assert np.isnan([r["cosine"] for r in rows if not r["selected"]]).all()


def test_frozen_layers_have_no_row_and_do_not_count():
    network = normalizing_network()
    network.get_layer("hidden").trainable = False
    model = LWSAMModel(network, layers="all", rho=RHO)
    tracker, _ = train(model, *vector_data(16))
    layers = {row["layer"] for row in tracker.history}
    assert layers == {"normalizing/norm", "normalizing/logits"}
    total = norm([[r["weight_norm"] for r in tracker.history[-2:]]])
    assert tracker.model_history[-1]["weight_norm"] == pytest.approx(total)


def test_parts_of_a_batch_average_their_squares():
    """Each climbs by itself, and each perturbation is RHO long."""
    split = LWSAMModel(
        normalizing_network(dropout=0.0),
        layers="all",
        rho=RHO,
        num_batch_splits=4,
    )
    tracker, _ = train(split, *vector_data(16))
    row = tracker.model_history[-1]
    assert row["perturbation_norm"] == pytest.approx(RHO, rel=1e-5)
    assert 0.0 < row["cosine"] <= 1.0


@pytest.mark.tensorflow
def test_replicas_average_their_squares():
    x, y = inputs(16), np.arange(16) % 4
    for synchronize in (False, True):
        with replicas(2).scope():
            model = LWSAMModel(
                dense_network(),
                layers="all",
                rho=RHO,
                sync_perturbation=synchronize,
            )
            model.compile(momentum_sgd(), cross_entropy(), run_eagerly=True)
        tracker, weights = train(model, x, y)
        row = tracker.model_history[-1]
        assert row["perturbation_norm"] == pytest.approx(RHO, rel=1e-5)
        moved = [b - a for a, b in zip(*weights, strict=True)]
        assert row["update_norm"] == pytest.approx(norm(moved), rel=1e-4)
    alone = LWSAMModel(dense_network(), layers="all", rho=RHO)
    expected, _ = train(alone, x, y)
    # All climbed together: as one device.
    of_one = expected.model_history[-1]
    assert_row(row, {column: of_one[column] for column in SCALARS})


def test_steps_that_a_schedule_leaves_out_have_no_perturbation():
    model = LWSAMModel(
        dense_network(), rho=RHO, layers="all", schedule=schedules.EverySteps(2)
    )
    x = inputs(64)
    tracker, _ = train(model, x, np.arange(64) % 4)
    *steps, whole = tracker.model_history
    lengths = [row["perturbation_norm"] for row in steps]
    assert lengths == pytest.approx([RHO, 0.0, RHO, 0.0])
    assert [np.isnan(r["cosine"]) for r in steps] == [False, True] * 2
    assert whole["perturbation_norm"] == pytest.approx(RHO / np.sqrt(2))
    known = [r["cosine"] for r in steps[::2]]
    assert min(known) <= whole["cosine"] <= max(known)


def test_without_a_radius_there_is_no_perturbation_and_no_cosine():
    model = LWSAMModel(dense_network(), rho=0.0)
    x = inputs(32)
    tracker, _ = train(model, x, np.arange(32) % 4)
    for row in [*tracker.history, *tracker.model_history]:
        assert row["perturbation_norm"] == 0.0
        assert np.isnan(row["cosine"])
        assert row["gradient_norm"] > 0.0
        assert row["update_norm"] > 0.0


def test_a_step_that_overflows_leaves_no_trace():
    """NaN in one batch: what was seen before stays, and nothing is NaN."""
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((10,)),
            keras.layers.Dense(8, activation="tanh", dtype="mixed_float16"),
            keras.layers.Dense(4, dtype="mixed_float16"),
        ]
    )
    network.dtype_policy = keras.DTypePolicy("mixed_float16")
    model = LWSAMModel(network, layers="all", rho=RHO)
    x = inputs(48)
    x[20] = np.inf
    tracker, _ = train(model, x, np.arange(48) % 4)
    first, second, third, whole = tracker.model_history
    for column in ("perturbation_norm", "update_norm", "gradient_norm"):
        assert second[column] == first[column]
        assert np.isfinite(third[column])
        squares = [first[column] ** 2, third[column] ** 2]
        assert whole[column] == pytest.approx(np.sqrt(np.mean(squares)))


# Their steps are those of SAM and FriendlySAM with other formulas.
LIKE_SAM = ("asam", "gnp", "gsam", "vasso", "wsam")
METHODS = [
    pytest.param(name, marks=pytest.mark.exhaustive)
    if name in LIKE_SAM
    # On JAX its loop is traced, and no pass of it is seen.
    else pytest.param(name, marks=pytest.mark.not_jax)
    if name == "entropy_sgd"
    else name
    for name in sorted(CASES)
]


@pytest.mark.parametrize("name", METHODS)
def test_the_perturbation_of_every_method_is_one_that_it_evaluated(
    name, monkeypatch
):
    """Seen from outside: how far from the weights a pass was made."""
    lengths = []
    original = step.Step.gradients

    def spied(self, at, wrt, **options):
        moved = [
            at[i] - value
            for i, value in enumerate(self.values)
            if at[i] is not value and i in self.selected
        ]
        lengths.append(norm([keras.ops.convert_to_numpy(m) for m in moved]))
        return original(self, at, wrt, **options)

    monkeypatch.setattr(step.Step, "gradients", spied)
    method = CASES[name].make()
    network = dense_network(sizes=(10, 6, 4))
    model = LWSAMModel(network, method, layers="all")
    model.compile(momentum_sgd(), cross_entropy(), run_eagerly=True)
    tracker = callbacks.LayerNormTracker(every=1)
    x, y = inputs(12), np.arange(12) % 4
    made = []

    class Passes(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            made.append(list(lengths))
            lengths.clear()

    model.fit(x, y, batch_size=4, verbose=0, callbacks=[tracker, Passes()])
    found = [
        r["perturbation_norm"]
        for r in tracker.model_history
        if r["batch"] is not None
    ]
    if isinstance(method, methods.EntropySGD):
        # It walks, and perturbs nothing.
        assert found == [0.0] * 3
        return
    assert max(found) > 0.0
    for length, evaluated in zip(found, made, strict=True):
        if isinstance(method, methods.SAMPa):
            # Its passes are not made through `gradients`.
            continue
        close = [e for e in evaluated if abs(e - length) <= 1e-3 * length]
        assert close or length == 0.0, (length, evaluated)
