import io
from typing import Any

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from dpinn.track.animation import MOST_BYTES, MOST_FRAMES, animation

T, X, Y = np.linspace(0, 2, 6), np.linspace(0, 1, 33), np.linspace(0, 1, 33)
AXES = {"t": T, "x": X, "y": Y}
WAVE = np.sin(2 * np.pi * (X[None, :, None] - T[:, None, None])) * np.cos(np.pi * Y)


def opened(encoded: bytes) -> Any:
    return Image.open(io.BytesIO(encoded))


def frames(encoded: bytes) -> list[np.ndarray]:
    picture, found = opened(encoded), []
    for k in range(getattr(picture, "n_frames", 1)):
        picture.seek(k)
        found.append(np.asarray(picture.convert("RGB"), dtype=int))
    return found


def panel_of(frame: np.ndarray) -> np.ndarray:
    """The pixels of a panel that stands alone: the largest block that is not white."""
    for axis in (1, 0):
        line = np.take(frame, frame.shape[1 - axis] // 2, axis=1 - axis)
        coloured = (np.abs(line - 255).sum(axis=1) > 60).astype(int)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], coloured, [0]])))
        start, end = max(zip(edges[::2], edges[1::2], strict=True), key=lambda r: r[1] - r[0])
        frame = np.take(frame, range(start, end), axis=axis)
    return frame


def test_every_time_is_a_frame_of_a_gif_that_loops() -> None:
    picture = opened(animation("u", AXES, WAVE + 0.1, WAVE, "Wave"))
    assert picture.format == "GIF"
    assert picture.n_frames == len(T)
    assert picture.size[0] == 900
    assert picture.info["loop"] == 0
    pauses = []
    for k in range(picture.n_frames):
        picture.seek(k)
        pauses.append(picture.info["duration"])
    assert pauses == [1000] * 5 + [2000]


def test_long_histories_are_thinned_to_the_most_frames_with_both_ends() -> None:
    t = np.linspace(0, 1, 200)
    growing = np.broadcast_to(t[:, None, None], (200, 9, 9))
    encoded = animation("u", {"t": t, "x": X[:9], "y": Y[:9]}, growing)
    assert opened(encoded).n_frames == MOST_FRAMES
    first, last = frames(encoded)[0], frames(encoded)[-1]
    middle = (first.shape[0] // 2, first.shape[1] // 3)
    low, high = (np.array(colormaps["viridis"](v)[:3]) * 255 for v in (0.0, 1.0))
    assert np.abs(first[middle] - low).max() < 8
    assert np.abs(last[middle] - high).max() < 8


def test_panels_show_the_values_of_their_time() -> None:
    # One value over all of space, so that every pixel of a panel is known.
    level = np.array([-1.0, -0.5, 0.0, 0.5, 1.0, 0.25])
    exact = np.broadcast_to(level[:, None, None], (6, 33, 33))
    error = np.array([0.0, 0.1, 0.2, 0.3, 0.2, 0.4])
    prediction = exact + error[:, None, None] * np.where(level > 0, -1, 1)[:, None, None]
    shown = frames(animation("u", AXES, prediction, exact))
    for k, frame in enumerate(shown):
        expected = [
            colormaps["RdBu_r"]((prediction[k, 0, 0] + 1) / 2),
            colormaps["RdBu_r"]((level[k] + 1) / 2),
            colormaps["magma"](error[k] / 0.4),
        ]
        height = frame.shape[0] // 2
        for x, colour in zip((0.18, 0.48, 0.82), expected, strict=True):
            pixel = frame[height, int(x * frame.shape[1])]
            assert np.abs(pixel - 255 * np.array(colour[:3])).max() < 12, (k, x)


def test_x_runs_right_and_y_up() -> None:
    values = np.broadcast_to((X[:, None] < 0.5) & (Y < 0.25), (6, 33, 33)) + T[:, None, None] * 1e-6
    panel = panel_of(frames(animation("u", AXES, values))[0])
    height, width = panel.shape[:2]
    bright = panel.sum(axis=2) > 350  # yellow against dark violet
    assert bright[int(0.85 * height), int(0.4 * width)]
    assert not bright[int(0.85 * height), int(0.75 * width)]
    assert not bright[int(0.6 * height), int(0.1 * width)]
    assert bright.mean() == pytest.approx(0.125, abs=0.02)


def test_time_stands_in_the_title_of_every_frame() -> None:
    still = np.broadcast_to(WAVE[:1], WAVE.shape)
    shown = frames(animation("u", AXES, still, still))
    assert len(shown) == len(T)  # all that changes is the title
    changed = np.abs(shown[0] - shown[3]).sum(axis=2) > 0
    assert changed.any()
    assert np.flatnonzero(changed.any(axis=1)).max() < 0.12 * changed.shape[0]


def test_points_that_are_not_even_are_drawn_where_they_are() -> None:
    y = 0.5 - 0.5 * np.cos(np.linspace(0, np.pi, 65))
    half = np.broadcast_to((y > 0.2).astype(float), (6, 33, 65)) + T[:, None, None] * 1e-6
    panel = panel_of(frames(animation("u", {"t": T, "x": X, "y": y}, half))[0])
    bright = panel.sum(axis=2) > 350
    assert bright.mean() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("limit", [MOST_BYTES, 300_000])
def test_noise_which_does_not_compress_stays_below_the_limit(limit: int) -> None:
    noise = np.random.default_rng(0).standard_normal((30, 150, 150))
    axes = {"t": np.linspace(0, 1, 30), "x": np.linspace(0, 1, 150), "y": np.linspace(0, 1, 150)}
    encoded = animation("vorticity", axes, noise, noise[::-1], most_bytes=limit)
    assert len(encoded) <= limit
    assert opened(encoded).n_frames >= 2


def test_a_limit_that_cannot_be_met_leaves_the_first_and_the_last_frame() -> None:
    assert opened(animation("u", AXES, WAVE, most_bytes=1)).n_frames == 2


def test_a_prediction_that_is_not_a_number_is_animated() -> None:
    broken = np.where(WAVE > 0.5, np.nan, WAVE)
    assert opened(animation("u", AXES, broken, WAVE)).n_frames == len(T)


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match="the reference has shape"):
        animation("u", AXES, WAVE, WAVE[:3])
