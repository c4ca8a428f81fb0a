// Real HTTP requests, over a link that the reader can slow down and break.

const SLICE = 0.04; // seconds: how much of the link is taken at once, so that a new rate is felt at once
const LATE = 1000; // milliseconds that a timer may come late and still be made up for, so that the rate is kept on busy devices

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

async function sha256(bytes) {
  const digest = await crypto.subtle.digest("SHA-256", bytes);
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class Link {
  /** Bytes per second, of all requests together. */
  rate = Infinity;
  /** What is wrong: { kind: "missing" or "damaged", name of the part }, or null. */
  fault = null;
  #free = 0; // when the link has done with the bytes given to it so far
  #users = 0; // parts on their way
  #change = () => {}; // ends what waits for another link

  /** Another speed or fault from here on. */
  set({ rate, fault }) {
    this.rate = rate ?? this.rate;
    this.fault = fault === undefined ? this.fault : fault;
    this.#free = Math.min(this.#free, performance.now() + 1000 * SLICE); // what was waited for at the old speed is forgotten
    this.#change();
  }

  /** Wait some seconds, or until the link is another one. */
  waitOrChange(seconds) {
    const earlier = this.#change;
    return Promise.race([sleep(1000 * seconds), new Promise((done) => (this.#change = () => (earlier(), done())))]);
  }

  /**
   * One part, checked by its length and SHA-256 (browsers compute that only for pages from https or localhost).
   * `arrived` is called with the number of bytes at each slice. Throws an Error that says what is wrong.
   */
  async part(root, name, { file, bytes: size, sha256: expected }, arrived, signal) {
    if (!this.#users++) this.#free = performance.now(); // an idle link saves nothing up
    try {
      return await this.#get(root, name, file, size, expected, arrived, signal);
    } finally {
      this.#users--;
    }
  }

  async #get(root, name, file, size, expected, arrived, signal) {
    const fault = () => (this.fault?.name === name ? this.fault.kind : null); // asked again and again: it may come on the way
    const url = new URL(fault() === "missing" ? `missing-${file}` : file, root);
    const response = await fetch(url, { cache: "no-store", signal });
    if (!response.ok) throw new Error(`HTTP ${response.status} for ${url.pathname.split("/").at(-1)}`);
    const bytes = new Uint8Array(size);
    let length = 0;
    for await (const slice of this.#slices(response.body.getReader(), signal)) {
      if (fault() === "missing") throw new Error(`${file} was lost on its way`);
      if (length + slice.length <= size) bytes.set(slice, length);
      length += slice.length;
      arrived(Math.min(length, size));
    }
    if (length !== size) throw new Error(`${file} has ${length} bytes instead of ${size}`);
    if (fault() === "damaged") bytes[size >> 1] ^= 1;
    if (crypto.subtle && (await sha256(bytes)) !== expected) throw new Error(`${file} is damaged: its SHA-256 is another`);
    return bytes;
  }

  async *#slices(reader, signal) {
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        for (let at = 0; at < value.length; ) {
          const n = Math.max(1, Math.min(value.length - at, Math.ceil(this.rate * SLICE)));
          await this.#pass(n);
          signal.throwIfAborted();
          yield value.subarray(at, at + n);
          at += n;
        }
      }
    } finally {
      reader.cancel().catch(() => {});
    }
  }

  /** Wait until n more bytes have passed; requests take turns. */
  async #pass(n) {
    const now = performance.now();
    this.#free = Math.max(now - LATE, this.#free) + (1000 * n) / this.rate;
    if (this.#free > now) await sleep(this.#free - now);
  }
}
