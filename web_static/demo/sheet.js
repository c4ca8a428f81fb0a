// The sheet of test images: bright where the answer is right, crossed out where it is wrong, and one image looked at closely.

import { argmax, element, probabilities } from "./element.js";

export class Sheet {
  #index;
  #tiles;
  #slider;
  #detail;
  #frame;
  #url;
  #seen = new Map(); // composition -> logits of all images, as far as they came
  #said; // last answer for each image: a class, or -1
  #chosen = false; // whether the reader has chosen the image to look at
  #mended = null; // the last composition for which an image that it has put right was shown
  answered = 0;
  right = 0;

  constructor(index, root) {
    this.#index = index;
    const { labels, columns, file } = index.sheet;
    this.#url = new URL(file, root).href;
    this.#tiles = labels.map((label, i) => element("span", { style: this.#place(i), title: `${i + 1}: ${index.classes[label]}` }));
    const grid = element("div", { class: "pwl-demo-tiles", role: "img", style: `--columns: ${columns}`,
      onclick: ({ target }) => this.#tiles.includes(target) && this.#choose(this.#tiles.indexOf(target)) }, ...this.#tiles);
    this.#slider = element("input", { type: "range", min: 1, max: labels.length, value: 1, oninput: () => this.#choose(this.#slider.value - 1) });
    this.#frame = element("span", { class: "pwl-demo-large", role: "img" });
    this.#detail = element("ol", { class: "pwl-demo-history" });
    this.node = element("div", { class: "pwl-demo-sheet" }, grid,
      element("div", { class: "pwl-demo-detail" },
        element("label", {}, "Look at image ", this.#slider), element("div", { class: "pwl-demo-closer" }, this.#frame, this.#detail)));
    this.grid = grid;
    this.clear();
    new IntersectionObserver(([entry], observer) => {
      if (!entry.isIntersecting) return;
      observer.disconnect();
      this.node.style.setProperty("--image", `url("${this.#url}")`);
    }, { rootMargin: "300px" }).observe(grid);
    this.#look(0);
  }

  #place(i) {
    const { columns, labels } = this.#index.sheet;
    const rows = Math.ceil(labels.length / columns);
    return `background-size: ${100 * columns}% ${100 * rows}%; background-position: ` +
      `${(100 * (i % columns)) / (columns - 1)}% ${(100 * Math.floor(i / columns)) / (rows - 1)}%`;
  }

  /** As before the first answer. */
  clear() {
    this.#seen.clear();
    this.#mended = null;
    this.#said = this.#tiles.map(() => -1);
    this.answered = this.right = 0;
    for (const tile of this.#tiles) tile.className = "";
    this.#describe();
  }

  /** Logits of n images from number `from` on, by one composition. */
  answers({ composition, from, n, logits }) {
    const { classes, sheet: { labels } } = this.#index;
    if (!this.#seen.has(composition)) this.#seen.set(composition, []);
    const seen = this.#seen.get(composition);
    for (let k = 0; k < n; k++) {
      const i = from + k;
      seen[i] = logits.slice(k * classes.length, (k + 1) * classes.length);
      const [said, before] = [argmax(seen[i]), this.#said[i]];
      this.#said[i] = said;
      if (said === before) continue;
      const right = said === labels[i];
      this.answered += before < 0;
      this.right += right - (before === labels[i]);
      if (right && before >= 0 && !this.#chosen && this.#mended !== composition) {
        this.#mended = composition; // one that was wrong until now is worth a look
        this.#look(i);
      }
      this.#tiles[i].className = `${right ? "pwl-demo-right" : "pwl-demo-wrong"}${before < 0 ? "" : " pwl-demo-new"}`;
    }
    this.#describe();
    if (this.#at >= from && this.#at < from + n) this.#look(this.#at);
  }

  #describe() {
    this.grid.setAttribute("aria-label", this.answered
      ? `${this.#tiles.length} test images: ${this.right} of ${this.answered} are classified correctly`
      : `${this.#tiles.length} test images, not classified yet`);
  }

  #choose(i) {
    this.#chosen = true;
    this.#look(i);
  }

  #at = 0;
  #look(i) {
    const { classes, sheet: { labels } } = this.#index;
    this.#tiles[this.#at].removeAttribute("data-shown");
    this.#tiles[i].setAttribute("data-shown", "");
    this.#at = i;
    this.#slider.value = i + 1;
    const truth = classes[labels[i]];
    this.#slider.setAttribute("aria-valuetext", `image ${i + 1}, a ${truth}`);
    this.#frame.setAttribute("style", this.#place(i));
    this.#frame.setAttribute("aria-label", `Image ${i + 1}, a ${truth}`);
    const rows = [...this.#seen].filter(([, logits]) => logits[i]).map(([composition, logits]) => {
      const p = probabilities(logits[i]);
      const best = argmax(p);
      return element("li", {}, element("b", {}, composition), ` ${best === labels[i] ? "✓" : "✗"} ${classes[best]} `,
        element("span", {}, `${Math.round(100 * p[best])} %`));
    });
    this.#detail.replaceChildren(element("li", {}, element("b", {}, `a ${truth}`), rows.length ? "" : ", not classified yet"), ...rows);
  }
}
