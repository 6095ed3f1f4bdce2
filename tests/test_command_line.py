"""What the command line prints."""

import functools
import json
import pathlib

import keras
import pytest
from keras import layers

import keras_lwsam
from keras_lwsam import (
    LWSAMModel,
    _cards,
    costs,
    methods,
    plots,
    schedules,
    selection,
)
from keras_lwsam.selection.by_gradient_norm import HYSTERESIS
from tests import command_line
from tests.networks import Subclassed, vectors
from tests.support import dense_network

ROOT = pathlib.Path(keras_lwsam.__file__).parents[1]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return command_line.files(tmp_path_factory.mktemp("files"))


@pytest.fixture
def run(capsys):
    return functools.partial(command_line.run, capsys)


def test_layers(run, files):
    code, output, _ = run("layers", files / "network.keras")
    assert code == 0
    title, _, header, *rows, total = output.splitlines()
    assert title == "dense: 3 layers, 99 trainable parameters"
    assert header.split()[:3] == ["layer", "type", "shape"]
    assert header.split()[3:] == ["weights", "share", "work", "cost"]
    assert rows[0].split()[:5] == [
        "dense/dense1",
        "Dense",
        "5x6",
        "36",
        "36.4%",
    ]
    table = costs.layer_costs(dense_network(sizes=(5, 6, 6, 3)))
    assert [row.split()[-1] for row in rows] == [
        f"{layer.alone:.2f}" for layer in table.layers
    ]
    assert total.split() == ["all", "99", "100.0%", "100.0%", "2.00"]
    assert max(map(len, output.splitlines())) <= 80


def test_layers_of_a_run_are_marked(run, files):
    code, output, _ = run("layers", files / "run.keras")
    model = keras.saving.load_model(files / "run.keras")
    assert code == 0
    assert output.count("*") == 2
    assert f"{model.selected_layers[0]}*" in output
    assert "(1 of 3)" in output


def test_layers_as_json(run, files):
    _, output, _ = run("layers", files / "run.keras", "--json")
    described = json.loads(output)
    assert described["parameters"] == 99
    assert [layer["shapes"] for layer in described["layers"]] == [
        [[5, 6], [6]],
        [[6, 6], [6]],
        [[6, 3], [3]],
    ]
    assert sum(layer["selected"] for layer in described["layers"]) == 1
    assert sum(x["parameter_share"] for x in described["layers"]) == 1
    _, output, _ = run("layers", files / "network.keras", "--json")
    assert "selected" not in json.loads(output)["layers"][0]


def test_open_dimensions(run, tmp_path):
    network = keras.Sequential(
        [
            keras.Input((None, 4)),
            layers.Dense(4, name="long"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(4, name="short"),
        ]
    )
    network.save(tmp_path / "open.keras")

    def last(*options):
        _, output, _ = run(
            "layers", tmp_path / "open.keras", "--json", *options
        )
        return json.loads(output)["layers"][-1]["cost_alone"]

    assert 1 < last() < last("--length", 4) < last("--length", 1)
    assert last("--batch-size", 64) == pytest.approx(last())


def test_cost_of_layers(run, files):
    def cost(*words):
        file = files / "network.keras"
        _, output, _ = run("cost", file, "--json", "--layers", *words)
        return json.loads(output)

    assert cost("all")["cost"] == cost(".*")["cost"] == pytest.approx(2.0)
    one, two = cost("dense3"), cost("dense2", ".*3")
    assert one["selected"] == ["dense/dense3"]
    assert two["selected"] == ["dense/dense2", "dense/dense3"]
    assert 1 < one["cost"] < two["cost"] < 2
    assert cost("0")["cost"] == 1
    # Nobody knows the gradient norms of a plain network.
    number, share = cost("2"), cost("0.67")
    assert number == share
    assert number["cheap"] == two["cost"]
    assert number["cheap"] < number["dear"] < 2


def test_cost_in_words(run, files):
    _, output, _ = run("cost", files / "network.keras", "--layers", "dense3")
    first, second, third = output.splitlines()
    assert first == "Of 3 layers, 1 are perturbed:"
    assert second == "  dense/dense3"
    assert third.startswith("A step takes 1.")
    assert third.endswith("base optimizer (all 3: 2.00).")
    _, output, _ = run("cost", files / "network.keras", "--layers", "2")
    assert output.startswith("Of 3 layers, 2 are perturbed.\n")
    assert "for the cheapest 2 to 1.9" in output


def test_cost_of_a_run(run, files):
    model = keras.saving.load_model(files / "run.keras")
    _, output, _ = run("cost", files / "run.keras", "--json")
    described = json.loads(output)
    assert described["selected"] == model.selected_layers
    table = costs.layer_costs(model.model)
    assert described["cost"] == table.predict(model.selected_layers)
    # Its norms are known.
    _, output, _ = run("cost", files / "run.keras", "--layers", "2", "--json")
    norms = model.layer_gradient_norms
    norms[model.selected_layers[0]] *= HYSTERESIS
    largest = sorted(norms, key=norms.get)[-2:]
    assert set(json.loads(output)["selected"]) == set(largest)
    # Those of one that has made no step are not.
    _, output, _ = run("cost", files / "new.keras", "--layers", "2", "--json")
    assert "cheap" in json.loads(output)


def test_cost_of_other_ways_to_perturb(run, tmp_path):
    def cost(*args, **kwargs):
        model = LWSAMModel(dense_network(), *args, **kwargs)
        model.save(tmp_path / "model.keras")
        _, output, _ = run("cost", tmp_path / "model.keras", "--json")
        return json.loads(output)

    last = selection.OutputSide(1)
    plain = cost(layers=last)
    kernel = cost(layers=selection.KernelsOnly(last))
    assert 1 < kernel["cost"] <= plain["cost"]
    whole = cost(layers=last, perturbation_norm="all")
    assert whole["cost"] > plain["cost"] + 0.5
    assert "not_counted" not in plain
    assert "GAM(" in cost("gam", layers=last)["not_counted"]["method"]
    _, output, _ = run("cost", tmp_path / "model.keras")
    assert "not\ncounted" in output or "not counted" in output
    late = cost("look_sam", layers=last, schedule=schedules.EverySteps(9))
    assert set(late["not_counted"]) == {"method", "schedule"}
    assert cost(rho=0.0)["cost"] == 1.0


def test_report(run, tmp_path, monkeypatch):
    def report(run_dir, path=None):
        if not any(run_dir.iterdir()):
            raise ValueError("Nothing was recorded.\nReceived: nothing")
        return path or run_dir / "report.html"

    monkeypatch.setattr(plots, "report", report, raising=False)
    code, _, error = run("report", tmp_path)
    assert code == 1
    assert "Nothing was recorded. Received: nothing" in error
    (tmp_path / "record").touch()
    _, output, _ = run("report", tmp_path)
    assert output == f"{tmp_path / 'report.html'}\n"
    _, output, _ = run("report", tmp_path, "--output", "here.html")
    assert output == "here.html\n"
    code, _, error = run("report", tmp_path / "nowhere")
    assert code == 1
    assert "no such folder" in error


def test_methods(run):
    code, output, _ = run("methods")
    assert code == 0
    assert [line.split()[0] for line in output.splitlines()] == list(
        methods.NAMES
    )
    for name in ("look_sam", "LookSAM", "look-sam"):
        _, output, _ = run("methods", name)
        card = ROOT / "docs" / "methods" / "look_sam.md"
        assert output == card.read_text(encoding="utf-8")
    for name in methods.NAMES:
        _, output, _ = run("methods", name)
        assert output.startswith("# ")
    code, _, error = run("methods", "look_sm")
    assert code == 2
    assert "Did you mean 'look_sam'" in error


def test_every_method_has_a_card():
    for name in methods.NAMES:
        assert _cards.read(name).startswith("# ")
    with pytest.raises(FileNotFoundError, match=r"not installed.*Received"):
        _cards.read("nothing")


def test_subclassed_networks(run, tmp_path):
    network = Subclassed(name="subclassed")
    network(vectors())
    network.save(tmp_path / "subclassed.keras")
    _, output, _ = run("layers", tmp_path / "subclassed.keras")
    assert "subclassed/hidden" in output


@pytest.mark.parametrize(
    "command", [[], ["layers"], ["cost"], ["report"], ["methods"]]
)
def test_help(run, command):
    code, output, _ = run(*command, "--help")
    assert code == 0
    assert "examples:\n  keras-lwsam " in output
    assert max(map(len, output.splitlines())) <= 80


def test_version(run):
    _, output, _ = run("--version")
    assert output == f"keras_lwsam {keras_lwsam.__version__}\n"


def test_long_paths_are_cut_on_a_terminal(run, files, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    network = keras.Sequential(
        [keras.Input((5,)), layers.Dense(3, name=40 * "long_name_" + "end")]
    )
    network.save(files / "long.keras")
    _, output, _ = run("layers", files / "long.keras")
    assert max(map(len, output.splitlines())) <= 60
    assert "_end " in output
    assert "..." in output
