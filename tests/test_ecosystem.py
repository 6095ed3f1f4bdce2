"""What `docs/ecosystem.md` says works has a test that it names."""

import ast
import pathlib
import re

import keras
import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "ecosystem.md"


def sections():
    """Parts of the page, a dict from heading to text."""
    parts = re.split(r"^## (.+)$", PAGE.read_text(), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def rows(text):
    """The cells of each row of the tables in a part of the page."""
    lines = re.findall(r"^\| (.+) \|$", text, re.MULTILINE)
    table = [[cell.strip() for cell in line.split(" | ")] for line in lines]
    return [row for row in table if row[0] != "what"]


def names_of_tests(path):
    """Names of the tests of a file."""
    tree = ast.parse(path.read_text())
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


@pytest.mark.parametrize("heading", sections())
def test_every_row_has_a_test_and_every_test_a_row(heading):
    text = sections()[heading]
    files = re.findall(r"\(\.\./(tests/\w+\.py)\)", text)
    tests = set().union(*(names_of_tests(ROOT / file) for file in files))
    named = set()
    for row in rows(text):
        assert len(row) == 3, row
        found = set(re.findall(r"`(test_\w+)`", row[2]))
        assert found, row
        named |= found
    assert named == tests


def test_every_callback_of_keras_has_a_row():
    """One that a later Keras adds has none yet."""
    told = {row[0].strip("`") for row in rows(sections()["Callbacks"])}
    for name, value in vars(keras.callbacks).items():
        if isinstance(value, type):
            assert name in told, f"no row for {name}"
