"""`examples/mirrored.py`, at a small size."""

import re

import mirrored
import pytest

pytestmark = pytest.mark.tensorflow

ARGUMENTS = ["--epochs", "2", "--batch-size", "448", "--layers", "2"]


def difference(printed):
    return float(re.search(r"between their weights: (\S+)", printed)[1])


@pytest.mark.documentation
def test_it_says_what_it_ran_on_and_that_the_runs_agree(capsys):
    mirrored.main([*ARGUMENTS, "--devices", "all", "--policy", "float64"])
    printed = capsys.readouterr().out
    assert "CPU:0, CPU:1 (2 logical CPU devices)" in printed
    assert "2 replicas:" in printed
    assert difference(printed) < 1e-12


@pytest.mark.parametrize(
    "arguments",
    [["--epochs", "0"], ["--batch-size", "-1"], ["--batch-size", "9999"]],
)
def test_wrong_sizes(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        mirrored.main(["--devices", "2", *arguments])
    assert stop.value.code != 0
    assert arguments[0] in capsys.readouterr().err + str(stop.value.code)


@pytest.mark.parametrize("devices", ["none", "0", "-1", "99"])
def test_wrong_devices(devices, capsys):
    with pytest.raises(SystemExit) as stop:
        mirrored.main(["--devices", devices])
    assert stop.value.code != 0
    assert "--devices" in capsys.readouterr().err + str(stop.value.code)
