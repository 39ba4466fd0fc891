"use strict";
// Filters of the page of many runs, and the walk over its map. Everything is drawn without it.
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const form = document.querySelector(".filters"), atlas = document.querySelector("[data-atlas]");
  addEventListener("beforeprint", () => all("details:not([open])").forEach((each) => { each.open = each.dataset.print = true; }));
  addEventListener("afterprint", () => all("details[data-print]").forEach((each) => { each.open = false; delete each.dataset.print; }));
  if (!form) return;
  form.hidden = false;
  const lines = all(".curve", atlas), told = document.querySelector("[data-told]");
  const reach = Number(atlas.dataset.reach); // in points
  const cellsOf = (line) => all(".strip i", line);

  function filter() {
    const asked = Object.entries(Object.fromEntries(new FormData(form))).filter(([name, value]) => value && name !== "shade");
    for (const each of all("[data-row]"))
      each.toggleAttribute("hidden", asked.some(([name, value]) => name in each.dataset && each.dataset[name] !== value));
    for (const group of all("[data-of]")) group.hidden = !group.querySelector(".curve:not([hidden])");
    const shown = lines.filter((line) => !line.hidden);
    document.querySelector("[data-shown]").textContent = `${shown.length} of ${lines.length} curves`;
    for (const figure of all("[data-where]")) count(figure, shown);
    settle(shown);
  }

  function count(figure, shown) {
    const columns = all("li", figure), counts = columns.map(() => 0);
    for (const line of shown)
      for (const tenth of line.dataset[figure.dataset.where].split(" ").filter(Boolean)) counts[Number(tenth)] += 1;
    const most = Math.max(...counts, 1);
    columns.forEach((column, tenth) => {
      column.style.setProperty("--v", (counts[tenth] / most).toFixed(3));
      column.querySelector("b").textContent = counts[tenth];
    });
  }

  function shade() {
    const by = form.elements.shade.value;
    for (const line of lines) {
      const accuracies = line.dataset.a.split(" ").map(Number), best = Math.max(...accuracies), last = accuracies.at(-1);
      cellsOf(line).forEach((cell, layer) => {
        const gain = accuracies[layer] - last;
        const value = by === "gain" ? Math.min(Math.abs(gain) / reach, 1) : Math.max(0, 1 - (best - accuracies[layer]) / reach);
        cell.style.setProperty("--v", value.toFixed(2));
        cell.classList.toggle("down", by === "gain" && gain < 0);
      });
    }
    for (const scale of all("[data-scale]")) scale.hidden = scale.dataset.scale !== by;
  }

  // One cell at a time can be reached with Tab; arrow keys go on from there.
  let stop = null;
  function settle(shown) {
    if (stop?.checkVisibility()) return;
    stop?.removeAttribute("tabindex");
    const line = shown[0];
    stop = line ? line.querySelector("i.c") ?? cellsOf(line)[0] : null;
    if (stop) stop.tabIndex = 0;
  }
  function show(cell) {
    told.textContent = `${cell.closest(".curve").querySelector("[role=rowheader]").textContent}: ${cell.title}`;
  }
  function walk(event) {
    if (!event.target.matches(".strip i")) return;
    const shown = lines.filter((line) => !line.hidden), line = event.target.closest(".curve");
    const row = shown.indexOf(line), own = cellsOf(line), at = own.indexOf(event.target);
    const step = { ArrowLeft: [0, at - 1], ArrowRight: [0, at + 1], ArrowUp: [-1], ArrowDown: [1], Home: [0, 0], End: [0, own.length - 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = cellsOf(shown[Math.min(Math.max(row + step[0], 0), shown.length - 1)]);
    // Another row may have another number of layers: the same depth of it.
    const to = step[1] ?? Math.round((at / Math.max(own.length - 1, 1)) * (next.length - 1));
    stop.removeAttribute("tabindex");
    stop = next[Math.min(Math.max(to, 0), next.length - 1)];
    stop.tabIndex = 0;
    stop.focus();
  }
  atlas.addEventListener("keydown", walk);
  atlas.addEventListener("focusin", (event) => { if (event.target.matches(".strip i")) show(event.target); });
  // A page that scrolls under a resting mouse is no pointing: the words stay with the keyboard.
  atlas.addEventListener("pointermove", (event) => {
    if ((event.movementX || event.movementY) && event.target.matches(".strip i")) show(event.target);
  });
  atlas.addEventListener("pointerdown", (event) => { if (event.target.matches(".strip i")) show(event.target); });
  form.addEventListener("change", (event) => (event.target.name === "shade" ? shade() : filter()));
  form.addEventListener("submit", (event) => event.preventDefault());
  filter();
})();
