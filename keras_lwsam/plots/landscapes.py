"""Loss landscapes along one direction or over two."""

from typing import TYPE_CHECKING

import numpy as np

from keras_lwsam.plots import _names, _paths, _scales, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from keras_lwsam.analysis import Landscape

LEVELS = 24
LABEL_LENGTH = 36
TITLE_LENGTH = 52


def landscape(landscape: "Landscape") -> "Figure":
    """Losses along one direction as a line, over two as filled contours.

    Places of its path are marked and labelled. Losses that are not finite are
    left out, and huge ranges are drawn on a logarithmic scale; both are said.

    Args:
        landscape: A `keras_lwsam.analysis.Landscape` of one or two directions.

    Returns:
        A `matplotlib.figure.Figure`, a column (3.5 inches) wide.

    Raises:
        ImportError: If matplotlib is not installed.
        TypeError: If it is not a landscape.
        ValueError: If it has more directions, no finite loss, or over two
            directions fewer than two coordinates along one of them.

    Example:

    >>> import numpy as np
    >>> from keras_lwsam import analysis, plots
    >>> line = np.linspace(-1.0, 1.0, 5)
    >>> bowl = analysis.Landscape(line**2, (line,), ("direction",))
    >>> plots.landscape(bowl).axes[0].get_ylabel()
    'loss'
    """
    losses = _checked(landscape, (1, 2))
    draw = _line if losses.ndim == 1 else _contours
    return draw(landscape, losses, _scales.fitting(losses, ratio=100.0))


def surface(landscape: "Landscape") -> "Figure":
    """Losses over two directions as a surface seen from the side.

    Of a huge range the logarithm is drawn, and the axis says so.

    Args:
        landscape: A `keras_lwsam.analysis.Landscape` of two directions.

    Returns:
        A `matplotlib.figure.Figure`, a column (3.5 inches) wide.

    Raises:
        ImportError: If matplotlib is not installed.
        TypeError: If it is not a landscape.
        ValueError: If it has not two directions, or no finite loss.

    Example:

    >>> import numpy as np
    >>> from keras_lwsam import analysis, plots
    >>> line = np.linspace(-1.0, 1.0, 5)
    >>> losses = line[:, None] ** 2 + line**2
    >>> bowl = analysis.Landscape(losses, (line, line), ("one", "other"))
    >>> plots.surface(bowl).axes[0].get_zlabel()
    'loss'
    """
    losses = _checked(landscape, (2,))
    label = "loss"
    if _scales.fitting(losses, ratio=100.0).kind == "log":
        losses, label = np.log10(losses), "loss (log10)"
    drawn = style.figure(style.COLUMN, 3.0)
    # Placed by hand: of three axes the layout sees but two.
    drawn.set_layout_engine("none")
    axes = drawn.add_axes((0.0, 0.19, 0.93, 0.73), projection="3d")
    x, y = np.meshgrid(*landscape.coordinates, indexing="ij")
    axes.plot_surface(
        x,
        y,
        losses,
        cmap=style.SEQUENTIAL,
        vmin=np.nanmin(losses),
        vmax=np.nanmax(losses),
        rcount=60,
        ccount=60,
        linewidth=0.0,
        antialiased=True,
    )
    style.dress(axes, "", *_labels(landscape))
    drawn.suptitle(_title(landscape), fontsize=style.NORMAL)
    axes.zaxis.set_rotate_label(False)
    axes.set_zlabel(label, fontsize=style.SMALL, rotation=90.0)
    axes.tick_params(pad=-2.0)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        _scales.linear(0.0, 1.0).mark(axis)
        axis.labelpad = 1.0
    axes.set_box_aspect((1.0, 1.0, 0.75), zoom=1.0)
    return drawn


def _checked(landscape, dimensions):
    """The losses, NaN where they are not finite."""
    if not all(
        hasattr(landscape, name) for name in ("losses", "coordinates", "labels")
    ):
        raise TypeError(
            "`landscape` must be a `keras_lwsam.analysis.Landscape`. "
            f"Received: landscape={landscape!r} "
            f"(of type {type(landscape).__name__})"
        )
    losses = np.asarray(landscape.losses, "float64")
    if losses.ndim not in dimensions:
        raise ValueError(
            f"`landscape` must have {' or '.join(map(str, dimensions))} "
            "directions to be drawn so. "
            f"Received: a landscape of {losses.ndim} directions"
        )
    if losses.ndim == 2 and min(losses.shape) < 2:
        raise ValueError(
            "A landscape of two directions must have at least two coordinates "
            f"along each. Received: losses of the shape {losses.shape}"
        )
    if not np.isfinite(losses).any():
        raise ValueError(
            "There is nothing to draw: no loss is finite. Take a smaller range "
            f"of coordinates. Received: losses of the shape {losses.shape}"
        )
    return np.where(np.isfinite(losses), losses, np.nan)


def _title(landscape):
    return _names.plain(_names.shortened([landscape.name], TITLE_LENGTH)[0])


def _labels(landscape):
    shares = [*landscape.explained, *[None] * len(landscape.labels)]
    labels = _names.shortened(landscape.labels, LABEL_LENGTH)
    return [
        _names.plain(label)
        + ("" if share is None else f"\n({100.0 * share:.1f} % of variance)")
        for label, share in zip(labels, shares, strict=False)
    ]


def _line(landscape, losses, scale):
    (coordinates,) = landscape.coordinates
    drawn = style.figure(style.COLUMN, 2.3)
    axes = drawn.add_subplot()
    # Markers would hide the places that are marked; a lone point needs one.
    look = style.look(0) | {"marker": "." if len(losses) < 10 else ""}
    axes.plot(coordinates, losses, **look)
    scale.apply(axes)
    _scales.linear(0.0, 1.0).mark(axes.xaxis)
    hidden = np.isnan(losses)
    title = _title(landscape)
    if hidden.any():
        middles = (coordinates[1:] + coordinates[:-1]) / 2.0
        edges = [coordinates[0], *middles, coordinates[-1]]
        for i in np.flatnonzero(hidden):
            axes.axvspan(edges[i], edges[i + 1], color="0.82", linewidth=0.0)
        title += "\n(grey: loss not finite)"
    at = landscape.path[:, 0]
    loss = np.interp(at, coordinates, losses)
    _paths.mark(axes, at, loss, landscape.path_labels, "none")
    note = f" ({scale.note})" if scale.note else ""
    style.dress(axes, title, *_labels(landscape), "loss" + note)
    # Room for the labels of points at the upper rim.
    axes.margins(x=0.03, y=0.12)
    return drawn


def _contours(landscape, losses, scale):
    import matplotlib

    x, y = landscape.coordinates
    drawn = style.figure(style.COLUMN, 2.9)
    axes = drawn.add_subplot()
    norm = scale.norm()
    levels = np.asarray(norm.inverse(np.linspace(0.0, 1.0, LEVELS)))
    levels[[0, -1]] = scale.low, scale.high
    values = np.ma.masked_invalid(losses).T
    colours = matplotlib.colormaps[style.SEQUENTIAL]
    axes.contourf(x, y, values, levels, cmap=colours, norm=norm)
    # A flat landscape has no line to be drawn.
    if np.nanmin(losses) < np.nanmax(losses):
        lines = levels[1:-1:3]
        axes.contour(x, y, values, lines, colors="white", linewidths=0.4)
    axes.set_facecolor("0.82")
    title = _title(landscape)
    if np.isnan(losses).any():
        title += "\n(grey: loss not finite)"
    axes.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    _paths.mark(axes, *landscape.path.T, landscape.path_labels, "-")
    style.dress(axes, title, *_labels(landscape))
    for axis in (axes.xaxis, axes.yaxis):
        _scales.linear(0.0, 1.0).mark(axis)
    shades = matplotlib.cm.ScalarMappable(norm, colours)
    bar = drawn.colorbar(shades, ax=axes, aspect=22, pad=0.02)
    note = f" ({scale.note})" if scale.note else ""
    bar.set_label("loss" + note, fontsize=style.SMALL)
    bar.ax.tick_params(which="both", labelsize=style.SMALL, width=0.6)
    scale.mark(bar.ax.yaxis)
    return drawn
