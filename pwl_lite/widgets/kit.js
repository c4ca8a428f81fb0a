// What all views of the book share. Their scripts follow it in one module: see kit.py.

const SVG = "http://www.w3.org/2000/svg";
const DRAWN = ["svg", "path", "line", "circle", "text", "polygon", "g", "title"];

/** A new node of HTML or SVG. Attributes that begin with "on" are listeners; undefined ones and empty children are left out. */
function element(tag, attributes = {}, ...children) {
  const node = DRAWN.includes(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

