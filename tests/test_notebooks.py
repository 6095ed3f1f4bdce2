"""The notebooks are made from the examples, and run."""

import pathlib
import runpy

import nbformat
import pytest

import keras_lwsam

ROOT = pathlib.Path(keras_lwsam.__file__).parents[1]
COLAB = ROOT / "examples" / "colab"
MAKER = runpy.run_path(str(COLAB / "make_notebooks.py"))
NAMES = list(MAKER["NOTEBOOKS"])

# What makes each of them run within minutes, on what comes with the packages.
SHORT = {
    "quickstart": ["--epochs", "2", "--seeds", "1"],
    "see_sharpness": ["--epochs", "2"],
    "cifar10_resnet20": ["--offline", "--epochs", "2"],
}


@pytest.mark.parametrize("name", NAMES)
def test_made_from_the_script(name):
    made = MAKER["notebook"](name)
    assert (COLAB / f"{name}.ipynb").read_text() == made, (
        "Run python examples/colab/make_notebooks.py again."
    )
    code = "\n".join(
        cell.source
        for cell in nbformat.reads(made, 4).cells
        if cell.cell_type == "code"
    )
    # All functions of the script are there, and it is run once.
    source = (ROOT / "examples" / f"{name}.py").read_text()
    for line in source.splitlines():
        if line.startswith(("def ", "class ", "import ", "from ")):
            assert line in code
    assert code.count("\nmain(arguments)\n") == 1


def test_badge_of_a_repository():
    assert "badge" not in MAKER["notebook"]("quickstart")
    made = MAKER["notebook"]("quickstart", "somebody/something")
    first, second, *_ = nbformat.reads(made, 4).cells
    assert (
        "https://colab.research.google.com/github/somebody/something/"
        "blob/main/examples/colab/quickstart.ipynb"
    ) in first.source
    assert "git+https://github.com/somebody/something" in second.source


def test_every_notebook_has_its_script():
    assert sorted(SHORT) == sorted(NAMES)
    assert sorted(path.stem for path in COLAB.glob("*.ipynb")) == sorted(NAMES)


@pytest.mark.benchmark
@pytest.mark.parametrize("name", NAMES)
def test_runs(name, tmp_path, monkeypatch):
    import nbclient

    # The kernel finds this package.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(COLAB / f"{name}.ipynb", 4)
    (parameters,) = (
        cell
        for cell in notebook.cells
        if "parameters" in cell.metadata.get("tags", ())
    )
    parameters.source = f"arguments = {SHORT[name]!r}"
    nbclient.NotebookClient(
        notebook, timeout=1200, resources={"metadata": {"path": tmp_path}}
    ).execute()
    *_, run, pictures = notebook.cells
    printed = "".join(output.get("text", "") for output in run.outputs)
    assert "accuracy" in printed.lower()
    if name != "cifar10_resnet20":
        assert any("image/png" in output.data for output in pictures.outputs)
