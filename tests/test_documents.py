"""What the README and the cards say runs, and is what was measured."""

import csv
import os
import pathlib
import re
import subprocess
import sys

import pytest

from keras_lwsam import methods
from tests.cases import CASES

ROOT = pathlib.Path(__file__).parents[1]
INDEX = ROOT / "docs" / "methods" / "README.md"
CARDS = sorted(set(INDEX.parent.glob("*.md")) - {INDEX})
HEADINGS = (
    "Rule",
    "Use",
    "Arguments",
    "Cost",
    "Identities",
    "Proven",
    "Claims",
    "Caveats",
    "References",
)


def snippets(path):
    return re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)


@pytest.mark.documentation
def test_readme_snippets_run(tmp_path):
    """In a process of its own: they make a strategy of all devices."""
    found = snippets(ROOT / "README.md")
    assert len(found) >= 2
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(found)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    printed = done.stdout
    assert "['accuracy', 'gradient_norm', 'loss', 'sharpness']" in printed
    assert (tmp_path / "run.keras").exists()
    assert not (tmp_path / "backup").exists()


@pytest.mark.parametrize("card", [*CARDS, INDEX], ids=lambda path: path.stem)
def test_card_snippets_run(card):
    found = snippets(card)
    assert found
    for code in found:
        exec(compile(code, card.name, "exec"), {})


def test_every_method_has_a_card():
    named = {path.stem for path in CARDS}
    assert named == set(methods.NAMES)
    for card in CARDS:
        text = card.read_text()
        for heading in HEADINGS:
            assert text.count(f"**{heading}.**") == 1, (card, heading)


def test_the_index_and_the_readme_name_every_method():
    for path in (INDEX, ROOT / "README.md"):
        text = path.read_text()
        for name, method in methods.NAMES.items():
            assert f'`"{name}"`' in text, (path, name)
            assert f"`{method.__name__}`" in text, (path, name)


def test_cost_table_is_the_record():
    text = (ROOT / "README.md").read_text()
    (record,) = set(re.findall(r"benchmarks/records/[\w-]*step_cost", text))
    with open(ROOT / record / "results.csv", newline="") as file:
        measured = {
            (row["network"], row["way"]): row for row in csv.DictReader(file)
        }
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ") and line.count("|") == 8
    ]
    ways = [row for row in rows if ("resnet20", row[0]) in measured]
    assert len(ways) >= 6
    for way, *cells in ways:
        for i, network in enumerate(("resnet20", "vit", "bert")):
            row = measured.get((network, way))
            expected = (
                f"{float(row['time_ratio']):.2f}" if row else "",
                row["operations"] if row else "",
            )
            assert tuple(cells[2 * i : 2 * i + 2]) == expected


def test_bars_hold_in_the_record():
    (record,) = (ROOT / "benchmarks" / "records").glob("*step_cost")
    with open(record / "results.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["bar"]]
    assert len(rows) == 15
    for row in rows:
        assert float(row["time_ratio"]) <= float(row["bar"]), row


def test_passes_in_the_record_are_those_of_the_table_of_methods():
    (record,) = (ROOT / "benchmarks" / "records").glob("*method_cost")
    assert record.name in (ROOT / "README.md").read_text()
    with open(record / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == set(methods.NAMES)
    for row in rows:
        if row["step"] == "every" and row["layers"] == "all":
            passes = float(row["forward"]), float(row["backward"])
            expected = CASES[row["method"]].passes
            # In ESAM, KSAM and AUSAM one of them is on a part of the batch.
            assert passes == expected, row
