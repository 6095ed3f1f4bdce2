"""How a pass through the network is made, and what comes of it."""

from typing import Any, NamedTuple


class Evaluation(NamedTuple):
    """One forward and backward pass.

    Attributes:
        loss: Scalar, in the units of the logs.
        gradients: List with an entry a weight; `None` where the weight was
            not asked for or has no influence on the loss.
        predictions: What the network returned.
        assignments: `(variable, value)` pairs: what the pass would have
            assigned (BatchNorm statistics, seeds, loss trackers).
        sample_losses: Vector of the losses of the samples, of which the loss
            without regularization is the mean; if it was asked for.
        sample_slopes: Vector of the norms of their gradients with respect to
            the predictions; likewise.
        batch: The samples that the predictions are of; `None`: the batch of
            the step.
        weight: How much what this replica logs of it counts, next to the
            others.
    """

    loss: Any
    gradients: list
    predictions: Any = None
    assignments: list = ()
    sample_losses: Any = None
    sample_slopes: Any = None
    batch: Any = None
    weight: float = 1.0


class Options(NamedTuple):
    """How a pass is made: the arguments of `Step.gradients` by name.

    `share` is the part that this replica has in samples that all replicas
    together evaluate; `None`: the same as the others.
    """

    loss: Any = None
    training: bool = True
    when: Any = None
    dense: bool = False
    sample_losses: bool = False
    regularized: bool = True
    local: bool = False
    share: Any = None
