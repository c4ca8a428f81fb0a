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

/** Serious and critical violations that axe-core finds, one line each with its first place. */
globalThis.violations = async (colours) => {
  const dark = { runOnly: { type: "rule", values: ["color-contrast", "link-in-text-block"] } };
  const result = await axe.run(document, { resultTypes: ["violations"], ...(colours === "dark" ? dark : {}) });
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

/** Figures of cells whose ground would shine through in dark mode. */
globalThis.darkFigures = () =>
  [...document.querySelectorAll(".cell_output .output img, .cell_output > img")]
    .filter((img) => shown(img) && getComputedStyle(img).backgroundColor !== "rgb(255, 255, 255)")
    .map((img) => `a figure without its white ground: ${img.alt.slice(0, 60)}`);

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
let before = null;
const state = (element) =>
  element.tagName === "SUMMARY" ? element.parentElement.open : element.ariaValueNow ?? element.value ?? element.textContent;

/** How many controls the article shows. */
globalThis.collectControls = () => {
  controls = [...document.querySelectorAll("article :is(" + CONTROLS + ")")].filter((e) => shown(e) && !e.disabled);
  for (const control of controls) control.addEventListener("click", () => (control.dataset.clicked = "yes"));
  return controls.length;
};

/** Give a control the focus; its kind, or null if it is not shown any more. */
globalThis.focusControl = (i) => {
  const control = controls[i];
  if (!control.isConnected || !shown(control) || control.disabled) return null;
  control.focus();
  before = state(control);
  delete control.dataset.clicked;
  if (control.role === "slider" || control.type === "range") return "slider";
  if (control.tagName === "SELECT") return "select";
  return control.isContentEditable || control.matches("input, textarea") ? "text" : "button";
};

/** Whether the last key changed the control that has the focus, or was taken as a click. */
globalThis.hasWorked = (i) => {
  const control = controls[i];
  if (control.isContentEditable || control.matches("input:not([type=range]), textarea")) return document.activeElement === control;
  return state(control) !== before || control.dataset.clicked === "yes";
};

globalThis.isFocused = (i) => document.activeElement === controls[i];
globalThis.nameOf = (i) => brief(controls[i]);
