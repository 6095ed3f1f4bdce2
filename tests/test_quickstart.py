"""The quickstart, at a small size."""

import re

import keras
import numpy as np
import pytest

from examples import quickstart


def test_help_explains_every_flag(capsys):
    with pytest.raises(SystemExit) as stop:
        quickstart.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    flags = re.findall(r"^  (--[\w-]+)", text, re.MULTILINE)
    expected = {"--data", "--layers", "--rho", "--epochs", "--seeds", "--plot"}
    assert expected <= set(flags)


@pytest.mark.documentation
def test_digits(tmp_path, capsys):
    picture = tmp_path / "norms.png"
    quickstart.main(["--epochs", "3", "--seeds", "1", "--plot", str(picture)])
    printed = capsys.readouterr().out
    for label in ("SGD", "SAM", "layer-wise SAM"):
        row = re.search(
            rf"^{label} +(\d+\.\d+)% \+- (\d+\.\d+)% +(\d+\.\d+) +(.+)$",
            printed,
            re.MULTILINE,
        )
        assert row, printed
        assert float(row[1]) > 60.0
        assert float(row[3]) > 0.0
    assert "9 of 9" in printed
    assert "2 of 9" in printed
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "100%" in printed


@pytest.mark.documentation
def test_any_npz(tmp_path, capsys):
    generator = np.random.default_rng(0)
    path = tmp_path / "data.npz"
    arrays = {
        "x_train": generator.integers(0, 255, (64, 8, 8, 3), "uint8"),
        "y_train": generator.integers(0, 5, (64, 1)),
        "x_test": generator.integers(0, 255, (32, 8, 8, 3), "uint8"),
        "y_test": generator.integers(0, 5, (32, 1)),
    }
    np.savez(path, **arrays)
    arguments = ["--data", str(path), "--epochs", "2", "--seeds", "1"]
    picture = str(tmp_path / "norms.png")
    quickstart.main(
        [*arguments, "--layers", "logits", "--rho", "0.1", "--plot", picture]
    )
    assert "1 of 9" in capsys.readouterr().out
    np.savez(path, x_train=arrays["x_train"])
    with pytest.raises(SystemExit, match="y_train"):
        quickstart.main(arguments)


@pytest.mark.parametrize("bad", [["--epochs", "0"], ["--seeds", "x"]])
def test_bad_flags_are_refused(bad, capsys):
    with pytest.raises(SystemExit) as stop:
        quickstart.main(bad)
    assert stop.value.code == 2
    assert bad[0] in capsys.readouterr().err


def test_the_three_ways_start_from_the_same_weights():
    starts = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        starts.append(quickstart.build_network((8, 8, 1), 10).get_weights())
    for one, other in zip(*starts, strict=True):
        np.testing.assert_array_equal(one, other)
