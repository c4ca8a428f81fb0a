// Loaded right after require.js on pages with widgets: modules (anywidget) are found beside this file, not on a CDN.
window.requirejs.config({ baseUrl: document.currentScript.src.replace(/require-config\.js.*$/, "") });
// Font Awesome would replace the icons that the Play widget changes by itself, and break its buttons.
window.FontAwesomeConfig = { observeMutations: false };
