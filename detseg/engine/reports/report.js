"use strict";
// The page is whole without this script; it adds what answers to the reader. No text from the data becomes HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const make = (name, attributes = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  const svg = (name, attributes = {}) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  const share = (part, whole) => (whole > 0 ? part / whole : null);
  const shown = (value) => (value === null ? "-" : value.toFixed(3));

  // Tables that can be sorted: a button in each heading.
  const sortable = (table) => {
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => {
      const button = make("button", { type: "button" }, heading.textContent);
      heading.replaceChildren(button);
      button.addEventListener("click", () => {
        const upward = heading.getAttribute("aria-sort") === "descending";
        headings.forEach((one) => one.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", upward ? "ascending" : "descending");
        const value = (row) => row.cells[column].textContent;
        const rows = [...table.tBodies[0].rows].filter((row) => !row.classList.contains("total"));
        const totals = [...table.tBodies[0].rows].filter((row) => row.classList.contains("total"));
        rows.sort((one, other) => {
          const [a, b] = [value(one), value(other)];
          const [x, y] = [parseFloat(a), parseFloat(b)];
          const order = isNaN(x) || isNaN(y) ? (isNaN(x) ? (isNaN(y) ? a.localeCompare(b) : -1) : 1) : x - y;
          return upward ? order : -order;
        });
        table.tBodies[0].append(...rows, ...totals);
      });
    });
  };

  const state = { confidence: data.confidence ?? 25, label: -1, layer: "both", order: "wrong", count: 24 };

  // Counts at the confidence.
  const countsOf = (label, at) => {
    const right = data.right[label][at], wrong = data.wrong[label][at], objects = data.objects[label];
    return { objects, right, wrong, missed: objects - right };
  };
  const sumOf = (at) => data.classes.reduce((sum, _, label) => {
    const one = countsOf(label, at);
    for (const key of Object.keys(sum)) sum[key] += one[key];
    return sum;
  }, { objects: 0, right: 0, wrong: 0, missed: 0 });
  const scoresOf = (one) => [
    share(one.right, one.right + one.wrong), share(one.right, one.objects),
    share(2 * one.right, 2 * one.right + one.wrong + one.missed),
  ];
  const countCells = (row, one) => {
    const texts = [one.objects, one.right, one.wrong, one.missed, ...scoresOf(one).map(shown)];
    texts.forEach((text, column) => { row.cells[column + 1].textContent = text; });
  };
  const drawCounts = () => {
    $("confidence-value").textContent = (state.confidence / 100).toFixed(2);
    for (const row of $("counts").tBodies[0].rows) {
      const label = Number(row.dataset.label);
      countCells(row, label < 0 ? sumOf(state.confidence) : countsOf(label, state.confidence));
      row.hidden = label >= 0 && state.label >= 0 && label !== state.label;
    }
    const all = scoresOf(state.label < 0 ? sumOf(state.confidence) : countsOf(state.label, state.confidence));
    $("said").textContent = `Precision ${shown(all[0])}, recall ${shown(all[1])}, F1 ${shown(all[2])}`;
  };

  // Precision, recall and F1 over confidence.
  const drawCurves = () => {
    const chart = $("curves");
    chart.replaceChildren();
    const title = svg("title");
    title.textContent = "Precision, recall and F1 over confidence";
    chart.append(title);
    const x = (at) => 40 + at * 5.4, y = (value) => 190 - value * 170;
    for (const value of [0, 0.5, 1]) {
      chart.append(svg("line", { x1: 40, x2: 580, y1: y(value), y2: y(value), class: "grid" }));
      const text = svg("text", { x: 34, y: y(value) + 4, "text-anchor": "end" });
      text.textContent = value;
      chart.append(text);
    }
    for (const at of [0, 25, 50, 75, 100]) {
      const text = svg("text", { x: x(at), y: 208, "text-anchor": "middle" });
      text.textContent = at / 100;
      chart.append(text);
    }
    const rows = Array.from({ length: 101 }, (_, at) => scoresOf(state.label < 0 ? sumOf(at) : countsOf(state.label, at)));
    ["precision", "recall", "f1"].forEach((name, column) => {
      let path = "";
      rows.forEach((row, at) => {
        if (row[column] !== null) path += `${path ? "L" : "M"}${x(at).toFixed(1)} ${y(row[column]).toFixed(1)}`;
      });
      chart.append(svg("path", { d: path || "M0 0", class: name }));
    });
    const now = x(state.confidence);
    chart.append(svg("line", { x1: now, x2: now, y1: 20, y2: 190, class: "now" }));
  };

  // Images.
  const judge = (entry) => {
    if (!entry.found) return { wrong: entry.difficulty ?? 0, missed: 0, right: 0 };
    const at = 10 * state.confidence, wanted = (row) => state.label < 0 || row[0] === state.label;
    const found = entry.found.filter((row) => row[5] >= at && wanted(row));
    const right = found.filter((row) => row[6]).length;
    const objects = entry.truth.filter((row) => !row[5] && wanted(row)).length;
    return { right, wrong: found.length - right, missed: objects - right };
  };
  const has = (entry) => state.label < 0 || (entry.labels ?? [...entry.truth, ...entry.found
    .filter((row) => row[5] >= 10 * state.confidence)].map((row) => row[0])).includes(state.label);
  const boxes = (entry, named) => {
    const layer = svg("svg", { viewBox: "0 0 1000 1000", preserveAspectRatio: "none", "aria-hidden": "true" });
    const add = (row, kind, text) => {
      if (state.label >= 0 && row[0] !== state.label) return;
      layer.append(svg("rect", { x: row[1], y: row[2], width: row[3] - row[1], height: row[4] - row[2], class: kind }));
      if (named) tags.push([row, kind, text]);
    };
    const tags = [];
    if (state.layer !== "prediction") for (const row of entry.truth) add(row, row[5] ? "crowd" : "true", data.classes[row[0]]);
    if (state.layer !== "truth") {
      for (const row of entry.found) {
        if (row[5] >= 10 * state.confidence) {
          add(row, row[6] ? "right" : "wrong", `${data.classes[row[0]]} ${(row[5] / 1000).toFixed(2)}`);
        }
      }
    }
    return [layer, tags];
  };
  const imageOf = (entry, layer) => entry.layers[layer] ?? entry.layers[entry.default];
  const view = (entry, named) => {
    const frame = make("span", { class: "view" });
    const names = Object.keys(entry.layers);
    const wanted = names.includes(state.layer) ? [state.layer]
      : state.layer === "both" && names.includes("truth") ? ["truth", "prediction"] : [entry.default];
    for (const name of named && entry.slices ? [entry.slices[entry.slice ?? (entry.slices.length >> 1)]] : wanted) {
      const image = make("img", { src: imageOf(entry, name), alt: named ? name : "" });
      const cell = make("span", { class: "layer" }, image);
      // As large as the window lets it be.
      if (named) image.addEventListener("load", () => {
        cell.style.maxWidth = `calc((96vh - 8rem) * ${image.naturalWidth / image.naturalHeight})`;
      });
      if (entry.found) {
        const [layer, tags] = boxes(entry, named);
        cell.append(layer);
        for (const [row, kind, text] of tags) {
          const tag = make("span", { class: `tag ${kind}${row[2] < 40 ? " inside" : ""}` }, text);
          tag.style.left = `${row[1] / 10}%`;
          tag.style.top = `${row[kind === "true" || kind === "crowd" ? 4 : 2] / 10}%`;
          cell.append(tag);
        }
      }
      frame.append(cell);
    }
    return frame;
  };
  const words = (entry) => {
    if (!entry.found) return entry.caption || "";
    const one = judge(entry);
    return `right ${one.right}, wrong ${one.wrong}, missed ${one.missed}`;
  };
  let order = [];
  const drawImages = () => {
    order = data.images.map((_, number) => number).filter((number) => has(data.images[number]));
    const worst = order.map((number) => { const one = judge(data.images[number]); return one.wrong + one.missed; });
    const rank = new Map(order.map((number, place) => [number, worst[place]]));
    order.sort((one, other) => (state.order === "wrong" ? rank.get(other) - rank.get(one) : 0) || one - other);
    const figures = order.slice(0, state.count).map((number) => {
      const entry = data.images[number];
      const button = make("button", { type: "button", "aria-label": `Enlarge ${entry.name}` }, view(entry, false));
      button.addEventListener("click", () => enlarge(number));
      const caption = make("figcaption", {}, make("a", { href: `#image-${number}` }, entry.name), ` ${words(entry)}`);
      return make("figure", {}, button, caption);
    });
    $("gallery").replaceChildren(...figures);
    $("num-shown").textContent = `${figures.length} of ${order.length} images`;
    $("more").hidden = figures.length === order.length;
  };

  // One image, large.
  const dialog = $("large") ?? make("dialog");
  let current = 0;
  const enlarge = (number) => {
    current = number;
    const entry = data.images[number];
    $("large-name").textContent = entry.name;
    $("large-words").textContent = words(entry);
    $("large-view").replaceChildren(view(entry, true));
    const slider = $("slice");
    $("slice-row").hidden = !entry.slices;
    if (entry.slices) {
      slider.max = entry.slices.length - 1;
      slider.value = entry.slice ?? (entry.slices.length >> 1);
      $("slice-value").textContent = entry.slices[slider.value];
    }
    if (!dialog.open) dialog.showModal();
  };
  const step = (by) => {
    const place = order.indexOf(current) + by;
    if (place >= 0 && place < order.length) enlarge(order[place]);
  };
  const follow = () => {
    const match = /^#image-(\d+)$/.exec(location.hash);
    if (match && data.images[match[1]]) enlarge(Number(match[1]));
  };

  const redraw = () => {
    if (data.right) { drawCounts(); drawCurves(); }
    if (data.images.length) drawImages();
    if (dialog.open) enlarge(current);
  };
  document.querySelectorAll("table.sortable").forEach(sortable);
  document.querySelectorAll(".live").forEach((element) => { element.hidden = false; });
  document.querySelectorAll(".static").forEach((element) => { element.hidden = true; });
  const listen = (id, event, action) => { if ($(id)) $(id).addEventListener(event, action); };
  if ($("confidence")) $("confidence").value = state.confidence;
  listen("confidence", "input", (event) => { state.confidence = Number(event.target.value); redraw(); });
  listen("class", "change", (event) => {
    state.label = Number(event.target.value);
    state.count = 24;
    for (const row of document.querySelectorAll("tr[data-class]")) {
      row.hidden = state.label >= 0 && row.dataset.class !== data.classes[state.label];
    }
    redraw();
  });
  listen("order", "change", (event) => { state.order = event.target.value; redraw(); });
  listen("layers", "change", (event) => { state.layer = event.target.value; redraw(); });
  listen("more", "click", () => { state.count += 48; drawImages(); });
  listen("slice", "input", (event) => { data.images[current].slice = Number(event.target.value); enlarge(current); });
  listen("previous", "click", () => step(-1));
  listen("next", "click", () => step(1));
  listen("close", "click", () => dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.target.id === "slice") return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  dialog.addEventListener("close", () => { if (location.hash.startsWith("#image-")) history.replaceState(null, "", "#images"); });
  window.addEventListener("hashchange", follow);
  redraw();
  follow();
})();
