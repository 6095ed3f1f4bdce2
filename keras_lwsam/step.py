"""The sharpness-aware step that every method runs in."""

from keras_lwsam.methods.base import Update


class Step:
    """What a method sees of one training step.

    Args:
        engine: The backend's engine, holding the snapshot of the step.
        batch: `(x, y, sample_weight)`.
        state: The method's state, a structure of tensors.
        weights: Indices of the weights that the step trains.
        selected: Indices of the weights to perturb.
        ascent: Indices of the weights whose clean gradient shapes the
            perturbation: the selected ones, or all.
    """

    def __init__(self, engine, batch, state, weights, selected, ascent):
        self._engine = engine
        self._batch = batch
        self.state = state
        self.values = engine.values
        self.weights = tuple(weights)
        self.selected = tuple(selected)
        self.ascent = tuple(ascent)
        self.counted = None

    def gradients(self, at, wrt):
        """The primitive: loss and gradients *at* values, *wrt* weights.

        The first call of a step is the one that counts (see `Method`).

        Args:
            at: List of tensors, one a weight.
            wrt: Indices of the weights to differentiate with respect to.

        Returns:
            An object with `loss`, `gradients` (one entry a weight, `None`
            outside `wrt`) and `predictions`.
        """
        evaluation = self._engine.gradients(self._batch, at, wrt)
        if self.counted is None:
            self.counted = evaluation
        return evaluation


def run(engine, method, batch, state, weights, selected, ascent):
    """One step: the method's program, or the base optimizer's.

    Returns:
        `(update, counted)`: the `Update` to carry out and the evaluation
        whose loss, predictions and assignments are kept.
    """
    step = Step(engine, batch, state, weights, selected, ascent)
    if method.is_plain or not selected:
        descent = step.gradients(at=step.values, wrt=step.weights)
        update = Update(gradients=descent.gradients, state=state)
    else:
        update = method.update(step)
    return update, step.counted
