// Pictures to classify: the reader's own, or some drawn here. They stay in the page.

import { element, probabilities } from "./element.js";

const SIDE = 256; // of what is shown; the network gets it reduced to its own size

const polygon = (context, colour, ...points) => {
  context.fillStyle = colour;
  context.beginPath();
  for (let i = 0; i < points.length; i += 2) context.lineTo(points[i], points[i + 1]);
  context.fill();
};
const box = (context, colour, x, y, right, bottom) => polygon(context, colour, x, y, right, y, right, bottom, x, bottom);
const ball = (context, colour, x, y, across, down = across) => {
  context.fillStyle = colour;
  context.beginPath();
  context.ellipse(x, y, across, down, 0, 0, 2 * Math.PI);
  context.fill();
};
const ground = (context, top, bottom) => {
  const shades = context.createLinearGradient(0, 0, 0, SIDE);
  shades.addColorStop(0, top);
  shades.addColorStop(1, bottom);
  context.fillStyle = shades;
  context.fillRect(0, 0, SIDE, SIDE);
};

const EXAMPLES = {
  ship(c) {
    ground(c, "#96b9e1", "#d7e1eb");
    box(c, "#285078", 0, 165, SIDE, SIDE);
    polygon(c, "#2d2d3c", 25, 150, 235, 150, 205, 195, 55, 195);
    box(c, "#b4322d", 27, 150, 233, 158);
    box(c, "#f0f0f0", 80, 112, 185, 150);
    box(c, "#ebebeb", 105, 88, 160, 112);
    box(c, "#c83c32", 120, 55, 142, 88);
    for (let x = 88; x < 180; x += 16) box(c, "#3c506e", x, 122, x + 8, 132);
  },
  airplane(c) {
    ground(c, "#5a96d7", "#bed7f0");
    polygon(c, "#ebeef2", 20, 140, 50, 120, 205, 112, 240, 125, 205, 140, 60, 150);
    polygon(c, "#aab2be", 105, 128, 140, 128, 95, 205, 75, 205);
    polygon(c, "#bec6d0", 115, 118, 140, 116, 120, 70, 105, 70);
    polygon(c, "#3c5aa0", 30, 128, 55, 122, 40, 78, 22, 78);
  },
  car(c) {
    ground(c, "#b9cde1", "#e1e6e6");
    box(c, "#6e6e70", 0, 170, SIDE, SIDE);
    polygon(c, "#c82323", 20, 140, 65, 132, 95, 95, 170, 95, 205, 132, 238, 142, 238, 182, 20, 182);
    polygon(c, "#3c5064", 78, 132, 100, 103, 130, 103, 130, 132);
    polygon(c, "#3c5064", 138, 132, 138, 103, 166, 103, 190, 132);
    for (const x of [70, 190]) (ball(c, "#19191c", x, 184, 26), ball(c, "#aaaaaf", x, 184, 12));
  },
  truck(c) {
    ground(c, "#aac8e6", "#e1e6e6");
    box(c, "#73706c", 0, 180, SIDE, SIDE);
    box(c, "#f0f0ee", 15, 60, 165, 170);
    box(c, "#285aaa", 165, 95, 235, 170);
    box(c, "#3c4655", 190, 105, 228, 132);
    box(c, "#323237", 15, 170, 235, 182);
    for (const x of [50, 95, 200]) (ball(c, "#19191c", x, 184, 22), ball(c, "#a0a0a5", x, 184, 9));
  },
  frog(c) {
    ground(c, "#785f3c", "#5f4b2d");
    ball(c, "#508c32", 130, 152, 80, 62);
    ball(c, "#5f9b3c", 130, 100, 45, 40);
    for (const x of [95, 165]) (ball(c, "#6ea546", x, 66, 18), ball(c, "#14140f", x, 66, 9, 10));
    for (const x of [60, 200]) ball(c, "#467d2d", x, 192, 30, 32);
    ball(c, "#bec88c", 130, 172, 35, 32);
  },
};

/** Any image or canvas, its middle square, reduced by halves so that every pixel counts: a canvas of `side` pixels. */
export function reduced(source, width, height, side) {
  const square = Math.min(width, height);
  let canvas = source;
  let [x, y, size] = [(width - square) / 2, (height - square) / 2, square];
  do {
    const next = Math.max(side, Math.floor(size / 2));
    const smaller = element("canvas", { width: next, height: next });
    const context = smaller.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingQuality = "high";
    context.fillStyle = "#fff"; // behind what is transparent
    context.fillRect(0, 0, next, next);
    context.drawImage(canvas, x, y, size, size, 0, 0, next, next);
    [canvas, x, y, size] = [smaller, 0, 0, next];
  } while (size > side);
  return canvas;
}

export class Pictures {
  #index;
  #chosen;
  #large = element("canvas", { width: SIDE, height: SIDE, role: "img" });
  #small;
  #said = element("ol", { class: "pwl-demo-bars" });
  #spoken = element("p", { class: "pwl-demo-answer", "aria-live": "polite" }, "not classified yet");
  #problem = element("p", { class: "pwl-demo-problem", role: "alert" });
  /** RGBA pixels as the network gets them. */
  pixels;

  /** `chosen(pixels)` is called with RGBA pixels of the network's size. */
  constructor(index, chosen) {
    this.#index = index;
    this.#chosen = chosen;
    const side = index.input_shape[1];
    this.#small = element("canvas", { width: side, height: side, role: "img", "aria-label": `the same in ${side} × ${side} pixels, as the network gets it` });
    const file = element("input", { type: "file", accept: "image/*", onchange: () => file.files.length && this.#read(file.files[0]) });
    const buttons = Object.keys(EXAMPLES).map((name) => element("button", { type: "button", onclick: () => this.#draw(name) }, name));
    const drop = element("div", { class: "pwl-demo-drop",
      ondragover: (event) => (event.preventDefault(), drop.classList.add("pwl-demo-over")),
      ondragleave: () => drop.classList.remove("pwl-demo-over"),
      ondrop: (event) => {
        event.preventDefault();
        drop.classList.remove("pwl-demo-over");
        if (event.dataTransfer.files.length) this.#read(event.dataTransfer.files[0]);
      } },
      element("label", {}, "Drop a picture here, or choose one: ", file),
      element("div", { class: "pwl-demo-row" }, "or take one drawn by code:", ...buttons), this.#problem);
    this.node = element("div", { class: "pwl-demo-pictures" }, drop,
      element("div", { class: "pwl-demo-closer" }, this.#large, this.#small, element("div", {}, this.#spoken, this.#said)),
      element("p", { class: "pwl-demo-small" }, `The network knows ${index.classes.length} classes: ${index.classes.join(", ")}. ` +
        "Whatever it sees, it says one of these. Your picture stays in this page; it is sent nowhere."));
    this.#draw("ship");
  }

  #draw(name) {
    const canvas = element("canvas", { width: SIDE, height: SIDE });
    EXAMPLES[name](canvas.getContext("2d"));
    this.#show(canvas, SIDE, SIDE, `a ${name}, drawn by code`);
  }

  async #read(file) {
    try {
      const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
      this.#show(bitmap, bitmap.width, bitmap.height, `your picture ${file.name}`);
    } catch {
      this.#problem.textContent = `${file.name} cannot be read as a picture: expected a PNG, JPEG, WebP or GIF.`;
    }
  }

  #show(source, width, height, name) {
    this.#problem.textContent = "";
    const [, rows, columns] = this.#index.input_shape;
    const small = reduced(source, width, height, rows);
    const square = Math.min(width, height);
    this.#large.getContext("2d").drawImage(source, (width - square) / 2, (height - square) / 2, square, square, 0, 0, SIDE, SIDE);
    this.#large.setAttribute("aria-label", name);
    this.#small.getContext("2d").drawImage(small, 0, 0);
    this.pixels = small.getContext("2d").getImageData(0, 0, columns, rows).data;
    this.clear();
    this.#chosen(this.pixels);
  }

  clear() {
    this.#spoken.textContent = "not classified yet";
    this.#said.replaceChildren();
  }

  answers({ composition, logits }) {
    const p = probabilities(logits);
    const ranked = p.map((value, k) => [value, k]).sort((a, b) => b[0] - a[0]).slice(0, 4);
    const answer = `${composition} says: ${this.#index.classes[ranked[0][1]]}`;
    if (this.#spoken.textContent !== answer) this.#spoken.textContent = answer; // read aloud only when it changes
    this.#said.replaceChildren(...ranked.map(([value, k]) => element("li", { style: `--share: ${value}` },
      element("span", {}, this.#index.classes[k]), element("span", {}, `${Math.round(100 * value)} %`))));
  }
}
