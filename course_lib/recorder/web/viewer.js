/* The attention viewer: what it draws is a function of its model's state and of nothing else.
 *
 * `render({model, el})` is what anywidget calls; `openPage` does the same in a saved page, with `PageModel` in the
 * widget's place. Data: `meta` (names, shapes, statistics) and `planes` (one byte a weight). State: `STATE` below.
 */

export const STATE = {
  layer: 0, head: -1, step: 0,      // head -1 is the mean of the heads
  query: 0, key: 0,                 // the token that looks, and the token that is looked at
  reverse: false,                   // false: where `query` looks; true: who looks at `key`
  held: false,                      // hovering changes nothing
  lift: false,                      // square-root scale: faint weights become visible
  measure: "maps",                  // what the overview shows: the maps, or one statistic
  pinned: [],                       // states kept beside the present one
};
const MOST_PINNED = 4;
const WORDLESS = 1000;              // more unnamed tokens than this are shown without their numbers
const VEIL = 0.62;                  // how opaque the map lies over the image
const MARGIN = { left: 24, top: 17 };   // px of the overview that hold the numbers of layers and heads

// ---------------------------------------------------------------- colours: cividis, made for every kind of eye
const ANCHORS = "00224e00285b002e6a0533711a386f273e6e32436d3b496c434e6c4b546c535a6d5a5f6e61656f686a716f7073767676" +
  "7d7c788381798b8778928d789a9376a29975aaa073b3a670bbad6dc3b369ccba64d4c15fddc858e6d051efd748f8df3c" +
  "fee838";
const CIVIDIS = Array.from({ length: 256 }, (_, level) => {
  const last = ANCHORS.length / 6 - 1, at = (level / 255) * last, low = Math.min(Math.floor(at), last - 1);
  const anchor = (k, c) => parseInt(ANCHORS.slice(6 * k + 2 * c, 6 * k + 2 * c + 2), 16);
  return [0, 1, 2].map((c) => Math.round(anchor(low, c) + (at - low) * (anchor(low + 1, c) - anchor(low, c))));
});
const CSS_COLOURS = CIVIDIS.map(([r, g, b]) => `rgb(${r},${g},${b})`);
const toLevel = (share, lift) => Math.min(255, Math.max(0, Math.round(255 * (lift ? Math.sqrt(share) : share))));
const inkOn = (level) => (level > 125 ? "#000" : "#fff");

// ---------------------------------------------------------------- the recording: bytes to weights
/** Levels are square roots, so that faint weights keep their digits beside a strong one. */
const scaleOf = (levels, top) => ({ levels, top,
  weights: Float32Array.from({ length: levels + 1 }, (_, level) => top * (level / levels) ** 2) });

export const asBytes = (data) => (ArrayBuffer.isView(data)
  ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength) : new Uint8Array(data));

export class Recording {
  constructor(meta, planes) {
    this.meta = meta;
    this.layers = meta.layers.map((layer) => {
      const [queries, keys] = [layer.queries, layer.keys].map((side) => ({ ...side, names: meta.names[side.names] }));
      return { ...layer, queries, keys, shape: JSON.stringify([layer.queries, layer.keys, layer.self]) };
    });
    this.bytes = asBytes(planes);
    this.means = new Map();
  }

  /** `weights[values[i]]` is the i-th weight of a map; null where the layer did not run at this step. */
  map(layer, head, step) {
    const { queries, keys, offsets, tops } = this.layers[layer], size = queries.count * keys.count;
    if (offsets[step] < 0) return null;
    if (head < 0) return this.mean(layer, step);
    const start = offsets[step] + head * size;
    return { values: this.bytes.subarray(start, start + size), ...scaleOf(this.meta.levels, tops[step][head]) };
  }

  mean(layer, step) {
    const name = `${layer} ${step}`;
    if (!this.means.has(name)) {
      if (this.means.size > 256) this.means.clear();
      const { queries, keys, heads } = this.layers[layer], sums = new Float32Array(queries.count * keys.count);
      for (let head = 0; head < heads; head++) {
        const { values, weights } = this.map(layer, head, step);
        for (let i = 0; i < sums.length; i++) sums[i] += weights[values[i]];
      }
      const most = sums.reduce((a, b) => Math.max(a, b), 0) || 1;
      this.means.set(name, { values: Uint8Array.from(sums, (sum) => Math.round(255 * Math.sqrt(sum / most))),
        ...scaleOf(255, most / heads) });
    }
    return this.means.get(name);
  }

  /** What is lit: the weights of one query over the keys or, in reverse, of one key over the queries. */
  lit({ layer, head, step, query, key, reverse }) {
    const { queries, keys } = this.layers[layer], map = this.map(layer, head, step);
    const lit = new Float32Array(reverse ? queries.count : keys.count);
    if (map) {
      const start = reverse ? key : query * keys.count, stride = reverse ? keys.count : 1;
      for (let i = 0; i < lit.length; i++) lit[i] = map.weights[map.values[start + i * stride]];
    }
    return lit;
  }

  statistics({ layer, head, step }) {
    const ofHeads = this.layers[layer].statistics[step];
    if (!ofHeads || head >= 0) return ofHeads && ofHeads[head];
    return this.meta.measures.map((_, m) => ofHeads.reduce((sum, row) => sum + row[m], 0) / ofHeads.length);
  }
}

// ---------------------------------------------------------------- words
const say = (value) => (value >= 0.0995 || value === 0 ? value.toFixed(2) : value.toPrecision(2));
const sayNumber = (value) => value.toFixed(Math.abs(value) >= 10 ? 1 : Math.abs(value) >= 0.1 ? 2 : 3);
const headName = (head) => (head < 0 ? "the mean of the heads" : `head ${head}`);

/** In nats, of weights that need not sum to 1. */
export function entropyOf(weights) {
  const total = weights.reduce((a, b) => a + b, 0);
  return weights.reduce((sum, w) => (w > 0 ? sum - (w / total) * Math.log(w / total) : sum), 0);
}

export function tokenName(side, index) {
  if (side.names) return `“${side.names[index]}” (${index})`;
  if (!side.place) return `token ${index}`;
  const patch = index - side.place.prefix;
  return patch < 0 ? `leading token ${index}`
    : `patch ${index} (row ${Math.floor(patch / side.place.columns)}, column ${patch % side.place.columns})`;
}

export function sentence(recording, state) {
  const { meta } = recording, layer = recording.layers[state.layer], weights = recording.lit(state);
  const [from, to] = state.reverse ? [layer.keys, layer.queries] : [layer.queries, layer.keys];
  const start = `Layer ${state.layer} (${layer.name}), ${headName(state.head)}` +
    (meta.steps > 1 ? `, step ${state.step} of ${meta.steps}` : "");
  if (!recording.map(state.layer, state.head, state.step)) return `${start}: this layer did not run at this step.`;
  const token = tokenName(from, state.reverse ? state.key : state.query);
  const order = Array.from(weights.keys()).sort((a, b) => weights[b] - weights[a]).filter((i) => weights[i] > 0);
  const most = order.slice(0, 3).map((i) => `${tokenName(to, i)} ${say(weights[i])}`).join(", ");
  if (!most) return `${start}: ${token} ${state.reverse ? "is looked at by nobody" : "looks nowhere"}.`;
  if (state.reverse) return `${start}: ${token} is looked at most by ${most}.`;
  return `${start}: ${token} looks most at ${most}; as widely as if evenly at ` +
    `${Math.exp(entropyOf(weights)).toFixed(1)} of ${weights.length} keys.`;
}

// ---------------------------------------------------------------- small helpers of the page
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

function download(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, Math.round(Number(value) || 0)));

/** A state within bounds, whatever was asked for. */
export function within({ layers, meta }, wanted) {
  const state = { ...STATE, ...wanted };
  state.layer = clamp(state.layer, 0, layers.length - 1);
  const layer = layers[state.layer];
  state.head = clamp(state.head, -1, layer.heads - 1);
  state.step = clamp(state.step, 0, meta.steps - 1);
  state.query = clamp(state.query, 0, layer.queries.count - 1);
  state.key = clamp(state.key, 0, layer.keys.count - 1);
  if (!["maps", ...meta.measures.map((m) => m.name)].includes(state.measure)) state.measure = "maps";
  return state;
}

// ---------------------------------------------------------------- tokens: a strip of words, or patches of the image
/** One side's tokens; `paint` lights them, `pick(index, event)` is called when one is pointed at or chosen by key;
 * `veil` is how opaque a level lies over the image. */
function tokenView(side, image, label, pick, veil = () => (image ? VEIL : 1)) {
  const { place, names, count } = side, loose = place ? place.prefix : count;
  const chips = Array.from({ length: loose }, (_, i) => make("span", { class: "chip", "data-i": i },
    names ? names[i] : loose > WORDLESS ? "" : String(i)));
  const strip = make("div", { class: loose > WORDLESS && !names ? "strip wordless" : "strip" }, ...chips);
  const levels = new Int16Array(loose).fill(-1);
  const heat = make("canvas"), mark = make("div", { class: "mark" });
  let selected = -1, lit = -1, picture = null;            // what the next key moves from, and what is drawn
  const root = make("div", pick ? { class: "tokens", tabindex: 0, role: "slider", "aria-label": label,
    "aria-valuemin": 0, "aria-valuemax": count - 1 } : { class: "tokens" });
  if (place) {
    [heat.width, heat.height] = [place.columns, place.rows];
    picture = make("div", { class: "picture" }, image
      ? make("img", { src: image, alt: "the image these tokens are patches of", draggable: "false" }) : "", heat, mark);
    if (!image) picture.style.aspectRatio = `${place.columns} / ${place.rows}`;
    root.append(picture);
  }
  if (loose) root.append(strip);

  function at(event) {
    const chip = event.target.closest?.("[data-i]");
    if (chip) return Number(chip.dataset.i);
    if (!picture || !picture.contains(event.target)) return -1;
    const box = picture.getBoundingClientRect();
    const column = Math.floor(((event.clientX - box.left) / box.width) * place.columns);
    const row = Math.floor(((event.clientY - box.top) / box.height) * place.rows);
    return place.prefix + clamp(row, 0, place.rows - 1) * place.columns + clamp(column, 0, place.columns - 1);
  }
  if (pick) {
    const pointed = (event) => { const i = at(event); if (i >= 0) pick(i, event); };
    root.addEventListener("pointermove", pointed);
    root.addEventListener("click", pointed);
    root.addEventListener("keydown", (event) => {
      const down = place && selected >= place.prefix ? place.columns : 1;
      const move = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -down, ArrowDown: down, Home: -count, End: count,
        Enter: 0, " ": 0 }[event.key];
      if (move === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      selected = clamp(selected + move, 0, count - 1);         // the next key may come before the next picture
      pick(selected, event);
    });
  }

  /** `weights` null leaves the tokens dark; `chosen` is outlined. */
  function paint(weights, chosen, lift, text) {
    const top = weights ? weights.reduce((a, b) => Math.max(a, b), 0) || 1 : 1;
    for (let i = 0; i < loose; i++) {
      const level = weights ? toLevel(weights[i] / top, lift) : -1;
      if (level === levels[i]) continue;
      levels[i] = level;
      chips[i].style.background = level < 0 ? "" : CSS_COLOURS[level];
      chips[i].style.color = level < 0 ? "" : inkOn(level);
    }
    if (lit >= 0 && lit < loose) chips[lit].classList.remove("on");
    if (chosen >= 0 && chosen < loose) chips[chosen].classList.add("on");
    if (place) {
      const brush = heat.getContext("2d"), pixels = brush.createImageData(place.columns, place.rows);
      for (let i = 0; weights && i < count - loose; i++) {
        const level = toLevel(weights[loose + i] / top, lift);
        pixels.data.set(CIVIDIS[level], 4 * i);
        pixels.data[4 * i + 3] = 255 * veil(level);
      }
      brush.putImageData(pixels, 0, 0);
      const patch = chosen - loose;
      mark.hidden = patch < 0;
      mark.style.cssText = `left:${(100 * (patch % place.columns)) / place.columns}%;width:${100 / place.columns}%;` +
        `top:${(100 * Math.floor(patch / place.columns)) / place.rows}%;height:${100 / place.rows}%`;
    }
    selected = lit = chosen;
    if (pick && chosen >= 0) {
      root.setAttribute("aria-valuenow", chosen);
      root.setAttribute("aria-valuetext", text || tokenName(side, chosen));
    }
  }
  return { root, paint, heat };
}

const scaleBar = (top) => make("div", { class: "scale" }, "0", make("span", { class: "ramp" }), top);

// ---------------------------------------------------------------- export
const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});
const crc32 = (bytes) => {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
};

/** One float32 array in NumPy's own format. */
function npy(values, shape) {
  let header = `{'descr': '<f4', 'fortran_order': False, 'shape': (${shape.join(", ")},), }`;
  header += " ".repeat(63 - ((10 + header.length) % 64)) + "\n";
  const bytes = new Uint8Array(10 + header.length + 4 * values.length);
  bytes.set([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, header.length & 255, header.length >> 8]);
  bytes.set(new TextEncoder().encode(header), 10);
  bytes.set(new Uint8Array(values.buffer), 10 + header.length);
  return bytes;
}

/** A zip archive that stores its files as they are: what NumPy calls npz. */
function zip(files) {
  const parts = [], entries = [];
  let at = 0;
  for (const [name, bytes] of files) {
    const title = new TextEncoder().encode(name), common = new DataView(new ArrayBuffer(26));
    common.setUint16(0, 20, true); common.setUint16(2, 0x800, true);       // names are UTF-8
    common.setUint16(8, 0x21, true);                                       // 1 January 1980
    common.setUint32(10, crc32(bytes), true);
    common.setUint32(14, bytes.length, true); common.setUint32(18, bytes.length, true);
    common.setUint16(22, title.length, true);
    parts.push(Uint8Array.of(0x50, 0x4b, 3, 4), common.buffer, title, bytes);
    const tail = new DataView(new ArrayBuffer(14));
    tail.setUint32(10, at, true);
    entries.push(Uint8Array.of(0x50, 0x4b, 1, 2, 20, 0), common.buffer, tail.buffer, title);
    at += 30 + title.length + bytes.length;
  }
  const end = new DataView(new ArrayBuffer(22));
  const length = entries.reduce((sum, part) => sum + part.byteLength, 0);
  end.setUint32(0, 0x06054b50, true);
  end.setUint16(8, files.length, true); end.setUint16(10, files.length, true);
  end.setUint32(12, length, true); end.setUint32(16, at, true);
  return new Blob([...parts, ...entries, end.buffer], { type: "application/zip" });
}

/** Every layer's weights, `heads queries keys`, at one step. */
export function exportNpz(recording, step) {
  const files = [];
  recording.layers.forEach((layer, l) => {
    if (layer.offsets[step] < 0) return;
    const size = layer.queries.count * layer.keys.count, values = new Float32Array(layer.heads * size);
    for (let head = 0; head < layer.heads; head++) {
      const map = recording.map(l, head, step);
      for (let i = 0; i < size; i++) values[head * size + i] = map.weights[map.values[i]];
    }
    files.push([`${l}_${layer.name.replace(/[^\w.-]+/g, "_")}.npy`,
      npy(values, [layer.heads, layer.queries.count, layer.keys.count])]);
  });
  return zip(files);
}

/** The picture on screen as one PNG: the map, the tokens it lights, and the sentence that says what is seen. */
export function exportPng(recording, state, image) {
  const canvas = make("canvas", { width: 1240, height: 700 }), brush = canvas.getContext("2d"), side = 560;
  const layer = recording.layers[state.layer], map = recording.map(state.layer, state.head, state.step);
  const seen = state.reverse ? layer.queries : layer.keys, weights = recording.lit(state);
  const top = weights.reduce((a, b) => Math.max(a, b), 0) || 1;
  brush.fillStyle = "#fff";
  brush.fillRect(0, 0, canvas.width, canvas.height);
  brush.imageSmoothingEnabled = false;
  brush.drawImage(mapCanvas(map, layer, state.lift), 40, 30, side, side);
  brush.strokeStyle = "#d1495b";
  brush.lineWidth = 3;
  const { count } = state.reverse ? layer.keys : layer.queries;
  const at = 40 + (side * (state.reverse ? state.key : 0)) / count;
  if (state.reverse) brush.strokeRect(at, 30, side / count, side);
  else brush.strokeRect(40, 30 + (side * state.query) / count, side, side / count);
  brush.textBaseline = "middle";
  brush.font = "15px sans-serif";
  const order = Array.from(weights.keys());
  if (seen.place) {
    brush.filter = "grayscale(1)";
    if (image) brush.drawImage(image, 640, 30, side, side);
    brush.filter = "none";
    const { rows, columns, prefix } = seen.place;
    for (const i of order.slice(prefix)) {
      const level = toLevel(weights[i] / top, state.lift), patch = i - prefix;
      brush.globalAlpha = image ? VEIL : 1;
      brush.fillStyle = CSS_COLOURS[level];
      brush.fillRect(640 + (side * (patch % columns)) / columns, 30 + (side * Math.floor(patch / columns)) / rows,
        side / columns, side / rows);
    }
    brush.globalAlpha = 1;
  } else {
    order.sort((a, b) => weights[b] - weights[a]).slice(0, 20).forEach((i, row) => {
      const level = toLevel(weights[i] / top, state.lift), y = 30 + 28 * row;
      brush.fillStyle = CSS_COLOURS[level];
      brush.fillRect(820, y, Math.max(1, 300 * (weights[i] / top)), 22);
      brush.fillStyle = "#222";
      brush.textAlign = "right";
      brush.fillText(tokenName(seen, i).slice(0, 22), 810, y + 11);
      brush.textAlign = "left";
      brush.fillText(say(weights[i]), 826 + 300 * (weights[i] / top), y + 11);
    });
  }
  brush.fillStyle = "#222";
  brush.textAlign = "left";
  let line = "", y = 620;
  for (const word of sentence(recording, state).split(" ")) {
    if (brush.measureText(`${line} ${word}`).width > 1160) { brush.fillText(line, 40, y); [line, y] = ["", y + 22]; }
    line = line ? `${line} ${word}` : word;
  }
  brush.fillText(line, 40, y);
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

/** One map as a canvas with a pixel a weight; an empty one where there is none. */
function mapCanvas(map, layer, lift, canvas = make("canvas")) {
  [canvas.width, canvas.height] = [layer.keys.count, layer.queries.count];
  if (!map) return canvas;
  const brush = canvas.getContext("2d"), pixels = brush.createImageData(canvas.width, canvas.height);
  const words = new Uint32Array(pixels.data.buffer), palette = packed(map.levels, lift);
  for (let i = 0; i < words.length; i++) words[i] = palette[map.values[i]];
  brush.putImageData(pixels, 0, 0);
  return canvas;
}

/** The colour of each level of a map, as the bytes of a pixel. */
const palettes = {};
const packed = (levels, lift) => (palettes[`${levels} ${lift}`] ||=
  Uint32Array.from({ length: levels + 1 }, (_, level) => {
  const [r, g, b] = CIVIDIS[toLevel((level / levels) ** 2, lift)];
  return (255 << 24) | (b << 16) | (g << 8) | r;
}));

/** All layers × (mean and heads), each reduced to `size` pixels by the largest weight of each block. */
function paintOverview(words, width, recording, state, size, pitch) {
  recording.layers.forEach((layer, l) => {
    const { count: queries } = layer.queries, { count: keys } = layer.keys;
    const edges = (count) => Array.from({ length: size + 1 }, (_, i) => Math.floor((i * count) / size));
    const ys = edges(queries), xs = edges(keys);
    for (let head = -1; head < layer.heads; head++) {
      const map = recording.map(l, head, state.step), corner = l * pitch * width + (head + 1) * pitch;
      if (!map) continue;
      const palette = packed(map.levels, state.lift), { values } = map;
      for (let y = 0; y < size; y++) {
        for (let x = 0; x < size; x++) {
          let most = 0;
          const bottom = Math.max(ys[y] + 1, ys[y + 1]), right = Math.max(xs[x] + 1, xs[x + 1]);
          for (let q = ys[y]; q < bottom; q++) {
            for (let i = q * keys + xs[x]; i < q * keys + right; i++) if (values[i] > most) most = values[i];
          }
          words[corner + y * width + x] = palette[most];
        }
      }
    }
  });
}

/** The same cells, each filled with the colour of one statistic; returns the range that the colours span. */
function paintMeasure(words, width, recording, state, size, pitch) {
  const m = recording.meta.measures.findIndex(({ name }) => name === state.measure), cells = [];
  recording.layers.forEach((layer, l) => {
    for (let head = -1; head < layer.heads; head++) {
      const row = recording.statistics({ layer: l, head, step: state.step });
      if (row) cells.push([l, head, row[m]]);
    }
  });
  const values = cells.map((cell) => cell[2]), low = Math.min(...values), high = Math.max(...values);
  const palette = packed(255, true);
  for (const [l, head, value] of cells) {
    const colour = palette[toLevel((value - low) / (high - low || 1))], corner = l * pitch * width + (head + 1) * pitch;
    for (let y = 0; y < size; y++) words.fill(colour, corner + y * width, corner + y * width + size);
  }
  return [low, high];
}

// ---------------------------------------------------------------- the view
export function render({ model, el }) {
  let recording, shown = null, views = null, frame = 0, spoken = 0, playing = 0, cell = 0, width = 0;
  const state = () => within(recording, Object.fromEntries(Object.keys(STATE).map((k) => [k, model.get(k)])));
  const change = (values) => {
    const next = within(recording, { ...state(), ...values });
    for (const name of Object.keys(values)) model.set(name, next[name]);
    model.save_changes();
  };

  const layerSelect = make("select", { onchange: () => change({ layer: Number(layerSelect.value) }) });
  const headSelect = make("select", { onchange: () => change({ head: Number(headSelect.value) }) });
  const measureSelect = make("select", { onchange: () => change({ measure: measureSelect.value }) });
  const stepRange = make("input", { type: "range", min: 0, oninput: () => change({ step: Number(stepRange.value) }) });
  const stepNumber = make("output");
  const play = make("button", { type: "button", onclick: () => setPlaying(!playing) }, "Play");
  const stepLabel = make("span", { class: "field" }, make("label", {}, "Step ", stepRange), stepNumber, play);
  const lift = make("input", { type: "checkbox", onchange: () => change({ lift: lift.checked }) });
  const reverse = make("button", { type: "button", "aria-pressed": "false",
    title: "not where a token looks, but which tokens look at it",
    onclick: () => { const s = state(); turn(s, !s.reverse); } }, "Who looks here");
  const button = (text, title, onclick) => make("button", { type: "button", title, onclick }, text);
  const bar = make("div", { class: "bar", role: "group", "aria-label": "what is shown" },
    make("label", {}, "Layer ", layerSelect), make("label", {}, "Head ", headSelect), stepLabel,
    make("label", {}, "Overview ", measureSelect),
    make("label", { title: "colours follow the square root of the weight" }, lift, " lift faint weights"), reverse,
    button("Pin", "keep this beside the next (key P)", () => pin()),
    button("PNG", "save this view as a picture", savePng),
    button("npz", "save the weights of this step for NumPy",
      () => download(exportNpz(recording, state().step), "attention.npz")));

  const overview = make("canvas"), chosen = make("div", { class: "mark" }), under = make("p", { class: "note" });
  const overviewBox = make("div", { class: "overview", tabindex: 0, role: "application",
    "aria-label": "All maps: up and down choose the layer, left and right the head" }, overview, chosen);
  const matrix = make("canvas", { role: "img" }), line = make("div", { class: "mark" });
  const matrixBox = make("div", { class: "matrix" }, matrix, line), matrixNote = make("p", { class: "note" });
  const matrixScale = make("div"), litScale = make("div"), tokens = make("div", { class: "sides" });
  const text = make("p", { class: "sentence" }), live = make("p", { class: "unseen", "aria-live": "polite" });
  const pins = make("div", { class: "pins" }), table = make("table");
  const panel = (title, ...children) => make("section", { "aria-label": title }, make("h2", {}, title), ...children);
  const details = make("details", { open: true }, make("summary", {}, "Statistics of the heads"),
    make("div", { class: "scroll" }, table));
  const root = make("div", { class: "attention" }, make("style", {}, STYLE), bar, text, live,
    make("div", { class: "panels" }, panel("Layers and heads", overviewBox, under),
      panel("One map", matrixBox, matrixScale, matrixNote),
      make("div", { class: "right" }, panel("Its tokens", tokens, litScale), pins), details));
  el.append(root);

  // ---- what people do
  function turn(s, reversed) {
    const layer = recording.layers[s.layer];
    change(layer.self ? (reversed ? { reverse: true, key: s.query } : { reverse: false, query: s.key })
      : { reverse: reversed });
  }
  function pick(asks, index, event) {
    const s = state(), self = recording.layers[s.layer].self, hovering = event.type === "pointermove";
    if (hovering && s.held) return;
    const reversed = self ? s.reverse : !asks, name = reversed ? "key" : "query";
    if (hovering && s[name] === index && s.reverse === reversed) return;
    const holds = event.type === "click" || event.key === "Enter" || event.key === " ";
    change({ [name]: index, reverse: reversed, held: holds ? !(s.held && s[name] === index) : s.held });
  }
  function pin() {
    const { layer, head, step, query, key, reverse: reversed, pinned } = state();
    change({ pinned: [...pinned, { layer, head, step, query, key, reverse: reversed }].slice(-MOST_PINNED) });
  }
  function setPlaying(wanted) {
    clearInterval(playing);
    playing = wanted ? setInterval(() => change({ step: (state().step + 1) % recording.meta.steps }), 400) : 0;
    play.textContent = playing ? "Pause" : "Play";
  }
  async function savePng() {
    const image = views.root.querySelector(".picture img");
    download(await exportPng(recording, state(), image), "attention.png");
  }
  function overviewAt(event) {
    const box = overview.getBoundingClientRect(), { layers } = recording;
    const l = Math.floor((event.clientY - box.top - MARGIN.top) / cell);
    const head = Math.floor((event.clientX - box.left - MARGIN.left) / cell) - 1;
    return l >= 0 && l < layers.length && head >= -1 && head < layers[l].heads ? { layer: l, head } : null;
  }
  overviewBox.addEventListener("pointermove", (event) => {
    const place = overviewAt(event);
    if (place && event.buttons) change(place);
    under.textContent = place ? describeCell(place) : overviewNote;
  });
  overviewBox.addEventListener("pointerleave", () => { under.textContent = overviewNote; });
  overviewBox.addEventListener("pointerdown", (event) => { const p = overviewAt(event); if (p) change(p); });
  overviewBox.addEventListener("keydown", (event) => {
    const arrows = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const [down, right] = arrows[event.key] || [];
    if (down === undefined) return;
    event.preventDefault();
    const s = state();
    change({ layer: s.layer + down, head: s.head + right });
  });
  const describeCell = (place) => {
    const row = recording.statistics({ ...place, step: state().step }), { measures, layers } = recording.meta;
    return `Layer ${place.layer} (${layers[place.layer].name}), ${headName(place.head)}: ` +
      (row ? row.map((v, m) => `${measures[m].name} ${sayNumber(v)}`).join(", ") : "did not run at this step");
  };
  let overviewNote = "";

  const matrixAt = (event) => {
    const box = matrix.getBoundingClientRect(), { queries, keys } = recording.layers[state().layer];
    return [clamp(Math.floor(((event.clientY - box.top) / box.height) * queries.count), 0, queries.count - 1),
      clamp(Math.floor(((event.clientX - box.left) / box.width) * keys.count), 0, keys.count - 1)];
  };
  const overMatrix = (event) => {
    const s = state(), [query, key] = matrixAt(event), layer = recording.layers[s.layer];
    const map = recording.map(s.layer, s.head, s.step);
    if (map) matrixNote.textContent = `${tokenName(layer.queries, query)} → ${tokenName(layer.keys, key)}: ` +
      say(map.weights[map.values[query * layer.keys.count + key]]);
    if (event.type === "click") change({ query, key, held: !(s.held && s.query === query) });
    else if (!s.held && (s.reverse ? s.key !== key : s.query !== query)) change(s.reverse ? { key } : { query });
  };
  matrixBox.addEventListener("pointermove", overMatrix);
  matrixBox.addEventListener("click", overMatrix);
  matrixBox.addEventListener("pointerleave", () => { matrixNote.textContent = matrixHint; });
  const matrixHint = "Rows look at columns. Point at a token, a patch or a row; click to hold it, click again to " +
    "let go.";

  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input")) return;
    const s = state(), action = { p: pin, P: pin, "[": () => change({ step: s.step - 1 }),
      "]": () => change({ step: s.step + 1 }) }[event.key];
    if (action) { event.preventDefault(); action(); }
  });

  // ---- what is drawn
  function fill(select, options, value) {
    if (select.dataset.options !== JSON.stringify(options)) {
      select.replaceChildren(...options.map(([v, label]) => make("option", { value: v }, label)));
      select.dataset.options = JSON.stringify(options);
    }
    select.value = value;
  }
  function drawControls(s, meta) {
    fill(layerSelect, recording.layers.map((layer, l) => [l, `${l}  ${layer.name}`]), s.layer);
    const heads = recording.layers[s.layer].heads;
    fill(headSelect, Array.from({ length: heads + 1 }, (_, h) => [h - 1, h ? String(h - 1) : "mean"]), s.head);
    fill(measureSelect, ["maps", ...meta.measures.map((m) => m.name)].map((name) => [name, name]), s.measure);
    stepLabel.hidden = meta.steps < 2;
    stepRange.max = meta.steps - 1;
    stepRange.value = s.step;
    stepNumber.textContent = `${s.step}`;
    lift.checked = s.lift;
    reverse.setAttribute("aria-pressed", s.reverse);
  }
  function drawOverview(s, meta) {
    const columns = 1 + Math.max(...recording.layers.map((layer) => layer.heads));
    width = overviewBox.clientWidth;
    cell = clamp((width - MARGIN.left) / columns - 0.5, 12, 56);
    const scale = Math.ceil(window.devicePixelRatio || 1), pitch = cell * scale;
    overview.width = scale * (MARGIN.left + cell * columns);
    overview.height = scale * (MARGIN.top + cell * recording.layers.length);
    overview.style.width = `${overview.width / scale}px`;
    const brush = overview.getContext("2d");
    const pixels = brush.createImageData(pitch * columns, pitch * recording.layers.length);
    const paintCells = s.measure === "maps" ? paintOverview : paintMeasure;
    const range = paintCells(new Uint32Array(pixels.data.buffer), pixels.width, recording, s, pitch - 2 * scale, pitch);
    brush.putImageData(pixels, scale * MARGIN.left, scale * MARGIN.top);
    brush.scale(scale, scale);
    brush.font = "10.5px system-ui, sans-serif";
    brush.fillStyle = getComputedStyle(root).getPropertyValue("--soft");
    brush.textBaseline = "middle";
    const every = Math.ceil(18 / cell);
    brush.textAlign = "right";
    recording.layers.forEach((_, l) => {
      if (l % every === 0) brush.fillText(l, MARGIN.left - 6, MARGIN.top + cell * (l + 0.45));
    });
    brush.textAlign = "center";
    for (let head = -1; head < columns - 1; head++) {
      const at = MARGIN.left + cell * (head + 1.45);
      if (head < 0 || (head % every === 0 && (head > 0 || cell > 22))) brush.fillText(head < 0 ? "mean" : head, at, 7);
    }
    const chart = meta.measures.find(({ name }) => name === s.measure);
    overviewNote = "A row for each layer, a column for each head. " + (chart
      ? `${chart.name}: ${chart.says}; dark ${sayNumber(range[0])}, bright ${sayNumber(range[1])}.`
      : "Brightness: each map from 0 to its own largest weight.");
    under.textContent = overviewNote;
  }
  function drawTable(s, meta) {
    const layer = recording.layers[s.layer], ofHeads = layer.statistics[s.step];
    const head = make("tr", {}, make("th", { scope: "col" }, "head"),
      ...meta.measures.map((m) => make("th", { scope: "col", title: m.says }, m.name)));
    const rows = (ofHeads || []).map((values, h) => make("tr", { class: h === s.head ? "on" : "" },
      make("th", { scope: "row" }, make("button", { type: "button", onclick: () => change({ head: h }) }, String(h))),
      ...values.map((value, m) => {
        const column = ofHeads.map((row) => row[m]), low = Math.min(0, ...column), high = Math.max(...column);
        const share = (100 * (value - low)) / (high - low || 1);
        return make("td", { style: `--share:${share.toFixed(1)}%` }, sayNumber(value));
      })));
    table.replaceChildren(make("caption", {}, `Layer ${s.layer}, ${layer.name}` +
      (layer.note ? `: ${layer.note}` : "")),
      make("thead", {}, head), make("tbody", {}, ...rows));
  }
  function buildViews(layer) {
    const { image } = recording.meta, asked = (index, event) => pick(true, index, event);
    const seen = (index, event) => pick(false, index, event);
    if (layer.self) {
      const one = tokenView(layer.queries, image, "token", asked);
      return { root: make("div", {}, one.root), paint: (s, weights, words) =>
        one.paint(weights, s.reverse ? s.key : s.query, s.lift, words) };
    }
    const one = tokenView(layer.queries, image, "query", asked), two = tokenView(layer.keys, image, "key", seen);
    return { root: make("div", { class: "two" }, make("h3", {}, "Queries"), one.root, make("h3", {}, "Keys"), two.root),
      paint: (s, weights, words) => {
        one.paint(s.reverse ? weights : null, s.reverse ? -1 : s.query, s.lift, words);
        two.paint(s.reverse ? null : weights, s.reverse ? s.key : -1, s.lift, words);
      } };
  }
  function drawPins(s) {
    pins.replaceChildren(...s.pinned.map((wanted, index) => {
      const kept = within(recording, { ...wanted, lift: s.lift }), layer = recording.layers[kept.layer];
      const view = tokenView(kept.reverse ? layer.queries : layer.keys, recording.meta.image);
      const token = kept.reverse ? kept.key : kept.query;
      view.paint(recording.lit(kept), layer.self ? token : -1, s.lift);
      return make("figure", {}, make("figcaption", {}, sentence(recording, kept)), view.root,
        make("p", { class: "note" }),
        make("div", {}, button("Show", "go back to this", () => change(wanted)),
          button("Remove", "unpin", () => change({ pinned: state().pinned.filter((_, i) => i !== index) }))));
    }));
  }
  function comparePins(s, weights) {
    [...pins.children].forEach((card, index) => {
      const kept = within(recording, s.pinned[index]), other = recording.lit(kept);
      const comparable = other.length === weights.length && kept.reverse === s.reverse && !s.reverse;
      card.querySelector(".note").textContent = !comparable ? ""
        : `${Math.round(100 * weights.reduce((sum, w, i) => sum + Math.min(w, other[i]), 0))} % of its attention is ` +
          "where the view above also looks.";
    });
  }

  /** Draw what differs between the state and what is on screen. */
  function paint() {
    frame = 0;
    const meta = model.get("meta"), planes = model.get("planes");
    const fresh = !recording || recording.meta !== meta || recording.planes !== planes;
    if (fresh) {
      recording = new Recording(meta, planes);
      recording.planes = planes;
      shown = null;
    }
    const s = state(), layer = recording.layers[s.layer], before = shown || {};
    const differs = (...names) => !shown || names.some((name) => before[name] !== s[name]);
    if (differs("layer", "head", "step", "measure", "lift", "reverse")) drawControls(s, meta);
    if (differs("step", "measure", "lift")) drawOverview(s, meta);
    if (differs("layer", "head", "step", "measure", "lift")) {
      const left = MARGIN.left + (s.head + 1) * cell, top = MARGIN.top + s.layer * cell, box = overviewBox;
      chosen.style.cssText = `left:${left}px;top:${top}px;width:${cell - 2}px;height:${cell - 2}px`;
      box.scrollTop = Math.min(top - MARGIN.top, Math.max(box.scrollTop, top + cell - box.clientHeight));
      box.scrollLeft = Math.min(left - MARGIN.left, Math.max(box.scrollLeft, left + cell - box.clientWidth));
    }
    if (differs("layer", "head", "step", "lift")) {
      const map = recording.map(s.layer, s.head, s.step);
      mapCanvas(map, layer, s.lift, matrix);
      matrixBox.style.aspectRatio = clamp((100 * layer.keys.count) / layer.queries.count, 50, 200) / 100;
      matrix.classList.toggle("fine", layer.queries.count > 400 || layer.keys.count > 400);
      matrixScale.replaceChildren(scaleBar(map ? say(map.top) : "no map"));
      matrixNote.textContent = matrixHint;
    }
    if (differs("layer", "head", "step")) drawTable(s, meta);
    if (!views || fresh || layer.shape !== views.shape) {
      views = { ...buildViews(layer), shape: layer.shape };
      tokens.replaceChildren(views.root);
    }
    if (differs("layer", "head", "step", "query", "key", "reverse", "lift", "held")) {
      const weights = recording.lit(s), words = sentence(recording, s);
      views.paint(s, weights, words);
      litScale.replaceChildren(scaleBar(say(weights.reduce((a, b) => Math.max(a, b), 0))));
      const { count } = s.reverse ? layer.keys : layer.queries, at = (100 * (s.reverse ? s.key : s.query)) / count;
      line.style.cssText = s.reverse ? `left:${at}%;width:${100 / count}%;top:0;height:100%`
        : `top:${at}%;height:${100 / count}%;left:0;width:100%`;
      root.classList.toggle("held", s.held);
      text.textContent = words + (s.held ? " Held." : "");
      matrix.setAttribute("aria-label", words);
      clearTimeout(spoken);                                      // hovering passes over many tokens: speak the last
      spoken = setTimeout(() => { live.textContent = words; }, 500);
    }
    if (differs("pinned", "lift")) drawPins(s);
    if (s.pinned.length) comparePins(s, recording.lit(s));
    shown = s;
  }
  const request = () => { frame = frame || requestAnimationFrame(paint); };
  const redraw = () => { shown = { ...shown, measure: null }; request(); };
  const resized = new ResizeObserver(() => { if (overviewBox.clientWidth !== width) redraw(); });
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", redraw);
  model.on("change", request);
  paint();
  resized.observe(overviewBox);
  return () => {
    model.off("change", request);
    resized.disconnect();
    scheme.removeEventListener("change", redraw);
    setPlaying(false);
    cancelAnimationFrame(frame);
    root.remove();
  };
}

// ---------------------------------------------------------------- a saved page
/** What `render` needs of a widget's model, for a page without a kernel; the address remembers the state. */
export class PageModel {
  constructor(values) { this.values = values; this.listeners = []; this.changed = false; }
  get(name) { return this.values[name]; }
  set(name, value) { this.changed ||= this.values[name] !== value; this.values[name] = value; }
  on(_, listener) { this.listeners.push(listener); }
  off(_, listener) { this.listeners = this.listeners.filter((other) => other !== listener); }
  save_changes() {
    if (this.changed) for (const listener of this.listeners) listener();
    this.changed = false;
  }
}

const readAddress = () => {
  try { return JSON.parse(decodeURIComponent(location.hash.slice(1))); } catch { return {}; }
};

async function inflate(base64) {
  const letters = atob(base64), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = letters.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Read the data that the page carries and show it; where that fails, the static part stays and says why. */
export async function openPage(show = render, initial = STATE) {
  const note = document.getElementById("note");
  if (typeof DecompressionStream === "undefined") {
    note.textContent = "This browser cannot unpack the maps (it lacks DecompressionStream, which every browser of " +
      "2023 or later has); below is the static view.";
    return;
  }
  const meta = JSON.parse(document.getElementById("meta").textContent);
  const planes = await inflate(document.getElementById("planes").textContent.trim());
  const model = new PageModel({ ...initial, ...meta.state, ...readAddress(), meta, planes });
  let writing = 0;
  model.on("change", () => {
    clearTimeout(writing);
    writing = setTimeout(() => {
      const state = Object.fromEntries(Object.entries(initial).filter(([k, v]) => model.get(k) !== v && k !== "pinned")
        .map(([k]) => [k, model.get(k)]));
      history.replaceState(null, "", `#${encodeURIComponent(JSON.stringify(state))}`);
    }, 300);
  });
  show({ model, el: document.getElementById("viewer") });
  document.getElementById("static").hidden = true;
  window.attention = model;
}

const STYLE = `
.attention, .attention * { box-sizing: border-box }
.attention { --ink: #1b2330; --soft: #5b6675; --paper: #fff; --panel: #f4f6fa; --line: #d5dbe5; --accent: #345995;
  --mark: #d1495b; color: var(--ink); background: var(--paper); font: 14px/1.45 system-ui, sans-serif }
@media (prefers-color-scheme: dark) { .attention { --ink: #e8ecf3; --soft: #a9b4c4; --paper: #12161d; --panel: #1b212b;
  --line: #36404f; --accent: #8fb4f5; --mark: #ff6f86; color-scheme: dark } }
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
.attention input { accent-color: var(--accent) }
.attention .sentence { margin: 10px 2px; min-height: 2.9em; font-size: 15px }
.attention .unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); margin: 0 }
.attention { container-type: inline-size }
.attention .panels { display: grid; gap: 14px; align-items: start; grid-template: "overview map right" auto
  "table table right" 1fr / 1fr 1fr 1fr }
.attention .panels > :nth-child(3) { grid-area: right } .attention details { grid-area: table }
@container (max-width: 980px) { .attention .panels {
  grid-template: "overview map" "right right" "table table" / 1fr 1fr } }
@container (max-width: 620px) { .attention .panels { grid-template: "overview" "map" "right" "table" / 100% } }
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
.attention .picture img { display: block; width: 100%; filter: grayscale(1) }
.attention .picture canvas { position: absolute; inset: 0; width: 100%; height: 100%; image-rendering: pixelated }
.attention .strip { display: flex; flex-wrap: wrap; gap: 3px; max-height: 60vh; overflow: auto; padding: 3px }
.attention .picture + .strip { margin-top: 6px }
.attention .chip { padding: 2px 6px; border: 1px solid var(--line); border-radius: 4px; background: var(--paper);
  cursor: crosshair; white-space: pre; min-width: 2.2em; text-align: center }
.attention .chip.on { outline: 2px solid var(--mark); outline-offset: 1px }
.attention .wordless { gap: 1px } .attention .wordless .chip { min-width: 0; width: 7px; height: 12px; padding: 0;
  border: 0;
  border-radius: 1px }
.attention .scale { display: flex; align-items: center; gap: 8px; margin-top: 8px; font-size: 12px; color: var(--soft) }
.attention .ramp { flex: 1; height: 9px; border-radius: 2px; background: linear-gradient(90deg, ${CSS_COLOURS
    .filter((_, i) => i % 15 === 0).join()}) }
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

export { CIVIDIS, CSS_COLOURS, STYLE, clamp, download, make, mapCanvas, say, scaleBar, scaleOf, tokenView };
export default { render };
