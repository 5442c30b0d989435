/* The attention viewer: what it draws is a function of its model's state and of nothing else.
 *
 * Data: `meta` (names, shapes, statistics) and `planes` (one byte a weight). State: `STATE` below. Python joins this
 * module to the kit, so the imports are for readers and editors.
 */
import {
  CIVIDIS, CSS_COLOURS, MAP_COLOUR, MAP_OPACITY, STYLE, arrows, asBytes, breadth, button, cellAt, check, clamp, download,
  h, headName, headSelect, meanMap, mount, paintMap, paintOver, paintValues, palette, panel, player, range, remember, say,
  scaleBar, select, sharedShare, sheet, shortcuts, speaker, stateOf, toLevel, tokenName, tokenView, topOf, weightAt, weightsOf, within,
} from "./kit.js";

export const STATE = {
  layer: 0, head: -1, step: 0,      // head -1 is the mean of the heads
  query: 0, key: 0,                 // the token that looks, and the token that is looked at
  reverse: false,                   // false: where `query` looks; true: who looks at `key`
  held: false,                      // hovering changes nothing
  lift: false,                      // square-root scale: faint weights become visible
  smooth: false,                    // a map over an image interpolates between the middles of patches
  measure: "maps",                  // what the overview shows: the maps, or one statistic
  pinned: [],                       // states kept beside the present one
};
const MOST_PINNED = 4;
const MARGIN = { left: 24, top: 17 };   // px of the overview that hold the numbers of layers and heads

// ---------------------------------------------------------------- the recording: bytes to weights
export class Recording {
  constructor(meta, planes) {
    this.meta = meta;
    this.layers = meta.layers.map((layer) => {
      const [queries, keys] = [layer.queries, layer.keys].map((side) => ({ ...side, names: meta.names[side.names],
        pictures: side.pictures && meta.pictures }));
      return { ...layer, queries, keys };
    });
    this.bytes = asBytes(planes);
    this.means = new Map();
  }

  /** One map, `queries keys`; null where the layer did not run at this step. */
  map({ layer, head, step }) {
    const { queries, keys, heads, offsets, tops } = this.layers[layer], size = queries.count * keys.count;
    if (offsets[step] < 0) return null;
    if (head >= 0) {
      const start = offsets[step] + head * size;
      return { values: this.bytes.subarray(start, start + size), levels: this.meta.levels, top: tops[step][head] };
    }
    const name = `${layer} ${step}`;
    if (!this.means.has(name)) {
      if (this.means.size > 256) this.means.clear();
      this.means.set(name, meanMap(Array.from({ length: heads }, (_, k) => this.map({ layer, head: k, step }))));
    }
    return this.means.get(name);
  }

  /** What is lit: the weights of one query over the keys or, in reverse, of one key over the queries. */
  lit(state) {
    const { queries, keys } = this.layers[state.layer], map = this.map(state), { reverse } = state;
    const start = reverse ? state.key : state.query * keys.count, stride = reverse ? keys.count : 1;
    return Float32Array.from({ length: (reverse ? queries : keys).count },
      (_, i) => (map ? weightAt(map, start + i * stride) : 0));
  }

  statistics({ layer, head, step }) {
    const ofHeads = this.layers[layer].statistics[step];
    if (!ofHeads || head >= 0) return ofHeads && ofHeads[head];
    return this.meta.measures.map((_, m) => ofHeads.reduce((sum, row) => sum + row[m], 0) / ofHeads.length);
  }

  /** A state within bounds, whatever was asked for. */
  bounded(wanted) {
    const { meta, layers } = this;
    return within({ ranges: { layer: [0, layers.length - 1],
      head: [-1, layers.map(({ heads }) => heads - 1)], step: [0, meta.steps - 1],
      query: [0, layers.map(({ queries }) => queries.count - 1)], key: [0, layers.map(({ keys }) => keys.count - 1)] },
    options: { measure: ["maps", ...meta.measures.map(({ name }) => name)] } }, STATE, wanted);
  }
}

// ---------------------------------------------------------------- words
const sayNumber = (value) => value.toFixed(Math.abs(value) >= 10 ? 1 : Math.abs(value) >= 0.1 ? 2 : 3);
const headWords = (head) => (head < 0 ? `the ${headName(head)}` : headName(head));

export function sentence(recording, state) {
  const { meta } = recording, layer = recording.layers[state.layer], weights = recording.lit(state);
  const [from, to] = state.reverse ? [layer.keys, layer.queries] : [layer.queries, layer.keys];
  const start = `Layer ${state.layer} (${layer.name}), ${headWords(state.head)}` +
    (meta.steps > 1 ? `, step ${state.step} of ${meta.steps}` : "");
  if (!recording.map(state)) return `${start}: this layer did not run at this step.`;
  const token = tokenName(from, state.reverse ? state.key : state.query);
  const order = Array.from(weights.keys()).sort((a, b) => weights[b] - weights[a]).filter((i) => weights[i] > 0);
  const most = order.slice(0, 3).map((i) => `${tokenName(to, i)} ${say(weights[i])}`).join(", ");
  if (!most) return `${start}: ${token} ${state.reverse ? "is looked at by nobody" : "looks nowhere"}.`;
  if (state.reverse) return `${start}: ${token} is looked at most by ${most}.`;
  return `${start}: ${token} looks most at ${most}; spread over about ${breadth(weights)} of ` +
    `${weights.length} keys.`;
}

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
  const files = recording.layers.flatMap(({ name, heads, queries, keys, offsets }, layer) => {
    if (offsets[step] < 0) return [];
    const maps = Array.from({ length: heads }, (_, head) => weightsOf(recording.map({ layer, head, step })));
    const values = Float32Array.from(maps.flatMap((map) => [...map]));
    return [[`${layer}_${name.replace(/[^\w.-]+/g, "_")}.npy`, npy(values, [heads, queries.count, keys.count])]];
  });
  return zip(files);
}

/** The picture on screen as one PNG: the map, the tokens it lights, and the sentence that says what is seen. */
async function savePng(recording, state) {
  const side = 560, { brush, write, image: lay, save } = sheet(1240, 700), weights = recording.lit(state);
  const { queries, keys } = recording.layers[state.layer], canvas = document.createElement("canvas");
  const [asking, seen, token] = state.reverse ? [keys, queries, state.key] : [queries, keys, state.query];
  const top = topOf(weights) || 1, at = (side * token) / asking.count;
  brush.drawImage(paintMap(canvas, recording.map(state), keys.count, queries.count, state.lift), 40, 30, side, side);
  brush.strokeStyle = "#d1495b";
  brush.lineWidth = 3;
  if (state.reverse) brush.strokeRect(40 + at, 30, side / asking.count, side);
  else brush.strokeRect(40, 30 + at, side, side / asking.count);
  const colour = (i) => CSS_COLOURS[toLevel(weights[i] / top, state.lift)], order = Array.from(weights.keys());
  if (seen.place) {
    const { rows, columns, prefix } = seen.place, image = recording.meta.image && new Image();
    if (image) {
      image.src = recording.meta.image;
      await image.decode();
    }
    if (image) lay(image, 640, 30, side);
    for (const i of order.slice(prefix)) {
      const x = (i - prefix) % columns, y = Math.floor((i - prefix) / columns);
      brush.fillStyle = image ? `rgb(${MAP_COLOUR})` : colour(i);
      brush.globalAlpha = image ? (MAP_OPACITY * toLevel(weights[i] / top, state.lift)) / 255 : 1;
      brush.fillRect(640 + (side * x) / columns, 30 + (side * y) / rows, side / columns, side / rows);
    }
    brush.globalAlpha = 1;
  } else {
    order.sort((a, b) => weights[b] - weights[a]).slice(0, 20).forEach((i, row) => {
      brush.fillStyle = colour(i);
      brush.fillRect(820, 30 + 28 * row, Math.max(1, 300 * (weights[i] / top)), 22);
      write(tokenName(seen, i).slice(0, 22), 640, 46 + 28 * row, 1000);
      write(say(weights[i]), 826 + 300 * (weights[i] / top), 46 + 28 * row, 1000);
    });
  }
  write(sentence(recording, state), 40, 625, 1160);
  save("attention.png");
}

// ---------------------------------------------------------------- the overview
/** All layers × (mean and heads), each reduced to `size` pixels by the largest weight of each block. */
function paintOverview(words, width, recording, state, size, pitch) {
  recording.layers.forEach((layer, l) => {
    const { count: queries } = layer.queries, { count: keys } = layer.keys;
    const edges = (count) => Array.from({ length: size + 1 }, (_, i) => Math.floor((i * count) / size));
    const ys = edges(queries), xs = edges(keys);
    for (let head = -1; head < layer.heads; head++) {
      const map = recording.map({ layer: l, head, step: state.step }), corner = l * pitch * width + (head + 1) * pitch;
      if (!map) continue;
      const colours = palette(map.levels, state.lift), { values } = map;
      for (let y = 0; y < size; y++) {
        for (let x = 0; x < size; x++) {
          let most = 0;
          const bottom = Math.max(ys[y] + 1, ys[y + 1]), right = Math.max(xs[x] + 1, xs[x + 1]);
          for (let q = ys[y]; q < bottom; q++) {
            for (let i = q * keys + xs[x]; i < q * keys + right; i++) if (values[i] > most) most = values[i];
          }
          words[corner + y * width + x] = colours[most];
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
  const colours = palette(255, true);
  for (const [l, head, value] of cells) {
    const colour = colours[toLevel((value - low) / (high - low || 1))], corner = l * pitch * width + (head + 1) * pitch;
    for (let y = 0; y < size; y++) words.fill(colour, corner + y * width, corner + y * width + size);
  }
  return [low, high];
}

/** The canvas of all layers and heads, a cell each of so many px; returns the range that its colours span. */
function drawOverview(canvas, recording, s, cell) {
  const columns = 1 + Math.max(...recording.layers.map(({ heads }) => heads)), rows = recording.layers.length;
  const scale = Math.ceil(window.devicePixelRatio || 1), pitch = cell * scale;
  canvas.width = scale * (MARGIN.left + cell * columns);
  canvas.height = scale * (MARGIN.top + cell * rows);
  canvas.style.width = `${canvas.width / scale}px`;
  const brush = canvas.getContext("2d"), pixels = brush.createImageData(pitch * columns, pitch * rows);
  const paintCells = s.measure === "maps" ? paintOverview : paintMeasure;
  const span = paintCells(new Uint32Array(pixels.data.buffer), pixels.width, recording, s, pitch - 2 * scale, pitch);
  brush.putImageData(pixels, scale * MARGIN.left, scale * MARGIN.top);
  brush.scale(scale, scale);
  brush.font = "10.5px system-ui, sans-serif";
  brush.fillStyle = getComputedStyle(canvas).getPropertyValue("--soft");
  brush.textBaseline = "middle";
  const every = Math.ceil(18 / cell);
  brush.textAlign = "right";
  for (let l = 0; l < rows; l += every) brush.fillText(l, MARGIN.left - 6, MARGIN.top + cell * (l + 0.45));
  brush.textAlign = "center";
  for (let head = -1; head < columns - 1; head++) {
    const at = MARGIN.left + cell * (head + 1.45);
    if (head < 0 || (head % every === 0 && (head > 0 || cell > 22))) brush.fillText(head < 0 ? "mean" : head, at, 7);
  }
  return span;
}

// ---------------------------------------------------------------- the view
const MATRIX_HINT = "Rows look at columns. Point at a token, a patch or a row; click to hold it, click again to " +
  "let go.";

export function render({ model, el }) {
  let page = null, recording = null, width = 0, cell = 12, scheme = 0, cellNote = "", matrixNote = MATRIX_HINT;
  const request = () => page?.request();
  const read = remember((meta, planes) => new Recording(meta, planes));
  const refresh = () => { recording = read(model.get("meta"), model.get("planes")); };
  refresh();
  const { state, change } = stateOf(model, STATE, (wanted) => recording.bounded(wanted));
  const steps = player(() => change({ step: (state().step + 1) % recording.meta.steps }), 400, request);
  const speech = speaker(request);

  // ---- what people do
  function turn() {
    const s = state(), reverse = !s.reverse, { self } = recording.layers[s.layer];
    change({ reverse, ...(!self ? {} : reverse ? { key: s.query } : { query: s.key }) });
  }
  const pick = (asks) => (index, event) => {
    const s = state(), { self } = recording.layers[s.layer], hovering = event.type === "pointermove";
    const reverse = self ? s.reverse : !asks, name = reverse ? "key" : "query";
    if (hovering && (s.held || (s[name] === index && s.reverse === reverse))) return;
    const holds = event.type === "click" || event.key === "Enter" || event.key === " ";
    change({ [name]: index, reverse, held: holds ? !(s.held && s[name] === index) : s.held });
  };
  function pin() {
    const { layer, head, step, query, key, reverse, pinned } = state();
    change({ pinned: [...pinned, { layer, head, step, query, key, reverse }].slice(-MOST_PINNED) });
  }
  function overviewAt(event) {
    const box = event.currentTarget.querySelector("canvas").getBoundingClientRect(), { layers } = recording;
    const layer = Math.floor((event.clientY - box.top - MARGIN.top) / cell);
    const head = Math.floor((event.clientX - box.left - MARGIN.left) / cell) - 1;
    return head >= -1 && head < layers[layer]?.heads ? { layer, head } : null;
  }
  function overOverview(event) {
    const place = overviewAt(event), { measures } = recording.meta;
    if (place && event.buttons) change(place);
    const row = place && recording.statistics({ ...place, step: state().step });
    cellNote = place ? `Layer ${place.layer} (${recording.layers[place.layer].name}), ${headWords(place.head)}: ` +
      (row ? row.map((v, m) => `${measures[m].name} ${sayNumber(v)}`).join(", ") : "did not run at this step") : "";
    request();
  }
  function overMatrix(event) {
    const s = state(), { queries, keys } = recording.layers[s.layer], map = recording.map(s);
    const [query, key] = cellAt(event, event.currentTarget, queries.count, keys.count);
    if (map) {
      matrixNote = `${tokenName(queries, query)} → ${tokenName(keys, key)}: ` +
        say(weightAt(map, query * keys.count + key));
    }
    if (event.type === "click") change({ query, key, held: !(s.held && s.query === query) });
    else if (!s.held && (s.reverse ? s.key !== key : s.query !== query)) change(s.reverse ? { key } : { query });
    request();
  }

  // ---- what is drawn
  function controls(s) {
    const { meta, layers } = recording;
    return h("div", { class: "bar", role: "group", "aria-label": "what is shown" },
      select("Layer", layers.map(({ name }, l) => [l, `${l}  ${name}`]), s.layer, (layer) => change({ layer })),
      headSelect(layers[s.layer].heads, s.head, (head) => change({ head })),
      h("span", { class: "field", hidden: meta.steps < 2 }, range("Step", s.step, (step) => change({ step }),
        { max: meta.steps - 1 }), h("output", {}, s.step), steps.button("walk through the steps")),
      select("Overview", ["maps", ...meta.measures.map(({ name }) => name)].map((name) => [name, name]), s.measure,
        (measure) => change({ measure })),
      check("lift faint weights", s.lift, (lift) => change({ lift }), "colours follow the square root of the weight"),
      meta.image && check("smooth", s.smooth, (smooth) => change({ smooth }),
        "interpolates between patches; the model has one number for each"),
      button("Who looks here", "not where a token looks, but which tokens look at it", turn,
        { "aria-pressed": s.reverse }),
      button("Pin", "keep this beside the next (key P)", pin),
      button("PNG", "save this view as a picture", () => savePng(recording, state())),
      button("npz", "save the weights of this step for NumPy",
        () => download(exportNpz(recording, state().step), "attention.npz")));
  }
  let span = null;                                       // of the colours of the overview
  function overview(s) {
    const { meta } = recording, chart = meta.measures.find(({ name }) => name === s.measure);
    const left = MARGIN.left + (s.head + 1) * cell, top = MARGIN.top + s.layer * cell;
    const reveal = (box) => {
      box.scrollTop = Math.min(top - MARGIN.top, Math.max(box.scrollTop, top + cell - box.clientHeight));
      box.scrollLeft = Math.min(left - MARGIN.left, Math.max(box.scrollLeft, left + cell - box.clientWidth));
    };
    const words = !chart ? "Brightness: each map from 0 to its own largest weight."
      : `${chart.name}: ${chart.says}; dark ${sayNumber(span?.[0] ?? 0)}, bright ${sayNumber(span?.[1] ?? 0)}.`;
    return panel("Layers and heads", {},
      h("div", { class: "overview", tabindex: 0, role: "application", draw: [reveal, left, top, s.step],
        "aria-label": "All maps: up and down choose the layer, left and right the head", onpointermove: overOverview,
        onpointerleave: () => { cellNote = ""; request(); },
        onpointerdown: (event) => { const place = overviewAt(event); if (place) change(place); },
        onkeydown: arrows((down, right) => change({ layer: state().layer + down, head: state().head + right })) },
      h("canvas", { draw: [(canvas) => { span = drawOverview(canvas, recording, s, cell); request(); },
        recording, s.step, s.measure, s.lift, cell, scheme] }),
      h("div", { class: "mark", style: `left:${left}px;top:${top}px;width:${cell - 2}px;height:${cell - 2}px` })),
      h("p", { class: "note" }, cellNote || `A row for each layer, a column for each head. ${words}`));
  }
  function oneMap(s, words) {
    const { queries, keys } = recording.layers[s.layer], map = recording.map(s);
    const { count } = s.reverse ? keys : queries, at = (100 * (s.reverse ? s.key : s.query)) / count;
    return panel("One map", {},
      h("div", { class: "matrix", style: `aspect-ratio:${clamp((100 * keys.count) / queries.count, 50, 200) / 100}`,
        onpointermove: overMatrix, onclick: overMatrix,
        onpointerleave: () => { matrixNote = MATRIX_HINT; request(); } },
      h("canvas", { role: "img", "aria-label": words, class: queries.count > 400 || keys.count > 400 ? "fine" : null,
        draw: [(canvas) => paintMap(canvas, map, keys.count, queries.count, s.lift), recording, s.layer, s.head, s.step,
          s.lift] }),
      h("div", { class: "mark", style: s.reverse ? `left:${at}%;width:${100 / count}%;top:0;height:100%`
        : `top:${at}%;height:${100 / count}%;left:0;width:100%` })),
      scaleBar(map ? say(map.top) : "no map"), h("p", { class: "note" }, matrixNote));
  }

  /** The tokens of a layer: one side, or queries and keys apart. `weights` lights one of them. */
  function tokensOf(s, weights, words, pickable = true) {
    const { meta } = recording, { queries, keys, self } = recording.layers[s.layer], top = topOf(weights) || 1;
    const chosen = { query: s.reverse ? -1 : s.query, key: s.reverse ? s.key : -1, token: s.reverse ? s.key : s.query };
    const one = (side, label, lit) => tokenView(side, { image: meta.image, label, chosen: chosen[label] ?? -1,
      text: chosen[label] >= 0 && words, pick: pickable && pick(label !== "key"),
      current: () => { const now = state(); return now[self ? (now.reverse ? "key" : "query") : label]; },
      smooth: s.smooth, colour: (i) => (lit ? toLevel(weights[i] / top, s.lift) : -1),
      draw: [(canvas) => {
        const { prefix, rows, columns } = side.place;
        const values = lit ? weights.subarray(prefix) : new Float32Array(rows * columns);
        if (meta.image) paintOver(canvas, values, top, columns, s.lift);
        else paintValues(canvas, values, columns, (weight) => [...CIVIDIS[toLevel(weight / top, s.lift)], lit && 255]);
      }, recording, s.layer, s.head, s.step, s.reverse, s.lift, lit, chosen.token] });
    if (!pickable) return one(s.reverse ? queries : keys, self ? "token" : "", true);
    if (self) return one(queries, "token", true);
    return h("div", { class: "two" }, h("h3", {}, "Queries"), one(queries, "query", s.reverse),
      h("h3", {}, "Keys"), one(keys, "key", !s.reverse));
  }
  function pins(s, weights) {
    return h("div", { class: "pins" }, s.pinned.map((wanted, index) => {
      const pinned = recording.bounded({ ...wanted, lift: s.lift }), others = recording.lit(pinned);
      const comparable = others.length === weights.length && !pinned.reverse && !s.reverse;
      return h("figure", {}, h("figcaption", {}, sentence(recording, pinned)), tokensOf(pinned, others, "", false),
        h("p", { class: "note" }, comparable && sharedShare(weights, others)),
        h("div", {}, button("Show", "go back to this", () => change(wanted)),
          button("Remove", "unpin", () => change({ pinned: state().pinned.filter((_, i) => i !== index) }))));
    }));
  }

  const table = remember((of, layer, head, step) => {
    const { name, note, statistics } = of.layers[layer], ofHeads = statistics[step] || [], { measures } = of.meta;
    const cellOf = (value, m) => {
      const column = ofHeads.map((row) => row[m]), low = Math.min(0, ...column);
      const share = (100 * (value - low)) / (Math.max(...column) - low || 1);
      return h("td", { style: `--share:${share.toFixed(1)}%` }, sayNumber(value));
    };
    return h("details", { open: "" }, h("summary", {}, "Statistics of the heads"), h("div", { class: "scroll" },
      h("table", {}, h("caption", {}, `Layer ${layer}, ${name}${note && `: ${note}`}`),
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "head"),
          measures.map((measure) => h("th", { scope: "col", title: measure.says }, measure.name)))),
        h("tbody", {}, ofHeads.map((values, k) => h("tr", { class: k === head ? "on" : "" }, h("th", { scope: "row" },
          h("button", { type: "button", onclick: () => change({ head: k }) }, k)), values.map(cellOf)))))));
  });

  function view() {
    refresh();
    cell = clamp((width - MARGIN.left) / (1 + Math.max(...recording.layers.map(({ heads }) => heads))) - 0.5, 12, 56);
    const s = state(), weights = recording.lit(s), words = sentence(recording, s);
    return h("div", { class: s.held ? "attention held" : "attention", onkeydown: shortcuts({ p: pin, P: pin,
      "[": () => change({ step: state().step - 1 }), "]": () => change({ step: state().step + 1 }) }) },
      h("style", {}, STYLE), controls(s), speech.say(words + (s.held ? " Held." : "")),
      h("div", { class: "panels" }, overview(s), oneMap(s, words),
        h("div", { class: "right" }, panel("Its tokens", {}, h("div", { class: "sides" }, tokensOf(s, weights, words)),
          scaleBar(say(topOf(weights)), recording.meta.image ? "over-ramp" : "ramp")), pins(s, weights)), table(recording, s.layer, s.head, s.step)));
  }
  page = mount(el, view);
  const overviewBox = page.node.querySelector(".overview");
  const fit = () => { width = overviewBox.clientWidth; request(); };
  fit();
  page.draw();
  const resized = new ResizeObserver(fit), dark = matchMedia("(prefers-color-scheme: dark)");
  const recolour = () => { scheme += 1; request(); };
  resized.observe(overviewBox);
  dark.addEventListener("change", recolour);
  model.on("change", request);
  return () => {
    model.off("change", request);
    resized.disconnect();
    dark.removeEventListener("change", recolour);
    steps.play(false);
    speech.close();
    page.close();
  };
}

export default { render };
