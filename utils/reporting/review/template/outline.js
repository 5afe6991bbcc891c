// Outlines of labels in a slice: they follow the edges of voxels, smoothed.

/** Edges of every label, as pairs of corners with the label on the right. Corner = row * (width + 1) + column. */
function labelEdges(labels, width, height) {
  const edges = new Map();
  const corners = width + 1;
  for (let row = 0, i = 0; row < height; row++) {
    for (let column = 0; column < width; column++, i++) {
      const value = labels[i];
      if (!value) continue;
      const corner = row * corners + column;
      const push = (from, to) => {
        if (!edges.has(value)) edges.set(value, []);
        edges.get(value).push(from, to);
      };
      if (!row || labels[i - width] !== value) push(corner, corner + 1);
      if (column === width - 1 || labels[i + 1] !== value) push(corner + 1, corner + corners + 1);
      if (row === height - 1 || labels[i + width] !== value) push(corner + corners + 1, corner + corners);
      if (!column || labels[i - 1] !== value) push(corner + corners, corner);
    }
  }
  return edges;
}

/** Closed loops of corners; a corner that two loops share is left towards the edge that was added last. */
function joinEdges(edges) {
  const following = new Map();
  for (let i = 0; i < edges.length; i += 2) {
    const known = following.get(edges[i]);
    if (known) known.push(edges[i + 1]);
    else following.set(edges[i], [edges[i + 1]]);
  }
  const loops = [];
  for (const first of following.keys()) {
    while (following.get(first).length) {
      const loop = [];
      let corner = first;
      do {
        loop.push(corner);
        corner = following.get(corner).pop();
      } while (corner !== first);
      loops.push(loop);
    }
  }
  return loops;
}

/**
 * A loop as a path in voxels: the curve (quadratic B-spline) whose control points are the middles of the edges. It makes
 * steps of oblique borders straight, and the center of every voxel stays on its side.
 */
function addLoop(path, loop, corners) {
  const middles = loop.map((corner, i) => {
    const next = loop[(i + 1) % loop.length];
    return [((corner % corners) + (next % corners)) / 2, (Math.floor(corner / corners) + Math.floor(next / corners)) / 2];
  });
  const between = ([a, b], [c, d]) => [(a + c) / 2, (b + d) / 2];
  let start = between(middles.at(-1), middles[0]);
  path.moveTo(...start);
  for (let i = 0; i < middles.length; i++) {
    const control = middles[i];
    const end = between(control, middles[(i + 1) % middles.length]);
    const isStraight = (control[0] - start[0]) * (end[1] - control[1]) === (control[1] - start[1]) * (end[0] - control[0]);
    if (isStraight) path.lineTo(...end);
    else path.quadraticCurveTo(...control, ...end);
    start = end;
  }
  path.closePath();
}

/** The outlines of all labels of a slice, in voxels: a Map of label to Path2D. */
function outlinePaths(labels, width, height) {
  const paths = new Map();
  for (const [value, edges] of labelEdges(labels, width, height)) {
    const path = new Path2D();
    for (const loop of joinEdges(edges)) addLoop(path, loop, width + 1);
    paths.set(value, path);
  }
  return paths;
}
