"""What the engines of all backends have in common."""

import abc
import contextlib

from keras import ops

from keras_lwsam import _keras, _optimizers
from keras_lwsam._engines import arrays, replicas
from keras_lwsam._engines.evaluation import Options
from keras_lwsam._tensors import in_float32, squared_norm


class Engine(abc.ABC):
    """Evaluates and applies gradients of one step, from one snapshot.

    This one knows of one replica. A backend adds how a pass is made: `_pass`,
    `_conditionally` and `snapshot`.

    Args:
        network: The `keras.Model` in training.
        compute_loss: Function `(x, y, predictions, sample_weight, training)`
            to a scalar.
        per_sample: Function of whether weights are those of positions of
            samples, to a context manager in which `compute_loss` must have
            values for each sample.
        optimizer: A built Keras optimizer.
        weights: List of the network's weights; every list of tensors that
            goes in or out has one entry for each of them.
        layer_of: List of the layers that own the weights.
        dense: Indices of the weights whose gradients must be dense tensors.
        synchronize: Whether gradients are those of the global batch, or each
            replica's own.

    Attributes:
        values: The weights' values at the start of the step.
    """

    # What else belongs to a backend: functions on parts of a batch; what the
    # replicas tell each other; how values get from step to step.
    batches = arrays
    replicas = replicas
    carrier = None
    # Loss, gradients and Hessian products outside training.
    evaluations = None

    def __init__(
        self,
        network,
        compute_loss,
        per_sample,
        optimizer,
        weights,
        layer_of,
        dense,
        synchronize,
    ):
        self._network = network
        self._compute_loss = compute_loss
        self._per_sample = per_sample
        self._optimizer = optimizer
        self._weights = weights
        self._layer_of = layer_of
        self._dense = frozenset(dense)
        self._synchronize = synchronize
        self._loss_scale = optimizer.scale_loss(1.0)
        self.look()

    @staticmethod
    def step(model, take):
        """The step that `train_step` takes, from one that takes a batch."""
        return take

    def look(self):
        """Takes the snapshot: what the passes that follow start from."""
        # All passes of a step read these tensors, never a variable: so what
        # they have in common is computed from the same, and once.
        self.values = self.snapshot(self._weights)
        known = {id(v) for v in self._weights}
        rest = [v for v in self._network.variables if id(v) not in known]
        self._rest = list(zip(rest, self.snapshot(rest), strict=True))
        # The optimizer's view of each gradient handed out, by identity.
        self._scaled = {}

    def gradients(self, batch, at, wrt, **options):
        """Loss, gradients, predictions and assignments of one pass.

        Args:
            batch: `(x, y, sample_weight)`.
            at: List of tensors, the values that the weights take.
            wrt: Indices of the weights to differentiate with respect to.
            **options: As of `Step.gradients`.

        Returns:
            An `Evaluation`. No variable has changed.
        """
        options = Options(**options)
        promoted = self._promoted(at)
        at = [
            in_float32(value) if id(layer) in promoted else value
            for value, layer in zip(at, self._layer_of, strict=True)
        ]

        def evaluate():
            with _keras.in_float32(promoted.values()):
                return self._pass(batch, at, wrt, options)

        if options.when is None:
            evaluation = evaluate()
        else:
            evaluation = self._conditionally(options.when, evaluate, at, wrt)
        return evaluation._replace(
            gradients=self._unscale(evaluation.gradients, wrt, options)
        )

    def side_by_side(self, passes, wrt):
        """Evaluations of two passes that do not wait for each other.

        Args:
            passes: Two `(batch, at)` pairs.
            wrt: As of `gradients`.
        """
        return [self.gradients(batch, at, wrt) for batch, at in passes]

    def pools(self, batch):
        """Whether samples are chosen among those of all replicas."""
        return False

    @abc.abstractmethod
    def _pass(self, batch, at, wrt, options):
        """An `Evaluation` whose gradients are those of the scaled loss."""

    @abc.abstractmethod
    def _conditionally(self, when, evaluate, at, wrt):
        """Loss and gradients of `evaluate()`, or zeros without calling it."""

    @staticmethod
    @abc.abstractmethod
    def snapshot(variables):
        """Their values, tensors that no later assignment changes."""

    def _loss(self, x, y, predictions, sample_weight, options):
        if options.loss is not None:
            return options.loss(x, y, predictions, sample_weight)
        if options.sample_losses and not arrays.has_positions(sample_weight):
            _keras.refuse_masks(predictions)
        guard = contextlib.nullcontext()
        if not options.regularized:
            guard = _keras.without_regularization(self._network)
        with guard:
            return self._compute_loss(
                x, y, predictions, sample_weight, training=options.training
            )

    def _with_samples(self, evaluation, of_weights, of_outputs):
        """The evaluation with the losses and slopes of its samples.

        A loss that is the mean of weighted losses of samples has n times their
        losses as its gradient with respect to the weights.
        """
        of_outputs = [g for g in of_outputs if g is not None]
        if of_weights is None or not of_outputs:
            raise ValueError(_keras.NO_SAMPLE_LOSSES)
        unit = of_weights.shape[0] / self._loss_scale
        squares = [
            ops.sum(ops.square(in_float32(g)), tuple(range(1, len(g.shape))))
            for g in of_outputs
        ]
        return evaluation._replace(
            sample_losses=of_weights * unit,
            sample_slopes=ops.sqrt(sum(squares)) * unit,
        )

    @property
    def learning_rate(self):
        """The optimizer's learning rate, a scalar tensor."""
        return ops.convert_to_tensor(self._optimizer.learning_rate)

    def after_update(self, gradients):
        """The weights as an update by these gradients would leave them."""
        predicted = _optimizers.predict_update(
            self._optimizer, gradients, self._weights
        )
        return [
            value if new is None else ops.cast(new, value.dtype)
            for value, new in zip(self.values, predicted, strict=True)
        ]

    @staticmethod
    def squared_norms(gradients):
        """Vector of the squared L2 norm of each gradient, 0 where `None`."""
        return vector(squared_norm, gradients)

    @staticmethod
    def sums(tensors):
        """Vector of the sum over each tensor, 0 where `None`."""
        return vector(ops.sum, tensors)

    @staticmethod
    def mean_over_replicas(tensors):
        """Each tensor, averaged over the replicas; `None` stays `None`."""
        return tensors

    @staticmethod
    def is_tracing():
        """Whether Python runs to trace a program, not to compute."""
        return False

    @staticmethod
    def require(condition, message):
        """Raises `ValueError` unless a condition holds."""
        if not condition:
            raise ValueError(message)

    @staticmethod
    def after(tensor):
        """A context in which nothing happens before a tensor is there."""
        return contextlib.nullcontext()

    def repeat(self, times, body, initial):
        """`body(index, tensors)` some times over, in a loop."""
        present = [i for i, t in enumerate(initial) if t is not None]

        def packed(tensors):
            result = [None] * len(initial)
            for i, tensor in zip(present, tensors, strict=True):
                result[i] = tensor
            return result

        def advance(index, tensors):
            result = body(index, packed(tensors))
            return [result[i] for i in present]

        return packed(self._loop(times, advance, [initial[i] for i in present]))

    def _loop(self, times, advance, tensors):
        return ops.fori_loop(0, times, advance, tensors) if times else tensors

    def assign(self, assignments):
        """Carries out `(variable, value)` pairs."""
        for variable, value in assignments:
            variable.assign(value)

    def remember(self, assignments):
        """Carries out those of a method's memory."""
        self.assign(assignments)

    def apply(self, gradients, variables, is_finite=None, active=None):
        """One update of the optimizer.

        Args:
            gradients: List with an entry a weight.
            variables: The trainable variables, in the optimizer's order.
            is_finite: Whether there was no overflow on any replica; `None`: not
                known.
            active: List with a boolean scalar a weight: where it is false, the
                weight and what the optimizer remembers of it stay. `None`: all
                are active.
        """
        position = {id(v): i for i, v in enumerate(self._weights)}
        held = self._inactive(active)
        scaled = [
            self._scale(gradients[position[id(v)]], v.dtype) for v in variables
        ]
        if is_finite is not None and not is_one(self._loss_scale):
            scaled = self._all_or_none(scaled, is_finite)
        self._update(scaled, variables)
        self._write(
            (v, ops.where(is_active, ops.convert_to_tensor(v.value), old))
            for v, old, is_active in held
        )

    def _update(self, gradients, variables):
        """Hands scaled gradients to the optimizer."""
        self._optimizer.apply(gradients, variables)

    def _inactive(self, active):
        """What may have to be given back: `(variable, value, is_active)`."""
        kept = [
            (v, is_active)
            for weight, is_active in zip(
                self._weights, active or (), strict=False
            )
            if is_active is not None and not isinstance(is_active, bool)
            for v in (weight, *_optimizers.slots_of(self._optimizer, weight))
        ]
        values = self.snapshot([v for v, _ in kept])
        return [
            (v, value, is_active)
            for (v, is_active), value in zip(kept, values, strict=True)
        ]

    def displace(self, displacements, is_finite):
        """Adds a tensor to each weight; `None` leaves it alone.

        Nothing is added unless all is finite.
        """
        if self._optimizer.gradient_accumulation_steps:
            raise ValueError(
                "This method moves the weights itself after each update, and "
                "an optimizer that accumulates gradients does not update each "
                "time. Leave accumulation out, or take a method that does not, "
                "such as methods.WSAM(decouple=False). Received: "
                "gradient_accumulation_steps="
                f"{self._optimizer.gradient_accumulation_steps}"
            )
        means = self.mean_over_replicas(displacements)
        moved = []
        for variable, displacement in zip(self._weights, means, strict=True):
            if displacement is not None:
                value = ops.convert_to_tensor(variable.value)
                new = value + ops.cast(displacement, value.dtype)
                if variable.constraint is not None:
                    new = variable.constraint(new)
                moved.append((variable, ops.where(is_finite, new, value)))
        self._write(moved)

    def _write(self, assignments):
        """Carries out those of values that are the same on all replicas."""
        self.assign(assignments)

    def _promoted(self, at):
        """Layers of 16-bit weights that are given float32 values, by id."""
        return {
            id(layer): layer
            for layer, variable, value in zip(
                self._layer_of, self._weights, at, strict=True
            )
            if ops.dtype(value) != variable.dtype
        }

    def _unscale(self, scaled, wrt, options):
        """Gradients in the units of the loss, from those of the pass."""
        gradients = list(scaled)
        for i in wrt:
            if scaled[i] is not None:
                gradients[i] = in_float32(scaled[i])
                if not is_one(self._loss_scale):
                    gradients[i] = gradients[i] / self._loss_scale
                self._scaled[id(gradients[i])] = (gradients[i], scaled[i])
        return gradients

    def _scale(self, gradient, dtype):
        """A gradient as the optimizer expects it: scaled."""
        if gradient is None:
            return None
        if id(gradient) in self._scaled:
            # Handed back as it came: nothing is rounded twice.
            return ops.cast(self._scaled[id(gradient)][1], dtype)
        if not is_one(self._loss_scale):
            gradient = gradient * self._loss_scale
        return ops.cast(gradient, dtype)

    @staticmethod
    def _all_or_none(gradients, is_finite):
        """Gradients with a NaN among them if there was an overflow in the step.

        An optimizer that scales the loss asks only the gradients that it is
        given whether to skip an update. The overflow may have been in a pass of
        which those gradients do not tell.
        """
        poison = ops.where(is_finite, 0.0, float("nan"))
        gradients = list(gradients)
        for i, gradient in enumerate(gradients):
            if gradient is not None:
                gradients[i] = gradient + ops.cast(poison, gradient.dtype)
                break
        return gradients


def vector(function, tensors):
    """A scalar of each tensor, 0 where there is none, as a float32 vector."""
    return ops.stack(
        [
            ops.zeros((), "float32")
            if tensor is None
            else ops.cast(function(tensor), "float32")
            for tensor in tensors
        ]
    )


def is_one(factor):
    """Whether a loss scale is none."""
    return isinstance(factor, float) and factor == 1.0
