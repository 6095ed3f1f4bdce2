"""Budgets: the critical layers that a step has time for, and `model.cost`."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lwsam import LWSAMModel, costs, methods, selection
from tests.command_line import run
from tests.refusals import assert_checks
from tests.support import (
    convolutional_network,
    cross_entropy,
    dense_network,
    image_data,
    momentum_sgd,
    replicas,
)
from tests.test_selection import NUM_LAYERS, layers_of

LAYERS = layers_of()


def chain(perturbed, timed=False):
    """A chain of layers: forward again from the first perturbed one on, and
    one product for the gradient of each."""
    perturbed = set(perturbed)
    if not perturbed:
        return 1.0
    first = min(perturbed)
    downstream = NUM_LAYERS - first
    return 1.0 + (2 * downstream - 1 + len(perturbed)) / (3 * NUM_LAYERS - 1)


def observe(norms, selected=()):
    return selection.Observations(
        np.square(norms), tuple(f"layer{i}" for i in selected), price=chain
    )


@given(
    norms=st.lists(
        st.floats(1e-3, 1e3), min_size=NUM_LAYERS, max_size=NUM_LAYERS
    ),
    overhead=st.floats(0.12, 1.2),
    most=st.none() | st.integers(1, NUM_LAYERS),
)
def test_keeps_the_budget_and_leaves_no_room_for_a_more_critical_layer(
    norms, overhead, most
):
    chosen = selection.WithinBudget(overhead, most).resolve(
        LAYERS, observe(np.array(norms))
    )
    assert chain(chosen) - 1 <= overhead * (1 + 1e-6)
    assert list(chosen) == sorted(set(chosen))
    assert 1 <= len(chosen) <= (most or NUM_LAYERS)
    if len(chosen) == most:
        return
    # Whoever was left out did not fit beside the more critical ones.
    for left in set(range(NUM_LAYERS)) - set(chosen):
        better = [i for i in chosen if norms[i] >= norms[left]]
        assert chain([*better, left]) - 1 > overhead * (1 - 1e-6)


def test_the_largest_norm_comes_first():
    norms = [1.0, 1.0, 9.0, 1.0, 1.0, 5.0]
    # Layer 2 alone: (2 * 4 - 1 + 1) / 17; with layer 5, one more.
    chosen = selection.WithinBudget(8 / 17).resolve(LAYERS, observe(norms))
    assert chosen == (2,)
    chosen = selection.WithinBudget(9 / 17).resolve(LAYERS, observe(norms))
    assert chosen == (2, 5)
    # Just too little for layer 2: it is passed over.
    chosen = selection.WithinBudget(7.9 / 17).resolve(LAYERS, observe(norms))
    assert 5 in chosen
    assert 2 not in chosen


def test_near_ties_do_not_flip():
    chosen = selection.WithinBudget(1.0, 1)
    norms = [1.0, 1.0, 1.05, 1.0, 1.0, 1.0]
    assert chosen.resolve(LAYERS, observe(norms, selected=(4,))) == (4,)
    norms[2] = 1.2
    assert chosen.resolve(LAYERS, observe(norms, selected=(4,))) == (2,)


def test_short_form():
    for text, overhead in (("15%", 0.15), ("7.5 %", 0.075), ("150%", 1.5)):
        chosen = selection.get(text)
        assert chosen == selection.WithinBudget(overhead=overhead)
    assert repr(selection.get("15%")) == "WithinBudget(overhead=0.15)"
    for wrong in ("0%", "-5%", "1.2.3%", ".%", "nan%", "inf%"):
        with pytest.raises(ValueError, match=r"per cent above 0.*Received"):
            selection.get(wrong)


@pytest.mark.parametrize(
    ("name", "error", "wrong", "right"),
    [
        ("overhead", ValueError, 0.0, 0.1),
        ("overhead", ValueError, -0.1, 1),
        ("overhead", ValueError, float("inf"), 2.5),
        ("overhead", TypeError, "15%", 0.15),
        ("overhead", TypeError, True, 0.15),
        ("num_layers", ValueError, 0, 1),
        ("num_layers", ValueError, 1.5, 1.0),
        ("num_layers", TypeError, "3", None),
        ("refresh", ValueError, "step", 10),
        ("normalize", ValueError, "length", "size"),
        ("timed", TypeError, 1, True),
    ],
)
def test_arguments(name, error, wrong, right):
    def make(**arguments):
        return selection.WithinBudget(**{"overhead": 0.15, **arguments})

    assert_checks(make, name, error, wrong, right)


def test_round_trip():
    chosen = selection.WithinBudget(0.2, np.int64(3), 50, "size", True)
    config = keras.saving.serialize_keras_object(chosen)
    json.dumps(config)
    assert keras.saving.deserialize_keras_object(config) == chosen


def test_prices_must_be_known():
    with pytest.raises(ValueError, match=r"LWSAMModel.*Received: .*None"):
        selection.WithinBudget(0.15).resolve(LAYERS)


def test_a_budget_too_small_for_any_layer():
    network = dense_network(sizes=(4, 8, 8, 3))
    cheapest = min(
        layer.alone - 1 for layer in costs.layer_costs(network).layers
    )
    with pytest.raises(ValueError, match=r"too small.*cheapest.*Received: .*5"):
        LWSAMModel(network, layers=selection.WithinBudget(0.005))
    model = LWSAMModel(network, layers=selection.WithinBudget(cheapest))
    assert model.selected_layers == model.layer_paths[-1:]


def trained(layers, epochs=3, **arguments):
    model = LWSAMModel(convolutional_network(), layers=layers, **arguments)
    model.compile(momentum_sgd(), cross_entropy())
    x, y = image_data(32)
    model.fit(x, y, batch_size=16, epochs=epochs, verbose=0, shuffle=False)
    return model


def test_chosen_again_while_training():
    model = trained(selection.WithinBudget(0.6))
    found = model.cost()
    assert found.selected == tuple(model.selected_layers)
    assert 0 < found.overhead <= 0.6
    assert found.overhead == pytest.approx(found.predict(found.selected) - 1)
    first = LWSAMModel(convolutional_network(), layers="60%").selected_layers
    # From the output side at first; then by the norms.
    assert first == model.layer_paths[-len(first) :]
    norms = model.epoch_layer_gradient_norms
    model.refresh_selection()
    chosen = model.selected_layers
    # One that counts 1.1 times may stay in front.
    for path in set(model.layer_paths) - set(chosen):
        before = [p for p in chosen if 1.1 * norms[p] >= norms[path]]
        assert model.cost().predict([*before, path]) > 1.6


def test_the_norm_of_all_layers_has_its_price():
    """A whole backward pass: a larger budget for the same layers."""
    model = LWSAMModel(
        convolutional_network(), layers="70%", perturbation_norm="all"
    )
    cheaper = LWSAMModel(convolutional_network(), layers="70%")
    assert len(model.selected_layers) < len(cheaper.selected_layers)
    found = model.cost()
    assert 0.6 < found.overhead <= 0.7
    assert found.overhead == pytest.approx(found.predict(found.selected) - 1)
    with pytest.raises(ValueError, match=r"too small"):
        LWSAMModel(
            convolutional_network(), layers="50%", perturbation_norm="all"
        )


def test_kernels_within_a_budget():
    inner = selection.WithinBudget(0.3)
    model = LWSAMModel(
        convolutional_network(), layers=selection.KernelsOnly(inner)
    )
    assert "norm2" not in model.selected_layers
    assert model.cost().overhead <= 0.3


def test_frozen_layers_change_the_prices():
    network = convolutional_network()
    model = LWSAMModel(network, layers="60%")
    before = model.cost()
    for layer in network.layers[:-2]:
        layer.trainable = False
    after = model.cost()
    assert len(after.layers) < len(before.layers)
    # The whole backward pass has become shorter, and so has a step.
    assert after.work.plain < before.work.plain
    model.compile(momentum_sgd(), cross_entropy())
    x, y = image_data(16)
    model.fit(x, y, verbose=0)
    assert set(model.selected_layers) <= {layer.path for layer in after.layers}
    assert model.cost().overhead <= 0.6


@pytest.mark.tensorflow
def test_replicas_keep_the_budget_together():
    with replicas(2).scope():
        model = LWSAMModel(convolutional_network(), layers="60%")
        model.compile(momentum_sgd(), cross_entropy(), run_eagerly=True)
    alone = LWSAMModel(convolutional_network(), layers="60%")
    assert model.selected_layers == alone.selected_layers
    x, y = image_data(16)
    model.fit(x, y, batch_size=8, epochs=2, verbose=0)
    assert 0 < model.cost().overhead <= 0.6


def test_saved_and_loaded(tmp_path):
    model = trained("60%", epochs=2)
    model.save(tmp_path / "run.keras")
    loaded = keras.saving.load_model(tmp_path / "run.keras")
    assert loaded.selection == selection.WithinBudget(0.6)
    assert loaded.selected_layers == model.selected_layers
    assert loaded.cost().overhead == model.cost().overhead


def test_cost_is_a_table():
    model = LWSAMModel(convolutional_network(), layers=["logits"])
    found = model.cost(batch_size=8)
    lines = str(found).splitlines()
    assert len(lines) == 1 + len(model.layer_paths) + 2
    assert [line.split()[0].rstrip("*") for line in lines[1:-2]] == (
        model.layer_paths
    )
    assert lines[-3].startswith("logits*")
    assert f"{found.overhead:.1%} slower" in lines[-1]
    plain = costs.layer_costs(model.model, batch_size=8)
    assert found.layers == plain.layers
    assert found.overhead == plain.predict(["logits"]) - 1
    assert found.not_counted == {}
    assert LWSAMModel(convolutional_network(), rho=0.0).cost().overhead == 0
    other = LWSAMModel(convolutional_network(), "momentum_sam", layers="all")
    assert list(other.cost().not_counted) == ["method"]
    assert "Not counted" in str(other.cost())
    method = methods.StableSAM(rho=0.1)
    whole = LWSAMModel(convolutional_network(), method, layers="all").cost()
    assert whole.overhead == pytest.approx(1, abs=0.05)


def test_errors_of_cost():
    model = LWSAMModel(convolutional_network())
    with pytest.raises(TypeError, match=r"`timed`.*Received: .*'yes'"):
        model.cost(timed="yes")
    with pytest.raises(ValueError, match=r"(?s)these shapes.*Received: .*7, 7"):
        model.cost(keras.KerasTensor((None, 7, 7, 5)))
    # The question that failed is forgotten.
    model.refresh_selection()
    assert model.cost().layers


def test_training_goes_on_where_nothing_fits_any_more():
    observations = dataclasses.replace(
        observe(np.ones(NUM_LAYERS), selected=(3,)), refreshes=2
    )
    chosen = selection.WithinBudget(0.01)
    assert chosen.resolve(LAYERS, observations) == (NUM_LAYERS - 1,)


def test_layers_frozen_after_wrapping_leave_less_room():
    """A plain step is shorter then, and what is perturbed weighs more."""
    network = dense_network(sizes=(8, 8, 8, 8, 8, 8, 8, 3))
    model = LWSAMModel(network, layers="50%")
    before = model.selected_layers
    for layer in network.layers[:4]:
        layer.trainable = False
    model.compile(momentum_sgd(), cross_entropy(), run_eagerly=True)
    paths = []

    class Note(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            paths.append(list(self.model.selected_layers))

    x = np.random.default_rng(0).normal(size=(8, 8)).astype("float32")
    model.fit(x, np.zeros(8), verbose=0, callbacks=[Note()])
    assert model.cost().predict(before) > 1.5
    assert model.cost().predict(paths[0]) <= 1.5


def test_command_line(tmp_path, capsys):
    network = convolutional_network()
    network.save(tmp_path / "network.keras")
    code, said, _ = run(
        capsys, "cost", tmp_path / "network.keras", "--layers", "60%", "--json"
    )
    assert code == 0
    described = json.loads(said)
    assert 1 < described["cost"] <= 1.6
    model = LWSAMModel(network, layers="60%")
    assert described["selected"] == model.selected_layers
