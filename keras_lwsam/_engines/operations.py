"""What a pass computes, and on which weights it depends: in any backend."""

from typing import NamedTuple


class Dependence(NamedTuple):
    """What a tensor depends on.

    Attributes:
        weights: Positions of the weights that its value depends on.
        gradients: Positions of those that it has a gradient to.
        data: Whether it depends on the network's inputs.
        is_repeated: Whether something was on the way that a second pass
            computes again in any case, and with it all that follows.
    """

    weights: frozenset = frozenset()
    gradients: frozenset = frozenset()
    data: bool = False
    is_repeated: bool = False


class Operation(NamedTuple):
    """One operation of a forward pass.

    Attributes:
        kind: The backend's name of its kind.
        work: Its floating-point operations.
        weights: Positions of the weights that it depends on.
        reads: Positions of those that one of its operands is made of, without
            the network's inputs; where there are none, the same as `weights`.
        gradients: For each product of its backward pass, as large as itself:
            positions of the weights that need it.
        is_repeated: Whether a second pass computes it again, though nothing
            that it depends on has changed.
    """

    kind: str
    work: float
    weights: frozenset
    reads: frozenset
    gradients: tuple
    is_repeated: bool


def described(kind, work, operands, outcome, is_product) -> Operation:
    """An operation.

    Args:
        kind: Name of its kind.
        work: Its floating-point operations.
        operands: List of what its operands depend on.
        outcome: What its result depends on.
        is_product: Whether the gradient of each operand is a product as large
            as itself.
    """
    own = [d.weights for d in operands if not d.data]
    gradients = [outcome.gradients]
    if is_product:
        gradients = [d.gradients for d in operands]
    return Operation(
        kind=kind,
        work=work,
        weights=outcome.weights,
        reads=frozenset().union(*own) or outcome.weights,
        gradients=tuple(g for g in gradients if g),
        is_repeated=outcome.is_repeated,
    )


def as_one(found, outcomes, operands, again):
    """A loop or condition: computed again as a whole, or not at all.

    Args:
        found: List of the `Operation`s in it.
        outcomes: List of what its results depend on.
        operands: List of what its operands depend on.
        again: Whether every pass computes it again.
    """
    whole = union(operands)
    again = again or whole.is_repeated
    return (
        [
            o._replace(weights=o.weights | whole.weights, is_repeated=again)
            for o in found
        ],
        [
            outcome._replace(
                weights=outcome.weights | whole.weights,
                data=outcome.data or whole.data,
                is_repeated=again,
            )
            for outcome in outcomes
        ],
    )


def union(dependences):
    weights, gradients, data, is_repeated = zip(
        *(dependences or [Dependence()]), strict=True
    )
    return Dependence(
        frozenset().union(*weights),
        frozenset().union(*gradients),
        any(data),
        any(is_repeated),
    )
