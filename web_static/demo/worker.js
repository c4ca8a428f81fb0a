// Everything that takes time happens here, so that the page never waits: loading, compiling, answering.

import { Engine } from "./engine.js";
import { Link } from "./link.js";
import { startRuntime } from "./runtime.js";

const BATCH = 20; // images at once
const PAUSE = 25; // milliseconds between two batches: this shows that it goes on answering, it is no test of speed

const link = new Link();
let runtime = null;
let engine = null;
let rival = null; // loads the whole teacher first, for comparison
let images = null; // { data: Float32Array, normalised; n }
let loading = false;
let answering = false;

const say = (event, about = {}) => postMessage({ event, ...about });
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const some = ({ data, n }, from, count) => data.slice((from * data.length) / n, ((from + count) * data.length) / n);

/** RGBA pixels of n images one after the other -> numbers as the networks expect them. */
function normalised(pixels, n, { mean, std, input_shape: [channels, height, width] }) {
  const size = height * width;
  const data = new Float32Array(n * channels * size);
  for (let image = 0; image < n; image++)
    for (let c = 0; c < channels; c++)
      for (let i = 0; i < size; i++)
        data[(image * channels + c) * size + i] = (pixels[4 * (image * size + i) + c] / 255 - mean[c]) / std[c];
  return { data, n };
}

/** The images of a sheet. */
async function sheetImages(root, index) {
  const { file, columns, labels } = index.sheet;
  const [, height, width] = index.input_shape;
  const response = await fetch(new URL(file, root));
  if (!response.ok) throw new Error(`HTTP ${response.status} for the test images`);
  const bitmap = await createImageBitmap(await response.blob(), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const pixels = new Uint8ClampedArray(labels.length * height * width * 4);
  labels.forEach((_, i) => {
    const [x, y] = [(i % columns) * width, Math.floor(i / columns) * height];
    pixels.set(context.getImageData(x, y, width, height).data, i * height * width * 4);
  });
  return normalised(pixels, labels.length, index);
}

/** The comparison ends without a result: this one, if it has not ended yet. */
function giveUp(text, comparing = rival) {
  if (!comparing || comparing !== rival) return;
  rival = null;
  comparing.close();
  say("uncompared", { text });
}

/** Classify the images over and over by whatever is serving; rest when nothing changes any more. */
async function answer() {
  if (answering) return; // one loop is enough: it looks afresh at engine and images before every batch
  answering = true;
  let [of, by, at, done] = [null, null, 0, 0]; // which images, by which composition, the next one, how many so far
  while (engine?.serving && images) {
    const [mine, shown, { composition, names }] = [engine, images, engine.serving];
    if (shown !== of) at = 0;
    if (shown !== of || composition !== by) [of, by, done] = [shown, composition, 0];
    if (!loading && done >= shown.n) break;
    const n = Math.min(BATCH, shown.n - at);
    const begun = performance.now();
    const logits = await mine.run(names, some(shown, at, n), n).catch((error) => {
      if (mine === engine) say("broken", { text: error.message }); // else it was closed meanwhile
    });
    if (logits && mine === engine && shown === images) say("answers", { composition, from: at, n, logits, ms: (performance.now() - begun) / n });
    [at, done] = [(at + n) % shown.n, done + n];
    await sleep(PAUSE);
  }
  answering = false;
}

const calls = {
  /** From nothing: the runtime if it is not there yet, the images, then a link that is timed from `begun` on. */
  async start({ vendor, root, index, pixels }) {
    for (const old of [engine, rival]) old?.close();
    engine = rival = null;
    const given = index.sheet ? sheetImages(root, index) : normalised(pixels, 1, index);
    given.catch?.(() => {}); // said below, where it is waited for
    if (!runtime) {
      runtime = await startRuntime(vendor);
      const { bytes, seconds, way } = runtime;
      say("runtime", { bytes, seconds, way });
    }
    images = await given;
    const begun = performance.now();
    const mine = new Engine(runtime.ort, link, root, index, async (event, about) => {
      if (mine !== engine) return;
      if (event === "bytes" && about.bytes) giveUp("other parts came over the same link meanwhile");
      if (event === "swap" && !answered) {
        answered = true;
        await mine.run(mine.serving.names, some(images, 0, 1), 1);
      }
      say(event, { ...about, seconds: (performance.now() - begun) / 1000 });
      if (event === "swap") answer();
    });
    let answered = false;
    engine = mine;
    say("begun");
  },
  /** Load until exactly these teacher blocks answer; they arrive in this order. */
  async reach({ blocks }) {
    const mine = engine;
    if (!mine) return;
    loading = true;
    answer();
    if (!(await mine.reach(blocks)) || mine !== engine) return;
    loading = false;
    say("done", { composition: mine.serving.composition });
  },
  /**
   * The usual way, over the same link: nothing before the whole teacher is there. Says how long its first answer took, and what
   * it says of all images. The first failure ends it: with waits and new tries its time would be no measure.
   */
  async compare() {
    rival?.close();
    const mine = (rival = engine.another((event, { name, text }) => {
      if (event === "failure") giveUp(`${name} does not arrive: ${text}`, mine);
    }));
    try {
      const begun = performance.now();
      if (!(await mine.teacherAlone()) || mine !== rival) return;
      const { names } = mine.serving;
      await mine.run(names, some(images, 0, 1), 1);
      const seconds = (performance.now() - begun) / 1000;
      const logits = await mine.run(names, images.data, images.n);
      if (mine !== rival) return;
      rival = null;
      say("compared", { seconds, logits });
      mine.close();
    } catch (error) {
      giveUp(error.message, mine);
    }
  },
  link(settings) {
    if (settings.rate !== link.rate) giveUp("the link was changed meanwhile");
    link.set(settings);
  },
  /** A picture to classify instead: RGBA pixels of the networks' size. */
  picture({ pixels }) {
    if (!engine) return;
    images = normalised(pixels, 1, engine.index);
    answer();
  },
  /** All images at once through what is serving. */
  async logits() {
    const { composition, names } = engine.serving;
    say("logits", { composition, logits: await engine.run(names, images.data, images.n) });
  },
};

onmessage = async ({ data: { call, ...about } }) => {
  try {
    await calls[call](about);
  } catch (error) {
    say("broken", { text: error.message });
  }
};
