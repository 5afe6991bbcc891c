// One plane: a canvas with a slice of the CT, the contours on it, and how voxels map to pixels.

const LETTER_PX = 14;
const FAINT_HEAT = 13; // 0.05 of 1
const MAX_CACHED_SLICES = 48;
const SCALE_BARS_MM = [200, 100, 50, 20, 10, 5, 2, 1];

/** Gray values by window, for HU from AIR_HU: opaque pixels in the byte order of ImageData. */
function grayTable({ center, width }) {
  const table = new Uint32Array(4096);
  for (let i = 0; i < table.length; i++) {
    const gray = Math.round(255 * Math.min(1, Math.max(0, (AIR_HU + i - center) / width + 0.5)));
    table[i] = 0xff000000 | (gray << 16) | (gray << 8) | gray;
  }
  return table;
}

/** From transparent through red to yellow; the networks give small values nearly everywhere. */
function heatTable() {
  const table = new Uint32Array(256);
  for (let i = FAINT_HEAT; i < 256; i++) {
    const opacity = Math.round(255 * 0.7 * Math.sqrt((i - FAINT_HEAT) / (255 - FAINT_HEAT)));
    table[i] = (opacity << 24) | (Math.round(0.9 * i) << 8) | 255;
  }
  return table;
}

const HEAT = heatTable();
const css = (color, opacity = 1) => `rgb(${color.join(" ")} / ${opacity})`;
const lighter = (color) => color.map((value) => Math.round(value + 0.55 * (255 - value)));

class PlaneView {
  constructor(name, volumes, state) {
    Object.assign(this, { name, volumes, state, plane: PLANES[name], zoom: 1, paths: new Map() });
    this.frame = document.getElementById(name);
    this.canvas = this.frame.querySelector("canvas");
    this.context = this.canvas.getContext("2d", { alpha: false });
    this.slider = this.frame.querySelector(".slices");
    this.columns = volumes.size[this.plane.columns];
    this.rows = volumes.size[this.plane.rows];
    this.columnMm = volumes.spacing[this.plane.columns];
    this.rowMm = volumes.spacing[this.plane.rows];
    this.slider.max = volumes.size[this.plane.axis] - 1;
    this.picture = this.emptyPicture();
    this.heat = this.emptyPicture();
    this.fit();
  }

  emptyPicture() {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [this.columns, this.rows];
    const pixels = new ImageData(this.columns, this.rows);
    return { canvas, context: canvas.getContext("2d"), pixels, words: new Uint32Array(pixels.data.buffer), drawn: null };
  }

  get index() {
    return this.state.cursor[this.plane.axis];
  }

  /** Show the whole slice. */
  fit() {
    this.zoom = 1;
    this.middle = [this.columns / 2, this.rows / 2];
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    const box = this.canvas.getBoundingClientRect();
    const [width, height] = [box.width, box.height].map((length) => Math.max(1, Math.round(length * ratio)));
    if (width !== this.canvas.width || height !== this.canvas.height) Object.assign(this.canvas, { width, height });
    this.ratio = ratio;
  }

  /** Pixels per mm. */
  get scale() {
    const { width, height } = this.canvas;
    return this.zoom * Math.min(width / (this.columns * this.columnMm), height / (this.rows * this.rowMm));
  }

  /** From voxels of the slice, counted from its upper left corner, to pixels. */
  get matrix() {
    const [a, d] = [this.scale * this.columnMm, this.scale * this.rowMm];
    const { width, height } = this.canvas;
    return new DOMMatrix([a, 0, 0, d, width / 2 - a * this.middle[0], height / 2 - d * this.middle[1]]);
  }

  /** Voxels of the slice at a position of the pointer, as fractions. */
  slicePoint(event) {
    const box = this.canvas.getBoundingClientRect();
    const { a, d, e, f } = this.matrix;
    return [((event.clientX - box.left) * this.ratio - e) / a, ((event.clientY - box.top) * this.ratio - f) / d];
  }

  /** The voxel (z, y, x) under the pointer, which may lie outside of the volume. */
  voxelAt(event) {
    const [column, row] = this.slicePoint(event).map(Math.floor);
    const voxel = [...this.state.cursor];
    voxel[this.plane.columns] = column;
    voxel[this.plane.rows] = this.plane.headUp ? this.rows - 1 - row : row;
    return voxel;
  }

  /** Column and row of the slice at the center of a voxel. */
  pointOf(voxel) {
    const row = voxel[this.plane.rows];
    return [voxel[this.plane.columns] + 0.5, (this.plane.headUp ? this.rows - 1 - row : row) + 0.5];
  }

  zoomAt(event, factor) {
    const before = this.slicePoint(event);
    this.zoom = Math.min(20, Math.max(0.5, this.zoom * factor));
    const after = this.slicePoint(event);
    this.middle = this.middle.map((value, i) => value + before[i] - after[i]);
  }

  pan(dx, dy) {
    const { a, d } = this.matrix;
    this.middle[0] -= (dx * this.ratio) / a;
    this.middle[1] -= (dy * this.ratio) / d;
  }

  /** Move the picture if the cross-hair is outside of it. */
  reveal() {
    const [column, row] = this.pointOf(this.state.cursor);
    const { x, y } = new DOMPoint(column, row).matrixTransform(this.matrix);
    const isVisible = x >= 0 && y >= 0 && x < this.canvas.width && y < this.canvas.height;
    if (!isVisible) this.middle = [column, row];
  }

  draw() {
    this.resize();
    const { context, canvas, state } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "black";
    context.fillRect(0, 0, canvas.width, canvas.height);
    this.drawPictures();
    context.setTransform(1, 0, 0, 1, 0, 0); // contours, lines and texts are in pixels
    if (state.show.fill) this.drawContours("prediction", (path, color) => this.fillPath(path, css(color, state.opacity)));
    if (state.show.difference && this.volumes.reference) this.drawDifference();
    if (state.show.reference && this.volumes.reference) this.drawLines("reference");
    if (state.show.outlines) this.drawLines("prediction");
    if (state.show.crosshair) this.drawCrosshair();
    this.drawTexts();
    this.slider.value = this.index;
    const text = `${this.name} ${this.index + 1} of ${this.volumes.size[this.plane.axis]}`;
    this.slider.setAttribute("aria-valuetext", text);
    this.canvas.setAttribute("aria-label", text);
  }

  drawPictures() {
    const { context, state, volumes, plane } = this;
    context.setTransform(this.matrix);
    context.imageSmoothingEnabled = true;
    if (this.picture.drawn !== this.pictureKey("image")) {
      const hu = volumes.slice(volumes.image, plane, this.index);
      for (let i = 0; i < hu.length; i++) this.picture.words[i] = state.grays[hu[i] - AIR_HU];
      this.finishPicture(this.picture, "image");
    }
    context.drawImage(this.picture.canvas, 0, 0);
    if (!state.show.heatmap || !volumes.heatmap) return;
    if (this.heat.drawn !== this.pictureKey("heatmap")) {
      const heat = volumes.slice(volumes.heatmap, plane, this.index);
      for (let i = 0; i < heat.length; i++) this.heat.words[i] = HEAT[heat[i]];
      this.finishPicture(this.heat, "heatmap");
    }
    context.drawImage(this.heat.canvas, 0, 0);
  }

  pictureKey(name) {
    const { center, width } = this.state.window;
    return name === "image" ? `${this.index} ${center} ${width}` : `${this.index}`;
  }

  finishPicture(picture, name) {
    picture.context.putImageData(picture.pixels, 0, 0);
    picture.drawn = this.pictureKey(name);
  }

  /** Outlines of the slice's labels, kept for the slices seen last. */
  outlines(name) {
    const key = `${name} ${this.index}`;
    let paths = this.paths.get(key);
    if (!paths) {
      const labels = this.volumes.slice(this.volumes[name], this.plane, this.index);
      paths = outlinePaths(labels, this.columns, this.rows);
      if (this.paths.size >= MAX_CACHED_SLICES) this.paths.delete(this.paths.keys().next().value);
      this.paths.set(key, paths);
    }
    return paths;
  }

  /** Call `draw` with the path, in pixels, and the color of every organ that is shown. */
  drawContours(name, draw) {
    for (const [value, path] of this.outlines(name)) {
      const organ = this.state.byLabel.get(value);
      if (organ && this.state.isShown(organ)) draw(this.onScreen(path), organ.color);
    }
  }

  onScreen(path) {
    const moved = new Path2D();
    moved.addPath(path, this.matrix);
    return moved;
  }

  fillPath(path, style) {
    this.context.fillStyle = style;
    this.context.fill(path, "evenodd");
  }

  drawLines(name) {
    const { context, ratio } = this;
    const isReference = name === "reference";
    context.setLineDash(isReference ? [6 * ratio, 4 * ratio] : []);
    context.lineWidth = 1.75 * ratio;
    this.drawContours(name, (path, color) => {
      context.strokeStyle = css(isReference ? lighter(color) : color);
      context.stroke(path);
    });
    context.setLineDash([]);
  }

  /** Fill voxels of shown organs that only one of the two has; an organ that was not contoured has no difference. */
  drawDifference() {
    const { volumes, plane, state } = this;
    const [prediction, reference] = ["prediction", "reference"].map((name) => volumes.slice(volumes[name], plane, this.index));
    const shown = (value) => {
      const organ = value && state.byLabel.get(value);
      return organ && organ.compared && state.isShown(organ);
    };
    const only = { 1: new Uint8Array(prediction.length), 2: new Uint8Array(prediction.length) };
    for (let i = 0; i < prediction.length; i++) {
      if (prediction[i] === reference[i]) continue;
      if (shown(prediction[i])) only[1][i] = 1;
      if (shown(reference[i])) only[2][i] = 1;
    }
    for (const [which, style] of [[1, DIFFERENCE_COLORS.prediction], [2, DIFFERENCE_COLORS.reference]])
      for (const path of outlinePaths(only[which], this.columns, this.rows).values())
        this.fillPath(this.onScreen(path), css(style, 0.65));
  }

  drawCrosshair() {
    const { context, canvas, ratio } = this;
    const [column, row] = this.pointOf(this.state.cursor);
    const { x, y } = new DOMPoint(column, row).matrixTransform(this.matrix);
    const gap = 8 * ratio;
    context.strokeStyle = "rgb(255 255 255 / 0.4)";
    context.lineWidth = ratio;
    context.beginPath();
    for (const [x0, y0, x1, y1] of [[0, y, x - gap, y], [x + gap, y, canvas.width, y], [x, 0, x, y - gap], [x, y + gap, x, canvas.height]]) {
      context.moveTo(x0, y0);
      context.lineTo(x1, y1);
    }
    context.stroke();
  }

  drawTexts() {
    const { context, canvas, ratio } = this;
    const [left, right, top, bottom] = this.plane.letters;
    const edge = 8 * ratio;
    const { width, height } = canvas;
    const size = LETTER_PX * ratio;
    this.text(left, edge, height / 2, "left", "middle", size);
    this.text(right, width - edge, height / 2, "right", "middle", size);
    this.text(top, width / 2, edge, "center", "top", size);
    this.text(bottom, width / 2, height - edge, "center", "bottom", size);
    const small = 12 * ratio;
    const where = `${this.index + 1} / ${this.volumes.size[this.plane.axis]}`;
    this.text(this.name, edge, edge, "left", "top", small);
    this.text(where, edge, edge + 1.35 * small, "left", "top", small);
    this.drawScaleBar(width - edge, height - edge, small);
  }

  text(content, x, y, align, baseline, size) {
    const { context, ratio } = this;
    context.font = `600 ${size}px system-ui, sans-serif`;
    context.textAlign = align;
    context.textBaseline = baseline;
    context.lineJoin = "round";
    context.lineWidth = 3 * ratio;
    context.strokeStyle = "rgb(0 0 0 / 0.8)";
    context.strokeText(content, x, y);
    context.fillStyle = "#e8edf2";
    context.fillText(content, x, y);
  }

  drawScaleBar(right, bottom, size) {
    const { context, ratio } = this;
    const longest = this.canvas.width / 4;
    const length = SCALE_BARS_MM.find((mm) => mm * this.scale <= longest);
    if (!length) return;
    const left = right - length * this.scale;
    for (const [color, width] of [["rgb(0 0 0 / 0.8)", 4], ["#e8edf2", 1.5]]) {
      context.strokeStyle = color;
      context.lineWidth = width * ratio;
      context.beginPath();
      context.moveTo(left, bottom - 5 * ratio);
      context.lineTo(left, bottom);
      context.lineTo(right, bottom);
      context.lineTo(right, bottom - 5 * ratio);
      context.stroke();
    }
    this.text(`${length} mm`, right, bottom - 3 * ratio, "right", "bottom", size);
  }
}

const DIFFERENCE_COLORS = { prediction: [255, 64, 160], reference: [64, 200, 255] };
