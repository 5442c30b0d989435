// In a page that another page shows in a frame: it says how tall it is, and takes the theme from there.
if (window.parent !== window) {
  const QUERY = "(prefers-color-scheme: dark)", asked = window.matchMedia.bind(window), system = asked(QUERY);
  const chosen = new EventTarget();
  let theme = "";
  Object.defineProperty(chosen, "matches", { get: () => theme ? theme === "dark" : system.matches });
  window.matchMedia = (query) => query === QUERY ? chosen : asked(query);
  system.addEventListener("change", () => chosen.dispatchEvent(new Event("change")));

  const originals = new Map();
  addEventListener("message", ({ source, data }) => {
    if (source !== window.parent || !["light", "dark"].includes(data?.theme)) return;
    theme = data.theme;
    const root = document.documentElement;
    root.setAttribute("theme", theme);
    root.style.colorScheme = theme;
    for (const sheet of document.styleSheets) {
      for (const rule of sheet.cssRules) {
        if (rule.media && !originals.has(rule)) originals.set(rule, rule.media.mediaText);
        if (originals.get(rule)?.includes(QUERY)) rule.media.mediaText = theme === "dark" ? "all" : "not all";
      }
    }
    chosen.dispatchEvent(new Event("change"));
  });
  addEventListener("DOMContentLoaded", () => {
    const tell = () => window.parent.postMessage({ height: Math.ceil(document.body.getBoundingClientRect().height) + 4 }, "*");
    new ResizeObserver(tell).observe(document.body);
    tell();
  });
}
