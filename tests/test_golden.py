"""Trajectories of the authors' own code (see golden/README.md)."""

import pathlib

import keras
import numpy as np
import pytest

from keras_lwsam import LWSAMModel, methods
from tests.support import MODES, cross_entropy, dense_network, momentum_sgd

FOLDER = pathlib.Path(__file__).parent / "golden"


def load(name):
    with np.load(FOLDER / f"{name}.npz") as data:
        return dict(data)


@keras.saving.register_keras_serializable(package="tests")
class RecordedSLSAM(methods.SLSAM):
    """SLSAM whose draws are those of the recorded run."""

    def draw(self, step, probabilities):
        golden = load("slsam")
        draws = np.stack([golden[f"active_{t}"] for t in range(6)])
        return keras.ops.take(draws, step.number, axis=0)


def fisher():
    golden = load("ssam_f_clean")
    return methods.FisherSparseSAM(
        0.1,
        sparsity=0.5,
        num_samples=16,
        samples=(golden["x"][0], golden["y"][0]),
    )


RUNS = {
    "plain_sgd": lambda: methods.SAM(0.0),
    "sam": lambda: methods.SAM(0.05),
    "sam_on_only": lambda: methods.SAM(0.25),
    "asam": lambda: methods.ASAM(0.5, eta=0.01),
    "gsam": lambda: methods.GSAM(0.1, alpha=0.4),
    "stable_sam": lambda: methods.StableSAM(0.2),
    "sampa": lambda: methods.SAMPa(0.1, interpolation=0.2),
    "ssam_f_clean": fisher,
    "look_sam": lambda: methods.LookSAM(0.1, k=2, alpha=0.7),
    "friendly_sam": lambda: methods.FriendlySAM(0.05, sigma=1.0, decay=0.9),
    "vasso": lambda: methods.VaSSO(0.05, theta=0.9),
    "bisam_log": lambda: methods.BiSAM(0.05, mu=1.0),
    "gam": methods.GAM,
    "amp": methods.AMP,
    "slsam": lambda: RecordedSLSAM(0.05, share=0.5),
    "momentum_sam": lambda: methods.MomentumSAM(0.3),
    "wsam_decoupled": lambda: methods.WSAM(0.05, gamma=0.9),
}
LAYERS = {"sam_on_only": ["dense2"]}


def model_of(name, golden, method, layers="all", **mode):
    network = dense_network()
    network.set_weights([golden[f"w0_{i}"] for i in range(6)])
    model = LWSAMModel(network, method, layers=layers)
    model.compile(momentum_sgd(), cross_entropy(), **mode)
    return model


def assert_at(t, model, golden):
    for i, weight in enumerate(model.model.get_weights()):
        np.testing.assert_allclose(
            weight, golden[f"w_{t}_{i}"], rtol=0, atol=1e-6
        )


# What takes time is to compile: the others when all is wanted.
COMPILED = ("sam", "look_sam", "ssam_f_clean")


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        pytest.param(name, mode, marks=pytest.mark.exhaustive)
        if mode == "xla" and name not in COMPILED
        else (name, mode)
        for name in RUNS
        for mode in MODES
    ],
)
def test_official_trajectory(name, mode):
    golden = load(name)
    layers = LAYERS.get(name, "all")
    model = model_of(name, golden, RUNS[name](), layers, **MODES[mode])
    for t in range(6):
        if name == "ssam_f_clean" and t % 3 == 0:
            # Two epochs of three batches.
            model._training.begin_epoch(t // 3, 2, 3)
        model.train_on_batch(golden["x"][t], golden["y"][t])
        assert_at(t, model, golden)


def test_every_recorded_run_is_compared():
    assert {path.stem for path in FOLDER.glob("*.npz")} == set(RUNS)


def test_the_runs_differ():
    """A comparison that any run passes would prove nothing."""
    ends = [load(name)["w_5_0"] for name in RUNS]
    for i, one in enumerate(ends):
        for other in ends[:i]:
            assert np.abs(one - other).max() > 1e-5
