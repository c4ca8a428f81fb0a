// The view of CompositionPicker. All data are in the model's state: nothing is fetched and no kernel is needed.

const STEP = 1100; // milliseconds between two blocks while playing

const count = (composition) => composition.split("T").length - 1;

/** The N + 1 compositions that an order (block numbers from 1) passes through. */
export function path(order) {
  const letters = order.map(() => "S");
  return [letters.join(""), ...order.map((block) => ((letters[block - 1] = "T"), letters.join("")))];
}

/** All orders of the numbers 1 .. n. */
export function permutations(n) {
  if (n === 0) return [[]];
  const insert = (rest) => Array.from({ length: n }, (_, i) => [...rest.slice(0, i), n, ...rest.slice(i)]);
  return permutations(n - 1).flatMap(insert);
}

/** The largest loss of accuracy in one step of an order, in percentage points. */
export function worstDip(rows, order) {
  const y = path(order).map((c) => rows[c].accuracy);
  return Math.max(0, ...y.slice(1).map((value, i) => y[i] - value));
}

/** Round numbers that divide low .. high into at most six parts. */
export function ticks(low, high) {
  const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50].find((s) => (high - low) / s <= 5) ?? 100;
  const first = Math.floor(low / step);
  const last = Math.max(Math.ceil(high / step), first + 1);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toFixed(1)));
}

export function amount(value, unit) {
  for (const [size, prefix] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (value >= 0.9995 * size) return `${(value / size).toPrecision(3)} ${prefix}${unit}`;
  }
  return `${value} ${unit}`;
}

const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(1);

const blocksOf = (model) => {
  const order = model.get("order");
  return Array.isArray(order) ? order : model.get("data").orders[order];
};

/** Keeps composition, order and loaded in step, by the rules of the Python side. Once for each model. */
function initialize({ model }) {
  const set = (name, value) => {
    if (model.get(name) === value) return;
    model.set(name, value);
    model.save_changes();
  };
  const follow = () => set("composition", path(blocksOf(model))[model.get("loaded")]);
  model.on("change:composition", () => set("loaded", count(model.get("composition"))));
  model.on("change:loaded", () => count(model.get("composition")) === model.get("loaded") || follow());
  model.on("change:order", follow);
}

function render({ model, el }) {
  const { title, names, rows, orders, samples, converters } = model.get("data");
  const n = names.length;
  const student = "S".repeat(n);
  const measured = (key) => Object.values(rows).some((row) => row[key] !== null);
  let timer = null;

  function choose(changes) {
    for (const [name, value] of Object.entries(changes)) model.set(name, value);
    model.save_changes();
  }

  // --- the network: one button for each block, converters where it switches
  const buttons = names.map((name, i) =>
    element("button", { type: "button", class: "pwl-block", onclick: () => flip(i) },
      // The spaces are heard: a button is called by its text.
      element("span", { class: "pwl-letter" }), " ", element("span", { class: "pwl-name" }, name), " ",
      element("span", { class: "pwl-arrival" })));
  const joints = names.slice(1).map(() => element("span", { class: "pwl-joint" }));
  const network = element("div", { class: "pwl-network", role: "group", "aria-label": "Blocks of the network" },
    ...buttons.flatMap((button, i) => (i ? [joints[i - 1], button] : [button])));

  function flip(i) {
    pause();
    const c = model.get("composition");
    choose({ composition: c.slice(0, i) + (c[i] === "T" ? "S" : "T") + c.slice(i + 1) });
  }

  // --- controls
  const slider = element("input", { type: "range", min: 0, max: n, step: 1, "aria-label": "Teacher blocks loaded",
    oninput: () => {
      pause();
      go(Number(slider.value));
    } });
  const shown = element("output", { class: "pwl-count" });
  const select = element("select", {
    onchange: () => {
      pause();
      choose({ order: readOrder(select.value) });
    },
  });
  const play = element("button", { type: "button", class: "pwl-play", onclick: () => (timer ? pause() : start()) });

  const say = (order) => order.join(", ");
  const readOrder = (value) => (value in orders ? value : value.split(",").map(Number));
  for (const [name, order] of Object.entries(orders)) {
    select.append(element("option", { value: name }, `${name}: ${say(order)}`));
  }
  if (n <= 5) {
    const all = permutations(n).map((order) => [order, worstDip(rows, order)]);
    all.sort((a, b) => a[1] - b[1] || (say(a[0]) < say(b[0]) ? -1 : 1));
    const text = ([order, dip]) => say(order) + (dip > 0 ? ` (dips by ${dip.toFixed(1)})` : " (never dips)");
    select.append(element("optgroup", { label: `all ${all.length} orders, smallest dip first` },
      ...all.map((entry) => element("option", { value: entry[0].join(",") }, text(entry)))));
  }

  function go(loaded) {
    choose({ loaded, composition: path(blocksOf(model))[loaded] });
  }
  function start() {
    go(model.get("loaded") === n ? 0 : model.get("loaded"));
    timer = setInterval(() => {
      go(Math.min(model.get("loaded") + 1, n));
      if (model.get("loaded") === n) pause();
    }, STEP);
    label();
  }
  function pause() {
    clearInterval(timer);
    timer = null;
    label();
  }
  function label() {
    play.textContent = timer ? "❚❚ Pause" : "▶ Play";
  }

  // --- what the composition gives and costs
  const tiles = [
    ["accuracy", "Accuracy", (v) => `${v.toFixed(1)} %`, (v) => `${signed(v - rows[student].accuracy)} points to ${student}`],
    ["agreement", "Agreement", (v) => `${v.toFixed(1)} %`, () => "same answer as the teacher"],
    ["bytes", "Weights", (v) => amount(v, "B"), () => "that this composition runs"],
    ["macs", "Work", (v) => amount(v, "MAC"), () => "for one image"],
  ].filter(([key]) => measured(key)).map(([key, label, value, note]) => {
    const parts = ["pwl-label", "pwl-value", "pwl-note"].map((name) => element("div", { class: name }));
    parts[0].textContent = label;
    const show = (row) => {
      parts[1].textContent = row[key] === null ? "not recorded" : value(row[key]);
      parts[2].textContent = row[key] === null ? "" : note(row[key]);
    };
    return { node: element("div", { class: "pwl-tile" }, ...parts), show };
  });
  const spoken = element("div", { class: "pwl-spoken", "aria-live": "polite" });

  // --- accuracy along the order
  const chart = element("div", { class: "pwl-chart" });

  function draw() {
    const width = Math.max(chart.clientWidth || 0, 260);
    const [height, left, right, top, bottom] = [210, 46, 20, 14, 40];
    const values = Object.values(rows).map((row) => row.accuracy);
    const scale = ticks(Math.min(...values), Math.max(...values));
    const [low, high] = [scale[0], scale[scale.length - 1]];
    const x = (k) => left + (k / n) * (width - left - right);
    const y = (v) => top + ((high - v) / (high - low)) * (height - top - bottom);
    const at = (c) => [x(count(c)), y(rows[c].accuracy)];
    const steps = path(blocksOf(model));
    const current = model.get("composition");
    const text = (px, py, anchor, content, name = "pwl-tick") =>
      element("text", { x: px, y: py, "text-anchor": anchor, class: name }, content);
    const line = (a, b, name) => element("line", { x1: a[0], y1: a[1], x2: b[0], y2: b[1], class: name });

    const summary = steps.map((c) => `${c} ${rows[c].accuracy.toFixed(1)} %`).join(", ");
    const svg = element("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
      "aria-label": `Accuracy along the loading order ${say(blocksOf(model))}: ${summary}. Shown: ${current}.` });
    for (const v of scale) {
      svg.append(line([left, y(v)], [width - right, y(v)], "pwl-grid"), text(left - 6, y(v) + 4, "end", String(v)));
    }
    for (let k = 0; k <= n; k++) svg.append(text(x(k), height - bottom + 18, "middle", String(k)));
    svg.append(text((left + width - right) / 2, height - 6, "middle", "teacher blocks loaded"));
    svg.append(text(4, 0, "middle", "accuracy (%)"));
    svg.lastChild.setAttribute("transform", `translate(8 ${(top + height - bottom) / 2}) rotate(-90)`);
    for (const c of Object.keys(rows)) {
      const [cx, cy] = at(c);
      svg.append(element("circle", { cx, cy, r: 3, class: "pwl-other" }));
    }
    steps.slice(1).forEach((c, i) => {
      const loss = rows[steps[i]].accuracy - rows[c].accuracy;
      const [a, b] = [at(steps[i]), at(c)];
      svg.append(line(a, b, loss > 0 ? "pwl-step pwl-dip" : "pwl-step"));
      if (loss > 0) svg.append(text((a[0] + b[0]) / 2 + 8, (a[1] + b[1]) / 2 - 8, "middle", `▼ ${signed(-loss)}`, "pwl-loss"));
    });
    for (const [k, c] of steps.entries()) {
      const [cx, cy] = at(c);
      svg.append(element("circle", { cx, cy, r: 5, class: "pwl-point", onclick: () => (pause(), go(k)) },
        element("title", {}, `${c}: ${rows[c].accuracy.toFixed(1)} %`)));
    }
    const [cx, cy] = at(current);
    if (steps.includes(current)) svg.append(element("circle", { cx, cy, r: 10, class: "pwl-here" }));
    else svg.append(element("polygon", { points: [[cx, cy - 10], [cx + 10, cy], [cx, cy + 10], [cx - 10, cy]].join(" "), class: "pwl-here" }));
    const beside = cx > width - 70 ? ["end", cx - 14] : ["start", cx + 14];
    svg.append(text(beside[1], Math.min(cy + 20, height - bottom - 4), beside[0], current, "pwl-mark"));
    chart.replaceChildren(svg);
  }

  // --- answers on sample images
  const cards = (samples?.images ?? []).map((image) => {
    const truth = samples.classes[image.label];
    const verdict = element("span", { class: "pwl-verdict" });
    const bars = element("ul", { class: "pwl-bars" });
    const card = element("div", { class: "pwl-card" },
      element("div", { class: "pwl-top" },
        element("img", { src: image.png, alt: `test image ${image.number}, a ${truth}`, width: 64, height: 64 }),
        element("div", { class: "pwl-truth" }, "truth", element("b", {}, truth), verdict)),
      bars);
    const show = (composition) => {
      const top = image.top[composition];
      const right = top[0][0] === image.label;
      verdict.className = `pwl-verdict ${right ? "pwl-right" : "pwl-wrong"}`;
      verdict.textContent = right ? "✓ right" : "✗ wrong";
      bars.replaceChildren(...top.map(([k, p]) => element("li", { class: k === image.label ? "pwl-true" : undefined },
        element("span", {}, samples.classes[k]),
        element("span", { class: "pwl-bar", style: `--p: ${p}` }),
        element("span", { class: "pwl-percent" }, `${Math.round(100 * p)} %`))));
    };
    return { card, show };
  });

  function update() {
    const composition = model.get("composition");
    const order = blocksOf(model);
    buttons.forEach((button, i) => {
      const teacher = composition[i] === "T";
      button.classList.toggle("pwl-teacher", teacher);
      button.setAttribute("aria-pressed", String(teacher));
      button.title = teacher ? "the teacher's; press to take the student's" : "the student's; press to load the teacher's";
      button.children[0].textContent = composition[i];
      button.children[2].textContent = `arrives ${order.indexOf(i + 1) + 1}.`;
    });
    joints.forEach((joint, i) => {
      const turn = composition[i] + composition[i + 1];
      const kind = converters && { ST: ["dec", "decoder: student features become teacher features"],
        TS: ["enc", "encoder: teacher features become student features"] }[turn];
      joint.className = kind ? "pwl-joint pwl-converter" : "pwl-joint";
      joint.textContent = kind ? kind[0] : "→";
      joint.title = kind ? kind[1] : "";
    });
    slider.value = count(composition);
    slider.setAttribute("aria-valuetext", `${count(composition)} of ${n} teacher blocks, ${composition}`);
    shown.textContent = `${count(composition)} of ${n}`;
    const key = Array.isArray(model.get("order")) ? order.join(",") : model.get("order");
    if (![...select.options].some((option) => option.value === key)) {
      select.append(element("option", { value: key }, say(order)));
    }
    select.value = key;
    tiles.forEach((tile) => tile.show(rows[composition]));
    const off = path(order).includes(composition) ? "" : ", not on this order's way";
    spoken.textContent = `${composition}: ${rows[composition].accuracy.toFixed(1)} percent accuracy${off}`;
    cards.forEach((entry) => entry.show(composition));
    draw();
  }

  el.classList.add("pwl-view", "pwl-picker");
  el.replaceChildren(
    ...(title ? [element("div", { class: "pwl-title" }, title)] : []),
    network,
    element("div", { class: "pwl-controls" }, play,
      element("label", { class: "pwl-slide" }, "Loaded ", slider, shown),
      element("label", { class: "pwl-order" }, "Order ", select)),
    element("div", { class: "pwl-tiles" }, ...tiles.map((tile) => tile.node)),
    spoken,
    chart,
    element("div", { class: "pwl-legend", "aria-hidden": true },
      ...["● on the chosen order", "○ shown", "◇ shown, off the order", "▼ dip, in points", "• all other compositions"]
        .map((words) => element("span", {}, words))),
    ...(cards.length ? [element("div", { class: "pwl-cards" }, ...cards.map((entry) => entry.card))] : []),
  );
  label();
  update();

  const events = ["change:composition", "change:order", "change:loaded"];
  events.forEach((event) => model.on(event, update));
  const resized = new ResizeObserver(() => chart.firstChild?.getAttribute("width") != chart.clientWidth && draw());
  resized.observe(chart);
  return () => {
    clearInterval(timer);
    resized.disconnect();
    events.forEach((event) => model.off(event, update));
  };
}

export default { initialize, render };
