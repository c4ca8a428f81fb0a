// The view of StreamingView. Traces are in the model's state: they play without a kernel.
// What the reader has chosen and what is shown are two things: not every choice was recorded, and a kernel can run any.

const [WIDTH, HEIGHT, LEFT, BOTTOM] = [640, 230, 44, 34];
const FRAME = 40; // milliseconds
const PATIENCE = 4000; // milliseconds until the reader is told that no kernel answers
const [SLOWEST, FASTEST, STEPS] = [0.5e6, 50e6, 40]; // bytes per second at both ends of the slider, and its steps

export const linkName = (link) => (link >= 1e6 ? `${+(link / 1e6).toFixed(1)} MB/s` : `${Math.round(link / 1e3)} kB/s`);

/** The step of a trace that answers at a moment; null before the first. */
export function stepAt(trace, moment) {
  return trace.steps.filter(([seconds]) => seconds <= moment).at(-1) ?? null;
}

/** The slider counts in logarithms: from half a megabyte to one is as far as from 25 to 50. */
export const sliderStep = (link) => Math.round((STEPS * Math.log(link / SLOWEST)) / Math.log(FASTEST / SLOWEST));

/** Bytes per second at a step: what was recorded there exactly, else two digits. */
export function linkAt(step, recorded) {
  const exact = recorded.find((link) => sliderStep(link) === step);
  return exact ?? Number((SLOWEST * (FASTEST / SLOWEST) ** (step / STEPS)).toPrecision(2));
}

/** The number of the trace nearest to a choice: what was changed last counts most, then what else is equal, then the link. */
export function nearest(traces, choice, changed) {
  const likeness = (trace) => {
    const equal = ["link", "order", "fault"].filter((key) => trace[key] === choice[key]);
    return 1000 * equal.includes(changed) + 100 * equal.length - Math.abs(Math.log(trace.link / choice.link));
  };
  const all = traces.map(likeness);
  return all.indexOf(Math.max(...all));
}

const endOf = (trace) => 1.1 * Math.max(trace.teacher_only, trace.steps.at(-1)[0]);
const settingOf = ({ link, order, fault }) => ({ link, order, fault });

function render({ model, el }) {
  let timer = null; // while it plays
  let asked = null; // while the kernel is expected to say something
  let mine = false; // whether this view has asked for a run
  let kernel = false; // whether one has answered: without one nothing can be run
  let rate = null; // the slider of the link, once there is a kernel
  const { title, live, orders, faults } = model.get("data");
  const traces = () => model.get("data").traces;
  const trace = () => traces()[model.get("selected")] ?? traces()[0];
  let choice = settingOf(trace());

  const lists = {};
  const names = { link: linkName, order: String, fault: (kind) => (faults[kind] ? `${kind}: ${faults[kind]}` : kind) };
  const [linkBox, ...otherBoxes] = [["link", "Link"], ["order", "Order"], ["fault", "Fault"]].map(([key, label]) => {
    const select = (lists[key] = element("select", {
      onchange: () => choose(key, key === "link" ? Number(select.value) : select.value) }));
    offer(key, traces().map((t) => t[key]));
    return element("label", {}, label, select);
  });
  const run = element("button", { type: "button", class: "pwl-run", onclick: ask, disabled: "" }, "Run it for real");
  const why = element("span", { class: "pwl-why" }, "needs a running kernel: open this chapter in Jupyter or Colab");
  const play = element("button", { type: "button", class: "pwl-play", onclick: () => (timer ? pause() : start()) });
  const slider = element("input", { type: "range", min: 0, max: 1000, step: 1,
    oninput: () => { pause(); moveTo((slider.value / 1000) * endOf(trace())); } });
  const word = element("div", { class: "pwl-word", role: "img" });
  const facts = element("output", {});
  const shown = element("div", { class: "pwl-shown" });
  const say = element("div", { class: "pwl-say", role: "status", "aria-live": "polite" });
  const picture = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });

  /** Add values to a list, those that it does not have yet. */
  function offer(key, values) {
    const known = new Set(Array.from(lists[key].options, (option) => option.value));
    for (const value of new Set(values)) {
      if (!known.has(String(value))) lists[key].append(element("option", { value }, names[key](value)));
    }
  }
  function choose(key, value) {
    pause();
    const wanted = { ...choice, [key]: value };
    model.set("selected", nearest(traces(), wanted, key));
    choice = wanted;
    say.textContent = isShown() ? ""
      : `This setting was not recorded; what is shown comes nearest to it.${kernel ? " The button runs yours." : ""}`;
    moveTo(0);
    draw();
  }
  const isShown = () => Object.entries(choice).every(([key, value]) => trace()[key] === value);

  /** A kernel has answered: now there is more to choose from than what was recorded. */
  function welcome() {
    if (kernel) return;
    kernel = true;
    run.disabled = false;
    why.remove();
    offer("order", orders);
    offer("fault", Object.keys(faults));
    const links = () => traces().map(({ link }) => link);
    const steps = links().map(sliderStep);
    const input = element("input", { type: "range", min: Math.min(0, ...steps), max: Math.max(STEPS, ...steps), step: 1,
      oninput: () => choose("link", linkAt(Number(input.value), links())) });
    rate = { input, count: element("output", { class: "pwl-count" }) };
    linkBox.replaceWith(element("label", { class: "pwl-slide" }, "Link", input, rate.count));
    draw();
  }
  function tell(content) {
    try {
      model.send(content);
    } catch {
      // The connection is closed: nobody answers, which is said when the patience is over.
    }
  }
  function ask() {
    if (mine) return; // one at a time
    pause();
    mine = true;
    say.textContent = "Asking the kernel …";
    tell({ ask: "run", ...choice });
    asked = setTimeout(() => {
      mine = false;
      say.textContent = "No answer yet: the kernel is busy with other cells, or it has ended.";
    }, PATIENCE);
  }
  function hear(message) {
    if (message.state === "here") return welcome();
    clearTimeout(asked);
    say.textContent = {
      running: "Running on this machine …", done: "Just run on this machine.", failed: `It has failed: ${message.text}`,
    }[message.state] ?? "";
    if (message.state === "running") return;
    if (message.state === "done" && mine) start();
    mine = false;
  }
  /** Another trace was selected: by this view's own choice, which it keeps, or from outside, which it follows. */
  function follow() {
    if (!mine) choice = settingOf(trace());
    draw();
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
      ...[0, 1, 2, 3, 4].flatMap((k) => {
        const [seconds, percent] = [(end * k) / 4, low + ((high - low) * k) / 4];
        const anchor = k === 4 ? "end" : "middle";
        return [
          element("text", { x: x(seconds), y: HEIGHT - 16, "text-anchor": anchor }, `${seconds.toFixed(round + 1)} s`),
          element("line", { class: "pwl-axis", x1: LEFT, x2: WIDTH - 12, y1: y(percent), y2: y(percent) }),
          element("text", { x: LEFT - 6, y: y(percent) + 4, "text-anchor": "end" }, `${percent.toFixed(0)} %`),
        ];
      }),
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
    shown.textContent = `Shown: ${linkName(t.link)}, order ${t.order}, ${t.fault === "none" ? "no fault" : `fault ${t.fault}`}`;
    shown.classList.toggle("pwl-other", !isShown());
    for (const [key, select] of Object.entries(lists)) {
      offer(key, [choice[key]]);
      select.value = String(choice[key]);
    }
    if (!rate) return;
    rate.input.value = sliderStep(choice.link);
    rate.count.textContent = linkName(choice.link);
    rate.input.setAttribute("aria-valuetext", rate.count.textContent);
  }

  const handlers = { "change:data": draw, "change:moment": draw, "change:selected": follow, "msg:custom": hear };
  for (const [event, handler] of Object.entries(handlers)) model.on(event, handler);
  label();
  el.append(element("div", { class: "pwl-view pwl-stream" },
    element("div", { class: "pwl-title" }, title),
    element("div", { class: "pwl-controls" }, linkBox, ...otherBoxes),
    live ? element("div", { class: "pwl-controls" }, run, why) : null,
    element("div", { class: "pwl-controls" }, word, facts),
    shown,
    picture,
    element("div", { class: "pwl-controls" }, play, element("label", { class: "pwl-slide" }, "Time", slider)),
    say));
  draw();
  if (live) tell({ ask: "hello" }); // answered where there is a kernel, as soon as it has time
  return () => {
    clearInterval(timer);
    clearTimeout(asked);
    for (const [event, handler] of Object.entries(handlers)) model.off(event, handler);
  };
}

export default { render };
