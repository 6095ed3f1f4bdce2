"""What the columns of the histories are called in pictures."""

import re

# Title, and unit or meaning.
_COLUMNS = {
    "gradient_norm": ("Gradient norm", "L2"),
    "weight_norm": ("Weight norm", "L2"),
    "update_norm": ("Update norm", "L2"),
    "update_ratio": ("Relative update", "update / weight"),
    "perturbation_norm": ("Perturbation norm", "L2"),
    "cosine": ("Cosine of gradients", "clean and sharp"),
    "sharpness": ("Sharpness", "loss increase"),
    "average_sharpness": ("Average sharpness", "loss increase"),
    "trace": ("Hessian trace", "loss / weight²"),
    "loss": ("Loss", ""),
    "eigenvalue_1": ("Largest eigenvalue", "loss / weight²"),
}

NORMS = tuple(_COLUMNS)[:6]


def title(column):
    """What a column is called.

    >>> title("eigenvalue_2"), title("val_top_5"), title("update_ratio")
    ('Eigenvalue 2', 'Validation top 5', 'Relative update')
    """
    if column in _COLUMNS:
        return _COLUMNS[column][0]
    text = re.sub("^val_", "validation ", column).replace("_", " ")
    return text[:1].upper() + text[1:]


def name(column):
    """The title within a sentence.

    >>> name("weight_norm"), name("trace")
    ('weight norm', 'Hessian trace')
    """
    text = title(column)
    return text if text.startswith("Hessian") else text[0].lower() + text[1:]


def label(column):
    """The label of an axis: the name and its unit."""
    notes = unit(column)
    return f"{name(column)} ({notes})" if notes else name(column)


def unit(column):
    """The unit or the meaning of a column, or an empty string."""
    if re.fullmatch(r"eigenvalue_\d+", column):
        return "loss / weight²"
    return _COLUMNS.get(column, ("", ""))[1]


def has_sign(column):
    """Whether 0 and what is below are values as good as others."""
    return column not in NORMS or column == "cosine"


def eigenvalues(rows):
    """The columns of the eigenvalues, the largest first."""
    found = {key for row in rows for key in row}
    found = {key for key in found if re.fullmatch(r"eigenvalue_\d+", key)}
    return sorted(found, key=lambda key: int(key.split("_")[1]))
