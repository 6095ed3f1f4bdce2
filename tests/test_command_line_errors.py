"""What the command line says of anything wrong, and how it ends."""

import functools
import os
import pathlib
import subprocess
import sys

import keras
import pytest
from keras import layers

import keras_lwsam
from keras_lwsam._command_line import main
from tests import command_line
from tests.support import dense_network

ROOT = pathlib.Path(keras_lwsam.__file__).parents[1]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return command_line.files(tmp_path_factory.mktemp("files"))


@pytest.fixture
def run(capsys):
    return functools.partial(command_line.run, capsys)


def damaged(folder):
    content = (folder / "network.keras").read_bytes()
    path = folder / "damaged.keras"
    path.write_bytes(content[: len(content) // 2])
    return path


def corrupt(folder):
    content = bytearray((folder / "network.keras").read_bytes())
    content[100:400] = bytes(300)
    path = folder / "corrupt.keras"
    path.write_bytes(content)
    return path


def of_unknown_class(folder):
    class Own(layers.Layer):
        pass

    network = keras.Sequential([keras.Input((3,)), Own(), layers.Dense(2)])
    network.save(folder / "own.keras")
    return folder / "own.keras"


def with_code(folder):
    network = keras.Sequential(
        [keras.Input((3,)), layers.Lambda(lambda x: x), layers.Dense(2)]
    )
    network.save(folder / "code.keras")
    return folder / "code.keras"


def frozen(folder):
    network = dense_network()
    network.trainable = False
    network.save(folder / "frozen.keras")
    return folder / "frozen.keras"


def weights(folder):
    path = folder / "network.weights.h5"
    dense_network().save_weights(path)
    return path


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "nowhere.keras", "no such file"),
        (lambda folder: folder, "no such file"),
        (weights, "does not end in .keras"),
        (damaged, "is damaged"),
        (corrupt, "is damaged"),
        (of_unknown_class, "classes or functions of your own"),
        (with_code, "classes or functions of your own"),
        (frozen, "no trainable layer"),
    ],
)
@pytest.mark.parametrize("command", [["layers"], ["cost", "--layers", "all"]])
def test_files_that_cannot_be_read(run, files, command, make, said):
    name, *options = command
    code, _, error = run(name, make(files), *options)
    assert code == 1
    assert said in error
    assert "Received: " in error


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "COMMAND"),
        (["frobnicate"], "invalid choice"),
        (["layers"], "MODEL.keras"),
        (["layers", "FILE", "--length", "0"], "Received: '0'"),
        (["layers", "FILE", "--batch-size", "many"], "Received: 'many'"),
        (["cost", "FILE"], "Say which"),
        (["cost", "FILE", "--layers"], "expected at least one"),
        (["cost", "FILE", "--layers", "1.5"], "in (0, 1]"),
        (["cost", "FILE", "--layers", "-1"], "non-negative"),
        (["cost", "FILE", "--layers", "4"], "at most 3"),
        (["cost", "FILE", "--layers", "nothing"], "must match"),
        (["cost", "FILE", "--layers", "("], "regular expressions"),
        (["methods", "sam", "asam"], "unrecognized"),
    ],
    ids=" ".join,
)
def test_wrong_usage(run, files, argv, said):
    file = files / "network.keras"
    code, _, error = run(*(file if a == "FILE" else a for a in argv))
    assert code == 2
    assert said in error


def process(argv, **kwargs):
    return subprocess.Popen(
        [sys.executable, "-m", "keras_lwsam", *argv],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def test_process_that_fails(tmp_path):
    """Elsewhere than in the clone."""
    with process(["layers", "nowhere.keras"], cwd=tmp_path) as child:
        output, error = child.communicate()
    assert child.returncode == 1
    assert output == ""
    assert error.splitlines()[-1].startswith("keras_lwsam: error: There is no")
    assert "Traceback" not in error


def test_a_reader_that_leaves(monkeypatch):
    """Nothing is left to flush, which Python would complain of at its end."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert main(["methods", "sam"]) == 1


@pytest.mark.exhaustive
def test_process_whose_reader_leaves():
    with process(["methods", "sam"]) as child:
        child.stdout.close()
        error = child.stderr.read()
    assert child.returncode == 1
    assert "BrokenPipe" not in error
    assert "Traceback" not in error


def test_without_a_standard_output(monkeypatch):
    """As after `>&-`."""
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["methods", "sam"]) == 0
