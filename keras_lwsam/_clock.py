"""When a training step happens, as known before it."""

from typing import NamedTuple

import numpy as np


class Clock(NamedTuple):
    """Where training stands before a step.

    Attributes:
        step: Number of training steps taken.
        step_of_epoch: Those of them in this epoch.
        since_selection: Those of them with the layers perturbed now.
        epoch: Index of the epoch, as `fit` counts it.
        epochs: Number of epochs of the present `fit`, 0 if not known.
        steps_per_epoch: Number of steps in an epoch, likewise.
        idle: How many steps just before this one a schedule left without
            perturbation.
    """

    step: int = 0
    step_of_epoch: int = 0
    since_selection: int = 0
    epoch: int = 0
    epochs: int = 0
    steps_per_epoch: int = 0
    idle: int = 0

    @property
    def progress(self) -> float:
        """Share of the training that is done; 0 if its length is not known."""
        if not self.epochs:
            return 0.0
        done = 0.0
        if self.steps_per_epoch:
            done = min(1.0, self.step_of_epoch / self.steps_per_epoch)
        return min(1.0, (self.epoch + done) / self.epochs)

    @property
    def epoch_progress(self) -> float:
        """The same, when this epoch began."""
        return self._replace(step_of_epoch=0).progress

    @property
    def progress_per_step(self) -> float:
        """By how much a step adds to `progress`; 0 if not known."""
        steps = self.epochs * self.steps_per_epoch
        return 1.0 / steps if steps else 0.0

    def after(self, steps, idle=False) -> "Clock":
        """The clock so many steps later, with or without perturbation."""
        return self._replace(
            idle=self.idle + steps if idle else 0,
            step=self.step + steps,
            step_of_epoch=self.step_of_epoch + steps,
            since_selection=self.since_selection + steps,
        )

    def at_epoch(self, epoch, epochs, steps_per_epoch) -> "Clock":
        """The clock when an epoch begins."""
        return self._replace(
            step_of_epoch=0,
            epoch=epoch,
            epochs=epochs or 0,
            steps_per_epoch=steps_per_epoch or 0,
        )

    def to_array(self) -> np.ndarray:
        """For saving."""
        return np.array(self, "int64")

    @classmethod
    def from_array(cls, array) -> "Clock":
        """The clock that `to_array` saved."""
        array = np.asarray(array)
        if array.shape != (len(cls._fields),) or (array < 0).any():
            raise ValueError(
                "The saved clock is damaged: expected "
                f"{len(cls._fields)} non-negative integers. "
                f"Received: {array!r}"
            )
        return cls(*(int(number) for number in array))
