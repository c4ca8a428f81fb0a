// The view of FrameView: prepared frames, one for each choice of the controls. Sliders and lists are the browser's own, so arrow
// keys, Home and End, touch and screen readers work as everywhere.

/** Which frame belongs to a choice of each control: the last control counts fastest. */
export function frameOf(controls, chosen) {
  return controls.reduce((index, { values }, k) => index * values.length + chosen[k], 0);
}

function render({ model, el }) {
  const { title, controls, frames, frame_of } = model.get("data"); // frame_of: number of each choice's frame, if some are equal
  const shown = element("div", { class: "pwl-frame", role: "group", "aria-live": "polite" });
  const inputs = controls.map(({ label, values, slider }, k) => {
    const set = (value) => {
      model.set("chosen", model.get("chosen").map((old, i) => (i === k ? Number(value) : old)));
      model.save_changes();
    };
    if (slider) {
      const input = element("input", { type: "range", min: 0, max: values.length - 1, step: 1, oninput: () => set(input.value) });
      const count = element("output", { class: "pwl-count" });
      return { node: element("label", { class: "pwl-slide" }, label, input, count), input, count };
    }
    const options = values.map((value, i) => element("option", { value: i }, value));
    const input = element("select", { onchange: () => set(input.value) }, ...options);
    return { node: element("label", {}, label, input), input };
  });
  function draw() {
    const chosen = model.get("chosen");
    inputs.forEach(({ input, count }, k) => {
      input.value = chosen[k];
      if (!count) return;
      count.textContent = controls[k].values[chosen[k]];
      input.setAttribute("aria-valuetext", count.textContent);
    });
    const choice = frameOf(controls, chosen);
    shown.innerHTML = frames[frame_of ? frame_of[choice] : choice];
    shown.setAttribute("aria-label", controls.map(({ label, values }, k) => `${label}: ${values[chosen[k]]}`).join(", "));
  }
  el.classList.add("pwl-view", "pwl-frames");
  if (title) el.append(element("div", { class: "pwl-title" }, title));
  el.append(element("div", { class: "pwl-controls" }, ...inputs.map(({ node }) => node)), shown);
  model.on("change:chosen", draw);
  draw();
  return () => model.off("change:chosen", draw);
}

export default { render };
