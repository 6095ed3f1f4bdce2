"""Methods that remember gradients from step to step."""

from tests.twins.gradients import TwoGradients


class FriendlySAM(TwoGradients):
    """eps = rho d / norm(d), d = g - sigma m with the old moving mean m.

    The first step has d = g, and m becomes g.
    """

    def __init__(self, rho=0.05, sigma=1.0, decay=0.9):
        super().__init__(rho)
        self.sigma = sigma
        self.decay = decay

    def perturbation(self, bench, clean):
        """Along the gradient less its moving mean."""
        mean = bench.memory.get("mean")
        if mean is None:
            bench.memory["mean"] = clean
            return self.rho * bench.direction(clean)
        bench.memory["mean"] = self.decay * mean + (1.0 - self.decay) * clean
        return self.rho * bench.direction(clean - self.sigma * mean)


class VaSSO(TwoGradients):
    """eps = rho d / norm(d), d = (1 - theta) d + theta g, first d = g."""

    def __init__(self, rho=0.05, theta=0.9):
        super().__init__(rho)
        self.theta = theta

    def perturbation(self, bench, clean):
        """Along the new moving mean."""
        old = bench.memory.get("mean", clean)
        mean = (1.0 - self.theta) * old + self.theta * clean
        bench.memory["mean"] = mean
        return self.rho * bench.direction(mean)


class MomentumSAM:
    """One gradient, at eps = - rho v / norm(v); v = momentum v + gradient.

    The old v perturbs, and the first step is plain.
    """

    def __init__(self, rho=0.3, momentum=0.9):
        self.rho = rho
        self.momentum = momentum

    def step(self, bench, batch):
        """One pass and an update."""
        velocity = bench.memory.get("velocity", 0.0 * bench.weights)
        there = bench.evaluate(batch, -self.rho * bench.direction(velocity))
        velocity = self.momentum * velocity + there.gradient
        bench.memory["velocity"] = velocity
        bench.update(there.gradient, counted=there)
        return {"loss": there.loss}


class AsyncSAM:
    """One gradient, at eps = rho p / norm(p), p that of the step before."""

    def __init__(self, rho=0.05):
        self.rho = rho

    def step(self, bench, batch):
        """One pass and an update."""
        previous = bench.memory.get("gradient", 0.0 * bench.weights)
        there = bench.evaluate(batch, self.rho * bench.direction(previous))
        bench.memory["gradient"] = there.gradient
        bench.update(there.gradient, counted=there)
        return {"loss": there.loss}


class SAMPa:
    """(1 - lam) grad f(x~) + lam grad f(y+), at two points at once.

    x~ = x + rho grad f(y) / norm(grad f(y)) on the batch before; y+ is where
    the optimizer would go along grad f(y), on the batch at hand. The first
    step is plain.
    """

    def __init__(self, rho=0.1, interpolation=0.2):
        self.rho = rho
        self.interpolation = interpolation

    def step(self, bench, batch):
        """Two passes, of two batches, and an update."""
        if "batch" not in bench.memory:
            counted = bench.evaluate(batch)
            gradient = counted.gradient
        else:
            counted, gradient = self.two_passes(bench, batch)
        bench.memory["batch"] = batch
        bench.memory["gradient"] = counted.gradient
        bench.update(gradient, counted=counted)
        return {"loss": counted.loss}

    def two_passes(self, bench, batch):
        """The pass at y+, and the mean of the two gradients."""
        before = bench.memory["gradient"]
        epsilon = self.rho * bench.direction(before)
        sharp = bench.evaluate(bench.memory["batch"], epsilon)
        ahead = bench.evaluate(batch, bench.displacement_of(before))
        share = self.interpolation
        mixed = (1.0 - share) * sharp.gradient + share * ahead.gradient
        return ahead, mixed
