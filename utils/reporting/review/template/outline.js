// Outlines of labels in a slice: they run along the edges of voxels, and their corners are rounded.

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

/** A loop as a path in voxels: straight along edges, and a curve from the middle of an edge to that of the next. */
function addLoop(path, loop, corners) {
  const points = loop.map((corner) => [corner % corners, (corner / corners) | 0]);
  const middle = (i) => {
    const [a, b] = [points[i % points.length], points[(i + 1) % points.length]];
    return [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
  };
  path.moveTo(...middle(0));
  for (let i = 1; i <= points.length; i++) {
    const [before, corner, after] = [middle(i - 1), points[i % points.length], middle(i)];
    const isStraight = before[0] === after[0] || before[1] === after[1];
    if (isStraight) path.lineTo(...after);
    else path.quadraticCurveTo(...corner, ...after);
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
