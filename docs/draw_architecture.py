"""Draw docs/architecture.png: the networks of FocusNetv2 with their channel numbers.

python -m docs.draw_architecture

The channel numbers are read from the networks at the paper's width (preset pddca).
"""

import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyBboxPatch, Polygon, Rectangle
from scipy import ndimage
from torch import nn

from data_preprocess.sources.phantom.source import generate_phantom
from models.focusnet import build_network
from utils.config.preset import load_preset

OUTPUT = Path(__file__).resolve().parent / "architecture.png"
WIDTH, HEIGHT = 150, 117
"""In tenths of an inch."""
DPI = 120

INK, GRAY, WHITE = "#1f2933", "#5d6874", "#ffffff"
S_NET, SOL_NET, ROI, SOS_NET, SHAPE = "#2f6fb3", "#d07a1f", "#b8325a", "#2c8a57", "#7648a3"
U_LEVELS = ("down_half", "down_quarter", "context", "up_half", "up_full")
SHAPE_PARTS = [*(f"encoder.{i}" for i in range(4)), "to_code", "from_code", "decode_quarter", "decode_half", "head"]
SHAPE_HEIGHTS = (9, 6, 6, 4, 3, 4, 6, 9, 13)
"""Of the feature maps of the AutoEncoder's parts, in the figure."""
SHAPE_SIZES = {13: "d · h · w", 9: "d/2 · h/2 · w/2", 6: "d/4 · h/4 · w/4", 4: "d/8 · h/8 · w/8", 3: "shape code"}
"""Height in the figure to size of the feature map."""

PHANTOM, ORGAN_SHOWN, ROI_PIXELS = 11, "optic_nerve_left", 28

Point = tuple[float, float]
FeatureMap = tuple[float, str, str]
"""Height in the figure, channels, size."""


class Pictures(NamedTuple):
    """Axial slices of a phantom through a small organ, gray or RGB, in 0..1."""

    image: np.ndarray
    labels: np.ndarray
    heatmap: np.ndarray
    roi: np.ndarray
    reference: np.ndarray
    predicted: np.ndarray
    roi_box: tuple[float, float, float]
    """Top, left and size of the ROI, as fractions of the slice's size."""


def draw_pictures() -> Pictures:
    """Show what goes into the networks and what comes out; the outputs are drawn from the phantom's own masks."""
    raw = generate_phantom(PHANTOM)
    masks = {name: mask.dense() for name, mask in raw.masks.items()}
    z, y, x = (round(float(axis.mean())) for axis in np.nonzero(masks[ORGAN_SHOWN]))
    rows, columns = np.nonzero(raw.volume.array[z] > -300)  # the head, in a square
    top = rows.min() - 3
    size = raw.volume.array.shape[1] - top
    left = (columns.min() + columns.max() - size) // 2
    head = np.s_[top : top + size, left : left + size]
    gray = np.clip((raw.volume.array[z][head] + 160.0) / 500.0, 0, 1)
    labels = np.repeat(gray[..., None], 3, axis=2)
    for organ in load_preset("phantom").organs:
        if organ.name in masks:
            inside = masks[organ.name][z][head]
            labels[inside] = 0.2 * labels[inside] + 0.8 * np.array(organ.color) / 255
    squares = (np.arange(size)[:, None] - y + top) ** 2 + (np.arange(size) - x + left) ** 2
    heat = np.exp(-squares / (2 * 3.0**2))[..., None]
    glow = (1 - heat) * gray[..., None] * 0.6 + heat * np.array(to_rgb("#ffb347"))
    corner = y - top - ROI_PIXELS // 2, x - left - ROI_PIXELS // 2
    roi = tuple(slice(start, start + ROI_PIXELS) for start in corner)
    reference = masks[ORGAN_SHOWN][z][head][roi].astype(float)
    predicted = np.clip(1.6 * ndimage.gaussian_filter(np.roll(reference, 1, axis=1), 1.1), 0, 1)
    roi_box = corner[0] / size, corner[1] / size, ROI_PIXELS / size
    return Pictures(gray, labels, glow, gray[roi], reference, predicted, roi_box)


def output_channels(network: nn.Module, image: torch.Tensor, names: Sequence[str]) -> list[str]:
    """Channels (or the length of the code) that each named part of a network returns."""
    outputs = {}
    for name in names:
        part = network.get_submodule(name)
        part.register_forward_hook(lambda _, __, output, name=name: outputs.update({name: output}))
    with torch.no_grad():
        network.eval()(image)
    return [str(outputs[name].shape[1]) for name in names]


def tint(color: str, strength: float) -> tuple[float, ...]:
    """Mix a color with white."""
    return tuple(1 - strength * (1 - value) for value in to_rgb(color))


def text(x: float, y: float, content: str, size: float = 11.5, color: str = INK, **style) -> None:
    """Centered text."""
    plt.text(x, y, content, fontsize=size, color=color, **{"ha": "center", "va": "center", "linespacing": 1.3} | style)


def panel(corner: Point, size: Point, color: str, title: str, subtitle: str) -> None:
    """Draw a tinted box with a title: one network."""
    rounded = {"boxstyle": "round,pad=0,rounding_size=1.6", "lw": 1.4}
    plt.gca().add_patch(FancyBboxPatch(corner, *size, fc=tint(color, 0.07), ec=tint(color, 0.5), **rounded))
    x, y = corner[0] + 2, corner[1] + size[1] - 3
    text(x, y, title, 17, color, ha="left", fontweight="bold")
    text(x, y - 3.3, subtitle, 11.5, GRAY, ha="left")


def arrow(points: Sequence[Point], color: str, *, dashed: bool = False, width: float = 1.8) -> None:
    """Draw a line through the points, with a head at the last one."""
    line = {"color": color, "lw": width, "linestyle": (0, (4, 2)) if dashed else "solid"}
    plt.plot(*zip(*points[:-1], strict=True), solid_joinstyle="round", **line)
    head = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "mutation_scale": 14}
    plt.annotate("", points[-1], points[-2], arrowprops=head | line)


def feature_map(x: float, base: float, height: float, channels: str, size: str, color: str) -> None:
    """Draw a slab as high as the map's resolution; its channels stand above, its size below."""
    left, right, top, depth = x - 1.3, x + 1.3, base + height, 0.9
    front = (left, base), (right, base), (right, top), (left, top)
    lid = (left, top), (left + depth, top + depth), (right + depth, top + depth), (right, top)
    side = (right, base), (right + depth, base + depth), (right + depth, top + depth), (right, top)
    for corners, strength in ((front, 0.75), (lid, 0.4), (side, 1)):
        plt.gca().add_patch(Polygon(corners, facecolor=tint(color, strength), edgecolor=WHITE, lw=0.8))
    text(x + depth / 2, top + 2.3, channels, 13.5, fontweight="bold")
    text(x + depth / 2, base - 0.8, size, 9.5, GRAY, va="top")


def chain(xs: Sequence[float], base: float, maps: Iterable[FeatureMap], color: str, arrows_at: float) -> None:
    """Draw feature maps on one base, and arrows from each to the next."""
    for x, (height, channels, size) in zip(xs, maps, strict=True):
        feature_map(x, base, height, channels, size, color)
    for left, right in pairwise(xs):
        arrow([(left + 2.5, arrows_at), (right - 1.6, arrows_at)], color)


def picture(corner: Point, size: float, image: np.ndarray, color: str, caption: str) -> None:
    """Draw a framed square picture with a caption below."""
    x, y = corner
    plt.imshow(image, extent=(x, x + size, y, y + size), cmap="gray", vmin=0, vmax=1, aspect="auto", zorder=3)
    plt.gca().add_patch(Rectangle(corner, size, size, fill=False, ec=color, lw=1.8, zorder=4))
    text(x + size / 2, y - 0.9, caption, va="top")


def u_network(xs: Sequence[float], base: float, tall: float, channels: Sequence[str], axes: str) -> None:
    """Draw three encoder levels, DenseASPP and two decoder levels, with their skip connections.

    Args:
        xs: of the six feature maps.
        base: y of their lower ends.
        tall: height of the largest.
        channels: of each.
        axes: names of z, y and x: "DHW" for the crop, "dhw" for an ROI.
    """
    color = S_NET if axes == "DHW" else SOS_NET
    z, y, x = axes
    sizes = (f"{z} · {y} · {x}", f"{z} · {y}/2 · {x}/2", f"{z}/2 · {y}/4 · {x}/4")
    heights = [tall * fraction for fraction in (1, 0.66, 0.38)]
    levels = zip(heights + heights[::-1], channels, sizes + sizes[::-1], strict=True)
    chain(xs, base, levels, color, base + tall * 0.15)
    middle = (xs[2] + xs[3]) / 2 + 0.5
    text(middle, base + tall * 0.15 + 1.6, "DenseASPP", 9.5, GRAY)
    for left, right, height in ((0, 5, 0.88), (1, 4, 0.6)):
        level = base + tall * height
        arrow([(xs[left] + 2.5, level), (xs[right] - 1.6, level)], tint(color, 0.5), width=1.5)
        text(middle, level + 1.4, "skip connection", 9.5, GRAY)


def draw_backbone(pictures: Pictures, channels: Sequence[str]) -> None:
    """Draw the upper row: S-Net and SOL-Net."""
    picture((2, 90), 14, pictures.image, INK, "CT crop\n1 channel")
    panel((20, 77.5), (74, 38), S_NET, "S-Net", "segments every organ; the plane is pooled twice, z once")
    u_network((27, 38.5, 50, 61.5, 73, 84.5), 84, 20, channels, "DHW")
    arrow([(16.6, 97), (25.4, 97)], INK)

    panel((99, 77.5), (49, 38), SOL_NET, "SOL-Net", "one heatmap per small organ; its peak is the center")
    layers = (20, channels[-1], "3×3×3"), (20, channels[-1], "3×3×3"), (20, "K", "1×1×1, sigmoid")
    chain((106, 115.5, 125), 84, layers, SOL_NET, 94)
    arrow([(87, 94), (104.4, 94)], S_NET)
    picture((132, 87), 14, pictures.heatmap, SOL_NET, "")
    arrow([(127.5, 94), (131.8, 94)], SOL_NET)
    top, left, size = np.multiply(14, pictures.roi_box)
    plt.gca().add_patch(Rectangle((132 + left, 101 - top - size), size, size, fill=False, ec=ROI, lw=2.2, zorder=5))
    text(139, 103.5, "heatmap and ROI", 11)


def draw_rois(pictures: Pictures, channels: Sequence[str], inputs: dict[str, str]) -> None:
    """Draw the ROI crop and SOS-Net, in the middle row."""
    line_y = 71.5
    starts = ((9, 85, INK), (27, 77.5, S_NET), (83.5, 77.5, S_NET), (139, 86.6, SOL_NET))
    for (label, count), (x, bottom, color) in zip(inputs.items(), starts, strict=True):
        plt.plot([x, x], [bottom, line_y], color=color, lw=1.8)
        text(x + 0.8, line_y + 1.7, f"{label} {count}", 11, color, ha="left")
    plt.plot([9, 139], [line_y, line_y], color=ROI, lw=1.8)
    text(55, line_y + 1.7, "cut out around the peak, and concatenated", 11, ROI)
    arrow([(9, line_y), (9, 61.6)], ROI)
    picture((2, 47), 14, pictures.roi, ROI, f"ROI crop\n{sum(map(int, inputs.values()))} channels")

    panel((20, 36), (90, 32.5), SOS_NET, "SOS-Net", "one branch per small organ segments it in its ROI")
    u_network((27, 39.5, 52, 64.5, 77, 89.5), 41, 15.5, channels, "dhw")
    feature_map(102.5, 41, 15.5, "1", "1×1×1, sigmoid", SOS_NET)
    arrow([(92, 48.75), (100.9, 48.75)], SOS_NET)
    arrow([(16.6, 51), (25.4, 51)], ROI)


def draw_result(pictures: Pictures, num_classes: int) -> None:
    """Draw the label map, at the right end of the middle row."""
    plt.plot([127, 127], [70.5, 72.5], color=WHITE, lw=6, zorder=2)  # the lines cross
    arrow([(87, 86), (91, 86), (91, 74.8), (127, 74.8), (127, 68)], S_NET)
    text(109, 76.2, f"1×1×1, softmax: {num_classes} classes", 10, S_NET)
    caption = "label map: S-Net's, and SOS-Net's\nfor small organs in their ROIs"
    picture((116, 45), 22, pictures.labels, INK, caption)
    arrow([(105, 53), (115.6, 53)], SOS_NET)


def draw_autoencoder(pictures: Pictures, channels: Sequence[str]) -> None:
    """Draw the lower row: the shape AutoEncoder, which is used in training only."""
    subtitle = "training only: learns to reconstruct masks, and to tell SOS-Net's from references"
    panel((20, 2), (128, 30), SHAPE, "Shape AutoEncoder", subtitle)
    picture((4, 20), 9, pictures.predicted, SOS_NET, "SOS-Net's mask")
    picture((4, 6), 9, pictures.reference, INK, "reference mask")
    arrow([(103, 38), (103, 34), (8.5, 34), (8.5, 29.4)], SOS_NET, dashed=True)
    levels = [(height, count, SHAPE_SIZES[height]) for height, count in zip(SHAPE_HEIGHTS, channels, strict=True)]
    chain((35, 47.5, 60, 72.5, 85, 97.5, 110, 122.5, 138), 6.5, levels, SHAPE, 8)
    plt.plot([13.6, 24, 13.6], [24.5, 13, 10.5], color=INK, lw=1.8)
    arrow([(24, 13), (33.4, 13)], INK)
    for x, height in ((85.5, 13.4), (110.5, 16.4), (123, 19.4)):
        plt.plot([x, x], [height, 22.2], color=SHAPE, lw=1.4, linestyle=(0, (2, 2)))
    text(105.5, 23.7, "compared: SOS-Net learns to match the reference", 10.5, SHAPE)
    plt.plot([85.5, 123], [22.2, 22.2], color=SHAPE, lw=1.4, linestyle=(0, (2, 2)))


def main() -> int:
    """Write the figure."""
    mpl.use("Agg")
    preset = load_preset("pddca")
    crop = torch.zeros(1, 1, 4, 16, 16)
    s_net = output_channels(build_network("s_net", preset), crop, ("stem.2", *U_LEVELS))
    inputs = {"image": "1", "stem": s_net[0], "features": s_net[-1], "heatmap": "1"}
    branch = build_network("sos_net", preset).branches[0]
    rois = torch.zeros(1, sum(map(int, inputs.values())), 4, 16, 16)
    sos_net = output_channels(branch, rois, ("level_full", *U_LEVELS))
    plt.figure(figsize=(WIDTH / 10, HEIGHT / 10))
    plt.axes((0, 0, 1, 1)).axis("off")
    pictures = draw_pictures()
    draw_backbone(pictures, s_net)
    draw_rois(pictures, sos_net, inputs)
    draw_result(pictures, preset.num_classes)
    autoencoder = build_network("autoencoder", preset)
    masks = torch.zeros(1, 1, *preset.grid.roi_size_vox)
    draw_autoencoder(pictures, output_channels(autoencoder, masks, SHAPE_PARTS))
    plt.axis((0, WIDTH, 0, HEIGHT))
    plt.savefig(OUTPUT, dpi=DPI, facecolor=WHITE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
