"""Pictures of a CT with organ outlines: axial, coronal and sagittal slices, head up, patient's left on the right."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.errors import UserError
from utils.imaging.contours import trace_outlines
from utils.io.files import atomic_write

RGB = tuple[int, int, int]

PLANES = ("axial", "coronal", "sagittal")
EDGE_LETTERS = {"axial": ("R", "L"), "coronal": ("R", "L"), "sagittal": ("A", "P")}
PANEL_PX = 480
"""Height of the tallest panel; the others have its scale, in pixels per mm."""
GAP_PX = 6
FONT_PX = 15
LINE_PX = 2
DASH_PX = 7
SMOOTHING_PASSES = 2
MAX_ORGANS_IN_ONE_ROW = 3
HEATMAP_OPACITY = 0.6
TEXT_COLOR = (200, 200, 200)
ABSENT_COLOR = (90, 90, 90)
REFERENCE_LIGHTNESS = 0.75
"""How far a reference outline's color lies between its organ's and white."""


@dataclass(frozen=True)
class SlicePlane:
    """One slice of a volume: `axis` 0 is axial, 1 coronal, 2 sagittal."""

    axis: int
    index: int

    def of(self, volume: np.ndarray) -> np.ndarray:
        """The slice as it is looked at, (rows, columns): z downwards where it is an axis, so that the head is up."""
        plane = np.take(volume, self.index, axis=self.axis)
        return plane if self.axis == 0 else plane[::-1]


@dataclass(frozen=True)
class RenderStyle:
    """How slices are drawn.

    Attributes:
        spacing_zyx_mm: of the volume.
        px_per_mm: scale.
        colors: per organ.
        window_hu: black and white.
    """

    spacing_zyx_mm: tuple[float, float, float]
    px_per_mm: float
    colors: Sequence[RGB]
    window_hu: tuple[float, float]

    def voxel_px(self, axis: int) -> tuple[float, float]:
        """Pixels per voxel (down, across) in a slice along `axis`."""
        return tuple(spacing * self.px_per_mm for other, spacing in enumerate(self.spacing_zyx_mm) if other != axis)


def render_case(
    image: np.ndarray,
    label: np.ndarray | None,
    *,
    spacing_zyx_mm: tuple[float, float, float],
    colors: Sequence[RGB],
    names: Sequence[str],
    reference: np.ndarray | None = None,
    heatmap: np.ndarray | None = None,
    window_hu: tuple[float, float] = (-160, 240),
    show_all: bool = False,
) -> np.ndarray:
    """Draw a case as axial, coronal and sagittal slices with outlines and a legend.

    Slices are those that show the most organs, of the reference if there is one, so that pictures of successive
    predictions compare. With more than three organs a second row shows what the first one misses.

    Args:
        image: (D, H, W), HU.
        label: (D, H, W) uint8, 0 = background, drawn in solid lines; None draws none.
        spacing_zyx_mm: voxel spacing; pixels of the picture are isotropic.
        colors: one per organ; label i + 1 has the i-th.
        names: one per organ.
        reference: (D, H, W) uint8, drawn in light dashed lines.
        heatmap: (D, H, W) in [0, 1], laid over the CT.
        window_hu: HU drawn black and white.
        show_all: add rows until every organ is well seen.

    Returns:
        (h, w, 3) uint8, RGB.

    Raises:
        UserError: a volume's shape differs from the image's, or a label has no color or name.
    """
    _check(image, label, reference, heatmap, min(len(colors), len(names)))
    extent_mm = np.multiply(image.shape, spacing_zyx_mm)
    frame = RenderStyle(spacing_zyx_mm, PANEL_PX / float(max(extent_mm[0], extent_mm[1])), colors, window_hu)
    cuts = choose_cuts(label if reference is None else reference, heatmap, image.shape, show_all=show_all)
    rows = [[_draw_panel(cut, frame, image, label, reference, heatmap) for cut in row] for row in cuts]
    width = max(sum(panel.width + GAP_PX for panel in row) - GAP_PX for row in rows)
    drawn = np.unique(np.concatenate([np.unique(m) for m in (label, reference) if m is not None] or [[0]]))
    parts = [_join(row, width) for row in rows]
    if label is not None or reference is not None:
        parts.append(_draw_legend(width, names, colors, set(drawn.tolist()), dashed=reference is not None))
    return np.concatenate([np.asarray(part) for part in parts])


def save_png(path: Path, array: np.ndarray) -> None:
    """Write an (h, w, 3) uint8 picture under a temporary name and rename it."""
    with atomic_write(path, suffix=".png") as partial:
        Image.fromarray(array).save(partial)


def choose_cuts(
    label: np.ndarray | None, heatmap: np.ndarray | None, shape: tuple[int, int, int], *, show_all: bool = False
) -> list[list[SlicePlane]]:
    """Pick informative slices: per row one axial, one coronal and one sagittal.

    Args:
        label: (D, H, W) uint8 or None.
        heatmap: (D, H, W) or None; its peak is shown where there is no label.
        shape: (D, H, W).
        show_all: as many rows as it takes to see half of every organ's largest section; otherwise one, or two for more
            than three organs.

    Returns:
        Rows of cuts.
    """
    organs = [] if label is None else [value for value in np.unique(label) if value]
    if not organs:
        peak = [n // 2 for n in shape] if heatmap is None else np.unravel_index(heatmap.argmax(), shape)
        return [[SlicePlane(axis, int(index)) for axis, index in enumerate(peak)]]
    num_rows = 1 if len(organs) <= MAX_ORGANS_IN_ONE_ROW else 2
    rows: list[list[SlicePlane]] = []
    visible = [_visible_shares(label, organs, axis) for axis in range(3)]
    hidden_along = [np.ones(len(organs)) for _ in range(3)]  # 1 until a cut along the axis shows all of the organ
    hidden = np.ones(len(organs))
    while len(rows) < num_rows or (show_all and hidden.max() > 0.5):
        rows.append([])
        for axis in range(3):
            best = int(((hidden_along[axis] + hidden) @ np.sqrt(visible[axis])).argmax())
            rows[-1].append(SlicePlane(axis, best))
            hidden_along[axis] = np.minimum(hidden_along[axis], 1 - visible[axis][:, best])
            hidden = np.minimum(hidden, hidden_along[axis])
    return rows


def _check(
    image: np.ndarray,
    label: np.ndarray | None,
    reference: np.ndarray | None,
    heatmap: np.ndarray | None,
    num_organs: int,
) -> None:
    for name, volume in (("label", label), ("reference", reference), ("heatmap", heatmap)):
        if volume is not None and volume.shape != image.shape:
            raise UserError(f"{name}: expected the image's shape {image.shape}, got {volume.shape}")
        if volume is not None and name != "heatmap" and volume.max(initial=0) > num_organs:
            raise UserError(f"{name}: holds label {volume.max()}, but there are names and colors for {num_organs}")


def _visible_shares(label: np.ndarray, organs: Sequence[int], axis: int) -> np.ndarray:
    """(organs, slices): area of each organ in each slice along an axis, relative to its largest."""
    others = tuple(other for other in range(3) if other != axis)
    areas = np.stack([(label == value).sum(axis=others) for value in organs])
    return areas / areas.max(axis=1, keepdims=True)


def _draw_panel(
    cut: SlicePlane,
    frame: RenderStyle,
    image: np.ndarray,
    label: np.ndarray | None,
    reference: np.ndarray | None,
    heatmap: np.ndarray | None,
) -> Image.Image:
    plane = cut.of(image)
    voxel_px = frame.voxel_px(cut.axis)
    size = tuple(max(1, round(n * px)) for n, px in zip(plane.shape, voxel_px, strict=True))[::-1]
    low, high = frame.window_hu
    gray = np.clip((plane.astype(np.float32) - low) / (high - low), 0, 1)
    picture = Image.fromarray((255 * gray).round().astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    picture = picture.convert("RGB")
    if heatmap is not None:
        picture = _lay_over(picture, cut.of(heatmap))
    draw = ImageDraw.Draw(picture)
    if label is not None:
        for value, points in _outlines(cut.of(label), voxel_px):
            draw.line(points, fill=tuple(frame.colors[value - 1]), width=LINE_PX, joint="curve")
    if reference is not None:
        for value, points in _outlines(cut.of(reference), voxel_px):
            light = tuple(round(c + REFERENCE_LIGHTNESS * (255 - c)) for c in frame.colors[value - 1])
            for dash in _dashes(points):
                draw.line(dash, fill=light, width=LINE_PX)
    _annotate(draw, cut, picture.size)
    return picture


def _lay_over(picture: Image.Image, heat: np.ndarray) -> Image.Image:
    """Blend a heatmap over the CT, from transparent through red to yellow."""
    scaled = Image.fromarray(heat.astype(np.float32)).resize(picture.size, Image.Resampling.BILINEAR)
    heat = np.clip(np.asarray(scaled), 0, 1)[..., None]
    opacity = HEATMAP_OPACITY * np.sqrt(heat)
    glow = np.concatenate([np.full_like(heat, 255), 230 * heat, np.zeros_like(heat)], axis=-1)
    blended = (1 - opacity) * np.asarray(picture, dtype=np.float32) + opacity * glow
    return Image.fromarray(blended.round().astype(np.uint8))


def _outlines(plane: np.ndarray, voxel_px: tuple[float, float]) -> list[tuple[int, list[tuple[float, float]]]]:
    """Smoothed outlines of every label in a slice as (label, [(x, y) in pixels])."""
    found = []
    for value in np.unique(plane[plane > 0]).tolist():
        for outline in trace_outlines(plane == value):
            outline = (outline + np.roll(outline, -1, axis=0)) / 2  # turns the steps of a slope into a slope
            for _ in range(SMOOTHING_PASSES):
                outline = _cut_corners(outline)
            scaled = (outline * voxel_px)[:, ::-1]
            found.append((value, [tuple(point) for point in np.concatenate([scaled, scaled[:1]]).tolist()]))
    return found


def _cut_corners(outline: np.ndarray) -> np.ndarray:
    """Chaikin's smoothing of a closed outline: every edge keeps its middle half."""
    following = np.roll(outline, -1, axis=0)
    return np.stack([0.75 * outline + 0.25 * following, 0.25 * outline + 0.75 * following], axis=1).reshape(-1, 2)


def _dashes(points: list[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Every other stretch of `DASH_PX` of a line."""
    steps = np.hypot(*np.diff(points, axis=0).T)
    stretch = (np.concatenate([[0.0], np.cumsum(steps)]) / DASH_PX).astype(int)
    dashes = []
    for number in range(0, stretch[-1] + 1, 2):
        dash = [point for point, own in zip(points, stretch, strict=True) if own == number]
        if len(dash) > 1:
            dashes.append(dash)
    return dashes


def _annotate(draw: ImageDraw.ImageDraw, cut: SlicePlane, size: tuple[int, int]) -> None:
    plane = PLANES[cut.axis]
    font = ImageFont.load_default(FONT_PX)
    style = {"fill": TEXT_COLOR, "font": font, "stroke_width": 2, "stroke_fill": "black"}  # also over bone
    draw.text((6, 4), f"{plane} {cut.index}", **style)
    first, last = EDGE_LETTERS[plane]
    draw.text((6, size[1] / 2), first, **style, anchor="lm")
    draw.text((size[0] - 6, size[1] / 2), last, **style, anchor="rm")


def _join(panels: list[Image.Image], width: int) -> Image.Image:
    """Panels side by side on black, each centered in the row's height."""
    height = max(panel.height for panel in panels)
    row = Image.new("RGB", (width, height + GAP_PX))
    x = 0
    for panel in panels:
        row.paste(panel, (x, (height - panel.height) // 2))
        x += panel.width + GAP_PX
    return row


def _draw_legend(width: int, names: Sequence[str], colors: Sequence[RGB], drawn: set[int], dashed: bool) -> Image.Image:
    """Names in their colors, wrapped to the width; organs without a voxel are gray."""
    font = ImageFont.load_default(FONT_PX)
    entries = [
        (name, tuple(color) if value in drawn else ABSENT_COLOR)
        for value, (name, color) in enumerate(zip(names, colors, strict=False), 1)
    ]
    if dashed:
        entries.append(("(dashed: reference)", TEXT_COLOR))
    placed, x, y = [], GAP_PX, GAP_PX
    for text, color in entries:
        length = font.getlength(text) + 2 * FONT_PX
        if x > GAP_PX and x + length > width:
            x, y = GAP_PX, y + FONT_PX + GAP_PX
        placed.append((x, y, text, color))
        x += length
    legend = Image.new("RGB", (width, y + FONT_PX + 2 * GAP_PX))
    draw = ImageDraw.Draw(legend)
    for x, y, text, color in placed:
        draw.text((x, y), text, fill=color, font=font)
    return legend
