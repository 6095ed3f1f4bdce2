"""Makes the notebooks of this directory from the scripts beside it.

    python examples/colab/make_notebooks.py [--repository OWNER/NAME]

A notebook holds the modules that its script needs, the script cell by cell,
and a last cell that runs it; the cell before says with which arguments. With
`--repository`, the address of this repository on GitHub, a badge opens it in
Colab and the package is installed from there. Needs `pip install nbformat`.
"""

import argparse
import ast
import pathlib
import textwrap

import nbformat
from nbformat import v4

COLAB = pathlib.Path(__file__).parent
EXAMPLES = COLAB.parent

# Script, the arguments it is run with, the extras that it needs.
NOTEBOOKS = {
    "quickstart": ([], "examples"),
    "see_sharpness": ([], "examples"),
    "cifar10_resnet20": (["--epochs", "20"], "datasets,examples"),
}

INSTALL = '''\
import importlib.util

# Where the package comes from: the address of its repository, such as
# "git+https://...", or the path of a wheel that you uploaded here.
source = "{source}"
if importlib.util.find_spec("keras_lwsam") is None:
    if not source:
        raise SystemExit("Say in `source` where keras_lwsam is.")
    %pip install -q "keras-lwsam[{extras}] @ {{source}}"'''

SHOW = """\
from pathlib import Path

from IPython.display import Image, display

for picture in sorted(Path().rglob("*.png")):
    display(Image(picture))"""

BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/"
    "colab-badge.svg)](https://colab.research.google.com/github/{repository}/"
    "blob/main/examples/colab/{name}.ipynb)"
)


def modules_of(path):
    """The other examples that a script imports, the needed ones first."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        for name in names:
            needed = EXAMPLES / f"{name}.py"
            if needed.exists():
                found += [*modules_of(needed), needed]
    return list(dict.fromkeys(found))


def parts_of(source):
    """`(heading, code)` of a script: what it begins with, its functions."""
    lines = source.splitlines()
    parts, end = [], 0
    for node in ast.parse(source).body:
        code, end = lines[end : node.end_lineno], node.end_lineno
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            summary = ast.get_docstring(node).partition("\n\n")[0]
            parts.append((summary.replace("\n", " "), code))
        elif parts and not parts[-1][0]:
            parts[-1][1].extend(code)
        elif not (_is_docstring(node) or _is_main(node)):
            parts.append(("", code))
    return [(heading, "\n".join(code).strip()) for heading, code in parts]


def _is_docstring(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_main(node):
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)


def notebook(name, repository=None):
    """The notebook of a script, as a string."""
    arguments, extras = NOTEBOOKS[name]
    path = EXAMPLES / f"{name}.py"
    source = path.read_text()
    title, _, about = ast.get_docstring(ast.parse(source)).partition("\n\n")
    introduction = [f"# {title}", about]
    address = ""
    if repository:
        badge = BADGE.format(repository=repository, name=name)
        introduction.insert(1, badge)
        address = f"git+https://github.com/{repository}"
    cells = [
        v4.new_markdown_cell("\n\n".join(introduction)),
        v4.new_code_cell(INSTALL.format(source=address, extras=extras)),
    ]
    for module in modules_of(path):
        text = module.read_text()
        summary = ast.get_docstring(ast.parse(text)).partition("\n\n")[0]
        cells += [
            v4.new_markdown_cell(f"`{module.name}`: {summary}"),
            v4.new_code_cell(f"%%writefile {module.name}\n{text.rstrip()}"),
        ]
    for heading, code in parts_of(source):
        if heading:
            cells.append(v4.new_markdown_cell(heading))
        cells.append(v4.new_code_cell(code))
    listed = ", ".join(f'"{argument}"' for argument in arguments)
    cells += [
        v4.new_markdown_cell(
            'The arguments of the command line; `["--help"]` lists them.'
        ),
        v4.new_code_cell(
            f"arguments = [{listed}]",
            metadata={"tags": ["parameters"]},
        ),
        v4.new_code_cell("main(arguments)"),
        v4.new_code_cell(SHOW),
    ]
    for i, cell in enumerate(cells):
        cell["id"] = f"cell-{i}"
    metadata = {
        "accelerator": "GPU",
        "kernelspec": {"display_name": "Python 3", "name": "python3"},
        "language_info": {"name": "python"},
    }
    made = v4.new_notebook(cells=cells, metadata=metadata)
    nbformat.validate(made)
    return nbformat.writes(made, version=4, indent=1) + "\n"


def main():
    """Writes all of them."""
    parser = argparse.ArgumentParser(
        description=textwrap.dedent(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--repository",
        metavar="OWNER/NAME",
        help="this repository on GitHub, for badges (default: none)",
    )
    args = parser.parse_args()
    for name in NOTEBOOKS:
        path = COLAB / f"{name}.ipynb"
        path.write_text(notebook(name, args.repository))
        print(path)


if __name__ == "__main__":
    main()
