"""Imports point one way, and only one file knows Keras from inside."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

import keras_lwsam

ROOT = pathlib.Path(keras_lwsam.__file__).parent

# From the top down: a module may import modules of lower ranks, and of its own
# folder.
RANKS = [
    {"__main__"},
    {"_command_line"},
    {"callbacks"},
    {"plots"},
    {"analysis"},
    {"model"},
    {"_pricing"},
    {"_training", "_delegation", "_watching", "_workers", "costs"},
    {"_timing"},
    {"_adaptation", "_checks", "_engines", "_fitting", "_saving", "_state"}
    | {"step"},
    {"methods", "selection"},
    {"combinations", "perturbations", "schedules", "_layers", "_records"},
    {"_arguments", "_cards", "_clock", "_inputs", "_overrides"}
    | {
        "_random",
        "_structure",
        "_tables",
        "_tensorboard",
        "_tensors",
        "_version",
        "_work",
    },
    {"_functional", "_optimizers"},
    {"_keras"},
    {"_lending"},
]
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}

PURE = ("methods", "perturbations", "combinations", "schedules", "_tensors")


def modules():
    return sorted(ROOT.rglob("*.py"))


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{a.name}" for a in node.names)


def part(name):
    return name.split(".")[1] if "." in name else None


def of(path):
    return path.relative_to(ROOT).with_suffix("").parts[0]


@pytest.mark.parametrize("path", modules(), ids=lambda p: p.stem)
def test_imports_point_down(path):
    if path == ROOT / "__init__.py":
        return
    own = of(path)
    assert own in RANK, f"give {own} a rank"
    for name in imports(path):
        if not name.startswith("keras_lwsam"):
            continue
        other = part(name)
        if other in RANK and other != own:
            assert RANK[other] > RANK[own], f"{own} imports {other}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: p.stem)
def test_backends_and_the_inside_of_keras_stay_in_their_files(path):
    names = list(imports(path))
    inside = [n for n in names if n.startswith("keras.src")]
    assert not inside or path == ROOT / "_keras.py"
    backend = [n for n in names if re.match(r"(tensorflow|jax|torch)\b", n)]
    assert not backend or of(path) in ("_engines", "_tensorboard")
    if of(path) in PURE:
        assert "keras.Model" not in path.read_text().split('"""')[-1]


def test_an_engine_knows_no_method():
    for path in (ROOT / "_engines").rglob("*.py"):
        assert not [n for n in imports(path) if "methods" in n]


def test_no_file_is_long():
    for path in modules():
        assert len(path.read_text().splitlines()) <= 400, path


def test_nothing_heavy_is_imported_that_keras_does_not():
    code = (
        "import sys, keras; before = set(sys.modules);"
        "import keras_lwsam; new = set(sys.modules) - before;"
        "print(sorted({m.split('.')[0] for m in new} - {'keras_lwsam'}"
        " - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_no_other_backend_is_imported():
    """Not when it is imported, and not when it trains."""
    code = """
import sys, keras, numpy as np
def fit(wrap):
    model = wrap(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))
    model.compile("sgd", "mse")
    model.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0)
def backends():
    others = {"tensorflow", "jax", "torch"} - {keras.backend.backend()}
    return sorted(others & set(sys.modules))
fit(lambda network: network)
plain = backends()
from keras_lwsam import LWSAMModel
fit(LWSAMModel)
print("with keras", plain, "new", [m for m in backends() if m not in plain])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().endswith("new []"), done.stdout


def test_everything_public_is_documented():
    public = [keras_lwsam.LWSAMModel]
    for module in (
        keras_lwsam.methods,
        keras_lwsam.schedules,
        keras_lwsam.selection,
        keras_lwsam.callbacks,
        keras_lwsam.analysis,
        keras_lwsam.costs,
        keras_lwsam.plots,
    ):
        public += [getattr(module, name) for name in module.__all__]
    for thing in public:
        assert (thing.__doc__ or "").strip(), thing
