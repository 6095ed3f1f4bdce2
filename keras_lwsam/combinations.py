"""Combinations: from the clean and the sharp gradient to the one to apply.

Pure functions of lists of tensors (see `_tensors`). The clean gradient is
`None` where it was not computed: outside the perturbed layers.
"""

from keras_lwsam._tensors import in_float32


def mix(clean, sharp, alpha):
    r"""`(1 - alpha) g + alpha g~` where `g` is known, `g~` elsewhere (GNP)."""
    return [
        s
        if c is None or s is None
        else (1.0 - alpha) * in_float32(c) + alpha * in_float32(s)
        for c, s in zip(clean, sharp, strict=True)
    ]
