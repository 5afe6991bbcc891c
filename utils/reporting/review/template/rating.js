// Ratings: kept by the browser for this very content, and saved as CSV.

const RATER_KEY = "contour review: rater";
const FORMULA = /^[=+\-@\t\r]/;

/** A cell of RFC 4180 that no spreadsheet takes for a formula. */
function csvCell(value) {
  const text = FORMULA.test(value) ? `'${value}` : `${value}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

class Ratings {
  /** Every page from a disk shares one storage, so that the key says which content was rated. */
  constructor(facts, caseName) {
    Object.assign(this, { facts, caseName, key: `contour review: ${facts.key}`, isKept: true });
    this.load();
  }

  load() {
    const read = (key) => {
      try {
        return localStorage.getItem(key);
      } catch {
        this.isKept = false;
        return null;
      }
    };
    this.rater = read(RATER_KEY) ?? "";
    this.entries = new Map();
    try {
      for (const [organ, entry] of Object.entries(JSON.parse(read(this.key) ?? "{}"))) this.entries.set(organ, entry);
    } catch {
      this.entries.clear(); // not written by this page
    }
  }

  store() {
    try {
      localStorage.setItem(RATER_KEY, this.rater);
      localStorage.setItem(this.key, JSON.stringify(Object.fromEntries(this.entries)));
    } catch {
      this.isKept = false;
    }
  }

  of(organ) {
    return this.entries.get(organ.name) ?? { rating: null, comment: "" };
  }

  change(organ, changes) {
    const date = new Date().toISOString().replace(/\.\d+Z/, "Z");
    const entry = { ...this.of(organ), ...changes, date };
    if (entry.rating || entry.comment) this.entries.set(organ.name, entry);
    else this.entries.delete(organ.name);
    this.store();
  }

  setRater(name) {
    this.rater = name.trim();
    this.store();
  }

  get count() {
    return this.facts.organs.filter((organ) => this.of(organ).rating).length;
  }

  /** One row per organ that is rated or commented, in the order of the case's table. */
  csv() {
    const rows = this.facts.organs
      .filter((organ) => this.entries.has(organ.name))
      .map((organ) => ({ case: this.caseName, organ: organ.name, rater: this.rater, ...this.of(organ) }));
    const lines = rows.map((row) => this.facts.rating_columns.map((column) => csvCell(row[column] ?? "")));
    return [this.facts.rating_columns, ...lines].map((cells) => `${cells.join(",")}\r\n`).join("");
  }

  save() {
    const name = ["ratings", this.caseName, this.rater].filter(Boolean).join("_");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([this.csv()], { type: "text/csv;charset=utf-8" }));
    link.download = `${name.replace(/[^\p{L}\p{N}.-]+/gu, "_")}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }
}

/** The form below the table, for the selected organ. */
class RatingForm {
  constructor(facts, state, ratings, changed) {
    Object.assign(this, { state, ratings, changed });
    this.legend = document.getElementById("rated-organ");
    this.comment = document.getElementById("comment");
    this.rater = document.getElementById("rater");
    this.count = document.getElementById("rated");
    this.choices = Object.entries(facts.scale).map(([value, meaning]) => {
      const input = element("input", { type: "radio", name: "rating", value });
      input.addEventListener("change", () => this.rate(Number(value)));
      const label = element("label", { title: meaning }, input, element("b", { textContent: value }), element("span", { textContent: meaning }));
      document.getElementById("scale").append(label);
      return input;
    });
    this.comment.addEventListener("input", () => this.apply({ comment: this.comment.value }));
    this.rater.addEventListener("input", () => ratings.setRater(this.rater.value));
    document.getElementById("save").addEventListener("click", () => ratings.save());
    document.getElementById("rating").addEventListener("submit", (event) => event.preventDefault());
    window.addEventListener("storage", () => {
      ratings.load(); // another tab shows the same case
      changed();
    });
  }

  /** Rate the selected organ; null takes the rating back. */
  rate(rating) {
    this.apply({ rating });
  }

  apply(changes) {
    if (!this.state.selected) return;
    this.ratings.change(this.state.selected, changes);
    this.changed();
  }

  update() {
    const { selected } = this.state;
    const { rating, comment } = selected ? this.ratings.of(selected) : { rating: null, comment: "" };
    this.legend.textContent = selected ? `Rate ${selected.name}` : "Select an organ to rate it";
    for (const input of [...this.choices, this.comment]) input.disabled = !selected;
    for (const choice of this.choices) choice.checked = Number(choice.value) === rating;
    if (this.comment.value !== (comment ?? "")) this.comment.value = comment ?? "";
    if (document.activeElement !== this.rater) this.rater.value = this.ratings.rater;
    const kept = this.ratings.isKept ? "" : "; this browser keeps nothing: save before you close the page";
    this.count.textContent = `${this.ratings.count} of ${this.ratings.facts.organs.length} rated${kept}`;
  }
}
