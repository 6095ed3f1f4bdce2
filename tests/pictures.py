"""What is seen in a figure."""

from hypothesis import strategies as st

NUMBERS = st.floats(width=32) | st.sampled_from([0.0, 1.0, 1.0])


def drawn(figure):
    """The figure, laid out; every text in it that is seen."""
    from matplotlib.axis import Axis
    from matplotlib.text import Text

    figure.draw_without_rendering()
    beyond = {
        label
        for axis in figure.findobj(Axis)
        for tick in axis.get_major_ticks() + axis.get_minor_ticks()
        if not is_within(tick, axis)
        for label in (tick.label1, tick.label2)
    }
    return [t for t in figure.findobj(Text) if is_seen(t) and t not in beyond]


def is_seen(text):
    return text.get_visible() and text.get_text().strip()


def is_within(tick, axis):
    low, high = sorted(axis.get_view_interval())
    return low <= tick.get_loc() <= high
