// Accuracy over time while weights arrive, and when the whole teacher alone would have answered for the first time.

import { element, time } from "./element.js";

const [HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [210, 46, 14, 12, 36];

/** A round step that divides a range into six parts at most. */
const step = (range) => [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500].find((s) => range / s <= 6) ?? range;

/**
 * points: [seconds, percent], in order; swaps: [seconds, composition]; compared: seconds of the usual way, or null;
 * teacher: percent that it has once it answers, if known; width: in pixels.
 */
export function chart(points, swaps, compared, teacher, what, width) {
  const end = 1.04 * Math.max(points.at(-1)?.[0] ?? 0, compared ?? 0, 0.5);
  const values = points.map(([, percent]) => percent);
  const low = Math.max(0, 10 * Math.floor(Math.min(...values, teacher ?? 100, 90) / 10) - 10);
  const x = (seconds) => LEFT + ((width - LEFT - RIGHT) * seconds) / end;
  const y = (percent) => TOP + ((HEIGHT - TOP - BOTTOM) * (100 - percent)) / (100 - low);
  const floor = y(low);
  const first = points[0]?.[0];
  const line = points.map(([seconds, percent]) => `H${x(seconds).toFixed(1)}V${y(percent).toFixed(1)}`).join("");
  const words = points.length ? `${what} over time: the first answer after ${time(swaps[0]?.[0] ?? first)}, now ${values.at(-1).toFixed(1)} %` +
    (compared ? `; the whole teacher first: ${time(compared)}` : "") : `${what} over time: nothing loaded yet`;
  const svg = element("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": words, class: "pwl-demo-chart" });
  const text = (px, py, anchor, content, name) => svg.append(element("text", { x: px, y: py, "text-anchor": anchor, class: name }, content));
  for (let percent = low; percent <= 100; percent += step(100 - low)) {
    svg.append(element("line", { class: "pwl-demo-grid", x1: LEFT, x2: width - RIGHT, y1: y(percent), y2: y(percent) }));
    text(LEFT - 6, y(percent) + 4, "end", percent === low ? "none" : `${percent} %`);
  }
  for (let k = 0; k * step(end) <= end; k++) text(x(k * step(end)), HEIGHT - 20, "middle", `${Number((k * step(end)).toFixed(1))} s`);
  text((LEFT + width) / 2, HEIGHT - 4, "middle", "since the first weight was asked for");
  if (compared) {
    const known = teacher === undefined ? "" : `V${y(teacher)}H${x(end)}`;
    svg.append(element("path", { class: "pwl-demo-usual", d: `M${x(0)},${floor}H${x(compared)}${known}` }));
    const room = x(compared) > LEFT + 150; // before the line, or else behind it
    text(x(compared) + (room ? -5 : 5), floor - 6, room ? "end" : "start", "the whole teacher first", "pwl-demo-usual-label");
  }
  if (points.length) svg.append(element("path", { class: "pwl-demo-curve", d: `M${x(first)},${floor}${line}H${x(Math.max(points.at(-1)[0], compared ?? 0))}` }));
  swaps.forEach(([seconds, composition], i) => {
    svg.append(element("line", { class: "pwl-demo-swap", x1: x(seconds), x2: x(seconds), y1: TOP, y2: floor }));
    if (!i || x(seconds) - x(swaps[i - 1][0]) > 40) text(x(seconds) + 3, floor - 22 - 13 * (i % 2), "start", composition, "pwl-demo-swap-label");
  });
  return svg;
}
