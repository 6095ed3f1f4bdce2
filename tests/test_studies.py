"""The studies' own logic: tuning, resuming, what a run costs, wrong labels."""

import dataclasses

import keras
import numpy as np
import pytest

from benchmarks import (
    accuracy,
    accuracy_table,
    accuracy_time,
    tasks,
    training,
    which_layers,
    which_layers_table,
)
from keras_lwsam import costs


def row(**changes):
    values = dict.fromkeys(training.COLUMNS, "")
    return {**values, "task": "t", "seed": 0, "epochs": 1, **changes}


def tuned_on(accuracies, way, tmp_path, monkeypatch):
    """A study whose validation accuracy is a function of the radius."""
    trained = []

    def run(task, data, wrap, rho, learning_rate, seed, epochs, *others):
        trained.append((rho, learning_rate, seed))
        found = accuracies(rho) if rho != "" else 0.5
        return {"accuracy": found, "selections": ""}

    monkeypatch.setattr(training, "run", run)
    task = dataclasses.replace(
        tasks.TASKS["fashion"], load=lambda folder: None, radius_factor=2.0
    )
    monkeypatch.setitem(tasks.TASKS, "t", task)
    monkeypatch.setitem(accuracy.WAYS, "tried", way)
    results = training.Results(tmp_path / "results.csv")
    study = accuracy.Study("t", None, results)
    return study.radius("tried", way), study, trained


@pytest.mark.parametrize(
    ("accuracies", "tried", "best"),
    [
        (lambda rho: -abs(rho - 0.2), (0.1, 0.2, 0.4), 0.2),
        (lambda rho: -rho, (0.1, 0.2, 0.4, 0.05), 0.05),
        (lambda rho: rho, (0.1, 0.2, 0.4, 0.8), 0.8),
        (lambda rho: -abs(rho - 0.1), (0.1, 0.2, 0.4, 0.05), 0.1),
        (lambda rho: 0.0, (0.1, 0.2, 0.4, 0.05), 0.1),
    ],
)
def test_radii_are_tuned_by_one_rule(
    accuracies, tried, best, tmp_path, monkeypatch
):
    way = accuracy.Way(radii=(0.05, 0.1, 0.2))
    rho, study, trained = tuned_on(accuracies, way, tmp_path, monkeypatch)
    assert rho == best
    rates = tasks.TASKS["t"].learning_rates
    assert trained[:3] == [("", rate, 0) for rate in rates]
    assert [run[0] for run in trained[3:]] == list(tried)
    # Nothing is trained twice, in this process or in another.
    done = len(trained)
    assert study.radius("tried", way) == best
    again = training.Results(tmp_path / "results.csv")
    assert accuracy.Study("t", None, again).radius("tried", way) == best
    assert len(trained) == done
    study.test("tried", way, [1, 2])
    assert trained[done:] == [(best, rates[0], 1), (best, rates[0], 2)]


def test_files_of_another_study_are_refused(tmp_path):
    training.Results(tmp_path / "results.csv").add(row(accuracy=0.5))
    again = training.Results(tmp_path / "results.csv")
    assert again.find(task="t", seed=0)[0]["accuracy"] == "0.5"
    assert not again.find(task="t", seed=1)
    with pytest.raises(ValueError, match=r"another study.*Received"):
        training.Results(tmp_path / "results.csv", ("task", "seed"))


def test_work_of_a_run():
    found = costs.layer_costs(tasks.residual_network(10))
    paths = [layer.path for layer in found.layers]
    everything = " ".join(map(str, range(len(paths))))

    def work(way, selections, epochs=10):
        return accuracy_table.work(
            row(task="fashion", way=way, selections=selections, epochs=epochs)
        )

    assert work(accuracy.BASE, "") == 1.0
    assert work(f"{accuracy.BASE}, twice as long", "", 20) == 2.0
    assert work("SAM", f"10*{everything}") == pytest.approx(2, abs=0.01)
    assert work("LookSAM", f"10*{everything}") == pytest.approx(1.2, abs=0.01)
    assert work("MomentumSAM", f"10*{everything}") == 1.0
    mixed = work("layer-wise SAM, 25 %", "4*19 20;6*0")
    expected = 0.4 * found.predict(paths[19:]) + 0.6 * found.predict(paths[0])
    assert mixed == pytest.approx(expected)


def test_usual_layers_are_those_of_most_epochs():
    rows = [row(selections="4*19 20;6*0"), row(selections="9*19 20;1*3")]
    assert training.selections_of(rows[0]) == [(4, (19, 20)), (6, (0,))]
    assert training.selections_of(row()) == []
    assert accuracy_time.usual_layers(rows) == (19, 20)


def test_table_takes_what_was_tuned_alone(tmp_path):
    results = training.Results(tmp_path / "results.csv")
    numbers = {"loss": 0.5, "gradient_norm": 0.1, "eigenvalue": 3.0}
    base = {"task": "fashion", "learning_rate": 0.1}
    results.add(row(**base, phase="tune", way=accuracy.BASE, accuracy=0.8))
    for rho, found in ((0.05, 0.7), (0.1, 0.9)):
        results.add(
            row(**base, phase="tune", way="SAM", rho=rho, accuracy=found)
        )
    for rho, seed, found in ((0.05, 1, 0.1), (0.1, 1, 0.8), (0.1, 2, 0.9)):
        results.add(
            row(
                **{**base, "phase": "test", "way": "SAM", "rho": rho},
                **{**numbers, "seed": seed, "accuracy": found},
                selections="1*" + " ".join(map(str, range(21))),
            )
        )
    table = accuracy_table.summaries(results, "fashion")
    assert list(table) == ["SAM"]
    assert table["SAM"]["seeds"] == 2
    assert table["SAM"]["accuracy"][0] == pytest.approx(0.85)
    lines = list(accuracy_table.markdown("fashion", table, {}))
    assert "| SAM | 0.1 | 85.00 ± 7.07 |" in lines[-1]
    lines = list(accuracy_table.overview({"fashion": table}))
    assert "| SAM | 2 | 85.00 ± 7.07 (2.00) |" in lines
    accuracy_table.draw({"fashion": table}, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_a_fifth_of_the_labels_is_wrong():
    labels = np.random.default_rng(1).integers(0, 10, 20_000)
    noisy = tasks._noisy(labels, 10, np.random.default_rng(0))
    wrong = noisy != labels
    assert wrong.mean() == pytest.approx(0.2, abs=0.01)
    assert set(noisy) == set(range(10))
    # Drawn evenly from the nine others.
    shifts = (noisy - labels)[wrong] % 10
    shares = np.bincount(shifts, minlength=10)[1:] / wrong.sum()
    np.testing.assert_allclose(shares, 1 / 9, atol=0.02)


@pytest.mark.tensorflow
def test_a_run_measures_what_it_says():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(128, 28, 28, 1)).astype("float32")
    y = generator.integers(0, 10, 128)
    data = tasks.Splits((x, y), (x[:64], y[:64]), (x[64:], y[64:]))
    way = accuracy.WAYS["layer-wise SAM, 25 %"]
    found = training.run(
        dataclasses.replace(tasks.TASKS["fashion"], batch_size=64),
        data,
        way.wrap,
        0.05,
        0.01,
        seed=0,
        epochs=2,
        on="validation",
        measures=[training.flatness, training.batch_gradients],
    )
    selections = training.selections_of(found)
    assert sum(epochs for epochs, _ in selections) == 2
    assert all(len(positions) == 5 for _, positions in selections)
    assert found["eigenvalue"] > 0
    assert found["gradient_norm"] > 0
    assert found["batch_gradient_norm"] > 0


@pytest.mark.tensorflow
def test_gradients_of_repeated_words_are_added():
    network = keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            keras.layers.Embedding(4, 2),
            keras.layers.Flatten(),
            keras.layers.Dense(2, use_bias=False),
        ]
    )
    one_hot = keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            keras.layers.CategoryEncoding(4, "one_hot"),
            keras.layers.Dense(2, use_bias=False),
            keras.layers.Flatten(),
            keras.layers.Dense(2, use_bias=False),
        ]
    )
    one_hot.set_weights(network.get_weights())
    x = np.array([[1, 1, 2], [1, 3, 1]] * 2, "int32")
    y = np.array([0, 1, 1, 0])
    sparse, dense = (
        training.batch_gradients(model, x, y, batch_size=4)
        for model in (network, one_hot)
    )
    assert sparse["batch_gradient_norm"] == pytest.approx(
        dense["batch_gradient_norm"], rel=1e-3
    )


def test_all_ways_of_choosing_layers_choose_as_many():
    task = tasks.TASKS["fashion"]
    network = task.build(10)
    counts = {}
    for label, way in which_layers.ways(task, seed=1).items():
        if way is not None:
            counts[label] = len(way(network, 0.1).selected_layers)
    assert counts.pop("SAM") == 21
    assert set(counts.values()) == {5}


def test_table_of_layers(tmp_path):
    path = tmp_path / "results.csv"
    results = training.Results(path, which_layers.COLUMNS)
    every = " ".join(map(str, range(21)))
    norms = {accuracy.BASE: (2.0, 4.0), "largest norm": (1.0, 1.5)}
    for label, values in norms.items():
        selections = "" if label == accuracy.BASE else f"10*{every}"
        for seed, norm in enumerate(values, start=1):
            numbers = dict.fromkeys(which_layers_table.MEASURES, 0.5)
            results.add(
                {**row(task="fashion", way=label, seed=seed, epochs=10)}
                | {**numbers, "batch_gradient_norm": norm}
                | {"selections": selections}
            )
    table = which_layers_table.summaries(results, "fashion")
    assert table[accuracy.BASE]["each"] == [2.0, 4.0]
    assert table[accuracy.BASE]["work"] == 1.0
    lines = list(which_layers_table.markdown(table))
    assert lines[-2].startswith("| nothing | 1.00 | 3.00 ± 1.41 |")
    assert lines[-1].startswith("| largest norm | 2.00 | 1.25 ± 0.35 |")
    *_, last = which_layers_table.overview({"fashion": table})
    assert last == "| largest norm | 0.42, 1.00 |"
    which_layers_table.draw({"fashion": table}, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
