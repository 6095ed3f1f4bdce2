"""DeltaSAM: sharpness-aware minimization with dynamic reweighting."""

from keras import ops

from keras_lwsam.methods.base import (
    TwoGradientMethod,
    register,
)


@register
class DeltaSAM(TwoGradientMethod):
    r"""SAM whose perturbation counts each sample by its gradient norm.

    $$ \epsilon = \rho \, \frac{h}{\lVert h \rVert_2}, \qquad
       h = \nabla \frac{1}{n} \sum_i p_i \, l_i(w), \qquad
       p_i = \frac{n \, s_i}{\sum_j s_j} $$

    One perturbation a batch, near to the perturbations of the single samples.
    The norm s_i of a sample's gradient is estimated by that of its loss with
    respect to the network's outputs, which the forward pass gives away.

    Args:
        rho: Radius of the perturbation, a float >= 0 or a schedule. Defaults
            to `0.05`; `0` is the base optimizer, bit for bit.

    Raises:
        TypeError: If `rho` is not a real number.
        ValueError: If `rho` is negative; while training, if the loss has no
            value for each sample.

    Example:

    >>> from keras_lwsam import methods
    >>> methods.DeltaSAM(0.02)
    DeltaSAM(rho=0.02)

    References:
        Zhou, Liu, Zhang, Chen: Sharpness-Aware Minimization with Dynamic
        Reweighting, Findings of EMNLP 2022, arXiv:2112.08772.
    """

    takes_clean_gradient = False

    def __init__(self, rho=0.05):
        super().__init__(rho)

    def weights(self, step, evaluation):
        """Weights of the samples, of mean 1 over all replicas."""
        slopes = evaluation.sample_slopes
        # Samples without a slope at all are alike.
        flat = ops.equal(ops.max(slopes), 0.0)
        slopes = ops.where(flat, ops.ones_like(slopes), slopes)
        (mean,) = step.mean_over_replicas([ops.mean(slopes)])
        return slopes / mean

    def update(self, step):
        clean = step.gradients(at=step.values, wrt=(), sample_losses=True)
        climb = step.weighted(self.weights(step, clean)).gradients(
            at=step.values, wrt=step.ascent, sample_losses=True
        )
        return self.descend(step, clean.loss, climb.gradients)
