"""Perturbations: from values and gradients to a displacement of the weights.

Pure functions of lists of tensors (see `_tensors`). Nothing here knows a
network, an optimizer or a backend.
"""

from keras import ops

from keras_lwsam._tensors import global_norm, scale


def along_gradient(gradients, rho):
    r"""The steepest ascent of length `rho` (SAM).

    $$ \epsilon = \rho \, g / \lVert g \rVert_2
       = \arg\max_{\lVert \epsilon \rVert_2 \le \rho} \epsilon^T g $$

    The norm is taken over the whole list. A zero gradient gives a zero
    perturbation; a gradient that is not finite gives one that is not finite
    either, so that loss scaling notices it.

    Args:
        gradients: List of tensors or `None`.
        rho: Radius, a float or a scalar tensor.

    Returns:
        List of tensors, `None` where the gradient is `None`.
    """
    norm = global_norm(gradients)
    is_zero = ops.equal(norm, 0.0)
    divisor = ops.where(is_zero, ops.ones_like(norm), norm)
    factor = ops.where(is_zero, ops.zeros_like(norm), rho / divisor)
    return scale(gradients, factor)
