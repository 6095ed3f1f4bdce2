"""Loading a file runs no code that the file brings along."""

import ast
import json
import pathlib
import zipfile

import h5py
import keras
import numpy as np
import pytest

import keras_lwsam
from keras_lwsam import LWSAMModel, methods, selection
from tests.interrupted import RUNS, X, fit, make
from tests.support import assert_equal, dense_network

PACKAGE = pathlib.Path(keras_lwsam.__file__).parent
# What runs code while it reads data, or asks others to.
RUNNERS = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "runpy",
    "eval",
    "exec",
    "__import__",
    "safe_mode",
    "enable_unsafe_deserialization",
    "func_load",
}


def words(tree):
    """All names that a module imports, uses, or gives to arguments."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [getattr(node, "module", None) or ""]
            for name in [*names, *(alias.name for alias in node.names)]:
                yield from name.split(".")
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, (ast.keyword, ast.arg)):
            yield node.arg


def reads_no_objects(node):
    """Whether a call of `np.load`, if it is one, refuses pickled objects."""
    if not isinstance(node, ast.Call):
        return True
    given = {k.arg: ast.unparse(k.value) for k in node.keywords}
    allowed = given.get("allow_pickle", "False")
    is_load = ast.unparse(node.func) in ("np.load", "numpy.load")
    return allowed == "False" and (not is_load or "allow_pickle" in given)


def test_the_package_reads_no_pickle_and_runs_no_data():
    paths = sorted(PACKAGE.rglob("*.py"))
    assert len(paths) > 40
    for path in paths:
        tree = ast.parse(path.read_text())
        assert not RUNNERS & set(words(tree)), path
        assert all(map(reads_no_objects, ast.walk(tree))), path
        # Those of `re` and of models are attributes.
        names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        assert "compile" not in names, path


def doubling_network():
    return keras.Sequential(
        [
            keras.Input((10,)),
            keras.layers.Lambda(lambda x: 2 * x, name="double"),
            keras.layers.Dense(4),
        ]
    )


def test_a_lambda_in_the_network_is_refused_unless_asked_for(tmp_path):
    """Wrapped or not, `safe_mode` holds; our `from_config` does not lift it."""
    model = LWSAMModel(doubling_network())
    path = tmp_path / "run.keras"
    model.save(path)
    expected = model.predict(X, verbose=0)

    def refused(load):
        with pytest.raises(ValueError, match=r"Python lambda.*safe_mode=False"):
            load()

    refused(lambda: keras.saving.load_model(path))
    refused(lambda: keras.saving.load_model(path, safe_mode=True))
    refused(lambda: LWSAMModel.from_config(model.get_config()))
    again = keras.saving.load_model(path, safe_mode=False)
    np.testing.assert_array_equal(again.predict(X, verbose=0), expected)
    refused(lambda: keras.saving.load_model(path))
    keras.config.enable_unsafe_deserialization()
    try:
        again = keras.saving.load_model(path)
        np.testing.assert_array_equal(again.predict(X, verbose=0), expected)
    finally:
        keras.utils.clear_session()
    refused(lambda: keras.saving.load_model(path))
    # Weights alone bring no code.
    again.load_weights(path)


class OddLayer(keras.layers.Dense):
    """Not registered."""


class OddMethod(methods.SAM):
    """Not registered."""


class OddSelection(selection.All):
    """Not registered."""


@pytest.mark.parametrize("odd", [OddLayer, OddMethod, OddSelection])
def test_an_unregistered_class_is_refused_unless_handed_over(odd, tmp_path):
    layer = (OddLayer if odd is OddLayer else keras.layers.Dense)(4)
    model = LWSAMModel(
        keras.Sequential([keras.Input((10,)), layer]),
        OddMethod() if odd is OddMethod else "sam",
        layers=OddSelection() if odd is OddSelection else "all",
    )
    path = tmp_path / "run.keras"
    model.save(path)
    with pytest.raises(
        TypeError, match=f"Could not locate class '{odd.__name__}"
    ):
        keras.saving.load_model(path)
    again = keras.saving.load_model(path, custom_objects={odd.__name__: odd})
    assert_equal(again.get_weights(), model.get_weights())


def edited(source, target, edit):
    """A copy of a `.keras` file with its configuration edited in place."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                config = json.loads(content)
                edit(config["config"])
                content = json.dumps(config)
            new.writestr(name, content)
    return target


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "run.keras"
    by_type = selection.ByType(keras.layers.Dense)
    LWSAMModel(dense_network(), methods.SAM(0.1), layers=by_type).save(path)
    return path


MARK = "mark-of-foreign-code"
FOREIGN = {
    "os.system": {
        "module": "os",
        "class_name": "system",
        "config": {"command": f"touch {MARK}"},
    },
    "a function of os": {
        "module": "os",
        "class_name": "function",
        "config": "system",
    },
    "exec": {
        "module": "builtins",
        "class_name": "exec",
        "config": {"source": f"open('{MARK}', 'w')"},
    },
    "Popen": {
        "module": "subprocess",
        "class_name": "Popen",
        "config": {"args": ["touch", MARK]},
    },
    "a lambda": {
        "class_name": "__lambda__",
        "config": {"value": ["", None, None]},
    },
    "a class of our dependencies": {
        "module": "numpy",
        "class_name": "memmap",
        "config": {"filename": MARK, "mode": "w+", "shape": [1]},
    },
    "a function of Keras": {
        "module": "keras.utils",
        "class_name": "get_file",
        "config": {"fname": MARK, "origin": "file:///etc/hostname"},
    },
    "another class of Keras": {
        "module": "keras.layers",
        "class_name": "Dense",
        "config": {"units": 4},
    },
}


REFUSAL = r"Could not locate|Cannot deserialize|Python lambda|must be"


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("where", ["model", "method", "layers", "schedule"])
def test_what_is_not_a_part_of_a_model_is_refused(
    where, what, saved, tmp_path, monkeypatch
):
    """Wherever the configuration of the wrapper names it."""
    monkeypatch.chdir(tmp_path)
    path = edited(
        saved,
        tmp_path / "bad.keras",
        lambda c: c.update({where: FOREIGN[what]}),
    )
    with pytest.raises((TypeError, ValueError), match=REFUSAL):
        keras.saving.load_model(path)
    assert not list(tmp_path.rglob(f"*{MARK}*"))


@pytest.mark.parametrize("what", FOREIGN)
def test_the_same_inside_of_a_method(what, saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = edited(
        saved,
        tmp_path / "bad.keras",
        lambda c: c["method"]["config"].update(rho=FOREIGN[what]),
    )
    with pytest.raises((TypeError, ValueError), match=REFUSAL):
        keras.saving.load_model(path)
    assert not list(tmp_path.rglob(f"*{MARK}*"))


@pytest.mark.parametrize(
    "name", ["os.system", "deserialize", "__builtins__", "Dense.__init__"]
)
def test_a_selection_by_type_names_layers_only(name, saved, tmp_path):
    path = edited(
        saved,
        tmp_path / "bad.keras",
        lambda c: c["layers"]["config"].update(layer_classes=[name]),
    )
    with pytest.raises((TypeError, ValueError), match=r"layer_classes|unknown"):
        keras.saving.load_model(path)


def test_an_unedited_copy_loads(saved, tmp_path):
    """What the others prove is not that such copies never load."""
    path = edited(saved, tmp_path / "copy.keras", lambda config: None)
    again = keras.saving.load_model(path)
    assert again.selection == selection.ByType(keras.layers.Dense)


@pytest.mark.parametrize("name", ["fisher_sparse_sam", "sampa"])
def test_a_file_holds_numbers_and_text_only(name, tmp_path):
    """Samples that a method was given too, and the batch before."""
    model = make(RUNS[name])
    fit(model, 1)
    path = tmp_path / "run.keras"
    model.save(path)
    kinds = {}
    with zipfile.ZipFile(path) as archive:
        assert set(archive.namelist()) == {
            "metadata.json",
            "config.json",
            "model.weights.h5",
        }
        config = json.loads(archive.read("config.json"))
        archive.extract("model.weights.h5", tmp_path)
    with h5py.File(tmp_path / "model.weights.h5") as file:
        file.visititems(
            lambda name, item: (
                kinds.update({name: item.dtype.kind})
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
    assert {"vars/clock", "vars/selection"} < set(kinds)
    assert set(kinds.values()) <= set("fiub")
    assert "__lambda__" not in json.dumps(config)
    again = keras.saving.load_model(path, safe_mode=True)
    assert again.method == model.method
    if name == "fisher_sparse_sam":
        for array in again.method.samples:
            assert array.dtype.kind in "fi"
