"""Attributes that objects have for a while."""

import contextlib

_MISSING = object()

# What was there at first, and what has been lent since, in order. Replicas take
# turns, and need not leave in the order in which they came.
_lent = {}


@contextlib.contextmanager
def with_attributes(pairs):
    """Lets objects have other attributes: `(object, attributes)` pairs."""
    entries = []
    try:
        for thing, attributes in pairs:
            # Not by `setattr`: Keras would track them.
            own = vars(thing)
            for name, value in attributes.items():
                entries.append((own, name, _lend(own, name, value)))
        yield
    finally:
        for own, name, entry in reversed(entries):
            _give_back(own, name, entry)


def _lend(own, name, value):
    """Sets an attribute; returns what it takes to give it back."""
    start = [own.get(name, _MISSING)]
    _lent.setdefault((id(own), name), [start]).append(entry := [value])
    own[name] = value
    return entry


def _give_back(own, name, entry):
    """Sets the attribute to what the latest of the others wants."""
    entries = _lent[id(own), name]
    entries[:] = [other for other in entries if other is not entry]
    ((value,),) = entries[-1:]
    if len(entries) == 1:
        del _lent[id(own), name]
    if value is _MISSING:
        own.pop(name, None)
    else:
        own[name] = value
