// Small helpers for what the page shows.

const SVG = new Set(["svg", "path", "line", "circle", "text", "title"]);

/** A node with attributes (those that begin with `on` are listeners) and children. */
export function element(tag, attributes = {}, ...children) {
  const node = SVG.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Bytes in words: 35 kB, 4.6 MB. */
export function amount(bytes) {
  if (bytes >= 1e6) return `${(bytes / 1e6).toFixed(1)} MB`;
  return bytes >= 1e3 ? `${Math.round(bytes / 1e3)} kB` : `${bytes} bytes`;
}

export const time = (seconds) => `${seconds < 10 ? seconds.toFixed(2) : seconds.toFixed(1)} s`;

/** Softmax of one image's logits. */
export function probabilities(logits) {
  const top = Math.max(...logits);
  const raised = Array.from(logits, (x) => Math.exp(x - top));
  const sum = raised.reduce((a, b) => a + b, 0);
  return raised.map((x) => x / sum);
}

export const argmax = (values) => values.indexOf(Math.max(...values));
