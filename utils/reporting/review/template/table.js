// The table of organs: what to look at first, what is shown, and the way to every organ.

/** A number with three digits, as text. */
function formatNumber(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "string") return value;
  const size = Math.abs(value);
  return value.toFixed(Number.isInteger(value) && size >= 10 ? 0 : size >= 100 ? 0 : size >= 10 ? 1 : 2);
}

function element(tag, properties = {}, ...children) {
  const created = Object.assign(document.createElement(tag), properties);
  created.append(...children);
  return created;
}

class OrganTable {
  /** `ratings` says how organs are rated; `actions` shows, hides and selects organs. */
  constructor(facts, state, ratings, actions) {
    Object.assign(this, { facts, state, ratings, actions, sorting: null });
    const table = document.getElementById("organs");
    this.head = table.tHead.rows[0];
    this.table = table;
    this.rows = new Map(facts.organs.map((organ) => [organ, this.makeRow(organ)]));
    this.makeHead();
    this.fill();
  }

  makeHead() {
    this.all = element("input", { type: "checkbox", checked: true });
    this.all.setAttribute("aria-label", "show all organs");
    this.all.addEventListener("change", () => this.actions.showAll(this.all.checked));
    this.head.append(element("th", { scope: "col", className: "show", colSpan: 2 }, this.all));
    const columns = [
      ["organ", (organ) => organ.name],
      ["rating", (organ) => this.ratings.of(organ).rating],
      ...this.facts.headings.map((heading) => [heading, (organ) => organ.values[heading]]),
    ];
    for (const [heading, valueOf] of columns) {
      const button = element("button", { type: "button", textContent: heading, title: `Sort by ${heading}` });
      const cell = element("th", { scope: "col" }, button);
      button.addEventListener("click", () => this.sortBy(cell, valueOf));
      this.head.append(cell);
    }
  }

  makeRow(organ) {
    const { actions } = this;
    const shown = element("input", { type: "checkbox", checked: true });
    shown.setAttribute("aria-label", `show ${organ.name}`);
    shown.style.setProperty("--organ", css(organ.color));
    shown.addEventListener("change", () => actions.show(organ, shown.checked));
    const solo = element("button", { type: "button", className: "solo", textContent: "solo", title: "Show only this organ (s)" });
    solo.setAttribute("aria-label", `show only ${organ.name}`);
    solo.addEventListener("click", () => actions.solo(organ));
    const name = element("button", { type: "button", className: "name", title: "Go to its center" });
    const words = organ.name.split(/(?<=_)/);
    name.append(...words.flatMap((word) => [word, element("wbr")]));
    name.addEventListener("click", () => actions.select(organ));
    const values = this.facts.headings.map((heading) => element("td", { textContent: formatNumber(organ.values[heading]) }));
    const rating = element("td", { className: "rating" });
    const cells = [element("td", { className: "show" }, shown), element("td", {}, solo), element("th", { scope: "row" }, name), rating, ...values];
    const row = element("tbody", {}, element("tr", {}, ...cells), ...this.makeFlags(organ, cells.length - 2));
    row.addEventListener("click", (event) => {
      if (!event.target.closest("button, input")) actions.select(organ);
    });
    return Object.assign(row, { parts: { shown, solo, rating } });
  }

  /** A row below that of the organ, if it has flags. */
  makeFlags(organ, colSpan) {
    if (!organ.flags.length) return [];
    const flags = element("ul", { className: "flags" }, ...organ.flags.map((flag) => element("li", { textContent: flag })));
    flags.setAttribute("aria-label", `flags of ${organ.name}`);
    return [element("tr", {}, element("td", { colSpan: 2 }), element("td", { colSpan, className: "flag-cell" }, flags))];
  }

  /** Ascending, then descending, then as given: what to look at first. */
  sortBy(cell, valueOf) {
    const direction = cell.getAttribute("aria-sort");
    for (const other of this.head.cells) other.removeAttribute("aria-sort");
    this.sorting = null;
    if (direction !== "descending") {
      const sign = direction === "ascending" ? -1 : 1;
      cell.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      this.sorting = { sign, valueOf };
    }
    this.fill();
  }

  get organs() {
    if (!this.sorting) return this.facts.organs;
    const { sign, valueOf } = this.sorting;
    const isMissing = (value) => value === null || value === undefined || value === "";
    const compare = (a, b) => {
      if (isMissing(a) || isMissing(b)) return isMissing(a) - isMissing(b); // always last
      if (typeof a === typeof b) return sign * (typeof a === "number" ? a - b : a.localeCompare(b));
      return sign * (typeof a === "number" ? -1 : 1); // "infinite" is larger than every number
    };
    return [...this.facts.organs].sort((a, b) => compare(valueOf(a), valueOf(b)));
  }

  fill() {
    this.table.append(...this.organs.map((organ) => this.rows.get(organ)));
  }

  update() {
    const { state } = this;
    for (const [organ, row] of this.rows) {
      row.parts.shown.checked = !state.hidden.has(organ);
      row.parts.solo.setAttribute("aria-pressed", state.soloed === organ);
      row.parts.rating.textContent = this.ratings.of(organ).rating ?? "–";
      row.classList.toggle("selected", state.selected === organ);
      row.classList.toggle("unseen", !state.isShown(organ));
      if (state.selected === organ) row.setAttribute("aria-current", "true");
      else row.removeAttribute("aria-current");
    }
    this.all.checked = !state.hidden.size;
    this.all.indeterminate = state.hidden.size > 0 && state.hidden.size < this.facts.organs.length;
  }
}
