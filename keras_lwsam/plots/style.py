"""How pictures look: sizes, colours, ticks, legends. Lengths in inches."""

from keras_lwsam.plots._names import plain

# What a column and a page of a printed article are wide.
COLUMN, PAGE = 3.5, 7.2
# The tallest that still is on one page with its caption.
TALLEST = 9.5

# Points, when printed at the width above.
SMALL, NORMAL = 7.0, 8.0
LINE_HEIGHT = 0.15

# Okabe and Ito's colours without black and yellow, which a dark or a white
# ground swallows. The three lengths share no divisor: 210 runs differ, and six
# of them do without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "0.7"

SEQUENTIAL, DIVERGING = "cividis", "PuOr"


def figure(width, height):
    """A new figure that belongs to no window."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Drawing needs matplotlib. Install it with "
            "`pip install keras-lwsam[plots]`."
        ) from error
    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def look(index):
    """Colour, dashes and marker of one line among several."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": LINES[index % len(LINES)],
        "marker": MARKERS[index % len(MARKERS)],
        "linewidth": 1.2,
        "markersize": 3.0,
    }


def dress(axes, title, x, y):
    """Gives axes their title, their labels and legible ticks."""
    axes.set_title(title, fontsize=NORMAL)
    axes.set_xlabel(x, fontsize=SMALL)
    axes.set_ylabel(y, fontsize=SMALL)
    axes.tick_params(which="both", labelsize=SMALL, width=0.6, length=2.5)
    for spine in axes.spines.values():
        spine.set_linewidth(0.6)


def heading(drawn, title):
    """The title of a figure of several axes."""
    drawn.suptitle(title, fontsize=NORMAL + 1.0)


def whole_numbers(axis):
    """Few ticks, at whole numbers."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axis.set_major_locator(
        MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10], min_n_ticks=1)
    )
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))


def legend(drawn, handles):
    """A legend below everything, where it covers no data."""
    if not handles:
        return
    labels = [plain(handle.get_label()) for handle in handles]
    drawn.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=_columns(labels, drawn.get_figwidth()),
        fontsize=SMALL,
        frameon=False,
        handlelength=3.0,
    )


def legend_height(labels, width):
    """What `legend` needs below the axes."""
    if not labels:
        return 0.0
    return LINE_HEIGHT * -(-len(labels) // _columns(labels, width)) + 0.1


def text_width(text):
    """About what a small line of text is wide."""
    return 0.0082 * SMALL * len(text)


def _columns(labels, width):
    widest = max(map(text_width, labels)) + 0.6
    return max(1, min(len(labels), int(width / widest)))
