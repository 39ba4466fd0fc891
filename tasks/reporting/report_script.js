"use strict";
// Draws what the reader can move: the curve, with its slider and zoom, and the heat maps. Everything else is HTML.
// Text from the data reaches the page as text nodes and attributes only, never as markup.
(() => {
  const { groups, classes, confusion, rows: counted } = JSON.parse(document.getElementById("data").textContent);
  const one = (selector) => document.querySelector(selector);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const controls = one(".controls"), plot = one("[data-plot]"), slider = one("[data-slider]");
  const readout = one("[data-readout]"), zooms = Object.fromEntries(all("[data-zoom]").map((b) => [b.dataset.zoom, b]));
  const last = groups[0].last, narrowest = Math.min(4, last);
  const view = { group: groups[0], metric: null, from: 0, to: last, at: groups[0].chosen ?? 0 };

  const percent = (value, digits = 1) => `${(100 * value).toFixed(digits)} %`;
  const signed = (value, digits) => value.toFixed(digits).replace("-", "−");
  const named = (metric) => metric.replaceAll("_", " ");
  const capital = (words) => words[0].toUpperCase() + words.slice(1);
  const filled = (element, attributes, children) => {
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  const html = (name, attributes = {}, ...children) => filled(document.createElement(name), attributes, children);
  const svg = (name, attributes = {}, ...children) =>
    filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

  // --- the curve ---------------------------------------------------------------------------------------------------

  function panels() {
    const silhouette = view.group.silhouettes[view.metric];
    const found = [];
    if (view.group.accuracy)
      found.push({
        kind: "a", curve: view.group.accuracy, height: 230, tick: (v, step) => percent(v, step < 0.01 ? 1 : 0),
        title: `${capital(view.group.measure[0])}, 95 % interval`, points: [],
      });
    if (silhouette)
      found.push({
        kind: "s", curve: silhouette, height: 180, tick: (v, step) => signed(v, Math.max(0, Math.ceil(-Math.log10(step) - 1e-9))),
        title: `${capital(named(view.metric))} silhouette, ± standard error`, points: silhouette.points,
      });
    return found;
  }

  function ticks(low, high, wanted) {
    const raw = (high - low) / wanted, size = 10 ** Math.floor(Math.log10(raw));
    const step = size * [1, 2, 5, 10].find((factor) => factor * size >= raw);
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push(k * step);
    return [found, step];
  }

  let frame = null; // where things lie in the drawn curve: for pointing at it

  function draw() {
    const width = Math.max(plot.clientWidth, 280), left = 52, right = 12, top = 66, gap = 44;
    const x = (layer) => left + ((layer - view.from) / (view.to - view.from)) * (width - left - right);
    const inView = (layer) => layer !== null && layer >= view.from && layer <= view.to;
    const shown = panels();
    let bottom = top;
    for (const panel of shown) {
      panel.top = bottom;
      panel.bottom = bottom + panel.height;
      bottom = panel.bottom + gap;
    }
    bottom -= gap;
    const root = svg("svg", {
      viewBox: `0 0 ${width} ${bottom + 42}`, role: "img", "aria-label": describe(shown),
    });
    const rules = svg("g"), fore = svg("g");
    root.append(rules, fore);
    for (const panel of shown) drawPanel(panel, { root: fore, back: rules, x, width, left, right, inView });
    for (const tick of ticks(view.from, view.to, Math.min((width - left) / 44, 16))[0])
      if (Number.isInteger(tick))
        fore.append(svg("text", { x: x(tick), y: bottom + 19, "text-anchor": "middle" }, String(tick)));
    fore.append(svg("text", { x: (left + width - right) / 2, y: bottom + 38, "text-anchor": "middle" }, "layer"));
    drawMarks({ root, rules, x, width, left, right, inView, bottom });

    const cross = svg("g", { "aria-hidden": "true" });
    cross.append(svg("line", { class: "cross", y1: top - 4, y2: bottom }));
    for (const panel of shown) cross.append(svg("circle", { class: `${panel.kind} knot`, r: 4.5 }));
    const brush = svg("rect", { class: "brush", y: top - 4, height: bottom - top + 4, visibility: "hidden" });
    root.append(cross, brush);
    plot.replaceChildren(root);
    frame = { shown, x, left, right, width, cross, brush };
    point(view.at);
  }

  function drawPanel(panel, { root, back, x, width, left, right, inView }) {
    const { curve, kind } = panel;
    const seen = curve.x.map((layer, index) => index).filter((index) => inView(curve.x[index]));
    const lows = seen.map((index) => curve.low[index]), highs = seen.map((index) => curve.high[index]);
    let low = Math.min(...lows), high = Math.max(...highs);
    const air = (high - low || 0.01) * 0.06;
    low -= air;
    high += air;
    panel.y = (value) => panel.bottom - ((value - low) / (high - low)) * panel.height;
    const [levels, step] = ticks(low, high, panel.height / 44);
    for (const level of levels) {
      const zero = kind === "s" && Math.abs(level) < step / 100 ? "zero" : "grid";
      back.append(svg("line", { class: zero, x1: left, x2: width - right, y1: panel.y(level), y2: panel.y(level) }));
      root.append(svg("text", { x: left - 8, y: panel.y(level) + 4, "text-anchor": "end" }, panel.tick(level, step)));
    }
    const line = (values) => seen.map((index) => `${x(curve.x[index]).toFixed(1)},${panel.y(values[index]).toFixed(1)}`);
    const drawn = line(curve.y), cut = seen.filter((index) => curve.x[index] <= (curve.ends ?? last)).length;
    const inside = drawn.slice(0, cut), beyond = drawn.slice(cut);
    root.append(
      svg("path", { class: `${kind} band`, d: `M${line(curve.high).join("L")}L${line(curve.low).reverse().join("L")}Z` }),
      svg("path", { class: `${kind} line`, d: `M${inside.join("L")}` }),
      // The step into the final norm is no step of the curve.
      svg("path", { class: `${kind} step line`, d: beyond.length ? `M${[inside.at(-1), ...beyond].filter(Boolean).join("L")}` : "" }),
      svg("text", { class: `${kind} title`, x: left + 6, y: panel.top - 9 }, panel.title),
    );
    const shapes = { peak: "M0,-6L6,5H-6Z", trough: "M0,6L6,-5H-6Z", knee: "M0,-6L6,0L0,6L-6,0Z" };
    for (const turn of panel.points.filter((each) => inView(each.x))) {
      const at = `translate(${x(turn.x)},${panel.y(curve.y[curve.x.indexOf(turn.x)])})`;
      root.append(
        svg("path", { class: "turn", d: shapes[turn.kind], transform: at }, svg("title", {}, `${turn.kind} at layer ${turn.x}`)),
      );
    }
    if (kind !== "a") return;
    for (const [name, layer, radius] of [["best", view.group.best, 7], ["chosen", view.group.chosen, 4.5]])
      if (inView(layer) && curve.x.includes(layer)) {
        const shape = name === "best" ? "best mark" : "a knot";
        root.append(svg("circle", { class: shape, r: radius, cx: x(layer), cy: panel.y(curve.y[curve.x.indexOf(layer)]) }));
      }
  }

  function drawMarks({ root, rules, x, width, left, right, inView, bottom }) {
    const names = new Map();
    for (const name of ["chosen", "best", "last"]) {
      const layer = view.group[name];
      if (inView(layer)) names.set(layer, [...(names.get(layer) ?? []), name]);
    }
    const rows = [[], [], []];
    for (const [layer, marks] of names) {
      const text = `${marks.join(" and ")} ${layer}`, half = text.length * 3.7;
      const middle = Math.min(Math.max(x(layer), left + half - 8), width - right - half + 8);
      const row = rows.findIndex((taken) => taken.every(([from, to]) => middle + half + 6 < from || middle - half - 6 > to));
      rows[row].push([middle - half, middle + half]);
      const y = 12 + 16 * row;
      rules.append(svg("line", { class: `${marks[0]} rule`, x1: x(layer), x2: x(layer), y1: y + 5, y2: bottom }));
      root.append(svg("text", { class: `${marks[0]} tag`, x: middle, y, "text-anchor": "middle" }, text));
    }
  }

  function describe(shown) {
    const { pooling, norm, chosen, best } = view.group;
    const marks = [chosen === null ? "" : `chosen layer ${chosen}`, best === null ? "" : `best layer ${best}`];
    return [`${shown.map((panel) => panel.title).join("; ")}; by layer`, `${pooling} pooling, ${norm}`, ...marks, `last layer ${last}`]
      .filter(Boolean).join(". ");
  }

  function point(layer) {
    view.at = Math.min(Math.max(layer, view.from), view.to);
    Object.assign(slider, { min: view.from, max: view.to, value: view.at });
    const { shown, x, cross } = frame;
    const [rule, ...knots] = cross.children;
    rule.setAttribute("x1", x(view.at));
    rule.setAttribute("x2", x(view.at));
    const parts = [html("b", {}, `Layer ${view.at}`), html("i", {}, `depth ${(view.at / last).toFixed(2)}`)];
    shown.forEach((panel, number) => {
      const index = panel.curve.x.indexOf(view.at);
      knots[number].setAttribute("visibility", index < 0 ? "hidden" : "visible");
      if (index < 0) return;
      knots[number].setAttribute("cx", x(view.at));
      knots[number].setAttribute("cy", panel.y(panel.curve.y[index]));
      const [value, low, high] = [panel.curve.y[index], panel.curve.low[index], panel.curve.high[index]];
      parts.push(panel.kind === "a"
        ? html("span", { class: "a" }, `${view.group.measure[1]} ${percent(value)} `, html("i", {}, `${percent(low)} to ${percent(high)}`))
        : html("span", { class: "s" }, `${named(view.metric)} silhouette ${signed(value, 4)} `, html("i", {}, `± ${(high - value).toFixed(4)}`)));
    });
    const marks = ["chosen", "best", "last"].filter((name) => view.group[name] === view.at);
    for (const panel of shown) for (const turn of panel.points) if (turn.x === view.at) marks.push(turn.kind);
    if (marks.length) parts.push(html("span", {}, marks.join(", ")));
    readout.replaceChildren(...parts);
    slider.setAttribute("aria-valuetext", parts.map((part) => part.textContent).join(", "));
  }

  function zoom(from, to) {
    const span = Math.min(Math.max(Math.round(to - from), narrowest), last);
    view.from = Math.min(Math.max(Math.round(from), 0), last - span);
    view.to = view.from + span;
    zooms.in.disabled = span <= narrowest;
    zooms.out.disabled = zooms.all.disabled = span >= last;
    draw();
  }

  function layerAt(event) {
    const box = plot.getBoundingClientRect();
    const share = ((event.clientX - box.left) * (frame.width / box.width) - frame.left) / (frame.width - frame.left - frame.right);
    return Math.round(view.from + Math.min(Math.max(share, 0), 1) * (view.to - view.from));
  }

  function listen() {
    let start = null;
    plot.addEventListener("pointerdown", (event) => {
      // A finger reads the curve as it moves; only a mouse or pen drags a zoom.
      if (event.button !== 0) return;
      if (event.pointerType !== "touch") start = layerAt(event);
      plot.setPointerCapture(event.pointerId);
      point(layerAt(event));
    });
    plot.addEventListener("pointermove", (event) => {
      point(layerAt(event));
      if (start === null || start === view.at) return frame.brush.setAttribute("visibility", "hidden");
      const [from, to] = [start, view.at].sort((a, b) => a - b).map(frame.x);
      for (const [key, value] of Object.entries({ x: from, width: to - from, visibility: "visible" })) frame.brush.setAttribute(key, value);
    });
    plot.addEventListener("pointerup", () => {
      const from = start;
      start = null;
      frame.brush.setAttribute("visibility", "hidden");
      if (from !== null && Math.abs(from - view.at) > 1) zoom(Math.min(from, view.at), Math.max(from, view.at));
    });
    plot.addEventListener("pointercancel", () => { start = null; frame.brush.setAttribute("visibility", "hidden"); });
    slider.addEventListener("input", () => point(Number(slider.value)));
    zooms.in.addEventListener("click", () => zoom(view.at - (view.to - view.from) / 4, view.at + (view.to - view.from) / 4));
    zooms.out.addEventListener("click", () => zoom(view.from - (view.to - view.from) / 2, view.to + (view.to - view.from) / 2));
    zooms.all.addEventListener("click", () => zoom(0, last));
    let width = 0;
    new ResizeObserver(() => {
      if (plot.clientWidth !== width) { width = plot.clientWidth; draw(); }
    }).observe(plot);
  }

  // --- heat maps ---------------------------------------------------------------------------------------------------

  // rows, columns: names. values[r][c]: number or null. tell(r, c): the words for a cell. frame: a column to frame.
  function heat(host, { rows, columns, values, tell, scale, rising, limit, framed, headings, numbers, cell, caption }) {
    const output = html("output"), longest = Math.max(...rows.map((name) => name.length));
    const body = html("tbody");
    rows.forEach((name, r) => {
      const line = html("tr", {}, html("th", { scope: "row", title: name }, name));
      columns.forEach((_, c) => {
        const value = values[r][c], strength = value === null ? 0 : Math.min(Math.abs(value) / limit, 1);
        const look = [value === null ? "none" : value < 0 ? "down" : "up"];
        if (c === framed) look.push("frame");
        const text = value === null ? "–" : numbers ? (100 * value).toFixed(0) : rising ? percent(value, 0) : signed(value, 3);
        line.append(html("td", { class: look.join(" "), style: `--v:${strength.toFixed(3)}`, tabindex: -1 }, text));
      });
      body.append(line);
    });
    const heads = columns.map((name, c) =>
      html("th", { scope: "col", class: c === framed ? "chosen" : "" }, html("span", headings(c) ? {} : { class: "unseen" }, String(name))));
    const table = html("table", { class: `heat${numbers ? " numbers" : ""}${rising && headings(0) ? " upright" : ""}`, role: "grid", style: `--cell:${cell}` },
      html("caption", { class: "unseen" }, caption),
      html("colgroup", {}, html("col", { style: `width: min(${longest + 2}ch, 11rem, 26vw)` }), ...columns.map(() => html("col"))),
      html("thead", {}, html("tr", {}, html("td", { class: "corner" }), ...heads)), body);
    const foot = html("div", { class: "heat-foot" }, output,
      html("span", { class: "scale" }, scale[0], html("i", { class: rising ? "rising" : "diverging" }), scale[1]));
    host.replaceChildren(table, foot);

    const cells = [...body.rows].map((line) => [...line.cells].slice(1));
    const place = (target) => {
      const td = target.closest?.("tbody td");
      return td ? [td.parentNode.rowIndex - 1, td.cellIndex - 1] : null;
    };
    const show = ([r, c]) => { output.textContent = tell(r, c); };
    const home = [0, Math.max(framed ?? 0, 0)];
    cells[home[0]][home[1]].tabIndex = 0;
    show(home);
    table.addEventListener("pointerover", (event) => { const at = place(event.target); if (at) show(at); });
    table.addEventListener("focusin", (event) => { const at = place(event.target); if (at) show(at); });
    table.addEventListener("keydown", (event) => {
      const at = place(event.target);
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -Infinity], End: [0, Infinity] }[event.key];
      if (!at || !step) return;
      event.preventDefault();
      const [r, c] = [[at[0] + step[0], rows.length], [at[1] + step[1], columns.length]].map(([to, size]) => Math.min(Math.max(to, 0), size - 1));
      event.target.tabIndex = -1;
      cells[r][c].tabIndex = 0;
      cells[r][c].focus();
    });
  }

  const height = (count) => (count <= 12 ? "1.6rem" : count <= 30 ? "1.15rem" : ".86rem");

  function drawClasses() {
    const host = one("[data-heat=classes]"), silhouette = view.group.silhouettes[view.metric];
    if (!host || !silhouette?.classes.length) return host?.replaceChildren();
    const at = silhouette.x.indexOf(view.group.chosen ?? last), layers = silhouette.x;
    const sorted = [...silhouette.classes].sort((a, b) => (b.y[at] ?? -2) - (a.y[at] ?? -2));
    const limit = Math.max(...sorted.flatMap((each) => each.y.map((value) => Math.abs(value ?? 0)))) || 1;
    const step = Math.ceil(layers.length / 8 / 5) * 5;
    heat(host, {
      rows: sorted.map((each) => each.label), columns: layers, values: sorted.map((each) => each.y), limit,
      framed: layers.indexOf(view.group.chosen), cell: height(sorted.length),
      headings: (c) => c === layers.indexOf(view.group.chosen) || c === layers.length - 1
        || (layers[c] % step === 0 && Math.abs(c - at) > 1 && layers.length - 1 - c > 1),
      tell: (r, c) => `${sorted[r].label} (${sorted[r].n.toLocaleString("en")} ${sorted[r].n === 1 ? counted.slice(0, -1) : counted}) at layer ${layers[c]}: ${sorted[r].y[c] === null ? "not scored" : signed(sorted[r].y[c], 3)}`,
      scale: [signed(-limit, 2), `+${limit.toFixed(2)}`], rising: false,
      caption: `Mean ${named(view.metric)} silhouette of each class at each layer, ${view.group.pooling} pooling, ${view.group.norm}`,
    });
  }

  function drawConfusion() {
    for (const which of confusion ? ["chosen", "last"].filter((name) => one(`[data-heat=${name}]`)) : []) {
      const counts = confusion[which], sums = counts.map((row) => row.reduce((sum, count) => sum + count, 0));
      const kept = classes.map((_, r) => r).filter((r) => sums[r] > 0);
      heat(one(`[data-heat=${which}]`), {
        rows: kept.map((r) => classes[r]), columns: classes, limit: 1, rising: true, numbers: classes.length <= 10,
        values: kept.map((r) => counts[r].map((count) => count / sums[r])), headings: () => classes.length <= 20,
        cell: classes.length <= 10 ? "2.1rem" : height(classes.length),
        tell: (r, c) => `${classes[kept[r]]} read as ${classes[c]}: ${percent(counts[kept[r]][c] / sums[kept[r]])} (${counts[kept[r]][c]} of ${sums[kept[r]]})`,
        scale: ["0 %", "100 %"], caption: `Predicted class of the test ${counted} of each class, ${which} layer`,
      });
    }
  }

  // --- the page ----------------------------------------------------------------------------------------------------

  function pick() {
    const { pooling, norm, metric } = Object.fromEntries(new FormData(controls));
    const found = groups.findIndex((each) => each.pooling === pooling && each.norm === norm);
    // A norm state that this pooling was not scored with: its first one is shown instead.
    const number = found >= 0 ? found : groups.findIndex((each) => each.pooling === pooling);
    view.group = groups[number];
    for (const radio of all("[name=norm]")) radio.checked = radio.value === view.group.norm;
    view.metric = view.group.silhouettes[metric] ? metric : Object.keys(view.group.silhouettes)[0] ?? null;
    for (const part of all("[data-group]")) part.hidden = Number(part.dataset.group) !== number;
    const answer = groups.find((each) => each.answer);
    one("[data-aside]").textContent = !answer || view.group === answer ? "" : `The answer above is of ${answer.pooling}, ${answer.norm}.`;
    view.at = view.group.chosen ?? view.at;
    draw();
    drawClasses();
  }

  function highlight(number) {
    for (const picture of all(".scatter")) {
      picture.classList.toggle("picked", number !== "");
      for (const dots of picture.querySelectorAll("g")) {
        dots.classList.toggle("on", dots.dataset.label === number);
        if (dots.dataset.label === number) picture.append(dots);
      }
    }
  }

  controls.addEventListener("change", pick);
  controls.addEventListener("submit", (event) => event.preventDefault());
  one("[data-highlight]")?.addEventListener("change", (event) => highlight(event.target.value));
  let closed = [];
  addEventListener("beforeprint", () => { closed = all("details:not([open])"); for (const each of closed) each.open = true; });
  addEventListener("afterprint", () => { for (const each of closed) each.open = false; });
  pick();
  zoom(0, last);
  listen();
  drawConfusion();
})();
