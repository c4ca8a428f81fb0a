// Names for screen readers and voice control, where the theme and the widget manager leave them out or contradict what is shown;
// and what scrolls is made reachable by keyboard.
(() => {
  const text = (element) => element?.textContent.trim() ?? "";
  const heading = (element) => text(element.closest("section")?.querySelector("h1, h2, h3, h4")).replace("#", "");
  const each = (selector, change) => document.querySelectorAll(selector).forEach(change);

  // A control is called what its label says, or else after the section that it stands in.
  function nameControl(control) {
    const label = text(control.closest(".jupyter-widgets")?.querySelector(".widget-label"));
    control.setAttribute("aria-label", label || `choice: ${heading(control)}`);
  }

  function mend() {
    each(".noUi-handle:not([aria-label]), .widget-dropdown select:not([aria-label])", nameControl);
    // The folding arrows of the table of contents hold no text: they get that of the link before them.
    each(".toctree-toggle", (arrow) => {
      const summary = arrow.closest("summary");
      if (summary && !summary.hasAttribute("aria-label"))
        summary.setAttribute("aria-label", `pages of: ${text(summary.closest("li").querySelector("a"))}`);
    });
    // These show "Search Ctrl+K" and an icon with a title of its own, beside a label that says something else.
    each(".search-button-field[aria-label]", (button) => button.removeAttribute("aria-label"));
    each(".theme-switch-button svg:not([aria-hidden])", (icon) => {
      icon.querySelector("title")?.remove();
      icon.removeAttribute("aria-labelledby");
      icon.setAttribute("aria-hidden", "true");
    });
  }

  // Wide tables, figures and listings scroll by themselves, at some widths of the window.
  function reach() {
    each(".bd-article :is(.cell_output, .output, .pwl-frame, pre, [style*='overflow'])", (box) => {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    });
  }

  document.addEventListener("DOMContentLoaded", () => {
    mend();
    reach();
    window.addEventListener("load", reach);
    window.addEventListener("resize", reach);
    // Unfolded, a listing may turn out to scroll; the theme looks at listings only at the start and when the window changes.
    document.addEventListener("toggle", reach, true);
    // Widgets and icons appear some time after the page; what follows each other at once is looked at once.
    let waiting = null;
    new MutationObserver(() => (waiting ??= setTimeout(() => ((waiting = null), mend(), reach()), 100)))
      .observe(document.body, { childList: true, subtree: true });
  });
})();
