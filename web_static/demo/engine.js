// A pair in the browser: gets parts over a link, makes sessions of them, swaps, answers. Runs in the worker.

import { needed } from "./compositions.js";

const WAITS = [0.5, 1, 2, 3]; // seconds before a part is asked for again

export class Engine {
  /** What answers: { composition, names of its parts }; null until the student can. */
  serving = null;
  /** What web.json says of the pair. */
  index;
  #ort;
  #link;
  #root;
  #say;
  #sessions = new Map();
  #coming = new Map(); // parts on their way: name -> promise of a session
  #wanted = new Set(); // parts that the present goal needs; others are not asked for again
  #turn = 0; // counts goals: an older one notices that it is no longer wanted
  #end = new AbortController();

  /** `say(event, about)` hears of `bytes`, `failure` and `swap`. */
  constructor(ort, link, root, index, say) {
    this.#ort = ort;
    this.#link = link;
    this.#root = root;
    this.index = index;
    this.#say = say;
  }

  /** Go to the composition with exactly these teacher blocks: drop others, then add one by one in this order. */
  async reach(blocks) {
    const turn = ++this.#turn;
    const student = "S".repeat(this.index.num_blocks);
    const steps = this.serving ? [] : [student];
    let letters = [...(this.serving?.composition ?? student)];
    const kept = letters.map((letter, i) => (blocks.includes(i + 1) ? letter : "S"));
    if (kept.join("") !== letters.join("")) steps.push((letters = kept).join(""));
    for (const block of blocks) {
      if (letters[block - 1] === "T") continue;
      letters[block - 1] = "T";
      steps.push(letters.join(""));
    }
    return this.#walk(steps, turn);
  }

  /** Nothing but the teacher: no answer before all of it is there. */
  teacherAlone() {
    return this.#walk(["T".repeat(this.index.num_blocks)], ++this.#turn);
  }

  /** Returns whether the last step was reached, and not given up for another goal. */
  async #walk(steps, turn) {
    this.#wanted = new Set(steps.flatMap((composition) => needed(composition, this.index.parts)));
    for (const composition of steps) {
      const names = needed(composition, this.index.parts);
      await Promise.all(names.map((name) => this.#part(name)));
      if (turn !== this.#turn || this.#end.signal.aborted) return false;
      this.serving = { composition, names }; // the swap: one assignment, between two batches
      this.#say("swap", { composition });
    }
    return turn === this.#turn;
  }

  #part(name) {
    if (this.#sessions.has(name)) return this.#sessions.get(name);
    if (!this.#coming.has(name)) {
      this.#coming.set(name, this.#get(name).finally(() => this.#coming.delete(name)));
    }
    return this.#coming.get(name);
  }

  async #get(name) {
    const signal = this.#end.signal;
    for (let tries = 0; this.#wanted.has(name) && !signal.aborted; tries++) {
      try {
        const arrived = (bytes) => this.#say("bytes", { name, bytes });
        const bytes = await this.#link.part(this.#root, name, this.index.parts[name], arrived, signal);
        const session = await this.#ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
        if (signal.aborted) return session.release();
        this.#sessions.set(name, session);
        return session;
      } catch (error) {
        if (signal.aborted) return null;
        const wait = WAITS[Math.min(tries, WAITS.length - 1)];
        this.#say("bytes", { name, bytes: 0 });
        this.#say("failure", { name, text: error.message, wait });
        await this.#link.waitOrChange(wait);
      }
    }
    return null;
  }

  /** Logits (Float32Array, n x classes) of n normalised images by the parts `names`, which must be there. */
  async run(names, data, n) {
    let x = new this.#ort.Tensor("float32", data, [n, ...this.index.input_shape]);
    for (const name of names) x = (await this.#sessions.get(name).run({ x })).y;
    return x.data;
  }

  /** The same pair over the same link, with nothing loaded yet. */
  another(say) {
    return new Engine(this.#ort, this.#link, this.#root, this.index, say);
  }

  /** Stop loading and give the memory back. */
  async close() {
    this.#turn++;
    this.#end.abort();
    this.serving = null;
    for (const session of this.#sessions.values()) await session.release();
    this.#sessions.clear();
  }
}
