// Names for screen readers and voice control, where the theme and the widget manager leave them out or contradict what is shown.
(() => {
  const text = (element) => element?.innerText?.trim() ?? "";
  const heading = (element) => text(element.closest("section")?.querySelector("h1, h2, h3, h4")).replace("#", "");

  // A control is called what its visible label says, or else after the section that it stands in.
  function nameControl(control) {
    const box = control.closest(".jupyter-widgets");
    const name = text(box?.querySelector(".widget-label")) || `choice: ${heading(control)}`;
    control.setAttribute("aria-label", name);
  }

  // Voice control finds a button by its visible text, so a label that lacks it does harm.
  function dropMisleadingLabel(button) {
    const shown = text(button).toLowerCase();
    if (shown && !button.getAttribute("aria-label").toLowerCase().includes(shown)) button.removeAttribute("aria-label");
  }

  function mend() {
    document.querySelectorAll(".noUi-handle:not([aria-label]), .widget-dropdown select:not([aria-label])").forEach(nameControl);
    document.querySelectorAll(".bd-header button[aria-label], .bd-sidebar button[aria-label], .bd-header-article button[aria-label]")
      .forEach(dropMisleadingLabel);
  }

  document.addEventListener("DOMContentLoaded", () => {
    mend();
    // Widgets appear some time after the page; what follows each other at once is looked at once.
    let waiting = null;
    new MutationObserver(() => (waiting ??= setTimeout(() => ((waiting = null), mend()), 100)))
      .observe(document.body, { childList: true, subtree: true });
  });
})();
