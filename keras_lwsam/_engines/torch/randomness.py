"""The generators of PyTorch, from which a dropout without a seed draws."""

import torch


def state():
    """The states of the generators of all devices that are in use."""
    found = [torch.get_rng_state()]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found += torch.cuda.get_rng_state_all()
    return found


def restore(states):
    """Lets them go on from other states."""
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state_all(states[1:])


def are_equal(states, others):
    """Whether nothing was drawn between two states."""
    return len(states) == len(others) and all(
        torch.equal(one, other)
        for one, other in zip(states, others, strict=True)
    )
