// The view of StreamingView. Traces are in the model's state: they play without a kernel.

const [WIDTH, HEIGHT, LEFT, BOTTOM] = [640, 230, 44, 34];
const FRAME = 40; // milliseconds

export const linkName = (link) => (link >= 1e6 ? `${+(link / 1e6).toFixed(1)} MB/s` : `${Math.round(link / 1e3)} kB/s`);

/** The step of a trace that answers at a moment; null before the first. */
export function stepAt(trace, moment) {
  return trace.steps.filter(([seconds]) => seconds <= moment).at(-1) ?? null;
}

const endOf = (trace) => 1.1 * Math.max(trace.teacher_only, trace.steps.at(-1)[0]);

function render({ model, el }) {
  let timer = null;
  let asked = null;
  const { title, live } = model.get("data");
  const traces = () => model.get("data").traces;
  const trace = () => traces()[model.get("selected")] ?? traces()[0];
  const values = (key) => [...new Set(traces().map((t) => t[key]))];

  const selects = {};
  const choosers = [["link", "Link", linkName], ["order", "Order", String], ["fault", "Fault", String]].map(([key, label, name]) => {
    selects[key] = element("select", { onchange: pick });
    for (const value of values(key)) selects[key].append(element("option", { value }, name(value)));
    return element("label", {}, label, selects[key]);
  });
  const play = element("button", { type: "button", class: "pwl-play", onclick: () => (timer ? pause() : start()) });
  const slider = element("input", { type: "range", min: 0, max: 1000, step: 1, "aria-label": "Time",
    oninput: () => { pause(); moveTo((slider.value / 1000) * endOf(trace())); } });
  const run = element("button", { type: "button", class: "pwl-run", onclick: ask }, "Run it for real");
  const word = element("div", { class: "pwl-word", role: "img" });
  const facts = element("output", {});
  const say = element("div", { class: "pwl-say", role: "status", "aria-live": "polite" });
  const picture = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });

  function pick(event) {
    pause();
    const wanted = (t) => Object.entries(selects).every(([key, select]) => String(t[key]) === select.value);
    let index = traces().findIndex(wanted);
    if (index < 0) {
      // not every combination was recorded: keep what was just chosen, take the first trace that has it
      const key = Object.keys(selects).find((k) => selects[k] === event.target);
      index = traces().findIndex((t) => String(t[key]) === selects[key].value);
      say.textContent = live ? "This combination was not recorded; the nearest one is shown. “Run it for real” needs a running kernel." : "";
    } else say.textContent = "";
    model.set("selected", index);
    moveTo(0);
  }
  function ask() {
    pause();
    say.textContent = "Asking the kernel …";
    model.send(Object.fromEntries(Object.entries(selects).map(([key, select]) => [key, select.value])));
    asked = setTimeout(() => { say.textContent = "No kernel answers: these pages play recorded runs. Open the chapter in Jupyter to run it."; }, 2000);
  }
  function moveTo(moment) {
    model.set("moment", moment);
    model.save_changes();
  }
  function start() {
    let moment = model.get("moment") >= endOf(trace()) - 1e-6 ? 0 : model.get("moment");
    const speed = Math.max(1, endOf(trace()) / 8); // long loads are played faster: in eight seconds
    timer = setInterval(() => {
      moment = Math.min(endOf(trace()), moment + (speed * FRAME) / 1000);
      if (moment >= endOf(trace())) pause();
      moveTo(moment);
    }, FRAME);
    label();
  }
  function pause() {
    clearInterval(timer);
    timer = null;
    label();
  }
  const label = () => { play.textContent = timer ? "❚❚ Pause" : "▶ Play"; };

  function draw() {
    const t = trace();
    const end = endOf(t);
    const accuracies = t.steps.map((step) => step[2]);
    const low = Math.floor(Math.min(...accuracies) - 2);
    const high = Math.ceil(Math.max(...accuracies) + 1);
    const x = (seconds) => LEFT + ((WIDTH - LEFT - 12) * seconds) / end;
    const y = (percent) => HEIGHT - BOTTOM - ((HEIGHT - BOTTOM - 12) * (percent - low)) / (high - low);
    const floor = HEIGHT - BOTTOM;
    let d = `M${x(t.steps[0][0])},${floor}`;
    t.steps.forEach(([seconds, , percent], i) => { d += `${i ? `H${x(seconds)}` : ""}V${y(percent)}`; });
    const teacher = accuracies.at(-1);
    const now = model.get("moment");
    const answering = stepAt(t, now);
    const round = end > 5 ? 0 : 1;
    picture.replaceChildren(
      element("title", {}, `Accuracy over time: first answer after ${t.steps[0][0].toFixed(2)} s, teacher complete after ` +
        `${t.steps.at(-1)[0].toFixed(2)} s; the teacher alone would answer after ${t.teacher_only.toFixed(2)} s`),
      ...[0, 1, 2, 3, 4].flatMap((k) => [
        element("text", { x: x((end * k) / 4), y: HEIGHT - 16, "text-anchor": k === 4 ? "end" : "middle" }, `${((end * k) / 4).toFixed(round + 1)} s`),
        element("line", { class: "pwl-axis", x1: LEFT, x2: WIDTH - 12, y1: y(low + ((high - low) * k) / 4), y2: y(low + ((high - low) * k) / 4) }),
        element("text", { x: LEFT - 6, y: y(low + ((high - low) * k) / 4) + 4, "text-anchor": "end" }, `${(low + ((high - low) * k) / 4).toFixed(0)} %`),
      ]),
      element("path", { class: "pwl-alone", d: `M${LEFT},${floor}H${x(t.teacher_only)}V${y(teacher)}H${x(end)}` }),
      element("path", { class: "pwl-curve", d: `${d}H${x(end)}` }),
      ...t.notes.map(([seconds]) => element("circle", { class: "pwl-note", cx: x(seconds), cy: floor - 6, r: 4 })),
      element("line", { class: "pwl-now", x1: x(now), x2: x(now), y1: 8, y2: floor }),
      element("text", { x: x(t.teacher_only) + 4, y: floor - 14 }, "teacher alone"),
    );
    const letters = (answering ? answering[1] : "-".repeat(t.steps[0][1].length)).split("");
    word.replaceChildren(...letters.map((letter) => element("span", { class: `pwl-${letter}` }, letter)));
    word.setAttribute("aria-label", answering ? `composition ${answering[1]}` : "no answer yet");
    facts.textContent = answering
      ? `${now.toFixed(2)} s: ${answering[1]} answers, ${answering[2].toFixed(1)} % right`
      : `${now.toFixed(2)} s: no answer yet`;
    const trouble = t.notes.filter(([seconds]) => seconds <= now).at(-1);
    if (trouble) say.textContent = `${trouble[0].toFixed(2)} s: ${trouble[1]}`;
    slider.value = Math.round((1000 * now) / end);
    slider.setAttribute("aria-valuetext", facts.textContent);
    for (const [key, select] of Object.entries(selects)) {
      const value = String(t[key]);
      if (![...select.options].some((option) => option.value === value)) select.append(element("option", { value }, value));
      select.value = value;
    }
  }

  model.on("change:data change:selected change:moment", draw);
  model.on("msg:custom", (message) => {
    clearTimeout(asked);
    say.textContent = { running: "Running on this machine …", done: "Just run on this machine.", failed: message.text }[message.state] ?? "";
    if (message.state === "done") start();
  });
  label();
  el.append(element("div", { class: "pwl-view pwl-stream" },
    element("div", { class: "pwl-title" }, title),
    element("div", { class: "pwl-row" }, ...choosers, ...(live ? [run] : [])),
    element("div", { class: "pwl-row" }, word, facts),
    picture,
    element("div", { class: "pwl-row" }, play, slider),
    say));
  draw();
  return () => pause();
}

export default { render };
