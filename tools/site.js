// What a page does beyond being read: theme, search, copying, plotly's figures, pages in frames.

const root = document.documentElement, system = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";

function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

function addTool(...elements) {
  document.getElementById("site-tools").append(...elements);
}

// ---------------------------------------------------------------- theme
const frames = new Set();                                     // windows of the pages in frames

function themeChanged() {
  for (const frame of frames) frame.postMessage({ theme: isDark() ? "dark" : "light" }, "*");
  drawFigures();
}

function addThemes() {
  const choice = make("select", { id: "site-theme" });
  for (const [value, text] of [["", "as the system"], ["light", "light"], ["dark", "dark"]]) {
    choice.append(make("option", { value, textContent: text }));
  }
  choice.value = root.dataset.theme ?? "";
  choice.addEventListener("change", () => {
    root.dataset.theme = choice.value;
    try { localStorage.setItem("theme", choice.value) } catch { /* it holds for this page, then */ }
    themeChanged();
  });
  system.addEventListener("change", themeChanged);
  addTool(make("label", {}, "Theme ", choice));
}

// A page in a frame says how tall it is, and is told the theme.
addEventListener("message", ({ source, data }) => {
  if (!Number.isFinite(data?.height)) return;
  for (const frame of document.querySelectorAll("iframe")) {
    if (frame.contentWindow !== source) continue;
    if (!frame.classList.contains("live")) frame.height = Math.min(Math.max(data.height, 100), 2400);
    if (!frames.has(source)) source.postMessage({ theme: isDark() ? "dark" : "light" }, "*");
    frames.add(source);
  }
});

// ---------------------------------------------------------------- plotly's figures
function drawFigures() {
  const places = document.querySelectorAll(".plotly[aria-label]"), data = document.getElementById("figures");
  if (!data || !window.Plotly) return;
  JSON.parse(data.textContent).forEach((figure, number) => {
    const place = places[number], layout = { ...figure.layout };
    if (isDark()) {
      const ink = "#e8ecf3", line = "#36404f";
      layout.template = structuredClone(layout.template ?? {});
      layout.template.layout = { ...layout.template.layout, colorway: ["#8fb4f5", "#ff6f86", "#e8ecf3", "#a9b4c4"] };
      for (const name of ["font", "title"]) layout[name] = recoloured(layout[name], ink);
      for (const name of Object.keys(layout)) {
        if (/^[xyz]axis\d*$/.test(name)) {
          layout[name] = { ...layout[name], gridcolor: line, zerolinecolor: line, linecolor: line };
        }
      }
      layout.font = { ...layout.font, color: ink };
    }
    Object.assign(layout, { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" });
    if (!place.classList.contains("drawn")) {
      place.style.height = `${layout.height ?? 450}px`;
      place.replaceChildren();
      place.classList.add("drawn");
    }
    const config = { ...figure.config, displaylogo: false };  // the logo is a link without a name
    const drawn = Plotly.react(place, { ...figure, data: isDark() ? lighter(figure.data) : figure.data, layout, config });
    drawn.then(() => {  // its name says what the figure shows; plotly's drawings and icons have none
      place.setAttribute("role", "figure");  // with buttons inside, which an img must not have
      const drawings = document.querySelectorAll(".plotly svg, #js-plotly-tester");
      for (const drawing of drawings) drawing.setAttribute("aria-hidden", "true");
    });
  });
}

const recoloured = (part, colour) => typeof part === "object" ? { ...part, color: colour } : part;

// The course's dark inks as they are written in traces, and what stands for them on a dark page.
const INKS = { "#222222": "#e8ecf3", "#222": "#e8ecf3", "#345995": "#8fb4f5", "#d1495b": "#ff6f86", "#777777": "#a9b4c4" };

function lighter(value) {
  if (typeof value === "string") return INKS[value.toLowerCase()] ?? value;
  if (Array.isArray(value)) return value.map(lighter);
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, lighter(part)]));
  }
  return value;
}

// ---------------------------------------------------------------- copying
function addCopying() {
  for (const area of document.querySelectorAll(".input_area")) {
    const button = make("button", { type: "button", className: "copy", textContent: "Copy" });
    button.setAttribute("aria-label", "Copy this code");
    button.addEventListener("click", async () => {
      const code = area.querySelector("pre").textContent;
      try {
        await navigator.clipboard.writeText(code);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(area.querySelector("pre"));
        button.textContent = "Marked: copy it with Ctrl-C";
      }
      setTimeout(() => { button.textContent = "Copy" }, 3000);
    });
    area.append(button);
  }
}

// ---------------------------------------------------------------- search
// `search.js` holds all sections as window.SECTIONS: page, id, title of the page, title, text.
const plain = (text) => text.toLowerCase().normalize("NFKD").replace(/[\u0300-\u036f]/g, "").replace(/[^\p{L}\p{N}]+/gu, " ").trim();
let index;

function loadIndex() {
  index ??= new Promise((resolve) => {                         // a script, because a page from a disk may fetch nothing
    document.head.append(make("script", { src: "search.js", onload: () => {
      resolve(window.SECTIONS.map(([page, id, lesson, title, text]) =>
        ({ page, id, lesson, title, text, name: ` ${plain(title)}`, words: ` ${plain(text)}` })));
    } }));
  });
  return index;
}

function found(sections, query) {
  const words = plain(query).split(" ").filter(Boolean), phrase = ` ${words.join(" ")}`;
  const count = (text, word) => text.split(word).length - 1;
  const scored = [];
  for (const section of sections) {
    if (!words.length || !words.every((word) => section.name.includes(` ${word}`) || section.words.includes(` ${word}`))) continue;
    const score = 20 * count(section.name, phrase) + 3 * Math.min(count(section.words, phrase), 5)
      + words.reduce((sum, word) => sum + 5 * section.name.includes(` ${word}`) + Math.min(count(section.words, ` ${word}`), 5), 0);
    scored.push([score, section]);
  }
  return scored.sort((one, other) => other[0] - one[0]).map(([, section]) => section);
}

function excerpt(section, query) {
  const [first] = plain(query).split(" "), line = make("p");
  const at = Math.max(section.text.toLowerCase().search(new RegExp(`(?<![\\p{L}\\p{N}])${first}`, "u")), 0);
  line.append(at > 60 ? "… " : "", section.text.slice(Math.max(0, at - 60), at));
  line.append(make("mark", { textContent: section.text.slice(at, at + first.length) }), section.text.slice(at + first.length, at + 120), " …");
  return line;
}

function addSearch() {
  const field = make("input", { type: "search", placeholder: "Search the course", autocomplete: "off", id: "site-search" });
  field.setAttribute("aria-label", "Search the course");
  const results = make("div", { id: "site-results", hidden: true }), form = make("form", {}, field, results);
  form.setAttribute("role", "search");
  const status = make("p", { role: "status" }), list = make("ul");
  results.append(status, list);
  field.addEventListener("focus", loadIndex);
  field.addEventListener("input", async () => {
    const query = field.value, sections = await loadIndex();
    if (query !== field.value) return;
    const hits = found(sections, query);
    results.hidden = !plain(query);
    status.textContent = hits.length ? `${hits.length} section${hits.length > 1 ? "s" : ""}` : `Nothing is about “${query}”.`;
    list.replaceChildren(...hits.slice(0, 20).map((hit) => make("li", {},
      make("a", { href: hit.page + (hit.id ? `#${hit.id}` : ""), textContent: hit.title === hit.lesson ? hit.title : `${hit.lesson} › ${hit.title}` }),
      excerpt(hit, query))));
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    list.querySelector("a")?.click();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { results.hidden = true; field.focus(); }
    const links = [field, ...list.querySelectorAll("a")], at = links.indexOf(document.activeElement);
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && at >= 0) { event.preventDefault(); links[at + step]?.focus(); }
  });
  list.addEventListener("click", () => { results.hidden = true });
  document.addEventListener("pointerdown", (event) => { if (!form.contains(event.target)) results.hidden = true });
  addTool(form);
}

addSearch();
addThemes();
addCopying();
addEventListener("load", drawFigures);
