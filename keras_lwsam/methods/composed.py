"""Methods around methods: when they act, and on which parts of the batch."""

from keras_lwsam import _arguments, schedules
from keras_lwsam._tensors import mean_of
from keras_lwsam.methods.base import Method, register

# The phase of a step without perturbation.
RESTS = "rests"


class Around(Method):
    """A method that hands on what it does not change to another.

    Args:
        method: The `Method` inside.
    """

    def __init__(self, method: Method):
        self.method = _arguments.instance(
            "method", method, Method, "a `methods.Method`"
        )

    @property
    def is_plain(self):
        return self.method.is_plain

    @property
    def needs_previous_batch(self):
        return self.method.needs_previous_batch

    @property
    def takes_clean_gradient(self):
        return self.method.takes_clean_gradient

    def phase(self, clock):
        return self.method.phase(clock)

    def initial_state(self, weights):
        return self.method.initial_state(weights)

    def rest(self, step):
        return self.method.rest(step)


@register
class Scheduled(Around):
    """A method that acts when a schedule says so; else the base optimizer.

    `LWSAMModel(..., schedule=...)` makes one of these.

    Args:
        method: The `Method` inside.
        schedule: A `schedules.Schedule`.

    Raises:
        TypeError: If an argument has the wrong type.

    Example:

    >>> from keras_lwsam import methods, schedules
    >>> methods.Scheduled(methods.SAM(), schedules.FromShare(0.9))
    Scheduled(method=SAM(rho=0.05), schedule=FromShare(share=0.9))
    """

    def __init__(self, method: Method, schedule: schedules.Schedule):
        super().__init__(method)
        self.schedule = _arguments.instance(
            "schedule",
            schedule,
            schedules.Schedule,
            "a `schedules.Schedule`, such as schedules.EverySteps(5)",
        )

    def phase(self, clock):
        if not self.schedule.perturbs(clock):
            return RESTS
        return "act", self.method.phase(clock)

    def update(self, step):
        if step.phase == RESTS:
            return self.method.rest(step)
        return self.method.update(step.in_phase(step.phase[1]))


@register
class BatchSplits(Around):
    r"""A method applied to parts of the batch, of which the mean is taken.

    m-sharpness: each part is perturbed along its own gradient, as if it were
    on a replica of its own. Parts have equal sizes, or sizes that differ by
    one; all that comes of them is averaged by the number of samples. What a
    method decides once a step (masks, which weights are active) goes by the
    first part.

    `LWSAMModel(..., num_batch_splits=...)` makes one of these.

    Args:
        method: The `Method` inside.
        num_batch_splits: Number of parts, a positive int. A batch of fewer
            samples is split into single ones.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `num_batch_splits` is not positive.

    Example:

    >>> from keras_lwsam import methods
    >>> methods.BatchSplits(methods.SAM(), 4)
    BatchSplits(method=SAM(rho=0.05), num_batch_splits=4)
    """

    def __init__(self, method: Method, num_batch_splits: int):
        super().__init__(method)
        self.num_batch_splits = _arguments.count(
            "num_batch_splits", num_batch_splits
        )

    def update(self, step):
        parts = step.split(self.num_batch_splits)
        updates = [self.method.update(part) for part, _ in parts]
        step.count_mean(parts)
        shares = [share for _, share in parts]
        # Which weights are active, and what follows, is the same for all.
        averaged = [
            update._replace(active=None, afterwards=None, views=())
            for update in updates
        ]
        return mean_of(averaged, shares)._replace(
            active=updates[0].active,
            afterwards=updates[0].afterwards,
            views=tuple(
                view._replace(share=view.share * share)
                for update, share in zip(updates, shares, strict=True)
                for view in update.views
            ),
        )
