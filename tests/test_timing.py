"""Timed prices: `model.cost(timed=True)` and what predictions make of it."""

import functools
import types

import keras
import numpy as np
import pytest

from keras_lwsam import LWSAMModel, _timing, _workers, costs, selection
from tests.support import (
    convolutional_network,
    cross_entropy,
    dense_network,
    image_data,
    momentum_sgd,
    weights_of,
)


def test_times_of_several_workers_are_refused(monkeypatch):
    monkeypatch.setattr(_workers, "spans_workers", lambda network: True)
    model = LWSAMModel(dense_network())
    with pytest.raises(ValueError, match=r"worker.*Received: timed=True"):
        model.cost(timed=True)
    assert model.cost().layers


@pytest.mark.parametrize("is_compiled", [True, False])
def test_timing_changes_no_variable(is_compiled, monkeypatch):
    monkeypatch.setattr(_timing, "_SECONDS", 1.0)
    model = LWSAMModel(
        convolutional_network(), layers=selection.WithinBudget(0.6, timed=True)
    )
    if is_compiled:
        model.compile(momentum_sgd(), cross_entropy())
    before = weights_of(model)
    x, _ = image_data(8)
    found = model.cost(x, timed=True)
    for old, new in zip(before, weights_of(model), strict=True):
        np.testing.assert_array_equal(old, new)
    counted, measured = zip(*found.timed, strict=True)
    assert list(counted) == sorted(counted)
    assert list(measured) == sorted(measured)
    assert counted[-1] == pytest.approx(1, abs=0.05)
    everything = found.predict(model.layer_paths)
    assert everything == pytest.approx(1 + measured[-1])
    assert found.overhead == found.predict(model.selected_layers) - 1
    # Steps whose weights went nowhere would be pruned, and take no time.
    assert measured[-1] > 0.2


def test_predictions_follow_what_was_timed(monkeypatch):
    network = dense_network(sizes=(8, 8, 8, 3))
    counted = costs.layer_costs(network)
    paths = [layer.path for layer in counted.layers]
    times = -0.05, 0.1, 0.7
    measured = {tuple(paths[2 - i :]): time for i, time in enumerate(times)}
    monkeypatch.setattr(costs._timing, "overheads", lambda *args: measured)
    timed = costs.layer_costs(network, timed=True)
    assert timed.predict([]) == 1.0
    for chosen, overhead in measured.items():
        assert timed.predict(chosen) == pytest.approx(1 + overhead)
    assert timed.timed == tuple(
        (counted.predict(cut) - 1, time) for cut, time in measured.items()
    )
    assert timed.work.plain == pytest.approx(counted.work.plain)


def test_times_that_fall_are_noise(monkeypatch):
    network = dense_network(sizes=(8, 8, 8, 3))
    paths = [layer.path for layer in costs.layer_costs(network).layers]
    measured = {tuple(paths[2:]): 0.2, tuple(paths[1:]): 0.1}
    monkeypatch.setattr(costs._timing, "overheads", lambda *args: measured)
    timed = costs.layer_costs(network, timed=True)
    for chosen in measured:
        assert timed.predict(chosen) == pytest.approx(1.2)


@pytest.mark.parametrize(("spread", "rounds"), [(0.0, 9), (2.0, 50)])
def test_rounds_end_when_medians_are_known_or_time_is_up(
    monkeypatch, spread, rounds
):
    """On a clock that only steps move."""
    generator = np.random.default_rng(0)
    now, taken = 0.0, []

    def step(seconds):
        nonlocal now
        now += seconds + spread * generator.random()
        taken.append(seconds)
        return keras.ops.zeros(())

    clock = types.SimpleNamespace(perf_counter=lambda: now)
    monkeypatch.setattr(_timing, "time", clock)
    monkeypatch.setattr(_timing, "_SECONDS", 9.0 * 49.5)
    steps = [functools.partial(step, seconds) for seconds in (1, 2, 3)]
    ratios = _timing._ratios(steps)
    assert ratios == pytest.approx([2, 3], rel=spread / 4)
    found = taken.count(1) - _timing._WARM_UP
    assert found == pytest.approx(rounds, abs=2 * spread)


@pytest.mark.parametrize("speed", [0.3, 3.0])
def test_timed_prices_decide_once_it_is_compiled(monkeypatch, speed):
    """On a machine that hides the second pass, or is slow at it."""

    def overheads(network, batch, layers, counted, model):
        cuts = [model.layer_paths[i:] for i in range(len(model.layer_paths))]
        return {tuple(cut): speed * (counted.predict(cut) - 1) for cut in cuts}

    monkeypatch.setattr(costs._timing, "overheads", overheads)
    chosen = selection.WithinBudget(0.2, refresh=1, timed=True)
    model = LWSAMModel(convolutional_network(), layers=chosen)
    by_work = LWSAMModel(convolutional_network(), layers="20%")
    assert model.selected_layers == by_work.selected_layers
    model.compile(momentum_sgd(), cross_entropy(), run_eagerly=True)
    x, y = image_data(16)
    model.fit(x, y, batch_size=8, epochs=2, verbose=0)
    price = model._prices.of_weights
    selected = model._adaptation.weight_indices()
    assert price(selected, timed=True) - 1 <= 0.2
    assert price(selected, timed=True) - 1 == pytest.approx(
        speed * (price(selected) - 1), rel=1e-6
    )
    if speed < 1:
        assert price(selected) - 1 > 0.2
