"""The image examples, at a small size."""

import argparse
import json
import math
import re

import cifar10_resnet20
import cifar100_wrn28_10
import imagenet_resnet50
import keras
import keras_cv_classifier
import numpy as np
import pytest
import residual_networks
import tensorflow_datasets

from tests.examples_offline import write_digits

# Each with a layer to perturb.
EXAMPLES = {
    "cifar10_resnet20": (cifar10_resnet20, "dense"),
    "cifar100_wrn28_10": (cifar100_wrn28_10, "logits"),
    "imagenet_resnet50": (imagenet_resnet50, "dense"),
    "keras_cv_classifier": (keras_cv_classifier, "predictions"),
}
# Takes as long as the others together.
SLOW = "keras_cv_classifier"
each_example = pytest.mark.parametrize(
    ("example", "layer"),
    [
        pytest.param(
            *example,
            id=name,
            marks=[pytest.mark.exhaustive] if name == SLOW else [],
        )
        for name, example in EXAMPLES.items()
    ],
)


def run(example, layer, folder, *arguments):
    """Runs an example; returns what is in results.json."""
    example.main(
        [
            *("--output", str(folder), "--layers", f"(.*/)?{layer}(_1)?"),
            *("--batch-size", "16"),
            *arguments,
        ]
    )
    return json.loads((folder / "results.json").read_text())


def assert_complete(results, epochs):
    assert all(map(math.isfinite, results["test"].values()))
    assert len(results["history"]["loss"]) == epochs
    assert all(map(math.isfinite, results["history"]["loss"]))
    assert len(results["selected_layers"]) == 1
    assert min(results["history"]["gradient_norm"]) > 0


@each_example
def test_the_builder_of_the_catalogue(example, layer, tmp_path, monkeypatch):
    settings = example.settings
    # Which saves tracing; the other tests are in graph mode.
    monkeypatch.setattr(
        example,
        "settings",
        lambda *task: {**settings(*task), "run_eagerly": True},
    )
    with tensorflow_datasets.testing.mock_data(num_examples=18):
        results = run(example, layer, tmp_path, "--small", "--epochs", "1")
    assert_complete(results, 1)
    name, classes = {
        cifar10_resnet20: ("cifar10", 10),
        cifar100_wrn28_10: ("cifar100", 100),
        imagenet_resnet50: ("imagenet2012", 1000),
        keras_cv_classifier: ("imagenette/160px-v2", 10),
    }[example]
    assert results["data"] == {
        **{"name": name, "train": 18, "test": 18, "classes": classes}
    }


@pytest.mark.documentation
@each_example
def test_two_epochs_of_local_data(example, layer, tmp_path):
    path = write_digits(tmp_path / "digits.npz")
    arguments = ("--offline", path, "--epochs", "2")
    results = run(example, layer, tmp_path / "run", *arguments)
    assert_complete(results, 2)
    assert results["data"] == {
        **{"name": "digits.npz", "train": 48, "test": 32, "classes": 10}
    }
    network = keras.saving.load_model(tmp_path / "run" / "network.keras")
    assert network.name == results["network"]["name"]
    assert network.count_params() == results["network"]["parameters"]


@each_example
def test_help_names_its_sources(example, layer, capsys):
    with pytest.raises(SystemExit) as stop:
        example.main(["--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "arXiv:2010.01412" in text
    defaults = vars(example.parse([]))
    for name in ("epochs", "batch_size", "learning_rate", "rho"):
        option = f"--{name.replace('_', '-')} {name.upper()}"
        shown = re.search(rf"{option} [^(]*\(([^;)]+)", text)
        assert float(shown[1]) == defaults[name]


def test_wide_resnet_28_10():
    # As the paper counts it, but for the classifier of 100 classes.
    network = residual_networks.wide_resnet(28, 10)
    assert round(network.count_params() / 1e6, 1) == 36.6
    kernels = [w for w in network.trainable_weights if len(w.shape) == 4]
    assert len(kernels) == 25 + 3
    assert network.name == "wide_resnet_28_10"


def test_resnet20():
    network = residual_networks.resnet20(dropout=0.0)
    assert round(network.count_params() / 1e6, 2) == 0.27


def test_resnet50():
    assert imagenet_resnet50.parse([]).image_size == 224
    args = imagenet_resnet50.parse(["--image-size", "32"])
    data = argparse.Namespace(classes=1000, input_shape=(32, 32, 3))
    network = imagenet_resnet50.build(args, data)
    assert round(network.count_params() / 1e6, 1) == 25.6
    norms = [
        layer
        for layer in network.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert {layer.momentum for layer in norms} == {0.9}
    # One in each of 3 + 4 + 6 + 3 blocks.
    assert sum(not np.any(layer.gamma.numpy()) for layer in norms) == 16


def test_depth_of_a_wide_resnet(capsys):
    with pytest.raises(SystemExit):
        cifar100_wrn28_10.parse(["--depth", "27"])
    assert "--depth" in capsys.readouterr().err
    with pytest.raises(ValueError, match="depth=11"):
        residual_networks.wide_resnet(11)
