"""The sharpness-aware step that every method runs in."""

import copy

from keras import ops

from keras_lwsam import schedules
from keras_lwsam._random import StepSeed
from keras_lwsam._tensors import combine, restrict, subtract
from keras_lwsam.methods.base import Update


class Step:
    """What a method sees of one training step.

    Args:
        engine: The backend's engine, holding the snapshot of the step.
        batch: `(x, y, sample_weight)`.
        previous_batch: The batch of the step before, for methods that ask for
            it; the same batch in the first step.
        state: The method's state, a structure of tensors.
        time: `Time` of the step.
        phase: What `Method.phase` said of it.
        loss: The loss that the model was compiled with.
        variables: The network's weights, as Keras variables: to look at their
            names and shapes, never to be read or assigned.
        layers: The layers that own them.
        weights: Indices of the weights that the step trains.
        selected: Indices of the weights to perturb.
        ascent: Indices of the weights whose clean gradient shapes the
            perturbation: the selected ones, or all.

    Attributes:
        values: The weights' values at the start of the step.
        counted: The evaluation whose loss, predictions and assignments are
            kept: that of the first call.
    """

    def __init__(
        self,
        engine,
        batch,
        previous_batch,
        state,
        time,
        phase,
        loss,
        variables,
        layers,
        weights,
        selected,
        ascent,
    ):
        self._engine = engine
        self._draws = 0
        self._in_parts = False
        self._share = None
        self._time = time
        self._previous_batch = previous_batch
        self.batch = batch
        self.state = state
        self.phase = phase
        self.loss = loss
        self.values = engine.values
        self.variables = variables
        self.layers = layers
        self.weights = tuple(weights)
        self.selected = tuple(selected)
        self.ascent = tuple(ascent)
        self.counted = None

    def gradients(self, at, wrt, **options):
        """The primitive: loss and gradients *at* values, *wrt* weights.

        The first call of a step is the one that counts (see `Method`).

        Args:
            at: List of tensors, one a weight.
            wrt: Indices of the weights to differentiate with respect to. With
                none of them the pass goes forward only.
            **options: By name:
                `loss`: function `(x, y, predictions, sample_weight)` to a
                scalar, in place of the compiled loss.
                `training`: whether the network is called as in training;
                `True`.
                `when`: boolean scalar tensor; unless it holds, nothing is
                computed, and loss and gradients are zero. Not in the first
                call.
                `dense`: whether the gradients of embeddings are made dense;
                `False`.
                `sample_losses`: whether `sample_losses` and `sample_slopes`
                are wanted; `False`.
                `regularized`: whether regularization and `add_loss` are part
                of the loss; `True`.
                `local`: whether each replica keeps its own gradients, come
                what may; `False`.

        Returns:
            An object with `loss`, `gradients` (one entry a weight, `None`
            outside `wrt`) and `predictions`; and if asked for `sample_losses`,
            a vector with an entry a sample, of which the loss without
            regularization is the mean, and `sample_slopes`, the norms of their
            gradients with respect to the predictions.
        """
        if self._in_parts:
            options["dense"] = True
        if self._share is not None:
            options["share"] = self._share
        evaluation = self._engine.gradients(self.batch, at, wrt, **options)
        if self.counted is None:
            self.counted = evaluation
        return evaluation

    def side_by_side(self, at, other, other_at):
        """Evaluations at two places that do not wait for each other.

        With respect to all weights, dense. On an even number of replicas each
        half makes one of them, at the same time, on the whole global batch.

        Args:
            at: List of tensors, one a weight. The evaluation there is the one
                that counts.
            other: A `Step`, such as `previous`.
            other_at: Where the batch of that step is evaluated.

        Returns:
            A pair of what `gradients` returns.
        """
        if self._in_parts:
            first = self.gradients(at, self.weights)
            return first, other.gradients(other_at, self.weights)
        first, second = self._engine.side_by_side(
            [(self.batch, at), (other.batch, other_at)], self.weights
        )
        if self.counted is None:
            self.counted = first
        return first, second

    def on(self, batch) -> "Step":
        """The same step on other samples. What it evaluates does not count."""
        step = copy.copy(self)
        step.batch = batch
        step.counted = None
        return step

    def taking(self, indices) -> "Step":
        """The same step on some samples of its batch.

        Args:
            indices: Vector of positions in the batch.
        """
        return self.on(self._engine.batches.take(self.batch, indices))

    def sharing(self, indices) -> "Step":
        """The same step on some samples of those that `pooled` knows.

        Where all replicas climb together, they share them among each other.

        Args:
            indices: Vector of positions in what `pooled` gives.
        """
        if not self._engine.pools(self.batch):
            return self.taking(indices)
        part, share = self._engine.replicas.part_of(self.batch, indices)
        step = self.on(part)
        step._share = share
        return step

    @property
    def whole(self) -> "Step":
        """The same step on the global batch, if all replicas climb together."""
        if not self._engine.pools(self.batch):
            return self
        return self.on(self._engine.replicas.gathered(self.batch))

    @property
    def batch_size(self):
        """Number of samples: an int where it is known, else a tensor."""
        return self._engine.batches.size(self.batch)

    def pooled(self, values):
        """Values of the samples that are chosen among.

        Args:
            values: Tensor with an entry a sample of this replica's batch.

        Returns:
            The same; where all replicas climb together, that of the global
            batch.
        """
        if not self._engine.pools(self.batch):
            return values
        return self._engine.replicas.all_gather(values)

    @property
    def presence(self):
        """1; or 0 on a replica that only repeats samples of another."""
        return 1.0 if self._share is None else ops.sign(self._share)

    def weighted(self, weights) -> "Step":
        """The same step with the losses of its samples weighted.

        Args:
            weights: Vector with an entry a sample.
        """
        return self.on(self._engine.batches.weighted(self.batch, weights))

    def at_updated_weights(self, state) -> "Step":
        """The same step when the optimizer has done its work.

        Args:
            state: The method's state by now.
        """
        self._engine.look()
        step = self.on(self.batch)
        step.values = self._engine.values
        step.state = state
        return step

    def in_phase(self, phase) -> "Step":
        """This very step, as a method inside another sees its phase."""
        self.phase = phase
        return self

    @property
    def previous(self) -> "Step":
        """The same step on the batch of the step before."""
        return self.on(self._previous_batch)

    def split(self, count) -> list:
        """The same step on consecutive parts of its batch, of equal size.

        Returns:
            `(step, share)` pairs: the share of the samples in each part.
        """
        parts = self._engine.batches.split(self.batch, count)
        previous = self._engine.batches.split(self._previous_batch, len(parts))
        steps = []
        for i, (part, share) in enumerate(parts):
            step = self.on(part)
            step._previous_batch, _ = previous[min(i, len(previous) - 1)]
            # The mean of the parts' gradients is dense.
            step._in_parts = True
            steps.append((step, share))
        return steps

    def count_mean(self, steps):
        """Counts the mean of what several steps on parts of the batch count.

        Args:
            steps: What `split` returned, after evaluation.
        """
        self.counted = self._engine.batches.mean(
            [step.counted for step, _ in steps], [share for _, share in steps]
        )

    @property
    def learning_rate(self):
        """The optimizer's learning rate, a scalar tensor."""
        return self._engine.learning_rate

    @property
    def number(self):
        """Number of training steps taken before, an int scalar tensor."""
        return self._time.step

    @property
    def progress(self):
        """Share of the present `fit` that is done, a scalar tensor; 0 outside
        and where its length is not known."""
        return self._time.progress

    @property
    def epoch_progress(self):
        """The same, when the epoch began."""
        return self._time.epoch_progress

    def radius(self, rho):
        """The value of a radius in this step, a float or a scalar tensor."""
        return schedules.rho_at(rho, self.number, self.learning_rate)

    def seed(self, index=0):
        """A seed for one draw of `keras.random`; the same on all replicas.

        Args:
            index: Which repetition asks, where a draw is repeated.
        """
        self._draws += 1
        return StepSeed(self._time.seed, self.number, self._draws, index)

    def repeat(self, times, body, initial):
        """`body` applied `times` times to a list of tensors, in a loop.

        Args:
            times: Non-negative int.
            body: Function `(index, tensors)` to tensors of the same shapes. It
                must not evaluate this step for the first time.
            initial: List of tensors or `None`.
        """
        draws = self._draws

        def repeated(index, tensors):
            # The same seeds in a loop of Python as in one of the graph.
            self._draws = draws
            return body(index, tensors)

        return self._engine.repeat(times, repeated, initial)

    def after_update(self, gradients):
        """The weights as the optimizer would leave them, without doing it.

        Momentum, weight decay and clipping included. An optimizer that
        accumulates gradients, or Nadam, cannot be foreseen: there one step of
        plain gradient descent is taken.
        """
        return self._engine.after_update(gradients)

    def mean_over_replicas(self, tensors):
        """Each tensor, averaged over the replicas."""
        return self._engine.mean_over_replicas(tensors)

    def require(self, condition, message):
        """Raises `ValueError` unless a condition holds.

        Where it is known only when the compiled step runs, the error is the
        backend's, and comes then.
        """
        self._engine.require(condition, message)


def run(method, step):
    """One step: the method's program, or the base optimizer's.

    Returns:
        The `Update` to carry out. `step.counted` is the evaluation to keep.
    """
    if method.is_plain or not step.selected:
        descent = step.gradients(at=step.values, wrt=step.weights)
        return Update(gradients=descent.gradients, state=step.state)
    return method.update(step)


def measured(engine, update):
    """`(norms, is_finite)` of an update, the same on every replica.

    Returns:
        Vector of the squared norm of each weight's gradient, and a boolean
        scalar: whether the step had no overflow, in any of its parts.
    """
    applied = engine.squared_norms(update.gradients)
    norms = applied
    if update.measured is not None:
        norms = engine.squared_norms(update.measured)
    lengths = [applied, norms]
    if update.displacement is not None:
        lengths.append(engine.squared_norms(update.displacement))
    lengths = engine.mean_over_replicas(lengths)
    is_finite = ops.all(ops.isfinite(ops.stack(lengths)))
    return lengths[1], is_finite


def settled(step, update):
    """The method's state when the update has been carried out."""
    if update.afterwards is None:
        return update.state
    return update.afterwards(step.at_updated_weights(update.state))


def viewed(engine, step, update):
    """What the step saw, when the optimizer has done its work.

    Returns:
        Dict of vectors with an entry a weight: the squared norms of
        `perturbation` and `update`; and where both gradients are known those
        of `clean` and `sharp`, and their inner product, `alignment`.
    """
    none = ops.zeros((len(step.values),), "float32")
    seen = dict.fromkeys(("perturbation", "clean", "sharp", "alignment"), none)

    def add(name, share, vector):
        seen[name] = seen[name] + ops.cast(share, "float32") * vector

    for view in update.views:
        products = combine(ops.multiply, view.clean, view.sharp)
        both = [i for i, p in enumerate(products) if p is not None]
        for name in ("perturbation", "clean", "sharp"):
            tensors = getattr(view, name)
            if name != "perturbation":
                tensors = restrict(tensors, both)
            add(name, view.share, engine.squared_norms(tensors))
        add("alignment", view.share, engine.sums(products))
    engine.look()
    moved = subtract(engine.values, step.values)
    seen["update"] = engine.squared_norms(restrict(moved, step.weights))
    return seen
