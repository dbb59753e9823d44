"use strict";

// Every panel of every chart, drawn from the JSON in the page.
const charts = JSON.parse(document.getElementById("panels").textContent);
const touch = window.matchMedia("(pointer: coarse)").matches;
for (const element of document.querySelectorAll(".panel")) {
  const panel = charts[element.dataset.chart][Number(element.dataset.panel)];
  const layout = { ...panel.layout, dragmode: touch ? false : "zoom" };
  Plotly.newPlot(element, panel.data, layout, { responsive: true, displayModeBar: false });
}

// What is drawn in a closed <details> has no size until it is opened.
for (const details of document.querySelectorAll("details")) {
  details.addEventListener("toggle", () => {
    for (const element of details.querySelectorAll(".panel")) Plotly.Plots.resize(element);
  });
}

// A click on a heading sorts its table by that column, numbers as numbers, what is missing last.
function compare(a, b) {
  const [x, y] = [Number(a), Number(b)];
  if (a === "" || b === "") return (a === "") - (b === "");
  return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
}

function sortBy(heading) {
  const table = heading.closest("table");
  const column = heading.cellIndex;
  const descending = heading.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const key = (row) => row.cells[column].dataset.value;
  const rows = [...table.tBodies[0].rows].sort((a, b) => {
    const missing = (key(a) === "") - (key(b) === "");
    return missing || (descending ? compare(key(b), key(a)) : compare(key(a), key(b)));
  });
  table.tBodies[0].append(...rows);
}

for (const heading of document.querySelectorAll(".sortable th")) {
  heading.querySelector("button").addEventListener("click", () => sortBy(heading));
}
