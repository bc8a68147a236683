"""A short animation of a field over time: prediction, reference and error, as a GIF."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dpinn.track.drawing import (
    INK,
    Array,
    check_shapes,
    colour_bar,
    error_scale,
    field_scale,
    new_figure,
    style_panel,
    typeset,
)

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from PIL.Image import Image

Pixels = NDArray[np.uint8]
"""``height x width x 3``."""

WIDTH_IN = 9.0
MOST_FRAMES = 41
MOST_BYTES = 2_000_000
"""So that it may be mailed, and a page of MLflow opens at once."""
SECONDS = 6.0
PAUSE = 1.0
"""Seconds at the last time, before it begins again."""
SHADES = (112, 48, 24, 14)
"""Of each colour map, tried in this order: fewer make it smaller. A GIF has 256 colours."""
GREYS = 16
FEWEST_FRAMES = 2


def animation(
    name: str,
    axes: Mapping[str, Array],
    prediction: Array,
    reference: Array | None = None,
    title: str | None = None,
    most_bytes: int = MOST_BYTES,
) -> bytes:
    """Give a GIF of prediction, reference and absolute error over time.

    Prediction and reference share one scale for all times. Turbulence hardly compresses: until it
    is small enough the GIF gets fewer colours, then fewer frames.

    Args:
        name: the field.
        axes: the time and two coordinates of space by name, `n_i`-dim each.
        prediction: `n_t x n_1 x n_2`-dim array.
        reference: array of the same shape; without it the prediction stands alone.
        title: stands before the name and the time.
        most_bytes: of the GIF, unless its first and last frame alone are more.
    """
    check_shapes(axes, prediction, reference)
    times = next(iter(axes.values()))
    count = min(len(times), MOST_FRAMES)
    picked = np.unique(np.linspace(0, len(times) - 1, count).round().astype(int))
    frames, maps = _frames(name, axes, prediction, reference, title, picked)
    while True:
        for shades in SHADES:
            encoded = _encode(frames, _palette(maps, shades))
            if len(encoded) <= most_bytes:
                return encoded
        if len(frames) <= FEWEST_FRAMES:
            return encoded
        kept = np.linspace(0, len(frames) - 1, max(FEWEST_FRAMES, len(frames) // 2))
        frames = [frames[k] for k in kept.round().astype(int)]


def _frames(
    name: str,
    axes: Mapping[str, Array],
    prediction: Array,
    reference: Array | None,
    title: str | None,
    picked: Sequence[int] | NDArray[np.integer[Any]],
) -> tuple[list[Pixels], list[Colormap]]:
    """Draw the figure once, and then only what changes from one time to the next.

    Returns:
        The pictures, and the colour maps in them.
    """
    times = next(iter(axes.values()))
    figure, images = _figure(name, axes, prediction, reference)
    stem = ",  ".join(part for part in (title, typeset(name)) if part)
    # Laid out with the text in its place, which is then taken away again.
    headline = figure.suptitle(f"{stem},  $t$ = 0", x=0.01, ha="left", fontsize=12, color=INK)
    figure.canvas.draw()
    figure.set_layout_engine("none")
    for artist in (headline, *(image for image, _ in images)):
        artist.set_animated(True)
    canvas: Any = figure.canvas
    canvas.draw()
    background = canvas.copy_from_bbox(figure.bbox)
    frames = []
    for k in picked:
        canvas.restore_region(background)
        for image, values in images:
            image.set_data(values(k).T)
            image.axes.draw_artist(image)
        headline.set_text(f"{stem},  $t$ = {times[k]:.3f}")
        figure.draw_artist(headline)
        frames.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    return frames, list({image.cmap.name: image.cmap for image, _ in images}.values())


def _figure(
    name: str, axes: Mapping[str, Array], prediction: Array, reference: Array | None
) -> tuple[Figure, list[tuple[AxesImage, Any]]]:
    """The panels, and each one's image with what it shows at the k-th time."""
    x, y = list(axes)[1:]
    (left, right, columns_of), (bottom, top, rows_of) = _cells(axes[x]), _cells(axes[y])
    extent, cells = (left, right, bottom, top), np.ix_(columns_of, rows_of)
    aspect = float(np.clip(np.ptp(axes[y]) / np.ptp(axes[x]), 0.3, 2.0))
    columns = 1 if reference is None else 3
    panel_width, width = (2.3, WIDTH_IN) if columns == 3 else (3.4, WIDTH_IN / 2)
    figure = new_figure(panel_width * aspect + 1.0, width)
    panels = figure.subplots(1, columns, sharex=True, sharey=True, squeeze=False)[0]
    norm, colours = field_scale(prediction if reference is None else reference)
    shown: list[tuple[str, Any, Any, Any]] = [
        ("prediction", lambda k: prediction[k][cells], norm, colours)
    ]
    if reference is not None:
        exact, scale = reference, error_scale(np.abs(prediction - reference))
        floor = scale.vmin or 0.0
        shown += [
            ("reference", lambda k: exact[k][cells], norm, colours),
            (
                "absolute error",
                lambda k: np.maximum(np.abs(prediction[k] - exact[k])[cells], floor),
                scale,
                "magma",
            ),
        ]
    images = []
    for panel, (label, values, scale, colours) in zip(panels, shown, strict=True):
        image = panel.imshow(
            values(0).T, norm=scale, cmap=colours, extent=extent, origin="lower", aspect="equal"
        )
        style_panel(panel, label)
        panel.locator_params(nbins=4)
        panel.set_xlabel(typeset(x))
        images.append((image, values))
        if columns == 1 or label != "prediction":
            colour_bar(figure, image, panel, "", columns)
    panels[0].set_ylabel(typeset(y), rotation=0, labelpad=10)
    return figure, images


def _cells(points: Array) -> tuple[float, float, NDArray[np.integer[Any]]]:
    """Outer edges of as many even cells as there are points, and the point nearest to each."""
    even = np.linspace(points[0], points[-1], len(points))
    half = (even[1] - even[0]) / 2
    nearest = np.abs(points[None] - even[:, None]).argmin(axis=1)
    return float(even[0] - half), float(even[-1] + half), nearest


def _encode(frames: Sequence[Pixels], palette: Image) -> bytes:
    """One palette for all frames, so that nothing flickers, and no dithering, which is noise."""
    from PIL import Image

    pictures = [Image.fromarray(frame) for frame in frames]
    indexed = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    step = 1000 * SECONDS / len(frames)
    pauses = [step] * (len(frames) - 1) + [step + 1000 * PAUSE]
    buffer = io.BytesIO()
    indexed[0].save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=indexed[1:],
        duration=[int(pause) for pause in pauses],
        loop=0,
        optimize=False,
    )
    return buffer.getvalue()


def _palette(maps: Sequence[Colormap], shades: int) -> Image:
    """The greys of the text, and as many shades of each colour map."""
    from PIL import Image

    greys = np.linspace(0, 255, GREYS).round().repeat(3).reshape(-1, 3)
    coloured = [255 * colours(np.linspace(0, 1, shades))[:, :3] for colours in maps]
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.concatenate([greys, *coloured]).round().astype(np.uint8).tobytes())
    return palette
