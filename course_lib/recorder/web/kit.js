/* The kit: the parts that the viewer and both explorers are made of, each control described once.
 *
 * A view is a function of its state: it returns a tree of `h(tag, properties, ...children)`, and `mount` changes the
 * page where it differs from the tree before. Python joins this module and the ones that use it into one.
 */

// ---------------------------------------------------------------- a tree of elements, and the page that follows it
/** Properties are attributes (false: none), handlers (`onclick`), `value` and `checked`; besides, `key` names an
 * element among its neighbours, and `draw: [paint, ...inputs]` paints a canvas again when an input is another one. */
export const h = (tag, properties, ...children) => ({ tag, properties: properties || {},
  children: children.flat(Infinity).map((child) => (child?.tag ? child : child === false ? "" : `${child ?? ""}`)) });

const LIVE = new Set(["value", "checked"]), SILENT = new Set(["key", "draw", ...LIVE]);
let drawings = [];                  // canvases to paint once the tree stands

function update(node, tree) {
  const before = node.tree?.properties || {}, now = tree.properties;
  node.tree = tree;
  for (const name of Object.keys({ ...before, ...now })) {
    const value = now[name];
    if (name.startsWith("on")) node[name] = value ?? null;
    else if (SILENT.has(name) || value === before[name]) continue;
    else if (value == null || (value === false && !name.startsWith("aria-"))) node.removeAttribute(name);
    else node.setAttribute(name, value);
  }
  updateChildren(node, tree.children);
  for (const name of LIVE) {        // what a person typed or chose may differ from the tree before
    const value = name === "value" ? String(now[name]) : now[name];
    if (now[name] !== undefined && node[name] !== value) node[name] = value;
  }
  if (now.draw && now.draw.some((input, i) => i && input !== before.draw?.[i])) drawings.push([now.draw[0], node]);
}

function updateChildren(parent, children) {
  const keyed = new Map(), others = [], used = new Set();
  for (const node of parent.childNodes) {
    const key = node.tree?.properties.key;
    if (key === undefined) others.push(node); else keyed.set(key, node);
  }
  let place = parent.firstChild;
  for (const child of children) {
    const key = child.properties?.key, old = key === undefined ? others.shift() : keyed.get(key);
    const fits = old && (child.tag ? old.tree?.tag === child.tag : !old.tree);
    const node = fits ? old : !child.tag ? document.createTextNode("")
      : document.createElementNS(child.properties.xmlns || parent.namespaceURI, child.tag);
    if (node === place) place = place.nextSibling; else parent.insertBefore(node, place);
    if (child.tag) update(node, child); else if (node.data !== child) node.data = child;
    used.add(node);
  }
  for (const node of [...parent.childNodes]) if (!used.has(node)) node.remove();
}

/** Show `view()` in `el`, and again in the next frame after each `request()`. */
export function mount(el, view) {
  let node = null, frame = 0;
  const draw = () => {
    frame = 0;
    const tree = view();
    if (!node) el.append(node = document.createElement(tree.tag));
    update(node, tree);
    for (const [paint, canvas] of drawings.splice(0)) paint(canvas);
  };
  draw();
  return { node, draw, request: () => { frame ||= requestAnimationFrame(draw); },
    close: () => { cancelAnimationFrame(frame); node.remove(); } };
}

/** The same value as long as the arguments are the same. */
export function remember(compute) {
  let before, value;
  return (...inputs) => {
    if (!before || inputs.some((input, i) => input !== before[i])) [value, before] = [compute(...inputs), inputs];
    return value;
  };
}

// ---------------------------------------------------------------- state
export const clamp = (value, low, high) => Math.min(high, Math.max(low, Math.round(Number(value) || 0)));

/** A state within bounds, whatever was asked for: an address may hold anything. A value of another type than the first
 * one is not taken. A list of upper bounds goes by the layer. */
export function within({ ranges, options }, initial, wanted) {
  const state = { ...initial, ...wanted };
  for (const [name, value] of Object.entries(initial)) {
    if (value !== null && typeof state[name] !== typeof value) state[name] = value;
  }
  for (const [name, [low, high]] of Object.entries(ranges)) {
    const top = Array.isArray(high) ? high[state.layer] : high;
    if (Number.isInteger(initial[name])) state[name] = clamp(state[name], low, top);
    else if (!(state[name] >= low && state[name] <= top)) state[name] = initial[name];
  }
  for (const [name, values] of Object.entries(options)) if (!values.includes(state[name])) [state[name]] = values;
  return state;
}

/** How a view reads and changes the state that it shares with its model. */
export function stateOf(model, initial, bounded) {
  const state = () => bounded(Object.fromEntries(Object.keys(initial).map((name) => [name, model.get(name)])));
  const change = (values) => {
    const next = bounded({ ...state(), ...values });
    for (const name of Object.keys(values)) model.set(name, next[name]);
    if ("layer" in values && !("head" in values)) model.set("head", next.head);       // it may have fewer heads
    model.save_changes();
  };
  return { state, change };
}

/** Calls `step` again and again while it plays. */
export function player(step, milliseconds, request) {
  let timer = 0;
  const play = (wanted) => {
    clearInterval(timer);
    timer = wanted ? setInterval(step, milliseconds) : 0;
    request();
  };
  return { play, button: (title) => button(timer ? "Pause" : "Play", title, () => play(!timer)) };
}

// ---------------------------------------------------------------- controls
export const button = (text, title, onclick, more = {}) =>
  h("button", { type: "button", title, onclick, ...more }, text);

export const check = (text, checked, set, title) => h("label", { title },
  h("input", { type: "checkbox", checked, onchange: (event) => set(event.target.checked) }), ` ${text}`);

/** `options` are pairs of a value and its text, and a title if need be; numbers come back as numbers. */
export function select(text, options, value, set, more = {}) {
  const onchange = ({ target }) => set(typeof value === "number" ? Number(target.value) : target.value);
  return h("label", more, `${text} `, h("select", { value, onchange, disabled: more.disabled },
    options.map(([option, label, title]) => h("option", { value: option, title }, label))));
}

export const headSelect = (heads, head, set, more) => select("Head",
  Array.from({ length: heads + 1 }, (_, k) => [k - 1, k ? String(k - 1) : "mean"]), head, set, more);

export const range = (text, value, set, { min = 0, max, step = 1, grows = true, ...more }) => h("label",
  { class: grows && "grows" },
  h("span", {}, `${text} `), h("input", { type: "range", min, max, step, value,
    oninput: (event) => set(Number(event.target.value)), ...more }));

/** One of several buttons of which Tab reaches the chosen one, and arrows the others. */
export const radio = (value, chosen, choose, properties, ...children) => h("button", { type: "button", role: "radio",
  key: value, "data-choice": value, "aria-checked": value === chosen, tabindex: value === chosen ? 0 : -1,
  onclick: () => choose(value), ...properties }, ...children);

/** A few alternatives side by side; `options` are triples of a value, its text, and its title. */
export const segment = (label, options, value, set) => h("span", { class: "segment", role: "radiogroup",
  "aria-label": label, onkeydown: arrows((down, right) => {
    const at = options.findIndex(([option]) => option === value) + down + right;
    const [next] = options[Math.min(options.length - 1, Math.max(0, at))];
    set(next);
    return next;
  }) }, options.map(([option, text, title]) => radio(option, value, set, { title }, text)));

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const modified = (event) => event.ctrlKey || event.metaKey || event.altKey;

/** A group's keys: `move(down, right)` chooses, and returns the choice that gets the focus. */
export const arrows = (move) => (event) => {
  if (!(event.key in ARROWS) || modified(event)) return;
  event.preventDefault();
  event.stopPropagation();
  const choice = move(...ARROWS[event.key]);
  event.currentTarget.querySelector(`[data-choice="${choice}"]`)?.focus();
};

/** A view's own keys. Those of its sliders and menus stay theirs: a notebook program would take them for its cells. */
export const shortcuts = (actions) => (event) => {
  if (event.target.matches("select, input")) { event.stopPropagation(); return; }
  const pressed = event.key === " " && event.target.matches("button, [role=slider]");
  if (!(event.key in actions) || modified(event) || pressed) return;
  event.preventDefault();
  event.stopPropagation();
  actions[event.key]();
};

// ---------------------------------------------------------------- words
export const say = (value) => (value >= 0.0995 || value === 0 ? value.toFixed(2) : value.toPrecision(2));
export const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}\u00a0%`;
export const headName = (head) => (head < 0 ? "mean of the heads" : `head ${head}`);
export const topOf = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
export const strongest = (values) => values.indexOf(values.reduce((a, b) => Math.max(a, b), -Infinity));
export const sharedShare = (one, other) => `${Math.round(100 * one.reduce((sum, w, i) =>
  sum + Math.min(w, other[i]), 0))} % of its attention is where the view above also looks.`;

/** In nats, of weights that need not sum to 1. */
export function entropyOf(weights) {
  const total = weights.reduce((a, b) => a + b, 0);
  return weights.reduce((sum, w) => (w > 0 ? sum - (w / total) * Math.log(w / total) : sum), 0);
}
/** How many places would hold as much entropy, evenly. */
export const breadth = (weights) => Math.exp(entropyOf(weights)).toFixed(1);

/** The sentence on a view: seen at once, and spoken when it has stood for a while, since a pointer passes over many. */
export function speaker(request) {
  let words = "", spoken = "", timer = 0;
  const say_it = (sentence) => {
    if (sentence !== words) {
      words = sentence;
      clearTimeout(timer);
      timer = setTimeout(() => { spoken = words; request(); }, 500);
    }
    return [h("p", { class: "sentence" }, words), h("p", { class: "unseen", "aria-live": "polite" }, spoken)];
  };
  return { say: say_it, close: () => clearTimeout(timer) };
}

export const panel = (title, properties, ...children) => h("section", { "aria-label": title, ...properties },
  h("h2", {}, properties.heading || title), ...children);

/** What a number means stands in its title, and what chance would give beside it. */
export const readout = (...entries) => h("dl", { class: "readout" }, entries.map(([term, value, chance, title]) =>
  h("div", { title }, h("dt", {}, term), h("dd", {}, value, " ", h("small", {}, chance)))));

// ---------------------------------------------------------------- colours: cividis, made for every kind of eye
const ANCHORS = "00224e00285b002e6a0533711a386f273e6e32436d3b496c434e6c4b546c535a6d5a5f6e61656f686a716f7073767676" +
  "7d7c788381798b8778928d789a9376a29975aaa073b3a670bbad6dc3b369ccba64d4c15fddc858e6d051efd748f8df3cfee838";
export const CIVIDIS = Array.from({ length: 256 }, (_, level) => {
  const last = ANCHORS.length / 6 - 1, at = (level / 255) * last, low = Math.min(Math.floor(at), last - 1);
  const anchor = (k, c) => parseInt(ANCHORS.slice(6 * k + 2 * c, 6 * k + 2 * c + 2), 16);
  return [0, 1, 2].map((c) => Math.round(anchor(low, c) + (at - low) * (anchor(low + 1, c) - anchor(low, c))));
});
export const CSS_COLOURS = CIVIDIS.map(([r, g, b]) => `rgb(${r},${g},${b})`);
export const toLevel = (share, lift) => Math.min(255, Math.max(0, Math.round(255 * (lift ? Math.sqrt(share) : share))));

// ---------------------------------------------------------------- packed arrays: what Python writes, read here
export const asBytes = (data) => (ArrayBuffer.isView(data)
  ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength) : new Uint8Array(data));

/** The arrays of `pack_arrays` by their names, as flat typed arrays. */
export function readArrays(described, planes) {
  const bytes = asBytes(planes), types = { uint8: Uint8Array, float32: Float32Array };
  return Object.fromEntries(Object.entries(described).map(([name, { dtype, shape, at }]) => {
    const length = shape.reduce((a, b) => a * b, 1), start = bytes.byteOffset + at;
    const type = types[dtype], aligned = start % type.BYTES_PER_ELEMENT === 0;
    return [name, aligned ? new type(bytes.buffer, start, length)
      : new type(bytes.slice(at, at + length * type.BYTES_PER_ELEMENT).buffer)];
  }));
}

/* A map of `quantise` is `{ values, levels, top }`: a value is the square root of a weight's share of the largest, so
 * that faint ones keep their digits. A mean of maps has its weights, `exact`, besides. */
const units = {};
const unit = (levels) => (units[levels] ||= Float32Array.from({ length: levels + 1 }, (_, k) => (k / levels) ** 2));
export const weightAt = ({ values, levels, top, exact }, i) => (exact ? exact[i] : unit(levels)[values[i]] * top);
export const weightsOf = (map) => map.exact || Float32Array.from(map.values, (_, i) => weightAt(map, i));

export function meanMap(maps) {
  const exact = new Float32Array(maps[0].values.length);
  for (const map of maps) for (let i = 0; i < exact.length; i++) exact[i] += weightAt(map, i) / maps.length;
  const top = topOf(exact), level = (weight) => Math.round(255 * Math.sqrt(weight / (top || 1)));
  return { values: Uint8Array.from(exact, level), levels: 255, top, exact };
}

// ---------------------------------------------------------------- canvases
/** The colour of each level of a map, as the bytes of a pixel. */
const palettes = {};
export const palette = (levels, lift) => (palettes[`${levels} ${lift}`] ||= Uint32Array.from({ length: levels + 1 },
  (_, level) => {
    const [r, g, b] = CIVIDIS[toLevel((level / levels) ** 2, lift)];
    return (255 << 24) | (b << 16) | (g << 8) | r;
  }));

/** Fill a canvas of so many columns, a pixel a value, with `colour(value)`: red, green, blue and opacity. */
export function paintValues(canvas, values, columns, colour) {
  [canvas.width, canvas.height] = [columns, values.length / columns];
  const brush = canvas.getContext("2d"), pixels = brush.createImageData(canvas.width, canvas.height);
  values.forEach((value, i) => pixels.data.set(colour(value), 4 * i));
  brush.putImageData(pixels, 0, 0);
}

/** A map with a pixel a weight; an empty one where there is none. */
export function paintMap(canvas, map, columns, rows, lift) {
  [canvas.width, canvas.height] = [columns, rows];
  if (!map) return canvas;
  const brush = canvas.getContext("2d"), pixels = brush.createImageData(columns, rows);
  const words = new Uint32Array(pixels.data.buffer), colours = palette(map.levels, lift);
  for (let i = 0; i < words.length; i++) words[i] = colours[map.values[i]];
  brush.putImageData(pixels, 0, 0);
  return canvas;
}

export const scaleBar = (top, ramp = "ramp") => h("div", { class: "scale" }, "0", h("span", { class: ramp }), top);

// ---------------------------------------------------------------- a map over an image: one colour, by transparency
/* The rule of `pictures/images.py`: the image keeps its light and its colours, and a map is one colour that no skin
 * or hair has, clear where the weight is 0. The canvas holds shares; its opacity is that of the strongest place. */
export const MAP_COLOUR = [225, 0, 190], MAP_OPACITY = 0.6;

/** Weights of patches, a pixel each; `columns` are those of the grid. */
export const paintOver = (canvas, weights, top, columns, lift) => paintValues(canvas, weights, columns,
  (weight) => [...MAP_COLOUR, toLevel(weight / (top || 1), lift)]);

/** A region's border, an SVG path in pixels of `size` (height, width), thin and sharp at any size. */
export const border = (path, size) => h("svg", { xmlns: "http://www.w3.org/2000/svg", class: "region",
  "aria-hidden": "true", preserveAspectRatio: "none", viewBox: `0 0 ${size[1]} ${size[0]}` },
h("path", { class: "under", d: path }), h("path", { class: "over", d: path }));

// ---------------------------------------------------------------- tokens: a strip of words, or patches of an image
const WORDLESS = 1000;              // more unnamed tokens than this are shown without their numbers
export const patchGrid = (count) => {
  const side = Math.round(Math.sqrt(count));
  return { count, names: null, place: { rows: side, columns: side, prefix: 0 } };
};
export const patchName = (patch, columns) => `(row ${Math.floor(patch / columns)}, column ${patch % columns})`;

export function tokenName({ names, place }, index) {
  if (names) return `“${names[index]}” (${index})`;
  if (!place) return `token ${index}`;
  const patch = index - place.prefix;
  return patch < 0 ? `leading token ${index}` : `patch ${index} ${patchName(patch, place.columns)}`;
}

/** Where a patch lies, as CSS. */
export const patchStyle = (patch, { rows, columns }) => `left:${(100 * (patch % columns)) / columns}%;` +
  `top:${(100 * Math.floor(patch / columns)) / rows}%;width:${100 / columns}%;height:${100 / rows}%`;

/** Which row and column of a grid over an element lies under the pointer. */
export function cellAt(event, element, rows, columns) {
  const box = element.getBoundingClientRect();
  return [clamp(Math.floor(((event.clientY - box.top) / box.height) * rows), 0, rows - 1),
    clamp(Math.floor(((event.clientX - box.left) / box.width) * columns), 0, columns - 1)];
}

/** Tokens that are patches of several small pictures: each picture with its name, its map and its mark. */
const thumbnails = ({ pictures: { names, sources, side } }, chosen, colour) => h("div", { class: "thumbnails" },
  sources.map((source, at) => {
    const first = at * side ** 2, levels = Array.from({ length: side ** 2 }, (_, i) => Math.max(0, colour(first + i)));
    return h("span", {}, h("small", {}, names[at]), h("div", { class: "picture over-image", "data-picture": at },
      h("img", { src: source, alt: "", draggable: "false" }), h("canvas", { draw: [(canvas) => paintValues(canvas,
        levels, side, (level) => [...MAP_COLOUR, level]), levels.join()] }),
      h("div", { class: "mark", hidden: chosen < first || chosen >= first + side ** 2,
        style: patchStyle(Math.max(0, chosen - first), { rows: side, columns: side }) })));
  }));

/** One side's tokens. `draw` paints the map over the patches, `colour(i)` is the level of a loose token or -1, `chosen`
 * is outlined; `pick(index, event)` hears of a token that is pointed at or chosen by key, counted from `current()`. */
export function tokenView(side, { image, alt = "the image these tokens are patches of", label, draw, colour = () => -1,
  chosen, text, pick, current, lowest = 0, style = "", smooth = false, over = [] }) {
  const { place, names, count, pictures } = side, loose = place ? place.prefix : count;
  const wordless = loose > WORDLESS && !names;
  const tokenAt = (event) => {
    const small = event.target.closest?.("[data-picture]");
    if (small) {
      const [row, column] = cellAt(event, small, pictures.side, pictures.side);
      return (Number(small.dataset.picture) * pictures.side + row) * pictures.side + column;
    }
    const chip = event.target.closest?.("[data-i]"), picture = event.currentTarget.querySelector(".picture");
    if (chip) return Number(chip.dataset.i);
    if (!picture?.contains(event.target)) return -1;
    const [row, column] = cellAt(event, picture, place.rows, place.columns);
    return place.prefix + row * place.columns + column;
  };
  const pointed = (event) => { const i = tokenAt(event); if (i >= 0) pick(i, event); };
  const onkeydown = (event) => {
    const selected = current(), down = pictures ? pictures.side
      : place && selected >= place.prefix ? place.columns : 1;
    const move = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -down, ArrowDown: down, Home: -count, End: count,
      Enter: 0, " ": 0 }[event.key];
    if (move === undefined || modified(event)) return;
    event.preventDefault();
    pick(clamp(selected + move, 0, count - 1), event);
  };
  const slider = pick && { tabindex: 0, role: "slider", "aria-label": label, "aria-valuemin": lowest,
    "aria-valuemax": count - 1, "aria-valuenow": Math.max(lowest, chosen),
    "aria-valuetext": text || tokenName(side, Math.max(0, chosen)), onkeydown, onclick: pointed,
    onpointermove: pointed };
  const chip = (i) => {
    const level = colour(i), style = `background:${CSS_COLOURS[level]};color:${level > 125 ? "#000" : "#fff"}`;
    return h("span", { class: i === chosen ? "chip on" : "chip", "data-i": i, style: level >= 0 && style },
      names ? names[i] : wordless ? "" : i);
  };
  const shape = place && !image ? `aspect-ratio:${place.columns} / ${place.rows};` : "";
  return h("div", { class: "tokens", ...slider },
    place && h("div", { class: image ? "picture over-image" : "picture", style: shape + style },
      image && h("img", { src: image, alt, draggable: "false" }), h("canvas", { class: smooth && "smooth", draw }),
      h("div", { class: "mark", hidden: chosen < loose, style: patchStyle(Math.max(0, chosen - loose), place) }), over),
    pictures && thumbnails(side, chosen, colour),
    loose > 0 && !pictures && h("div", { class: wordless ? "strip wordless" : "strip" },
      Array.from({ length: loose }, (_, i) => chip(i))));
}

// ---------------------------------------------------------------- files
export function download(blob, name) {
  const link = document.createElement("a");
  Object.assign(link, { href: URL.createObjectURL(blob), download: name }).click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** A white sheet for pictures and words; `write` wraps a text at a width, in letters of `size` px. */
export function sheet(width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height }), brush = canvas.getContext("2d");
  brush.fillStyle = "#fff";
  brush.fillRect(0, 0, width, height);
  brush.imageSmoothingEnabled = false;
  const write = (text, x, y, room, size = 15, bold = false) => {
    brush.font = `${bold ? "bold " : ""}${size}px sans-serif`;
    brush.fillStyle = "#1b2330";
    let line = "";
    for (const word of text.split(" ")) {
      if (brush.measureText(`${line} ${word}`).width > room) { brush.fillText(line, x, y); [line, y] = ["", y + 1.4 * size]; }
      line = line ? `${line} ${word}` : word;
    }
    brush.fillText(line, x, y);
  };
  const image = (picture, x, y, side) => {
    brush.imageSmoothingEnabled = true;
    brush.drawImage(picture, x, y, side, side);
    brush.imageSmoothingEnabled = false;
  };
  return { brush, write, image, save: (name) => canvas.toBlob((blob) => download(blob, name), "image/png") };
}

// ---------------------------------------------------------------- a saved page
/** What a view needs of a widget's model, for a page without a kernel. */
export class PageModel {
  constructor(values) { Object.assign(this, { values, listeners: [], changed: new Set() }); }
  get(name) { return this.values[name]; }
  set(name, value) { if (this.values[name] !== value) this.changed.add(`change:${name}`); this.values[name] = value; }
  on(event, listener) { this.listeners.push({ event, listener }); }
  off(_, listener) { this.listeners = this.listeners.filter((other) => other.listener !== listener); }
  save_changes() {
    const { changed } = this;
    this.changed = new Set();
    if (changed.size) changed.add("change");
    for (const { event, listener } of this.listeners) if (changed.has(event)) listener();
  }
}

/** What the address says of the names of a state; nothing else is read from it. */
const readAddress = (initial) => {
  try {
    const said = JSON.parse(decodeURIComponent(location.hash.slice(1)));
    return Object.fromEntries(Object.keys(initial).filter((name) => Object.hasOwn(said, name))
      .map((name) => [name, said[name]]));
  } catch { return {}; }
};
/** The part of an address that remembers a state: what differs from what the page opens with. */
export const addressOf = (model, initial) => {
  const opened = { ...initial, ...model.get("meta").state };
  const names = Object.keys(initial).filter((name) => JSON.stringify(model.get(name)) !== JSON.stringify(opened[name]));
  return `#${encodeURIComponent(JSON.stringify(Object.fromEntries(names.map((name) => [name, model.get(name)]))))}`;
};

async function inflate(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Show the data that the page carries, the state remembered by its address; without it, the static part stays. */
export async function openPage(show, initial) {
  const textOf = (id) => document.getElementById(id).textContent;
  if (typeof DecompressionStream === "undefined") {
    document.getElementById("note").textContent = "This browser cannot unpack the maps (it lacks " +
      "DecompressionStream, which every browser of 2023 or later has); below is the static view.";
    return;
  }
  const meta = JSON.parse(textOf("meta")), planes = await inflate(textOf("planes").trim());
  const model = new PageModel({ ...initial, ...meta.state, ...readAddress(initial), meta, planes });
  let writing = 0;
  model.on("change", () => {
    clearTimeout(writing);
    writing = setTimeout(() => {
      try {
        history.replaceState(null, "", addressOf(model, initial));
      } catch { /* a page in a frame has no address to write to */ }
    }, 300);
  });
  window.addEventListener("hashchange", () => {              // another address of the same page was entered
    for (const [name, value] of Object.entries({ ...initial, ...meta.state, ...readAddress(initial) })) {
      model.set(name, value);
    }
    model.save_changes();
  });
  show({ model, el: document.getElementById("viewer") });
  document.getElementById("static").hidden = true;
  window.attention = model;
}

// ---------------------------------------------------------------- how it looks
export const STYLE = `
.attention, .attention * { box-sizing: border-box }
.attention { --ink: light-dark(#1b2330, #e8ecf3); --soft: light-dark(#5b6675, #a9b4c4);
  --paper: light-dark(#fff, #12161d); --panel: light-dark(#f4f6fa, #1b212b); --line: light-dark(#d5dbe5, #36404f);
  --accent: light-dark(#345995, #8fb4f5); --mark: light-dark(#d1495b, #ff6f86); color-scheme: light dark;
  color: var(--ink); background: var(--paper); font: 14px/1.45 system-ui, sans-serif }
/* The notebook's own theme goes before the system's: JupyterLab's, VS Code's, Colab's. */
:is([data-jp-theme-light=true], .vscode-light, [theme=light]) .attention { color-scheme: light }
:is([data-jp-theme-light=false], .vscode-dark, .vscode-high-contrast:not(.vscode-high-contrast-light),
  [theme=dark]) .attention { color-scheme: dark }
@property --soft { syntax: "<color>"; inherits: true; initial-value: #5b6675 }     /* a canvas reads it as a colour */
.attention .bar { display: flex; flex-wrap: wrap; gap: 8px 12px; align-items: center; padding: 8px 12px;
  background: var(--panel); border: 1px solid var(--line); border-radius: 8px }
.attention label, .attention .field { display: inline-flex; align-items: center; gap: 6px; white-space: nowrap }
.attention [hidden] { display: none }
.attention select, .attention button { font: inherit; color: inherit; background: var(--paper);
  border: 1px solid var(--soft);
  border-radius: 6px; padding: 3px 9px; max-width: 15em }
.attention button:hover, .attention select:hover { border-color: var(--accent) }
.attention button { cursor: pointer }
.attention button[aria-pressed=true] { background: var(--accent); color: var(--paper); border-color: var(--accent) }
.attention :focus-visible { outline: 3px solid var(--accent); outline-offset: 2px }
.attention input { accent-color: var(--accent); color: inherit }
.attention input[type=checkbox] { appearance: auto; opacity: 1; width: 14px; height: 14px; margin: 0 }
.attention ::placeholder { color: var(--soft); opacity: 1 }
.attention .segment { display: inline-flex; min-width: 0 }
.attention .segment button { border-radius: 0; margin-left: -1px; padding: 3px 8px; white-space: nowrap }
.attention .segment button:first-child { border-radius: 6px 0 0 6px; margin-left: 0 }
.attention .segment button:last-child { border-radius: 0 6px 6px 0 }
.attention .segment [aria-checked=true] { background: var(--accent); color: var(--paper);
  border-color: var(--accent) }
.attention button:disabled { opacity: 0.5; cursor: default }
.attention .sentence { margin: 10px 2px; min-height: 2.9em; font-size: 15px }
.attention .unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); margin: 0 }
.attention { container-type: inline-size }
.attention .panels { display: grid; gap: 14px; align-items: start; grid-template: "overview map right" auto
  "table table right" 1fr / 1fr 1fr 1fr }
.attention .panels > :nth-child(3) { grid-area: right } .attention details { grid-area: table }
@container (max-width: 980px) { .attention .panels {
  grid-template: "overview map" "right right" "table table" / 1fr 1fr } }
@container (max-width: 980px) { .attention .panels:has(.thumbnails) {      /* small pictures come first */
  grid-template: "right right" "overview map" "table table" / 1fr 1fr } }
@container (max-width: 620px) { .attention .panels { grid-template: "overview" "map" "right" "table" / 100% }
  .attention .panels:has(.thumbnails) { grid-template: "right" "overview" "map" "table" / 100% } }
.attention .panels > :nth-child(1) { grid-area: overview } .attention .panels > :nth-child(2) { grid-area: map }
.attention .panels > * { min-width: 0 }
.attention section { padding: 10px 12px; background: var(--panel); border: 1px solid var(--line);
  border-radius: 8px }
.attention h2, .attention h3 { margin: 0 0 8px; font-size: 13px; font-weight: 600; color: var(--soft) }
.attention h3 { margin: 8px 0 4px }
.attention .overview { position: relative; max-height: 68vh; overflow: auto; cursor: crosshair; touch-action: pan-y }
.attention canvas { display: block }
.attention .mark { position: absolute; pointer-events: none; outline: 2px solid var(--mark); border-radius: 1px }
.attention .picture .mark { box-shadow: 0 0 0 3px #fff9 }
.attention .matrix { position: relative; width: 100%; max-height: 68vh; cursor: crosshair;
  border: 1px solid var(--line) }
.attention .matrix canvas { width: 100%; height: 100%; image-rendering: pixelated }
.attention .matrix canvas.fine { image-rendering: auto }
.attention .picture { position: relative; cursor: crosshair; touch-action: pan-y; background: #000; max-width: 520px }
.attention .picture img { display: block; width: 100% }
.attention .picture canvas { position: absolute; inset: 0; width: 100%; height: 100%; image-rendering: pixelated }
.attention .over-image canvas { opacity: var(--strength, ${MAP_OPACITY}) }
.attention .picture canvas.smooth { image-rendering: auto }
.attention .region { position: absolute; inset: 0; width: 100%; height: 100%; pointer-events: none }
.attention .region path { fill: none; vector-effect: non-scaling-stroke; stroke: #141414; stroke-width: 3.5px;
  stroke-linejoin: round }
.attention .region .over { stroke: #fff; stroke-width: 1.5px }
.attention .strip { display: flex; flex-wrap: wrap; gap: 3px; max-height: 60vh; overflow: auto; padding: 3px }
.attention .picture + .strip { margin-top: 6px }
.attention .thumbnails { display: grid; gap: 6px; grid-template-columns: repeat(auto-fit, minmax(64px, 1fr)) }
.attention .thumbnails > * { max-width: 112px }
.attention .thumbnails small { color: var(--soft); font-size: 12px }
.attention .thumbnails img { image-rendering: pixelated }
.attention .chip { padding: 2px 6px; border: 1px solid var(--line); border-radius: 4px; background: var(--paper);
  cursor: crosshair; white-space: pre; min-width: 2.2em; text-align: center }
.attention .chip.on { outline: 2px solid var(--mark); outline-offset: 1px }
.attention .wordless { gap: 1px } .attention .wordless .chip { min-width: 0; width: 7px; height: 12px; padding: 0;
  border: 0;
  border-radius: 1px }
.attention .scale { display: flex; align-items: center; gap: 8px; margin-top: 8px; font-size: 12px; color: var(--soft) }
.attention .ramp { flex: 1; height: 9px; border-radius: 2px; background: linear-gradient(90deg, ${CSS_COLOURS
    .filter((_, i) => i % 15 === 0).join()}) }
.attention .over-ramp { flex: 1; height: 9px; border-radius: 2px; border: 1px solid var(--line);
  background: linear-gradient(90deg, rgba(${MAP_COLOUR}, 0), rgb(${MAP_COLOUR})) }
.attention .note { margin: 6px 0 0; font-size: 12.5px; color: var(--soft); min-height: 2.8em }
.attention .pins { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 260px), 1fr)) }
.attention figure { margin: 14px 0 0; padding: 10px 12px; border: 1px solid var(--line); border-radius: 8px;
  background: var(--panel) }
.attention figcaption { margin-bottom: 8px; font-size: 13px } .attention figure button { margin-right: 6px }
.attention details { margin: 0 0 14px } .attention summary { cursor: pointer; font-weight: 600; padding: 4px }
.attention .scroll { overflow-x: auto }
.attention table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100% }
.attention caption { text-align: left; padding: 4px 0; color: var(--soft) }
.attention th, .attention td { padding: 3px 10px; text-align: right; border-bottom: 1px solid var(--line);
  font-weight: inherit }
.attention thead th { color: var(--soft); font-size: 12.5px; vertical-align: bottom; border-bottom-width: 2px }
.attention td { background: linear-gradient(90deg, color-mix(in srgb, var(--accent) 22%, transparent) var(--share),
  transparent var(--share)) }
.attention tr.on { outline: 2px solid var(--mark); outline-offset: -2px }
@media (forced-colors: active) { .attention canvas, .attention .chip { forced-color-adjust: none } }
`;

