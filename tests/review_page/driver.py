"""Drives a review page: what its controls say, and what its canvases show."""

import numpy as np

SIZE, SPACING = (20, 36, 30), (3.0, 2.0, 1.5)
PLANES = {"axial": (0, 1, 2), "coronal": (1, 0, 2), "sagittal": (2, 0, 1)}
"""Axes of the slice, its rows and its columns."""
COLORS = {"brainstem": (77, 157, 255), "mandible": (255, 224, 90), "parotid_left": (255, 128, 51)}


def settle(page):
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)
    settle(page)


def toggle(page, *names):
    for name in names:
        page.click(f"[data-toggle={name}]")
    settle(page)


def cursor(page):
    """(z, y, x) of the cross-hair."""
    return tuple(int(page.input_value(f"#{name} .slices")) for name in PLANES)


def show_slice(page, plane, index):
    page.evaluate(
        """([plane, index]) => {
            const slider = document.querySelector(`#${plane} .slices`);
            slider.value = index;
            slider.dispatchEvent(new Event("input"));
        }""",
        [plane, index],
    )
    settle(page)


def pixels(page, plane):
    """(h, w, 3) uint8: what the canvas of a plane shows."""
    flat, width = page.evaluate(
        """(plane) => {
            const canvas = document.querySelector(`#${plane} canvas`);
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            let text = "";
            for (let i = 0; i < data.length; i += 4) text += String.fromCharCode(data[i], data[i + 1], data[i + 2]);
            return [text, canvas.width];
        }""",
        plane,
    )
    return np.frombuffer(flat.encode("latin-1"), dtype=np.uint8).reshape(-1, width, 3)


def count(page, plane, color):
    """Pixels of about a color."""
    return int((np.abs(pixels(page, plane).astype(int) - color).max(axis=-1) < 24).sum())


def position(page, plane, voxel):
    """Where the center of a voxel lies on the canvas of a plane that shows the whole slice: (x, y) in pixels."""
    _, rows, columns = PLANES[plane]
    canvas = page.locator(f"#{plane} canvas").bounding_box()
    size_mm = SIZE[columns] * SPACING[columns], SIZE[rows] * SPACING[rows]
    scale = min(canvas["width"] / size_mm[0], canvas["height"] / size_mm[1])
    row = voxel[rows] if plane == "axial" else SIZE[rows] - 1 - voxel[rows]  # the head is up
    x = canvas["width"] / 2 + scale * ((voxel[columns] + 0.5) * SPACING[columns] - size_mm[0] / 2)
    return x, canvas["height"] / 2 + scale * ((row + 0.5) * SPACING[rows] - size_mm[1] / 2)


def on_screen(page, plane, voxel):
    canvas = page.locator(f"#{plane} canvas").bounding_box()
    x, y = position(page, plane, voxel)
    return canvas["x"] + x, canvas["y"] + y
