// onnxruntime-web, from the book's own site; its WebAssembly travels compressed, whatever the server does.

// The smallest model there is (y = x, one number): a session of it has the WebAssembly compiled before any weight arrives.
const NOTHING = "CAgSADo3ChAKAXgSAXkiCElkZW50aXR5EgFuWg8KAXgSCgoICAESBAoCCAFiDwoBeRIKCggIARIECgIIAUIECgAQEQ==";

async function unpacked(response) {
  const bytes = new Uint8Array(await response.arrayBuffer());
  const compressed = bytes[0] === 0x1f && bytes[1] === 0x8b; // some servers have it unpacked on the way
  const stream = compressed ? new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")) : null;
  return { transferred: bytes.length, wasm: stream ? await new Response(stream).arrayBuffer() : bytes.buffer };
}

const WAYS = ["fetched", "partly taken from the browser's cache", "taken from the browser's cache"];

/** How two files came. From the cache: nothing came over the network, or only the word that the copy there is up to date. */
function wayOf(urls) {
  const entries = performance.getEntriesByType("resource");
  const cached = urls.filter((url) => {
    const entry = entries.findLast(({ name }) => name === url);
    return entry && entry.transferSize < entry.encodedBodySize;
  });
  return WAYS[cached.length];
}

/** Fetch and start it: { ort, bytes it has, seconds it took, the way it came }. */
export async function startRuntime(vendor) {
  const begun = performance.now();
  const packed = new URL("ort-wasm-simd-threaded.wasm.gz", vendor).href;
  const fetchWasm = async () => {
    const response = await fetch(packed);
    if (!response.ok) throw new Error(`HTTP ${response.status} for the runtime`);
    return unpacked(response);
  };
  const script = new URL("ort.wasm.bundle.min.mjs", vendor).href;
  const [ort, { transferred, wasm }] = await Promise.all([import(script), fetchWasm()]);
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.numThreads = 1; // more need headers that a plain server does not send, and would gain little here
  const session = await ort.InferenceSession.create(Uint8Array.from(atob(NOTHING), (c) => c.charCodeAt(0)));
  await session.release();
  const size = performance.getEntriesByName(script).at(0)?.encodedBodySize ?? 0;
  return { ort, bytes: transferred + size, seconds: (performance.now() - begun) / 1000, way: wayOf([script, packed]) };
}
