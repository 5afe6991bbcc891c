"use strict";
// Sorts the table by the column whose heading is pressed: again for the other direction.
const body = document.querySelector("tbody");
const headings = [...document.querySelectorAll("thead th")];

function compare(a, b, direction) {
  if (a === "" || b === "") return (a === "") - (b === "");  // without a value: last, whatever the direction
  const numeric = Number(a) - Number(b);
  return direction * (Number.isNaN(numeric) ? a.localeCompare(b, undefined, { numeric: true }) : numeric);
}

headings.forEach((heading, column) => {
  heading.querySelector("button").addEventListener("click", () => {
    const direction = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    headings.forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    const key = (row) => row.cells[column].dataset.order;
    body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b), direction)));
  });
});
