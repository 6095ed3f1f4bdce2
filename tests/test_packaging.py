"""What is installed, with or without the clone that it came from."""

import importlib.metadata
import importlib.resources
import pathlib
import tomllib

import keras_lwsam
from keras_lwsam import _cards, _command_line, methods

PACKAGE = pathlib.Path(keras_lwsam.__file__).parent
ROOT = PACKAGE.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_wheel_takes_the_cards_from_the_documents():
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == [PACKAGE.name]
    ((source, target),) = wheel["force-include"].items()
    assert target == f"{PACKAGE.name}/cards"
    assert {path.stem for path in (ROOT / source).glob("*.md")} == {
        "README",
        *methods.NAMES,
    }
    assert ROOT / source == _cards.CLONE
    assert (PACKAGE / "py.typed").exists()


def test_installed_cards_come_before_those_of_the_clone(monkeypatch, tmp_path):
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "sam.md").write_text("# Installed")
    monkeypatch.setattr(importlib.resources, "files", lambda name: tmp_path)
    assert _cards.read("sam") == "# Installed"
    assert _cards.read("gnp") != "# Installed"


def test_the_script_is_the_command_line():
    (script,) = PROJECT["project"]["scripts"].items()
    entry = importlib.metadata.EntryPoint(*script, "console_scripts")
    assert entry.load() is _command_line.main
