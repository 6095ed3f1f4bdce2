"""Combinations: from the clean and the sharp gradient to the one to apply.

Pure functions of lists of tensors (see `_tensors`). The clean gradient is
`None` where it was not computed: outside the perturbed layers. There the sharp
gradient stands alone.
"""

from keras_lwsam._tensors import (
    dot,
    global_norm,
    linear,
    overlay,
    ratio,
    restrict,
    scale,
)


def mix(clean, sharp, alpha):
    r"""`(1 - alpha) g + alpha g~` where `g` is known, `g~` elsewhere (GNP)."""
    return overlay(sharp, linear(1.0 - alpha, clean, alpha, sharp))


def perpendicular(gradients, direction):
    r"""The part of `gradients` at right angles to `direction`.

    $$ g - \frac{\langle g, d \rangle}{\lVert d \rVert_2^2} \, d $$

    A zero direction takes nothing away.
    """
    share = ratio(dot(gradients, direction), dot(direction, direction))
    return linear(1.0, gradients, -share, direction)


def surrogate_gap(clean, sharp, alpha):
    r"""Descends the perturbed loss and the gap to the loss (GSAM).

    $$ \tilde g - \alpha \, g_\perp, \qquad
       g_\perp = g - \frac{\langle g, \tilde g \rangle}
                          {\lVert \tilde g \rVert_2^2} \, \tilde g $$
    """
    known = _where_known(sharp, clean)
    gap = perpendicular(clean, known)
    return overlay(sharp, linear(1.0, known, -alpha, gap))


def renormalize(gradients, norm, selected):
    r"""Gives the gradient of the selected weights another length (StableSAM).

    $$ \hat g = \frac{n}{\lVert \tilde g \rVert_2 + 10^{-12}} \, \tilde g
       \ \text{ on S} $$

    Args:
        gradients: List of tensors or `None`.
        norm: The length, a scalar.
        selected: Indices of the weights that are rescaled.

    Returns:
        List of tensors; those of other weights unchanged.
    """
    known = restrict(gradients, selected)
    factor = norm / (global_norm(known) + 1e-12)
    return overlay(gradients, scale(known, factor))


def _where_known(gradients, others):
    known = [i for i, other in enumerate(others) if other is not None]
    return restrict(gradients, known)
