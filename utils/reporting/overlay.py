"""Renders a CT with organ outlines in axial, coronal and sagittal slices: head up, the patient's left on the right."""

from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.imaging.contours import trace_outlines
from utils.io.files import atomic_write

RGB = tuple[int, int, int]
Points = list[tuple[float, float]]
"""(x, y) in pixels."""

PLANES = (("axial", "R", "L"), ("coronal", "R", "L"), ("sagittal", "A", "P"))
"""Name by axis, and the letters at the left and the right edge."""
PANEL_PX = 480
"""Height of the tallest panel. All panels have the same scale."""
GAP_PX = 6
FONT_PX = 15
SHOWN_WIDTH_PX = 900
"""Width at which texts of a wider picture still have `FONT_PX`: the report page and many viewers reduce it."""
LINE_PX = 2
DASH_PX = 7
MAX_ORGANS_IN_ONE_ROW = 3
TEXT_COLOR = (200, 200, 200)
ABSENT_COLOR = (90, 90, 90)


class SlicePlane(NamedTuple):
    """One slice of a volume; `axis` is 0 (axial), 1 (coronal) or 2 (sagittal)."""

    axis: int
    index: int

    def extract(self, volume: np.ndarray) -> np.ndarray:
        """The slice (rows, columns) with the head up."""
        plane = np.take(volume, self.index, axis=self.axis)
        return plane if self.axis == 0 else plane[::-1]


class RenderStyle(NamedTuple):
    """Scale and colors of the slices."""

    voxel_px: np.ndarray
    """(3,): size of a voxel in pixels along z, y and x."""
    colors: Sequence[RGB]
    """One per organ."""
    window_hu: tuple[float, float]
    """HU rendered black and white."""
    font_px: int


class CaseVolumes(NamedTuple):
    """Volumes of one case, all (D, H, W)."""

    image: np.ndarray
    label: np.ndarray | None
    reference: np.ndarray | None
    heatmap: np.ndarray | None


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
    """Render a case as axial, coronal and sagittal slices with outlines and a legend.

    The slices are chosen by the reference, if there is one, so that overlays of different predictions show the same
    slices. With more than three organs, a second row shows organs that the first row misses.

    Args:
        image: (D, H, W), HU.
        label: (D, H, W) uint8, 0 = background, drawn with solid lines; may be None.
        spacing_zyx_mm: voxel spacing; pixels of the overlay are isotropic.
        colors: of labels 1, 2, ...
        names: of labels 1, 2, ...
        reference: (D, H, W) uint8, drawn with light dashed lines.
        heatmap: (D, H, W) in [0, 1], blended over the CT.
        window_hu: HU rendered black and white.
        show_all: add rows until each organ is well visible.

    Returns:
        (h, w, 3) uint8, RGB.

    Raises:
        ValueError: a volume's shape differs from the image's, or a label has no color or name.
    """
    volumes = CaseVolumes(image, label, reference, heatmap)
    _check(volumes, min(len(colors), len(names)))
    px_per_mm = PANEL_PX / np.multiply(image.shape, spacing_zyx_mm)[:2].max()
    voxel_px = np.multiply(spacing_zyx_mm, px_per_mm)
    width = np.multiply(image.shape, voxel_px) @ (0, 1, 2)  # of an axial, a coronal and a sagittal panel
    font_px = round(FONT_PX * max(1, width / SHOWN_WIDTH_PX))
    style = RenderStyle(voxel_px, colors, window_hu, font_px)
    planes = choose_slices(label if reference is None else reference, heatmap, image.shape, show_all=show_all)
    rows = [[_render_panel(plane, style, volumes) for plane in row] for row in planes]
    width = max(sum(panel.width + GAP_PX for panel in row) - GAP_PX for row in rows)
    parts = [_join(row, width) for row in rows]
    labels = [volume for volume in (label, reference) if volume is not None]
    if labels:
        present = set(np.concatenate([np.unique(volume) for volume in labels]).tolist())
        organs = enumerate(zip(names, colors, strict=False), 1)
        entries = [(name, tuple(color) if value in present else ABSENT_COLOR) for value, (name, color) in organs]
        if reference is not None:
            entries.append(("(dashed: reference)", TEXT_COLOR))
        parts.append(_render_legend(entries, width, font_px))
    return np.concatenate([np.asarray(part) for part in parts])


def save_png(path: Path, array: np.ndarray) -> None:
    """Write an (h, w, 3) uint8 image atomically."""
    with atomic_write(path, suffix=".png") as partial:
        Image.fromarray(array).save(partial)


def choose_slices(
    label: np.ndarray | None, heatmap: np.ndarray | None, shape: tuple[int, int, int], *, show_all: bool = False
) -> list[list[SlicePlane]]:
    """Choose the slices that show most of the organs; without organs they pass through the heatmap's peak.

    Args:
        label: (D, H, W) uint8 or None.
        heatmap: (D, H, W) or None.
        shape: (D, H, W).
        show_all: add rows until half of each organ's largest section is visible. Otherwise there is one row, or two for
            more than three organs.

    Returns:
        Rows of one axial, one coronal and one sagittal slice.
    """
    organs = [] if label is None else [value for value in np.unique(label) if value]
    if not organs:
        peak = [n // 2 for n in shape] if heatmap is None else np.unravel_index(heatmap.argmax(), shape)
        return [[SlicePlane(axis, int(index)) for axis, index in enumerate(peak)]]
    num_rows = 1 if len(organs) <= MAX_ORGANS_IN_ONE_ROW else 2
    rows: list[list[SlicePlane]] = []
    visible = [_visible_fractions(label, organs, axis) for axis in range(3)]
    hidden = np.ones((3, len(organs)))  # fraction of each organ that no slice along an axis shows
    while len(rows) < num_rows or (show_all and hidden.min(axis=0).max() > 0.5):
        rows.append([])
        for axis in range(3):
            best = int(((hidden[axis] + hidden.min(axis=0)) @ np.sqrt(visible[axis])).argmax())
            rows[-1].append(SlicePlane(axis, best))
            hidden[axis] = np.minimum(hidden[axis], 1 - visible[axis][:, best])
    return rows


def _check(volumes: CaseVolumes, num_organs: int) -> None:
    shape = volumes.image.shape
    for name, volume in volumes._asdict().items():
        if volume is not None and volume.shape != shape:
            raise ValueError(f"{name}: expected the image's shape {shape}, got {volume.shape}")
        if volume is not None and name in ("label", "reference") and volume.max(initial=0) > num_organs:
            raise ValueError(f"{name}: contains label {volume.max()}, but there are names and colors for {num_organs}")


def _visible_fractions(label: np.ndarray, organs: Sequence[int], axis: int) -> np.ndarray:
    """(organs, slices): area of each organ in each slice along an axis, relative to its largest area."""
    others = tuple(other for other in range(3) if other != axis)
    areas = np.stack([np.count_nonzero(label == value, axis=others) for value in organs])
    return areas / areas.max(axis=1, keepdims=True)


def _render_panel(plane: SlicePlane, style: RenderStyle, volumes: CaseVolumes) -> Image.Image:
    image, label, reference, heatmap = (None if volume is None else plane.extract(volume) for volume in volumes)
    voxel_px = np.delete(style.voxel_px, plane.axis)
    size = tuple(max(1, round(n * px)) for n, px in zip(image.shape, voxel_px, strict=True))[::-1]
    low, high = style.window_hu
    gray = np.clip((image.astype(np.float32) - low) / (high - low), 0, 1)
    panel = Image.fromarray((255 * gray).round().astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    panel = panel.convert("RGB")
    if heatmap is not None:
        panel = _blend_heatmap(panel, heatmap)
    draw = ImageDraw.Draw(panel)
    for value, points in _trace_labels(label, voxel_px):
        draw.line(points, fill=tuple(style.colors[value - 1]), width=LINE_PX, joint="curve")
    for value, points in _trace_labels(reference, voxel_px):
        light = tuple(round(c + 0.75 * (255 - c)) for c in style.colors[value - 1])
        for dash in _split_into_dashes(points):
            draw.line(dash, fill=light, width=LINE_PX)
    _annotate(draw, plane, panel.size, style.font_px)
    return panel


def _blend_heatmap(panel: Image.Image, heatmap: np.ndarray) -> Image.Image:
    """Blend a heatmap over the CT, from transparent through red to yellow."""
    scaled = Image.fromarray(heatmap.astype(np.float32)).resize(panel.size, Image.Resampling.BILINEAR)
    heat = np.clip(np.asarray(scaled), 0, 1)[..., None]
    opacity = 0.6 * np.sqrt(heat)
    color = np.concatenate([np.full_like(heat, 255), 230 * heat, np.zeros_like(heat)], axis=-1)
    blended = (1 - opacity) * np.asarray(panel, dtype=np.float32) + opacity * color
    return Image.fromarray(blended.round().astype(np.uint8))


def _trace_labels(plane: np.ndarray | None, voxel_px: np.ndarray) -> list[tuple[int, Points]]:
    """Trace the smoothed, closed outlines of every label in a slice."""
    found = []
    for value in [] if plane is None else np.unique(plane[plane > 0]).tolist():
        for outline in trace_outlines(plane == value):
            outline = (outline + np.roll(outline, -1, axis=0)) / 2  # edge midpoints, which smooth oblique edges
            outline = _cut_corners(_cut_corners(outline))
            scaled = (outline * voxel_px)[:, ::-1]
            found.append((value, [tuple(point) for point in np.concatenate([scaled, scaled[:1]]).tolist()]))
    return found


def _cut_corners(outline: np.ndarray) -> np.ndarray:
    """Smooth a closed outline by Chaikin's algorithm, which keeps the middle half of every edge."""
    following = np.roll(outline, -1, axis=0)
    return np.stack([0.75 * outline + 0.25 * following, 0.25 * outline + 0.75 * following], axis=1).reshape(-1, 2)


def _split_into_dashes(points: Points) -> list[Points]:
    """Every other section of length `DASH_PX` of a line."""
    steps = np.hypot(*np.diff(points, axis=0).T)
    sections = (np.cumsum([0.0, *steps]) / DASH_PX).astype(int)
    dashes = [list(compress(points, sections == number)) for number in range(0, sections[-1] + 1, 2)]
    return [dash for dash in dashes if len(dash) > 1]


def _annotate(draw: ImageDraw.ImageDraw, plane: SlicePlane, size: tuple[int, int], font_px: int) -> None:
    name, left, right = PLANES[plane.axis]
    font = ImageFont.load_default(font_px)
    text = {"fill": TEXT_COLOR, "font": font, "stroke_width": 2, "stroke_fill": "black"}  # the stroke helps over bone
    draw.text((6, 4), f"{name} {plane.index}", **text)
    draw.text((6, size[1] / 2), left, **text, anchor="lm")
    draw.text((size[0] - 6, size[1] / 2), right, **text, anchor="rm")


def _join(panels: list[Image.Image], width: int) -> Image.Image:
    """Place panels side by side on black, each vertically centered."""
    height = max(panel.height for panel in panels)
    row = Image.new("RGB", (width, height + GAP_PX))
    x = 0
    for panel in panels:
        row.paste(panel, (x, (height - panel.height) // 2))
        x += panel.width + GAP_PX
    return row


def _render_legend(entries: Sequence[tuple[str, RGB]], width: int, font_px: int) -> Image.Image:
    """Write texts in their colors, wrapped to the width."""
    font = ImageFont.load_default(font_px)
    positions, x, y = [], GAP_PX, GAP_PX
    for text, _ in entries:
        length = font.getlength(text) + 2 * font_px
        if x > GAP_PX and x + length > width:
            x, y = GAP_PX, y + font_px + GAP_PX
        positions.append((x, y))
        x += length
    legend = Image.new("RGB", (width, y + font_px + 2 * GAP_PX))
    draw = ImageDraw.Draw(legend)
    for position, (text, color) in zip(positions, entries, strict=True):
        draw.text(position, text, fill=color, font=font)
    return legend
