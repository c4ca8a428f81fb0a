// The blocks of the network: which are the student's, which the teacher's, and how much of the teacher's has arrived.

import { amount, element } from "./element.js";

const JOINTS = {
  ST: ["dec", "decoder: the student's features become the teacher's"],
  TS: ["enc", "encoder: the teacher's features become the student's"],
};

export class Diagram {
  #blocks;
  #joints;
  #parts;

  /** `toggle(block)` is called with a number from 1 when the reader presses a block. */
  constructor({ num_blocks: n, parts }, toggle) {
    this.#parts = parts;
    this.#blocks = Array.from({ length: n }, (_, i) => ({
      letter: element("span", { class: "pwl-demo-letter" }),
      bar: element("span", { class: "pwl-demo-bar" }),
      size: element("span", { class: "pwl-demo-size" }),
      button: element("button", { type: "button", class: "pwl-demo-block", onclick: () => toggle(i + 1) }),
    }));
    this.#blocks.forEach(({ button, letter }, i) => button.append(letter, " ", element("span", {}, `block ${i + 1}`)));
    this.#joints = this.#blocks.slice(1).map(() => element("span", { class: "pwl-demo-joint" }));
    const columns = this.#blocks.map(({ button, bar, size }) => element("div", { class: "pwl-demo-column" }, button, bar, size));
    this.node = element("div", { class: "pwl-demo-network", role: "group", "aria-label": "Blocks of the network" },
      ...columns.flatMap((column, i) => (i ? [this.#joints[i - 1], column] : [column])));
  }

  /** composition: what answers, or null; arrived: bytes by part; goal: teacher blocks that are wanted; failing: names of parts. */
  show(composition, arrived, goal, failing) {
    this.#blocks.forEach(({ button, letter, bar, size }, i) => {
      const [name, student] = [`teacher-${i + 1}`, `student-${i + 1}`];
      const is = composition?.[i] ?? "";
      const share = (arrived[name] ?? 0) / this.#parts[name].bytes;
      const wanted = goal.includes(i + 1);
      const broken = failing.has(name) || failing.has(student);
      button.className = `pwl-demo-block pwl-demo-${is || "none"}`;
      button.setAttribute("aria-pressed", String(wanted));
      letter.textContent = is || "·";
      bar.style.setProperty("--share", share);
      bar.classList.toggle("pwl-demo-broken", broken);
      const state = { S: "the student's answers", T: "the teacher's answers" }[is] ?? "not there yet";
      const coming = share >= 1 ? "has arrived" : broken ? "does not arrive" : wanted ? `${Math.round(100 * share)} % there` : "not wanted";
      button.setAttribute("aria-label", `${is} block ${i + 1}: ${state}; the teacher's ${coming}`.trim()); // begins as what is seen
      button.title = wanted ? "press: let the student's block answer" : "press: load the teacher's block";
      size.textContent = broken ? "✗ broken" : `${amount(this.#parts[name].bytes)}${share >= 1 ? " ✓" : ""}`;
    });
    this.#joints.forEach((joint, i) => {
      const turn = composition ? composition[i] + composition[i + 1] : "";
      const converts = JOINTS[turn] && `encoder-${i + 1}` in this.#parts;
      joint.className = `pwl-demo-joint${converts ? " pwl-demo-converter" : ""}`;
      joint.textContent = converts ? JOINTS[turn][0] : "→";
      joint.title = converts ? JOINTS[turn][1] : "";
    });
  }
}
