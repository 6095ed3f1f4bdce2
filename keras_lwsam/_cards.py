"""The cards of the methods: part of a wheel, or found in the clone."""

import importlib.resources
import pathlib

# `docs/methods` of the clone; a wheel has the same files in `cards`.
CLONE = pathlib.Path(__file__).parents[1] / "docs" / "methods"


def read(name: str) -> str:
    """The card of a method, as Markdown.

    Args:
        name: Name of the method, such as `"sam"`.

    Raises:
        FileNotFoundError: If the card was not installed.

    Example:

    >>> from keras_lwsam import _cards
    >>> _cards.read("sam").splitlines()[0]
    '# SAM: sharpness-aware minimization'
    """
    installed = importlib.resources.files("keras_lwsam") / "cards"
    for folder in (installed, CLONE):
        card = folder / f"{name}.md"
        if card.is_file():
            return card.read_text(encoding="utf-8")
    raise FileNotFoundError(
        "The card of this method is not installed: expected it in "
        f"{installed} or {CLONE}. Install the package again. "
        f"Received: name={name!r}"
    )
