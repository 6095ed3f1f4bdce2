"""The pages of the site: their code runs, and their links lead somewhere.

A block marked `python` is run, and so is a line `keras-lwsam ...` of a block
marked `bash`, page by page, each after those above it. A block marked `py` is
code of another library: it is run too by `pytest -m peers`.
"""

import csv
import importlib
import inspect
import os
import pathlib
import re
import shlex
import subprocess
import sys
import textwrap

import pytest
import tensorflow as tf

import keras_lwsam
from keras_lwsam import _command_line, methods
from tests.support import mirrored

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
SETTINGS = ROOT / "mkdocs.yml"
# The cards' code is run by `test_documents`.
PAGES = sorted(DOCS.glob("*.md"))
EVERY_PAGE = sorted(DOCS.rglob("*.md"))
API = sorted((DOCS / "api").glob("*.md"))
BLOCK = re.compile(
    r"^( *)```(\w+)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL
)


def blocks(page):
    """`(language, code)` of each block, on the lines where the page has it."""
    text = page.read_text()
    for found in BLOCK.finditer(text):
        lines_before = text.count("\n", 0, found.start()) + 1
        yield found[2], "\n" * lines_before + textwrap.dedent(found[3])


def run(page, languages):
    """Runs the blocks of a page, one after the other."""
    names = {"__name__": page.stem}
    for language, code in blocks(page):
        if language in languages:
            exec(compile(code, page, "exec"), names)
        elif language == "bash":
            for line in code.splitlines():
                if line.startswith("keras-lwsam "):
                    assert _command_line.main(shlex.split(line)[1:]) == 0, line


@pytest.fixture
def _somewhere_else(tmp_path, monkeypatch):
    """A directory for what the code writes, and the replicas of all tests."""
    monkeypatch.chdir(tmp_path)
    strategy = mirrored()
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda: strategy)


# Pages whose code asks for TensorFlow, and says so.
TENSORFLOW = {"ecosystem"}


@pytest.mark.documentation
@pytest.mark.usefixtures("_somewhere_else")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page,
            id=page.stem,
            marks=[pytest.mark.tensorflow] if page.stem in TENSORFLOW else [],
        )
        for page in PAGES
    ],
)
def test_code_runs(page):
    run(page, {"python"})


@pytest.mark.peers
@pytest.mark.usefixtures("_somewhere_else")
def test_code_of_other_libraries_runs():
    page = DOCS / "migration.md"
    assert any(language == "py" for language, _ in blocks(page))
    run(page, {"python", "py"})


def test_every_block_is_of_a_known_kind():
    known = {"python", "py", "bash", "text"}
    for page in PAGES:
        # An opening or closing fence that `BLOCK` does not see is not run.
        fences = re.findall(r"^ *```", page.read_text(), re.MULTILINE)
        found = [language for language, _ in blocks(page)]
        assert len(fences) == 2 * len(found), page
        assert set(found) <= known, page


def documented(page):
    """The names that a page of the API shows."""
    shown = re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
    return [name.rpartition(".")[2] for name in shown if name.count(".") > 1]


def test_every_public_name_is_on_a_page():
    pages = {page.stem: page for page in API}
    assert set(keras_lwsam.__all__) == {
        *(pages.keys() - {"index", "model"}),
        *("LWSAMModel", "__version__"),
    }
    assert "::: keras_lwsam.LWSAMModel\n" in pages["model"].read_text()
    for name in pages.keys() - {"index", "model"}:
        module = importlib.import_module(f"keras_lwsam.{name}")
        shown = documented(pages[name])
        assert sorted(shown) == sorted(module.__all__), name
        assert f"({name}.md)" in pages["index"].read_text()


def test_every_page_is_in_the_navigation():
    navigation = SETTINGS.read_text().partition("\nnav:\n")[2]
    named = re.findall(r"(\S+\.md)$", navigation, re.MULTILINE)
    pages = [str(page.relative_to(DOCS)) for page in EVERY_PAGE]
    assert sorted(named) == sorted(pages)


def without_code(page):
    return re.sub(r"```.*?```|`[^`]+`", "", page.read_text(), flags=re.DOTALL)


def anchors(page):
    """Where links into a page may lead: its headings, in the site's words."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        kept = re.sub(r"[^\w\s-]", "", heading.lower()).strip()
        yield re.sub(r"[-\s]+", "-", kept)


@pytest.mark.parametrize(
    "page", EVERY_PAGE, ids=lambda page: str(page.relative_to(DOCS))
)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_radii_of_the_table_are_those_of_the_methods():
    text = (DOCS / "choosing.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", text, re.MULTILINE)
    radii = {
        method.__name__: inspect.signature(method).parameters.get("rho")
        for method in methods.NAMES.values()
    }
    expected = {name: rho.default for name, rho in radii.items() if rho}
    assert {name: float(rho) for name, rho in rows} == expected


def test_costs_are_those_of_the_record():
    (record,) = (ROOT / "benchmarks" / "records").glob("*step_cost")
    text = (DOCS / "index.md").read_text()
    assert record.name in text
    with open(record / "results.csv", newline="") as file:
        measured = {
            (row["network"], row["way"]): f"{float(row['time_ratio']):.2f}"
            for row in csv.DictReader(file)
            if row["time_ratio"]
        }
    rows = re.findall(r"^\| (.+?) \|((?: \d\.\d\d \|)+)$", text, re.MULTILINE)
    assert len(rows) == 4
    for way, numbers in rows:
        expected = [measured[name, way] for name in ("resnet20", "vit", "bert")]
        assert re.findall(r"[\d.]+", numbers) == expected


def test_records_that_are_named_exist():
    named = {
        record
        for page in EVERY_PAGE
        for record in re.findall(
            r"benchmarks/records/([\w-]+)", page.read_text()
        )
    }
    assert named
    records = ROOT / "benchmarks" / "records"
    assert named <= {path.name for path in records.iterdir()}


@pytest.mark.documentation
def test_the_site_builds_without_a_warning(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mkdocs", "build", "--strict"),
            *("--config-file", SETTINGS, "--site-dir", tmp_path),
        ],
        # What its theme has to say of its future.
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    built = sorted(tmp_path.rglob("*.html"))
    assert len(built) == len(EVERY_PAGE) + len(["404.html"])
    formulas = 0
    for page in built:
        text = page.read_text()
        formulas += text.count('<div class="formula"><math')
        # Formulas and examples that Markdown did not know as such.
        assert "arithmatex" not in text, page
        assert "$$" not in text, page
        assert "<blockquote>" not in text, page
        # What the browser would fetch from elsewhere.
        fetched = re.findall(
            r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=\"?(https?:[^\s>]+)",
            text,
        )
        assert not fetched, page
    assert formulas > 50
