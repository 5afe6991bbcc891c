// Volumes: unpacking, slices, and where organs lie. Axes are (z, y, x): to the head, the back and the left.

const AIR_HU = -1000;

/** How the three planes lie: the axes of columns and rows, whether rows are turned (head up), and edge letters. */
const PLANES = {
  axial: { axis: 0, columns: 2, rows: 1, headUp: false, letters: ["R", "L", "A", "P"], scroll: -1 },
  coronal: { axis: 1, columns: 2, rows: 0, headUp: true, letters: ["R", "L", "S", "I"], scroll: 1 },
  sagittal: { axis: 2, columns: 1, rows: 0, headUp: true, letters: ["A", "P", "S", "I"], scroll: 1 },
};

async function unpack(name) {
  const element = document.getElementById(`volume-${name}`);
  if (!element) return null;
  const text = atob(element.textContent);
  element.remove();
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** HU of the image: the packed values are what the neighbors of a voxel do not predict. */
function restoreImage(bytes, [depth, height, width], stepHu) {
  const size = depth * height * width;
  const values = new Int16Array(size);
  for (let i = 0; i < size; i++) {
    const folded = bytes[i] | (bytes[size + i] << 8);
    const remainder = (folded >> 1) ^ -(folded & 1);
    const column = i % width;
    const row = ((i / width) | 0) % height;
    const left = column ? values[i - 1] : 0;
    const above = row ? values[i - width] : 0;
    const plane = left + above - (row && column ? values[i - width - 1] : 0);
    const low = Math.min(left, above);
    const high = Math.max(left, above);
    values[i] = remainder + (plane < low ? low : plane > high ? high : plane);
  }
  for (let i = 0; i < size; i++) values[i] = AIR_HU + stepHu * values[i];
  return values;
}

/** All volumes of a case on one grid. */
class CaseVolumes {
  static async load(facts) {
    const packed = {};
    for (const name of ["image", "prediction", "reference", "heatmap"]) packed[name] = await unpack(name);
    const { image, ...others } = packed;
    return new CaseVolumes(facts, { image: restoreImage(image, facts.size_zyx, facts.step_hu), ...others });
  }

  constructor(facts, volumes) {
    Object.assign(this, volumes);
    this.size = facts.size_zyx;
    this.spacing = facts.spacing_zyx_mm;
  }

  index([z, y, x]) {
    return (z * this.size[1] + y) * this.size[2] + x;
  }

  contains(voxel) {
    return voxel.every((value, axis) => value >= 0 && value < this.size[axis]);
  }

  /** One slice of a volume as shown: rows from top to bottom. */
  slice(volume, plane, index) {
    const strides = [this.size[1] * this.size[2], this.size[2], 1];
    const width = this.size[plane.columns];
    const height = this.size[plane.rows];
    const result = new volume.constructor(width * height);
    for (let row = 0; row < height; row++) {
      const line = plane.headUp ? height - 1 - row : row;
      const start = index * strides[plane.axis] + line * strides[plane.rows];
      const step = strides[plane.columns];
      for (let column = 0; column < width; column++) result[row * width + column] = volume[start + column * step];
    }
    return result;
  }

  /** Position of an organ in a label map: its voxel nearest to the center, or null if it has none. */
  center(labels, value) {
    const sum = [0, 0, 0];
    let count = 0;
    this.forEachVoxel((i, z, y, x) => {
      if (labels[i] !== value) return;
      sum[0] += z;
      sum[1] += y;
      sum[2] += x;
      count++;
    });
    if (!count) return null;
    const center = sum.map((total) => total / count);
    return this.nearest((i) => labels[i] === value, center);
  }

  /** The voxel that fulfills a condition and lies nearest to a point, in mm. */
  nearest(fulfills, point) {
    let best = null;
    let smallest = Infinity;
    this.forEachVoxel((i, ...voxel) => {
      if (!fulfills(i)) return;
      const distance = voxel.reduce((total, v, axis) => total + ((v - point[axis]) * this.spacing[axis]) ** 2, 0);
      if (distance < smallest) [smallest, best] = [distance, voxel];
    });
    return best;
  }

  /** The middle of the axial slice in which prediction and reference differ in most voxels, or null. */
  largestDifference(values) {
    const { prediction, reference } = this;
    const wanted = new Uint8Array(256);
    for (const value of values) wanted[value] = 1;
    const differs = (i) => prediction[i] !== reference[i] && (wanted[prediction[i]] || wanted[reference[i]]);
    const area = this.size[1] * this.size[2];
    let best = { count: 0 };
    for (let z = 0; z < this.size[0]; z++) {
      let [count, rows, columns] = [0, 0, 0];
      for (let i = z * area; i < (z + 1) * area; i++) {
        if (!differs(i)) continue;
        count++;
        rows += (((i - z * area) / this.size[2]) | 0);
        columns += i % this.size[2];
      }
      if (count > best.count) best = { count, z, point: [z, rows / count, columns / count] };
    }
    return best.count ? this.nearest((i) => ((i / area) | 0) === best.z && differs(i), best.point) : null;
  }

  forEachVoxel(visit) {
    let i = 0;
    for (let z = 0; z < this.size[0]; z++)
      for (let y = 0; y < this.size[1]; y++)
        for (let x = 0; x < this.size[2]; x++) visit(i++, z, y, x);
  }
}
