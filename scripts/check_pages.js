// What check_pages.py asks of a page, in the page itself.

const CONTROLS = "button, select, summary, input, textarea, [role=slider], [role=button], [role=tab], [contenteditable=true]";
const shown = (element) => element.checkVisibility({ visibilityProperty: true }) && element.getClientRects().length > 0;
const brief = (element) => element.outerHTML.replace(/\s+/g, " ").slice(0, 120);

/** Whether all widgets, formulas and letters are there. */
globalThis.pageReady = () => {
  const places = [...document.querySelectorAll(".widget-subarea")];
  const drawn = places.every((place) => place.querySelector(".jupyter-widgets, .lm-Widget"));
  const formulas = [...document.querySelectorAll("article .math")].every((m) => m.querySelector("mjx-container"));
  const named = [...document.querySelectorAll(".noUi-handle, .widget-dropdown select")].every((c) => c.ariaLabel);
  const icons = !document.querySelector(".theme-switch-button :is(i, svg:not([aria-hidden]))"); // drawn, and mended by names.js
  return document.readyState === "complete" && document.fonts.status === "loaded" && drawn && formulas && named && icons;
};

let unfolded = [];
const FOLDED = {
  "details:not([open])": (element, folded) => (element.open = !folded),
  ".toggle-hidden": (element, folded) => element.classList.toggle("toggle-hidden", folded),
};

/** Unfold solutions, folded cells and whatever else a reader can unfold. */
globalThis.unfold = async () => {
  unfolded = Object.entries(FOLDED).flatMap(([selector, set]) => [...document.querySelectorAll(selector)].map((e) => [e, set]));
  for (const [element, set] of unfolded) set(element, false);
  // Scripts of the page may follow: the theme waits 300 ms before it looks for what can be scrolled.
  if (unfolded.length) await new Promise((resolve) => setTimeout(resolve, 500));
};

/** As it was before. */
globalThis.foldAgain = () => {
  for (const [element, set] of unfolded) set(element, true);
};

/** Serious and critical violations that axe-core finds, one line each with its first place; in a look that starts with "dark" of colours. */
globalThis.violations = async (look) => {
  const dark = { runOnly: { type: "rule", values: ["color-contrast", "link-in-text-block"] } };
  const result = await axe.run(document, { resultTypes: ["violations"], ...(look.startsWith("dark") ? dark : {}) });
  return result.violations
    .filter((v) => v.impact === "serious" || v.impact === "critical")
    .map((v) => `${v.impact} ${v.id} in ${v.nodes.length} places, such as ${v.nodes[0].html.replace(/\s+/g, " ").slice(0, 160)}`);
};

/** What sticks out of the page on the right and makes it scroll sideways. */
globalThis.tooWide = () => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  const clipped = (element) => {
    for (let p = element.parentElement; p && p !== document.body; p = p.parentElement)
      if (getComputedStyle(p).overflowX !== "visible" || getComputedStyle(p).position === "fixed") return true;
    return getComputedStyle(element).position === "fixed";
  };
  const out = [...document.querySelectorAll("body *")].filter((e) => shown(e) && e.getBoundingClientRect().right > width + 1 && !clipped(e));
  return [`${document.documentElement.scrollWidth} pixels; ${out.slice(0, 3).map(brief).join(" and ") || "nothing visible"}`];
};

const channels = (colour) => colour.match(/[\d.]+/g)?.map(Number) ?? [0, 0, 0, 0];
/** Relative luminance of a colour, as WCAG defines it. */
const luminance = (colour) => {
  const [r, g, b] = channels(colour).map((c) => (c <= 10.3 ? c / 3294.6 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
/** The ground that an element stands on: that of its nearest parent that has one. */
const ground = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const colour = getComputedStyle(e).backgroundColor;
    if ((channels(colour)[3] ?? 1) > 0.5) return colour; // one that hardly covers is none
  }
  return "rgb(255, 255, 255)";
};
const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);

/** Figures of cells whose ground would shine through in dark mode, and drawings in views that do not follow the page. */
globalThis.darkFigures = () => [
  ...[...document.querySelectorAll(".cell_output .output img, .cell_output > img")]
    .filter((img) => shown(img) && getComputedStyle(img).backgroundColor !== "rgb(255, 255, 255)")
    .map((img) => `a figure without its white ground: ${img.alt.slice(0, 60)}`),
  ...[...document.querySelectorAll(".pwl-view svg")].filter(shown).flatMap((svg) => {
    const page = luminance(ground(svg.closest(".pwl-view")));
    if (contrast(luminance(ground(svg)), page) > 1.5) return [`a drawing on a ground of its own: ${brief(svg)}`];
    const text = [...svg.querySelectorAll("text:not([fill])")].find((t) => contrast(luminance(getComputedStyle(t).fill), page) < 4.5);
    return text ? [`hardly readable in a drawing: ${brief(text)}`] : [];
  }),
];

/** What shows a hand to the mouse, and is no control and not part of one. Points of a curve and
 * pictures of a sheet may be short cuts to a slider beside them. */
globalThis.onlyClickable = () =>
  [...document.querySelectorAll("article *")]
    .filter((e) => !(e.ownerSVGElement && e.closest(".jupyter-widgets, .pwl-picker, .pwl-stream")?.querySelector("input[type=range]")))
    .filter((e) => !(e.matches(".pwl-demo-tiles") && e.closest(".pwl-demo-sheet")?.querySelector("input[type=range]")))
    .filter((e) => shown(e) && getComputedStyle(e).cursor === "pointer" && !e.closest(`${CONTROLS}, a[href], label, .noUi-target`))
    .filter((e) => getComputedStyle(e.parentElement).cursor !== "pointer")
    .map(brief);

let controls = [];
const met = new WeakSet();
let before = null;
let changed = false;
let observer = null;
const ANSWERS_WITHIN = 1000; // milliseconds
// What goes on by itself once it has been pressed comes last: it would seem to be the answer of what is pressed after it.
const GOES_ON = ".pwl-play, .pwl-run, .pwl-demo-start";
const state = (element) =>
  element.tagName === "SUMMARY" ? element.parentElement.open : element.ariaValueNow ?? element.value ?? element.textContent;
/** Where it is seen what a control does: its view, or else what it stands in (a copy button: one listing). */
const placeOf = (control) => control.closest(".widget-subarea, .pwl-view, .pwl-demo") ?? control.parentElement;

/** Take the controls that the article shows and that were not taken before; how many. To be called until there are none left:
 * a control may bring others. */
globalThis.collectControls = () => {
  const every = [...document.querySelectorAll("article :is(" + CONTROLS + ")")];
  const found = every.filter((e) => shown(e) && !e.disabled && !met.has(e));
  const quiet = found.filter((e) => !e.matches(GOES_ON));
  controls = quiet.length ? quiet : found;
  controls.forEach((e) => met.add(e));
  return controls.length;
};

/** Give a control the focus; its kind, or null if it is not shown any more. */
globalThis.focusControl = (i) => {
  const control = controls[i];
  if (!control.isConnected || !shown(control) || control.disabled) return null;
  control.focus();
  before = { value: state(control), address: location.href, focused: document.activeElement === control };
  changed = false;
  observer?.disconnect();
  observer = new MutationObserver(() => (changed = true));
  observer.observe(placeOf(control), { subtree: true, childList: true, attributes: true, characterData: true });
  if (control.role === "slider" || control.type === "range") return "slider";
  if (control.tagName === "SELECT") return "select";
  return control.isContentEditable || control.matches("input, textarea") ? "text" : "button";
};

/**
 * Whether the last key had an effect that can be observed, soon: something changes in the control's place, or in itself, the
 * focus moves, or the address changes. That a click arrives is not enough, nor that the browser moves its own slider.
 */
globalThis.hasWorked = async (i) => {
  const control = controls[i];
  // Fields for text and for files only take the focus: what they do waits for words, or for a dialog of the system.
  if (control.isContentEditable || control.matches("input:not([type=range]), textarea")) return document.activeElement === control;
  const own = control.matches("input, select"); // the browser changes their value whether anybody listens or not
  const started = performance.now();
  for (;;) {
    const moved = (before.focused && document.activeElement !== control) || location.href !== before.address;
    if (changed || moved || (!own && state(control) !== before.value)) return true;
    if (performance.now() - started > ANSWERS_WITHIN) return false;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
};

globalThis.isFocused = (i) => document.activeElement === controls[i];
globalThis.nameOf = (i) => brief(controls[i]);
