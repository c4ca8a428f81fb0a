// Starts the demo in every place of the page that is made for it, or says there why it cannot run.
// A plain script: pages opened from a file load no modules, and must be told so.
(() => {
  const base = new URL("./", document.currentScript.src);
  const places = document.querySelectorAll(".pwl-demo");
  const say = (text) => places.forEach((place) => {
    const note = document.createElement("p");
    note.className = "pwl-demo-note";
    note.textContent = text;
    place.replaceChildren(note);
  });
  // The shortest module that has an instruction of SIMD in it: the runtime is made of them.
  const simd = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11);
  const needed = {
    WebAssembly: () => typeof WebAssembly === "object",
    "SIMD in its WebAssembly": () => WebAssembly.validate(simd),
    "web workers": () => typeof Worker === "function",
    DecompressionStream: () => typeof DecompressionStream === "function",
  };
  const lacking = Object.keys(needed).find((name) => !needed[name]());
  if (location.protocol === "file:") {
    say("The demo needs a web server: browsers load no weights and no WebAssembly into a page that was opened as a file. " +
      "In the folder of the book's pages run “python3 -m http.server”, then open http://localhost:8000.");
  } else if (lacking) {
    say(`The demo runs networks in the browser, and this one has no ${lacking}. Everything else on the page works without.`);
  } else {
    import(new URL("view.js", base).href)
      .then(({ Demo }) => places.forEach((place) => new Demo(place, base)))
      .catch((error) => say(`The demo could not be loaded (${error.message}). Everything else on the page works without.`));
  }
})();
