"""Trajectories of the authors' own code (see golden/README.md)."""

import pathlib

import keras
import numpy as np
import pytest

from keras_lwsam import LWSAMModel, methods
from tests.support import MODES, cross_entropy, dense_network, momentum_sgd

FOLDER = pathlib.Path(__file__).parent / "golden"
RUNS = {
    "plain_sgd": {"rho": 0.0},
    "sam": {"method": methods.SAM(0.05), "layers": "all"},
    "sam_on_only": {"method": methods.SAM(0.25), "layers": ["dense2"]},
}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("name", RUNS)
def test_official_trajectory(name, mode):
    with np.load(FOLDER / f"{name}.npz") as data:
        golden = dict(data)
    network = dense_network()
    network.set_weights([golden[f"w0_{i}"] for i in range(6)])
    model = LWSAMModel(network, **RUNS[name])
    model.compile(momentum_sgd(), cross_entropy(), **mode)
    for t in range(6):
        model.train_on_batch(golden["x"][t], golden["y"][t])
        for i, weight in enumerate(network.get_weights()):
            np.testing.assert_allclose(
                weight, golden[f"w_{t}_{i}"], rtol=0, atol=1e-6
            )


def test_the_runs_differ():
    """A comparison that any run passes would prove nothing."""
    ends = []
    for name in RUNS:
        with np.load(FOLDER / f"{name}.npz") as data:
            ends.append(data["w_5_0"])
    for i, one in enumerate(ends):
        for other in ends[:i]:
            assert np.abs(one - other).max() > 1e-4


def test_same_from_a_list_of_layers_or_a_pattern():
    with np.load(FOLDER / "sam_on_only.npz") as data:
        golden = dict(data)
    for layers in ("dense/dense2", r".*2"):
        network = dense_network()
        network.set_weights([golden[f"w0_{i}"] for i in range(6)])
        model = LWSAMModel(network, rho=0.25, layers=layers)
        model.compile(momentum_sgd(), keras.losses.get(cross_entropy()))
        model.train_on_batch(golden["x"][0], golden["y"][0])
        np.testing.assert_allclose(
            network.get_weights()[0], golden["w_0_0"], rtol=0, atol=1e-6
        )
