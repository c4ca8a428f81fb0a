// The demo: what the reader sees and presses. The networks run in a worker (worker.js).
// Runtime and networks are fetched when Start is pressed, not before: a reader who only reads should not pay for them, and the
// press is the moment from which a wait is felt. Until then there are the indexes, and the sheet once it is in sight.

import { chart } from "./chart.js";
import { bytesOf, namedOrders, needed, path, permutations } from "./compositions.js";
import { Diagram } from "./diagram.js";
import { amount, argmax, element, time } from "./element.js";
import { Pictures } from "./pictures.js";
import { Sheet } from "./sheet.js";

const RATES = [[20e3, "20 kB/s"], [50e3, "50 kB/s"], [200e3, "200 kB/s"], [1e6, "1 MB/s"], [5e6, "5 MB/s"], [Infinity, "as fast as it is"]];
const LONGEST = 8; // seconds: the slowest link that brings everything within this is chosen at first
const DRAWN_EVERY = 120; // milliseconds, at most

const json = async (url) => {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`HTTP ${response.status} for ${url.pathname.split("/").at(-1)}`);
  return response.json();
};

export class Demo {
  #place;
  #base;
  #worker = null;
  #index = null;
  #root = null;
  #runtime = null;
  #drawing = null;
  #waiting = null; // for logits that were asked for
  // what the reader presses
  #model = element("select", { onchange: () => this.#choose(this.#model.value) });
  #link = element("select", { onchange: () => this.#sendLink() });
  #order = element("select", { onchange: () => this.#aim() });
  #count = element("input", { type: "range", min: 0, step: 1, oninput: () => this.#aim() });
  #counted = element("span", { "aria-hidden": "true" });
  #fault = element("select", { onchange: () => (this.#sendLink(), this.#sayFault()) });
  #button = element("button", { type: "button", class: "pwl-demo-start", onclick: () => this.#start() }, "▶ Start");
  #comparison = element("button", { type: "button", class: "pwl-demo-compare", hidden: "", onclick: () => this.#compare() });
  // what the reader sees
  #said = element("p", { class: "pwl-demo-status", role: "status", "aria-live": "polite" });
  #figures = Object.fromEntries(["accuracy", "bytes", "latency", "answers"].map((name) => [name, element("dd")]));
  #notes = Object.fromEntries(Object.keys(this.#figures).map((name) => [name, element("dd", { class: "pwl-demo-small" })]));
  #middle = element("div", { class: "pwl-demo-middle" });
  #images = element("div");
  #curve = element("div");
  #times = element("table", { class: "pwl-demo-times" });

  constructor(place, base) {
    this.#place = place;
    this.#base = base;
    place.pwl = this; // for the console and the tests
    this.#open().catch((error) => this.#note(`The demo is not part of this build of the book (${error.message}). ` +
      "It is made by “make book”, with the Python package onnx installed and npm in reach."));
  }

  #note(text) {
    this.#place.replaceChildren(element("p", { class: "pwl-demo-note" }, text));
  }

  async #open() {
    const [{ pairs }, runtime] = await Promise.all([json(new URL("../pairs/pairs.json", this.#base)),
      fetch(new URL("../vendor/ort/ort.wasm.bundle.min.mjs", this.#base), { method: "HEAD" })]);
    if (!runtime.ok) throw new Error("the runtime is missing");
    this.#model.append(...pairs.map(({ name, title }) => element("option", { value: name }, title)));
    for (const [rate, name] of RATES) this.#link.append(element("option", { value: rate }, name));
    const label = (words, node, ...more) => element("label", {}, element("span", {}, words), node, ...more);
    const figure = (name, words) => element("div", {}, element("dt", {}, words), this.#figures[name], this.#notes[name]);
    await this.#choose(pairs[0].name);
    this.#place.replaceChildren(
      element("div", { class: "pwl-demo-controls" }, this.#button, label("Networks", this.#model), label("Link", this.#link),
        label("Order of the teacher's blocks", this.#order), label("Teacher blocks wanted", this.#count, this.#counted),
        label("Break something", this.#fault)),
      this.#middle, this.#said, this.#comparison,
      element("dl", { class: "pwl-demo-figures" }, figure("accuracy", "Accuracy"), figure("bytes", "Weights arrived"),
        figure("latency", "Time for an image"), figure("answers", "Images classified")),
      this.#images, this.#curve, this.#times);
    let drawn = 0; // the width of the chart: it is drawn again when a phone is turned
    new ResizeObserver(() => {
      if (this.#curve.clientWidth !== drawn) this.#draw();
      drawn = this.#curve.clientWidth;
    }).observe(this.#curve);
  }

  /** Another pair, nothing of which is loaded. */
  async #choose(name) {
    this.#hire();
    this.#runtime = null;
    this.#button.disabled = true;
    this.#root = new URL(`../pairs/${name}/`, this.#base);
    this.#index = await json(new URL("web.json", this.#root));
    this.#button.disabled = false;
    this.#button.textContent = "▶ Start";
    const { num_blocks: n, parts, sheet } = this.#index;
    const blocks = Array.from({ length: n }, (_, i) => i + 1);
    const option = (order, words) => element("option", { value: order.join(",") }, words);
    this.#order.replaceChildren(...Object.entries(namedOrders(n)).map(([words, order]) => option(order, `${words}: ${order.join(", ")}`)));
    if (n <= 5) this.#order.append(element("optgroup", { label: "all orders" }, ...permutations(n).map((order) => option(order, order.join(", ")))));
    this.#count.max = this.#count.value = n;
    const faults = (kind, words) => element("optgroup", { label: words },
      ...blocks.map((b) => element("option", { value: `${kind}:teacher-${b}` }, `teacher's block ${b} ${words}`)));
    this.#fault.replaceChildren(element("option", { value: "" }, "nothing"), faults("missing", "is missing"), faults("damaged", "arrives damaged"));
    const total = bytesOf(Object.keys(parts).filter((part) => /student|teacher/.test(part)), parts);
    this.#link.value = RATES.find(([rate]) => total / rate <= LONGEST)[0];
    this.diagram = new Diagram(this.#index, (block) => this.#toggle(block));
    this.#middle.replaceChildren(this.diagram.node);
    this.view = sheet ? new Sheet(this.#index, this.#root) : new Pictures(this.#index, (pixels) => this.#worker?.postMessage({ call: "picture", pixels }));
    this.#images.replaceChildren(this.view.node);
    this.#forget();
    this.#aim();
    this.#say(`Nothing is loaded yet. Start fetches the runtime, then ${amount(bytesOf(needed("S".repeat(n), parts), parts))} of the student's weights, ` +
      `then the teacher's ${amount(bytesOf(needed("T".repeat(n), parts), parts))} block by block.`);
    this.#draw();
  }

  /** A fresh worker; its script is small, the runtime comes when it is told to start. */
  #hire() {
    this.#worker?.terminate();
    this.#worker = new Worker(new URL("worker.js", this.#base), { type: "module" });
    this.#worker.onmessage = ({ data }) => this.#hear(data);
    this.#worker.onerror = (event) => this.#broken(event.message || "the worker's script cannot be loaded");
  }

  /** What a load has shown is no longer so. */
  #forget() {
    Object.assign(this, { composition: null, begun: null, reached: false, answers: 0, arrived: {}, first: null });
    Object.assign(this, { finished: false, compared: null, usual: null, tried: false }); // of the comparison
    Object.assign(this, { points: [], swaps: [], latencies: [], failing: new Set(), since: 0 });
  }

  #send(call, about = {}) {
    this.#worker?.postMessage({ call, ...about });
  }

  #start() {
    if (!this.#worker) this.#hire();
    if (!this.#runtime) this.#say("The runtime is coming …");
    this.#forget();
    this.view.clear();
    this.pressed = performance.now();
    this.#button.disabled = true;
    this.#sendLink();
    this.#send("start", { vendor: new URL("../vendor/ort/", this.#base).href, root: this.#root.href, index: this.#index, pixels: this.view.pixels });
    this.#draw();
  }

  #sendLink() {
    const [kind, name] = this.#fault.value.split(":");
    this.failing.clear();
    this.#send("link", { rate: Number(this.#link.value), fault: kind ? { kind, name } : null });
    this.#draw();
  }

  /** Say why a fault does nothing now, where it doesn't. */
  #sayFault() {
    const [kind, name] = this.#fault.value.split(":");
    if (!kind || !this.begun) return;
    const block = Number(name.split("-").at(-1));
    if (this.arrived[name] >= this.#index.parts[name].bytes) {
      this.#say(`The teacher's block ${block} has arrived already: a fault of the link does nothing to it any more. ` +
        "Start again, or break a block that is still to come.");
    } else if (!this.goal.includes(block)) {
      this.#say(`The teacher's block ${block} is not wanted now; the fault will show when it is.`);
    }
  }

  /** The blocks that order and number say. */
  #aim() {
    this.goal = this.#order.value.split(",").map(Number).slice(0, Number(this.#count.value));
    this.#reach();
  }

  #toggle(block) {
    this.goal = this.goal.includes(block) ? this.goal.filter((b) => b !== block) : [...this.goal, block];
    this.#count.value = this.goal.length;
    this.#reach();
  }

  #reach() {
    this.#counted.textContent = `${this.goal.length} of ${this.#count.max}`;
    this.#count.setAttribute("aria-valuetext", this.#counted.textContent);
    this.reached = false;
    if (this.begun) this.#send("reach", { blocks: this.goal });
    this.#draw();
  }

  #hear({ event, ...about }) {
    this[`_${event}`](about);
    this.#draw();
  }

  _runtime(about) {
    this.#runtime = about;
  }

  _begun() {
    this.begun = performance.now();
    this.#button.disabled = false;
    this.#button.textContent = "↻ Start again";
    this.#say("The student's weights are coming …");
    if (!this.#index.sheet) this.#send("picture", { pixels: this.view.pixels }); // another one may have been chosen meanwhile
    this.#reach();
  }

  _bytes({ name, bytes }) {
    this.arrived[name] = bytes;
    if (bytes) this.failing.delete(name);
  }

  _failure({ name, text }) {
    this.failing.add(name);
    const still = this.composition ? `${this.composition} goes on answering` : "no answer yet";
    this.#say(`${name} does not arrive: ${text}. It is asked for again and again; ${still}.`);
  }

  _swap({ composition, seconds }) {
    this.composition = composition;
    this.latencies = [];
    this.since = 0;
    this.swaps.push([seconds, composition]);
    if (!this.first) this.first = { seconds, pressed: (performance.now() - this.pressed) / 1000, sinceOpened: performance.now() / 1000 };
    this.#say(`${time(seconds)}: ${composition} answers${/S/.test(composition) ? "" : ", the teacher itself"}.`);
    if (!this.#index.sheet) this.#point(seconds);
  }

  _answers(answer) {
    this.answers += answer.n;
    this.since += answer.n; // since the last swap
    if (answer.composition === this.composition) this.latencies = [...this.latencies, answer.ms].slice(-15);
    this.view.answers(answer);
    const { sheet } = this.#index;
    if (sheet && (!this.finished || this.since <= sheet.labels.length)) this.#point((performance.now() - this.begun) / 1000);
  }

  _done({ composition }) {
    const wanted = [...composition].every((letter, i) => (letter === "T") === this.goal.includes(i + 1));
    if (!wanted) return; // another goal has been set meanwhile
    this.reached = true;
    if (/S/.test(composition)) return this.#say(`${composition} answers; no more blocks are wanted.`);
    this.finished ||= Boolean(!this.#index.sheet);
    if (this.compared === null) this.#compare("The teacher itself answers. ");
  }

  /** By itself only when the teacher is there: who wants fewer blocks may not want to pay for all of them. */
  #compare(words = "") {
    this.compared = 0; // on its way
    this.#say(`${words}For comparison, the page now loads the whole teacher first, over the same link …`);
    this.#send("compare");
    this.#draw();
  }

  _compared({ seconds, logits }) {
    if (this.compared !== 0) return; // it belongs to a load that is over
    const { sheet, classes, lattice, num_blocks: n } = this.#index;
    this.compared = seconds;
    this.finished = true;
    const k = classes.length;
    const right = sheet?.labels.filter((label, i) => argmax(logits.slice(i * k, (i + 1) * k)) === label).length;
    this.usual = sheet ? (100 * right) / sheet.labels.length : lattice?.["T".repeat(n)];
    this.#say(`Compared: the first answer after ${time(this.first.seconds)}, or after ${time(seconds)} with the whole teacher first.`);
  }

  _uncompared({ text }) {
    if (this.compared !== 0) return;
    this.compared = null;
    this.tried = true;
    const again = this.#fault.value ? "Set “Break something” to nothing, then try it again." : "Try it again.";
    this.#say(`The comparison has failed: ${text}. ${this.composition} goes on answering. ${this.reached ? again : ""}`);
  }

  _logits({ composition, logits }) {
    this.#waiting?.({ composition, logits: Array.from(logits) });
  }

  _broken({ text }) {
    this.#broken(text);
  }

  #broken(text) {
    this.#worker?.terminate();
    this.#worker = null;
    this.#button.disabled = false;
    this.#say(`The demo has stopped: ${text}. Start tries it again.`);
    this.#draw();
  }

  /** What the sheet, or the record of the training run, says now. */
  #accuracy() {
    if (this.#index.sheet) return this.view.answered ? (100 * this.view.right) / this.view.answered : null;
    return this.#index.lattice?.[this.composition] ?? null;
  }

  #point(seconds) {
    const accuracy = this.#accuracy();
    if (accuracy === null) return;
    const [before, last] = this.points.slice(-2);
    if (last && before[1] === accuracy && last[1] === accuracy) last[0] = seconds; // a level line needs no more points
    else this.points.push([seconds, accuracy]);
  }

  #say(text) {
    if (this.#said.textContent !== text) this.#said.textContent = text;
  }

  /** Show everything, soon, and not more often than the eye needs it. */
  #draw() {
    this.#drawing ??= setTimeout(() => requestAnimationFrame(() => {
      this.#drawing = null;
      this.#drawNow();
    }), DRAWN_EVERY);
  }

  #drawNow() {
    const { parts, sheet, lattice, num_blocks: n } = this.#index;
    this.diagram.show(this.composition, this.arrived, this.goal, this.failing);
    const accuracy = this.#accuracy();
    const [figures, notes] = [this.#figures, this.#notes];
    figures.accuracy.textContent = accuracy === null ? "–" : `${accuracy.toFixed(1)} %`;
    const recorded = lattice?.[this.composition];
    notes.accuracy.textContent = !sheet ? "on the whole test set, recorded when it was trained"
      : !this.view.answered ? "" : `${this.view.right} of ${this.view.answered} below${recorded ? `; ${recorded.toFixed(1)} % of all test images, recorded` : ""}`;
    const order = [...this.goal, ...this.#order.value.split(",").map(Number).filter((b) => !this.goal.includes(b))];
    const way = new Set(path(order).slice(0, this.goal.length + 1).flatMap((composition) => needed(composition, parts)));
    const sum = Object.values(this.arrived).reduce((a, b) => a + b, 0);
    figures.bytes.textContent = amount(sum);
    notes.bytes.textContent = `of ${amount(bytesOf([...way], parts))} on this way, the student's${"encoder-1" in parts ? " and the converters'" : ""} included`;
    const sorted = [...this.latencies].sort((a, b) => a - b);
    figures.latency.textContent = sorted.length ? `${sorted[sorted.length >> 1].toFixed(2)} ms` : "–";
    notes.latency.textContent = this.composition ? `by ${this.composition}, on this device${sheet ? ", 20 at a time" : ""}` : "";
    figures.answers.textContent = this.answers.toLocaleString("en");
    notes.answers.textContent = this.answers ? "since the first answer" : "";
    const what = sheet ? "Accuracy on the images above" : "Accuracy on the test set";
    const teacher = this.usual ?? lattice?.["T".repeat(n)];
    this.#comparison.hidden = !this.reached || this.compared !== null;
    this.#comparison.textContent = this.tried ? "↻ Try the comparison again"
      : `Compare: the whole teacher first, ${amount(bytesOf(needed("T".repeat(n), parts), parts))}`;
    this.#curve.replaceChildren(chart(this.points, this.swaps, this.compared || null, teacher, what, this.#curve.clientWidth || 640));
    this.#drawTimes();
  }

  #drawTimes() {
    const { parts, num_blocks: n } = this.#index;
    const size = (composition) => amount(bytesOf(needed(composition, parts), parts));
    const full = this.swaps.find(([, composition]) => !/S/.test(composition));
    const row = (head, ...cells) => element("tr", {}, element("th", { scope: "row" }, head), ...cells.map((cell) => element("td", {}, cell)));
    const head = ["", "bytes before the first answer", "first answer", "the teacher's answers"];
    const came = this.#runtime;
    const runtime = came ? `${amount(came.bytes)}, ${came.way} and started in ${time(came.seconds)}` : "not fetched yet, some MB";
    this.#times.replaceChildren(
      element("caption", {}, "Measured in this page, over the link chosen above. Both ways need the runtime (onnxruntime-web) first: " +
        `${runtime}; it comes at full speed and is not counted in these times` +
        (this.first ? `. From pressing Start to the first answer, all included: ${time(this.first.pressed)}.` : ".")),
      element("thead", {}, element("tr", {}, ...head.map((words) => element(words ? "th" : "td", words ? { scope: "col" } : {}, words)))),
      element("tbody", {},
        row("block by block", size("S".repeat(n)), this.first ? time(this.first.seconds) : "–", full ? time(full[0]) : "–"),
        row("the whole teacher first", size("T".repeat(n)), ...(this.compared ? [time(this.compared), time(this.compared)] : ["–", "–"]))));
  }

  /** The logits of all images by what serves now: { composition, logits }. */
  logits() {
    return new Promise((resolve) => {
      this.#waiting = resolve;
      this.#send("logits");
    });
  }
}
