// The page: its state, what changes it, and the controls.

const WINDOWS = {
  "Soft tissue": { center: 40, width: 400 },
  Bone: { center: 500, width: 2000 },
  Brain: { center: 40, width: 80 },
  Lung: { center: -600, width: 1500 },
};
const THEME_KEY = "contour review: theme";
const byId = (id) => document.getElementById(id);

/** The part of the file's name that stands for the case, for pages that name none. */
function nameOfFile() {
  const last = decodeURIComponent(location.pathname.split("/").pop() ?? "");
  return last.replace(/\.html?$/i, "") || "case";
}

class State {
  constructor(facts, size) {
    this.cursor = size.map((n) => n >> 1);
    this.show = { outlines: true, reference: true, fill: false, difference: false, heatmap: false, crosshair: true };
    this.opacity = 0.45;
    this.tool = "point";
    this.hidden = new Set();
    this.soloed = null;
    this.selected = null;
    this.byLabel = new Map(facts.organs.map((organ) => [organ.label, organ]));
    this.setWindow(WINDOWS["Soft tissue"]);
  }

  setWindow(window) {
    this.window = window;
    this.grays = grayTable(window);
  }

  isShown(organ) {
    return this.soloed ? this.soloed === organ : !this.hidden.has(organ);
  }
}

class Page {
  constructor(facts, volumes) {
    Object.assign(this, { facts, volumes, caseName: facts.case_id ?? nameOfFile(), pending: false });
    this.state = new State(facts, volumes.size);
    this.views = Object.keys(PLANES).map((name) => new PlaneView(name, volumes, this.state));
    this.active = this.views[0];
    this.ratings = new Ratings(facts, this.caseName);
    this.table = new OrganTable(facts, this.state, this.ratings, this);
    this.form = new RatingForm(facts, this.state, this.ratings, () => this.change());
    for (const view of this.views) {
      listenToPointer(view, this);
      view.canvas.addEventListener("focus", () => (this.active = view));
      view.canvas.addEventListener("pointerenter", () => (this.active = view));
    }
    new ResizeObserver(() => this.arrange()).observe(byId("planes"));
    this.showFacts();
    this.connectControls();
    document.addEventListener("keydown", (event) => this.pressKey(event));
    const first = facts.organs.find((organ) => volumes.center(volumes.prediction, organ.label));
    if (first) this.select(first);
    this.change();
  }

  // What pointer, table and keys do.

  /** Change what is shown, and draw all of it with the next frame. */
  change(apply = () => {}) {
    apply();
    this.changed = true;
    this.redraw();
  }

  /** Draw the planes with the next frame, and table and controls only if they have changed. */
  redraw() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      for (const view of this.views) view.draw();
      if (!this.changed) return;
      this.changed = false;
      this.table.update();
      this.form.update();
      this.updateControls();
    });
  }

  /** Put the axial plane where the planes together are largest: at the left, or across the top. */
  arrange() {
    const planes = byId("planes");
    const { width, height } = planes.getBoundingClientRect();
    const sizes = { left: [[0.6, 1], [0.4, 0.5]], top: [[1, 0.5], [0.5, 0.5]] };
    const gain = ([axial, others]) =>
      this.views.reduce((product, view) => {
        const [w, h] = view === this.views[0] ? axial : others;
        return product * Math.min((w * width) / (view.columns * view.columnMm), (h * height) / (view.rows * view.rowMm));
      }, 1);
    planes.dataset.axial = gain(sizes.top) > gain(sizes.left) ? "top" : "left";
    this.change();
  }

  point(voxel) {
    this.state.cursor = voxel.map((value, axis) => Math.min(this.volumes.size[axis] - 1, Math.max(0, value)));
    this.describe(this.state.cursor);
    this.redraw();
  }

  /** Show the planes through a voxel, wherever the pictures have been moved. */
  visit(voxel) {
    this.point(voxel);
    for (const view of this.views) view.reveal();
  }

  goTo(view, index) {
    const voxel = [...this.state.cursor];
    voxel[view.plane.axis] = index;
    this.active = view;
    this.point(voxel);
  }

  scroll(view, steps) {
    this.goTo(view, view.index + steps * view.plane.scroll);
  }

  hover(voxel) {
    this.describe(voxel && this.volumes.contains(voxel) ? voxel : this.state.cursor);
  }

  dragWindow(wider, brighter) {
    const { center, width } = this.state.window;
    const unit = Math.max(1, width / 200);
    const changed = { center: Math.round(center - brighter * unit), width: Math.round(Math.max(1, width + wider * unit)) };
    this.change(() => this.state.setWindow(changed));
  }

  show(organ, isShown) {
    this.change(() => {
      this.state.soloed = null;
      this.state.hidden[isShown ? "delete" : "add"](organ);
    });
  }

  showAll(isShown) {
    this.change(() => {
      this.state.soloed = null;
      this.state.hidden = new Set(isShown ? [] : this.facts.organs);
    });
  }

  solo(organ) {
    this.change(() => (this.state.soloed = this.state.soloed === organ ? null : organ));
  }

  /** Select an organ and go to its center; one that was not found may have a reference. */
  select(organ) {
    const { volumes, state } = this;
    state.selected = organ;
    if (state.soloed) state.soloed = organ;
    const labels = [volumes.prediction, volumes.reference].filter(Boolean);
    const center = labels.reduce((found, volume) => found ?? volumes.center(volume, organ.label), null);
    if (center) this.visit(center);
    this.change();
    this.table.rows.get(organ).scrollIntoView({ block: "nearest" });
    this.say(`${organ.name}${center ? "" : ", not found"}${organ.flags.length ? `: ${organ.flags.join(", ")}` : ""}`);
  }

  step(offset) {
    const { organs } = this.table;
    const now = organs.indexOf(this.state.selected);
    this.select(organs[(now + offset + organs.length) % organs.length]);
  }

  nextFlag() {
    const { organs } = this.table;
    const now = organs.indexOf(this.state.selected);
    const following = organs.map((_, i) => organs[(now + 1 + i) % organs.length]);
    const flagged = following.find((organ) => organ.flags.length);
    if (flagged) this.select(flagged);
    else this.say("no organ has a flag");
  }

  /** Of the selected organ, or of all that are shown. */
  largestDifference() {
    const { state, volumes, facts } = this;
    if (!volumes.reference) return this.say("there is no reference");
    const organs = state.selected ? [state.selected] : facts.organs.filter((organ) => state.isShown(organ));
    const compared = organs.filter((organ) => organ.compared);
    const voxel = volumes.largestDifference(compared.map((organ) => organ.label));
    if (voxel) this.visit(voxel);
    else this.say(compared.length ? "prediction and reference are equal" : "the reference does not have this organ");
  }

  fit() {
    this.change(() => this.views.forEach((view) => view.fit()));
  }

  enlarge(view) {
    const planes = byId("planes");
    const isEnlarged = planes.dataset.enlarged === view.name;
    if (isEnlarged) delete planes.dataset.enlarged;
    else planes.dataset.enlarged = view.name;
    for (const other of this.views)
      other.frame.querySelector(".enlarge").setAttribute("aria-pressed", !isEnlarged && other === view);
    this.change();
  }

  toggle(name) {
    this.change(() => (this.state.show[name] = !this.state.show[name]));
  }

  nextWindow() {
    const presets = Object.values(WINDOWS);
    this.change(() => this.state.setWindow(presets[(presets.indexOf(this.state.window) + 1) % presets.length]));
  }

  zoom(factor) {
    const box = this.active.canvas.getBoundingClientRect();
    const middle = { clientX: box.left + box.width / 2, clientY: box.top + box.height / 2 };
    this.change(() => this.active.zoomAt(middle, factor));
  }

  // What the page says.

  say(text) {
    byId("spoken").textContent = text;
  }

  /** HU, organs and position of a voxel. */
  describe(voxel) {
    const { volumes, state } = this;
    const i = volumes.index(voxel);
    const name = (labels) => state.byLabel.get(labels[i])?.name ?? "–";
    const distance = Math.hypot(...voxel.map((v, axis) => (v - state.cursor[axis]) * volumes.spacing[axis]));
    const parts = [`${volumes.image[i]} HU`, name(volumes.prediction)];
    if (volumes.reference) parts[1] = `prediction ${parts[1]}, reference ${name(volumes.reference)}`;
    if (state.show.heatmap && volumes.heatmap) parts.push(`heatmap ${(volumes.heatmap[i] / 255).toFixed(2)}`);
    if (distance) parts.push(`${distance.toFixed(1)} mm from the cross-hair`);
    const line = byId("under-cursor");
    line.textContent = parts.join(" · ");
    line.dataset.voxel = voxel.join(",");
  }

  showFacts() {
    const { facts } = this;
    document.title = byId("title").textContent = this.caseName;
    if (facts.patient_id) Object.assign(byId("patient"), { hidden: false, textContent: `Patient ${facts.patient_id}` });
    byId("case-flags").append(...facts.flags.map((flag) => element("li", { textContent: flag })));
    const [z, y, x] = facts.spacing_zyx_mm.map((mm) => Number(mm.toFixed(2)));
    const joined = facts.joined > 1 ? `; ${facts.joined} x ${facts.joined} pixels of the CT joined` : "";
    const rounded = facts.step_hu > 1 ? `; HU rounded to steps of ${facts.step_hu}` : "";
    const grid = `Shown: ${x} x ${y} mm, slices of ${z} mm${joined}${rounded}`;
    byId("notes").append(...[grid, ...facts.notes].map((note) => element("li", { textContent: note })));
  }

  // Controls.

  connectControls() {
    for (const [name, window] of Object.entries(WINDOWS)) {
      const button = element("button", { type: "button", textContent: name });
      button.addEventListener("click", () => this.change(() => this.state.setWindow(window)));
      byId("windows").append(button);
    }
    for (const button of byId("tools").children)
      button.addEventListener("click", () => this.change(() => (this.state.tool = button.dataset.tool)));
    const available = { reference: this.volumes.reference, difference: this.volumes.reference, heatmap: this.volumes.heatmap };
    for (const button of byId("toggles").children) {
      const name = button.dataset.toggle;
      button.hidden = name in available && !available[name];
      button.addEventListener("click", () => this.toggle(name));
    }
    byId("largest-difference").hidden = !this.volumes.reference;
    byId("next-flag").hidden = !this.facts.organs.some((organ) => organ.flags.length);
    byId("opacity").addEventListener("input", (event) => this.change(() => (this.state.opacity = event.target.value / 100)));
    byId("next-flag").addEventListener("click", () => this.nextFlag());
    byId("largest-difference").addEventListener("click", () => this.largestDifference());
    byId("reset").addEventListener("click", () => this.fit());
    byId("open-help").addEventListener("click", () => byId("help").showModal());
    const rows = this.keys().map(([, label, what]) => element("tr", {}, element("th", { scope: "row", textContent: label }), element("td", { textContent: what })));
    byId("keys").tBodies[0].append(...rows);
  }

  updateControls() {
    const { center, width } = this.state.window;
    byId("window-now").textContent = `center ${center}, width ${width} HU`;
    const press = (button, isPressed) => button.setAttribute("aria-pressed", isPressed);
    for (const button of byId("windows").children) press(button, WINDOWS[button.textContent] === this.state.window);
    for (const button of byId("tools").children) press(button, button.dataset.tool === this.state.tool);
    for (const button of byId("toggles").children) press(button, this.state.show[button.dataset.toggle]);
  }

  /** [keys, label, what they do, action]. */
  keys() {
    const { state, active } = this;
    const withOrgan = (action) => () => state.selected && action(state.selected);
    return [
      [["ArrowUp"], "↑", "slice towards the head, front or right", () => this.scroll(active, -1)],
      [["ArrowDown"], "↓", "slice towards the feet, back or left", () => this.scroll(active, 1)],
      [["PageUp", "PageDown"], "Page ↑ ↓", "ten slices", (key) => this.scroll(active, key === "PageUp" ? -10 : 10)],
      [["Home", "End"], "Home, End", "first or last slice", (key) => this.scroll(active, key === "Home" ? -1e5 : 1e5)],
      [["+", "=", "-"], "+ −", "zoom", (key) => this.zoom(key === "-" ? 1 / 1.25 : 1.25)],
      [["r"], "r", "fit: whole slices again", () => this.fit()],
      [["m"], "m", "enlarge the plane, or show all three", () => this.enlarge(active)],
      [["w"], "w", "next window", () => this.nextWindow()],
      [["o"], "o", "outlines", () => this.toggle("outlines")],
      [["e"], "e", "reference", () => this.toggle("reference")],
      [["f"], "f", "fill", () => this.toggle("fill")],
      [["d"], "d", "difference", () => this.toggle("difference")],
      [["h"], "h", "heatmap", () => this.toggle("heatmap")],
      [["c"], "c", "cross-hair", () => this.toggle("crosshair")],
      [["j", "k"], "j, k", "next or previous organ", (key) => this.step(key === "j" ? 1 : -1)],
      [["n"], "n", "next organ with a flag", () => this.nextFlag()],
      [["x"], "x", "slice of the largest difference", () => this.largestDifference()],
      [["v"], "v", "show or hide the organ", withOrgan((organ) => this.show(organ, state.hidden.has(organ)))],
      [["s"], "s", "show only the organ, or all again", withOrgan((organ) => this.solo(organ))],
      [["1", "2", "3", "4", "5", "0"], "1 … 5, 0", "rate the organ; 0 takes it back", withOrgan(() => {})],
      [["?"], "?", "this help", () => byId("help").showModal()],
    ];
  }

  pressKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open || !byId("use-keys").checked) return;
    const { target, key } = event;
    if (target.closest("textarea, input[type=text]")) return;
    const isNavigation = key.length > 1;
    if (isNavigation && target.closest("input, #table-frame")) return; // sliders and lists have their own
    if (/^[0-5]$/.test(key)) this.form.rate(Number(key) || null);
    const found = this.keys().find(([keys]) => keys.includes(isNavigation ? key : key.toLowerCase()));
    if (!found) return;
    event.preventDefault();
    found[3](key);
  }
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  byId("theme").textContent = name === "dark" ? "Light" : "Dark";
}

function connectTheme() {
  const prefersLight = matchMedia("(prefers-color-scheme: light)").matches;
  let stored = null;
  try {
    stored = localStorage.getItem(THEME_KEY);
  } catch {} // the browser keeps nothing
  setTheme(stored === "light" || stored === "dark" ? stored : prefersLight ? "light" : "dark");
  byId("theme").addEventListener("click", () => {
    const name = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    setTheme(name);
    try {
      localStorage.setItem(THEME_KEY, name);
    } catch {} // the browser keeps nothing
  });
}

function fail(text) {
  Object.assign(byId("problem"), { hidden: false, textContent: text });
}

async function start() {
  connectTheme();
  if (!("DecompressionStream" in window)) {
    return fail("This browser is too old to unpack the CT: use Firefox 113, Chrome or Edge 80, Safari 16.4, or a newer one.");
  }
  const facts = JSON.parse(byId("facts").textContent);
  try {
    new Page(facts, await CaseVolumes.load(facts));
    document.body.dataset.ready = "true";
  } catch (error) {
    fail(`The page cannot be shown; it may have been cut off while it was copied. (${error})`);
    throw error;
  }
}

start();
