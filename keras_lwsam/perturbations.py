"""Perturbations: from values and gradients to a displacement of the weights.

Pure functions of lists of tensors (see `_tensors`). Nothing here knows a
network, an optimizer or a backend.
"""

from keras import ops

from keras_lwsam._tensors import combine, global_norm, ratio, scale, times


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
    return scale(gradients, ratio(rho, global_norm(gradients)))


def adaptive(gradients, scales, rho):
    r"""The steepest ascent in the metric of the weights' sizes (ASAM).

    $$ \epsilon = \rho \, T^2 g / \lVert T g \rVert_2
       = \arg\max_{\lVert T^{-1} \epsilon \rVert_2 \le \rho} \epsilon^T g $$

    Args:
        gradients: List of tensors or `None`.
        scales: List of the positive tensors T, `None` for 1.
        rho: Radius, a float or a scalar tensor.

    Returns:
        List of tensors, `None` where the gradient is `None`.
    """
    scaled = _products(scales, gradients)
    return _products(scales, along_gradient(scaled, rho))


def masked(gradients, masks, rho):
    r"""The steepest ascent, of which a mask keeps some entries (sparse SAM).

    $$ \epsilon = m \odot \rho \, g / (\lVert g \rVert_2 + 10^{-7}) $$

    The norm is that of the gradient before masking, so the perturbation is at
    most `rho` long.

    Args:
        gradients: List of tensors or `None`.
        masks: List of tensors of zeros and ones.
        rho: Radius, a float or a scalar tensor.

    Returns:
        List of tensors, `None` where the gradient is `None`.
    """
    step = scale(gradients, ratio(rho, global_norm(gradients) + 1e-7))
    return combine(ops.multiply, step, masks)


def clipped_to_ball(displacements, radius):
    """Each tensor, shortened to the length `radius` if it is longer (AMP)."""

    def clip(tensor):
        norm = global_norm([tensor])
        factor = ops.where(norm > radius, ratio(radius, norm), 1.0)
        return times(tensor, factor)

    return combine(clip, displacements)


def _products(factors, tensors):
    return [
        tensor
        if factor is None or tensor is None
        else ops.multiply(factor, tensor)
        for factor, tensor in zip(factors, tensors, strict=True)
    ]
