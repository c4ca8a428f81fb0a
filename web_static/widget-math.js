// The widget manager typesets formulas the way of MathJax 2 (MathJax.Hub.Queue), which fails where the page has MathJax 3, as here.
// This gives whatever object becomes window.MathJax such a Hub, made of MathJax 3's own functions.
(() => {
  const hub = {
    Queue: ([, , element]) =>
      window.MathJax.startup?.promise?.then(() => window.MathJax.typesetPromise([element])).catch(console.error),
  };
  const equip = (object) => object && Object.defineProperty(object, "Hub", { value: hub, configurable: true });
  let current = equip(window.MathJax);
  Object.defineProperty(window, "MathJax", {
    configurable: true,
    get: () => current,
    set: (object) => (current = equip(object)),
  });
})();
