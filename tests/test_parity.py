"""One start, three backends, the same weights; files go from each to each."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.parity import METHODS, MOVED, compiled

BACKENDS = ("tensorflow", "jax", "torch")

pytestmark = pytest.mark.backends


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What `python -m tests.parity` leaves: trained, then gone on with."""
    path = tmp_path_factory.mktemp("parity")
    for what in ("train", "go_on"):
        for backend in BACKENDS:
            subprocess.run(
                [sys.executable, "-m", "tests.parity", what, str(path)],
                env={**os.environ, "KERAS_BACKEND": backend},
                check=True,
            )
    return path


def arrays(path):
    with np.load(path) as data:
        return [data[name] for name in data.files]


def assert_close(path, other):
    for one, another in zip(arrays(path), arrays(other), strict=True):
        np.testing.assert_allclose(one, another, rtol=0, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_the_same_weights(name, backend, folder):
    end = f"{name}.npz"
    assert_close(folder / backend / end, folder / BACKENDS[0] / end)


@pytest.mark.parametrize("name", METHODS)
def test_control_it_is_not_where_it_began(name, folder):
    start = compiled(name).model.get_weights()
    end = arrays(folder / BACKENDS[0] / f"{name}.npz")
    moved = [np.abs(a - b).max() for a, b in zip(start, end, strict=True)]
    assert max(moved) > 1e-2


@pytest.mark.parametrize("name", MOVED)
@pytest.mark.parametrize(
    ("source", "target"),
    [(s, t) for s in BACKENDS for t in BACKENDS if s != t],
)
def test_a_file_moves_to_another_backend(source, target, name, folder):
    """And training goes on there as if it had not."""
    end = folder / target / f"{name}_{source}_moved.npz"
    assert_close(end, folder / BACKENDS[0] / f"{name}.npz")
