"use strict";
// Search and sort for lists of samples. Without this script they are there as they were written:
// the worst first, the rest folded.
for (const list of document.querySelectorAll("[data-list]")) {
  const rows = [...list.querySelectorAll("[data-row]")];
  const step = Number(list.dataset.list);
  const controls = list.querySelector(".controls");
  const search = controls.querySelector("input"), order = controls.querySelector("select");
  const count = controls.querySelector("output"), more = list.querySelector(".more");
  const body = list.querySelector("[data-body]"), fold = list.querySelector("details");
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  let shown = step;

  function value(row, key) {
    const raw = row.dataset[key];
    return raw === undefined || raw === "" ? NaN : Number(raw);
  }

  function sorted() {
    if (!order || order.value === "") return rows;
    const [key, way] = order.value.split(" ");
    const sign = way === "down" ? -1 : 1;
    return [...rows].sort((a, b) => {
      const x = value(a, key), y = value(b, key);
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
      return sign * (x - y);
    });
  }

  function draw() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = sorted().filter((row) => words.every((word) => texts.get(row).includes(word)));
    body.replaceChildren(...found.slice(0, shown));
    count.textContent = `${found.length} of ${rows.length}`;
    more.hidden = found.length <= shown;
  }

  function restart() {
    shown = step;
    draw();
  }

  search.addEventListener("input", restart);
  if (order) order.addEventListener("change", restart);
  more.addEventListener("click", () => {
    shown += step;
    draw();
  });
  if (fold) fold.remove();
  controls.hidden = false;
  draw();
}
