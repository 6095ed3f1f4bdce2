"""The example with the full picture, at a small size."""

import csv
import re

import numpy as np
import pytest

from examples import see_sharpness
from keras_lwsam import analysis


def test_help_explains_every_flag(capsys):
    with pytest.raises(SystemExit) as stop:
        see_sharpness.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    flags = set(re.findall(r"^  (--[\w-]+)", text, re.MULTILINE))
    expected = {"--data", "--out", "--samples", "--points", "--eigenvalues"}
    assert expected | {"--layers", "--method", "--rho", "--seed"} <= flags


@pytest.mark.documentation
def test_it_trains_looks_and_reports(tmp_path, capsys):
    generator = np.random.default_rng(0)
    data = tmp_path / "data.npz"
    np.savez(
        data,
        x_train=generator.integers(0, 255, (64, 8, 8), "uint8"),
        y_train=generator.integers(0, 3, 64),
        x_test=generator.integers(0, 255, (16, 8, 8), "uint8"),
        y_test=generator.integers(0, 3, 16),
    )
    out = tmp_path / "runs"
    see_sharpness.main(
        f"--data {data} --out {out} --epochs 2 --samples 16 --points 3 "
        "--measurements 1 --eigenvalues 1 --layers 2".split()
    )
    printed = capsys.readouterr().out
    for name in ("SGD", "SAM", "layer-wise SAM"):
        assert re.search(rf"^{name} +\d+\.\d\d% +\d", printed, re.MULTILINE)
    assert str(out / "report.html") in printed
    pictures = sorted((out / "pictures").iterdir())
    assert len(pictures) == 6
    for picture in pictures:
        assert picture.read_bytes().startswith(b"\x89PNG")
    page = (out / "report.html").read_text()
    assert page.count("<img") > 20
    perturbed = {}
    for folder in ("1_sgd", "2_sam", "3_layer_wise_sam"):
        with open(out / folder / "layer_norms.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert {row["epoch"] for row in rows} == {"0", "1"}
        perturbed[folder] = sum(
            float(row["perturbation_norm"]) > 0.0 for row in rows
        )
        with open(out / folder / "sharpness.csv", newline="") as file:
            assert [r["epoch"] for r in csv.DictReader(file)] == ["-1", "1"]
        for name in ("random_plane", "training_plane"):
            plane = analysis.Landscape.load(out / folder / f"{name}.npz")
            assert plane.losses.shape == (3, 3)
            assert np.isfinite(plane.losses).all()
    assert perturbed == {"1_sgd": 0, "2_sam": 18, "3_layer_wise_sam": 4}
    line = analysis.Landscape.load(out / "2_sam" / "line_from_sgd.npz")
    assert line.losses.shape == (3,)
