"""The networks of the benchmarks: one step, and what it is predicted to cost.

Those that trace fast; `test_predicted_price.py` has all of them.
"""

import numpy as np
import pytest

from benchmarks import networks, scaling, training
from keras_lwsam import LWSAMModel
from tests.support import cross_entropy


@pytest.mark.parametrize("name", ["mlp", "vgg"])
def test_trains_a_step(name):
    network = networks.BUILDERS[name](width=8)
    x, y = networks.batch(network, 2)
    model = LWSAMModel(network, layers=1)
    model.compile("sgd", cross_entropy(), run_eagerly=True)
    assert np.isfinite(model.train_on_batch(x, y)).all()


@pytest.mark.parametrize(
    ("name", "inputs", "labels"),
    [
        ("unet", (2, 32, 32, 3), (2, 32, 32)),
        ("lstm", (2, networks.LENGTH, 64), (2,)),
    ],
)
def test_a_batch_fits(name, inputs, labels):
    network = networks.BUILDERS[name](width=8)
    x, y = networks.batch(network, 2)
    assert (x.shape, y.shape) == (inputs, labels)
    assert cross_entropy()(y, network(x)).shape == ()


def test_a_batch_of_a_language_model_has_a_label_for_each_token():
    network = networks.gpt(depth=1, width=8)
    x, y = networks.batch(network, 2)
    assert set(x) == {"token_ids", "padding_mask"}
    assert y.shape == x["token_ids"].shape
    assert network(x).shape == (*y.shape, networks.VOCABULARY)


def test_every_network_has_a_batch_size():
    assert networks.BATCH_SIZES.keys() == networks.BUILDERS.keys()


@pytest.mark.tensorflow
def test_a_study_that_is_started_again_measures_nothing_twice(tmp_path, capsys):
    def build():
        return networks.mlp(width=8, depth=1)

    ways = ("plain", "SAM")
    setting = scaling.Setting(
        "networks", "mlp", build, 2, ways=ways, counts=True
    )
    results = training.Results(tmp_path / "results.csv", scaling.COLUMNS)
    scaling.run(setting, results, rounds=2)
    assert "predicted_ratio=1.0" in capsys.readouterr().out
    again = training.Results(tmp_path / "results.csv", scaling.COLUMNS)
    ratios = {row["way"]: float(row["counted_ratio"]) for row in again.rows}
    assert ratios == {"plain": 1.0, "SAM": 2.0}
    assert len(again.rows) == 2
    scaling.run(setting, again, rounds=2)
    assert capsys.readouterr().out == ""
