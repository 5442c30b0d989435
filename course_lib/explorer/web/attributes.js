/* The attention explorer: one sample at a time, what each attribute's query looks at.
 *
 * What is drawn is a function of the state (`EXPLORER_STATE`, the widget's traits) and of where the pointer is. A
 * sample's maps come once, from the kernel or out of the page, and everything else happens here. Python joins this
 * module to the viewer's and the shared one, so the imports below are for readers and editors.
 */
import { KEPT, Kernel, Pages, SHARED_STYLE, button, keepKeys, noticeBoard, percent } from "../../recorder/web/shared.js";
import {
  STYLE, asBytes, clamp, download, entropyOf, make, mapCanvas, say, scaleBar, scaleOf, tokenName, tokenView,
} from "../../recorder/web/viewer.js";

// ---------------------------------------------------------------- the state
export const EXPLORER_STATE = {
  sample: 0, checkpoint: 0,         // sample -1 is an image of one's own
  layer: 0, head: -1,               // head -1 is the mean of the heads
  attribute: "", patch: -1,         // patch: whose onlookers are listed; -1 is none
  rarity: "all", sort: "probability",
  outcome: "any",                   // which samples are stepped through
  pinned: [],                       // views kept beside the present one
  mask: 0,                          // so many of the most attended patches are painted over
  lift: false, outlined: true, strength: 0.7,
};
const OWN = -1, MOST_PINS = 3;
const PIN = ["sample", "checkpoint", "layer", "head", "attribute"];
const UNIT = scaleOf(255, 1).weights;
const OUTCOMES = { any: "all samples", found: "found", missed: "missed", "false alarm": "false alarms",
  "off region": "present, attention off its region" };
const CODES = { found: 1, missed: 2, "false alarm": 3 };
const veilOf = (level) => 0.35 + (0.65 * level) / 255;      // dark parts of a map let the image through

// ---------------------------------------------------------------- one sample
/** The bytes of `pack_item`: the largest weight of each map, the maps, the share of each token that a region covers. */
export class Sample {
  constructor(meta, header, planes) {
    Object.assign(this, header);
    const { layers, attributes, tokens } = meta, bytes = asBytes(planes);
    this.meta = meta;
    this.means = new Map();
    this.starts = [];
    const count = layers.reduce((sum, layer) => {
      this.starts.push(sum);
      return sum + layer.heads * attributes.length;
    }, 0);
    this.tops = new Float32Array(bytes.slice(0, 4 * count).buffer);
    this.levels = bytes.subarray(4 * count, (4 + tokens) * count);
    this.cover = header.outlines ? bytes.subarray((4 + tokens) * count) : null;
  }

  /** `UNIT[values[i]] * top` is the weight of patch i. */
  map(layer, head, attribute) {
    if (head < 0) return this.mean(layer, attribute);
    const { tokens, attributes } = this.meta, row = this.starts[layer] + head * attributes.length + attribute;
    return { values: this.levels.subarray(row * tokens, (row + 1) * tokens), levels: 255, top: this.tops[row] };
  }

  mean(layer, attribute) {
    const name = layer * this.meta.attributes.length + attribute;
    if (!this.means.has(name)) {
      const { heads } = this.meta.layers[layer], sums = new Float32Array(this.meta.tokens);
      for (let head = 0; head < heads; head++) {
        const { values, top } = this.map(layer, head, attribute);
        for (let i = 0; i < sums.length; i++) sums[i] += (UNIT[values[i]] * top) / heads;
      }
      const top = sums.reduce((a, b) => Math.max(a, b), 0);
      const values = Uint8Array.from(sums, (w) => Math.round(255 * Math.sqrt(w / (top || 1))));
      this.means.set(name, { values, levels: 255, top, sums });
    }
    return this.means.get(name);
  }

  weights(layer, head, attribute) {
    const map = this.map(layer, head, attribute);
    return map.sums || Float32Array.from(map.values, (value) => UNIT[value] * map.top);
  }

  predicted(attribute) { return this.probabilities[attribute] >= this.meta.attributes[attribute].threshold; }

  outcome(attribute) {
    if (!this.truth) return "unknown";
    return this.truth[attribute] ? (this.predicted(attribute) ? "found" : "missed")
      : this.predicted(attribute) ? "false alarm" : "rightly refused";
  }

  error(attribute) { return this.truth ? Math.abs(this.truth[attribute] - this.probabilities[attribute]) : 0; }

  /** Energy: the share of the attention inside the region. Pointing: whether the strongest patch touches it. */
  score(weights, attribute) {
    if (!this.cover || !this.outlines[attribute]) return null;
    const { tokens } = this.meta, cover = this.cover.subarray(attribute * tokens, (attribute + 1) * tokens);
    let inside = 0, total = 0, area = 0, strongest = 0, hits = 0, touched = 0;
    const most = weights.reduce((a, b) => Math.max(a, b), 0);
    weights.forEach((weight, i) => {
      inside += (weight * cover[i]) / 255;
      total += weight;
      area += cover[i] / 255 / tokens;
      touched += (cover[i] > 0) / tokens;
      if (weight === most) { strongest += 1; hits += cover[i] > 0; }
    });
    return { energy: inside / (total || 1), area, pointing: hits / strongest, chance: touched };
  }
}

// ---------------------------------------------------------------- where samples come from
/** What only the model knows of many samples, asked from the kernel. */
class AttributeKernel extends Kernel {
  async outcomes(attribute, checkpoint, predict) {
    const { missing, bytes } = await this.ask({ kind: "outcomes", attribute, checkpoint, predict });
    return missing ? { missing } : { codes: bytes };
  }
  async find(words, start) { return (await this.ask({ kind: "find", words, start })).sample; }
}

/** The same, worked out from the samples of a saved page. */
class AttributePages extends Pages {
  async outcomes(attribute, checkpoint) {
    const index = this.meta.attributes.findIndex(({ name }) => name === attribute), { layers } = this.meta;
    return { codes: this.samples.map((number) => {
      const sample = this.readable(number, checkpoint);
      if (!sample) return 0;
      const score = sample.score(sample.weights(layers.length - 1, -1, index), index);
      const off = sample.truth?.[index] && score && score.pointing < 0.5;
      return (CODES[sample.outcome(index)] || 0) + (off ? 8 : 0);
    }) };
  }
  async find(words, start) {
    const wanted = words.toLowerCase().split(/\s+/).filter(Boolean).map((word) => {
      const name = word.replace(/^-+/, "");
      const indices = [...this.meta.attributes.keys()].filter((i) =>
        this.meta.attributes[i].name.toLowerCase().includes(name));
      if (!indices.length) throw new Error(`no attribute has '${name}' in its name`);
      return [word.startsWith("-"), indices];
    });
    const first = Math.max(0, this.samples.indexOf(start));
    for (let step = 0; step < this.count; step++) {
      const sample = this.readable(this.samples[(first + step) % this.count], 0);
      if (sample?.truth && wanted.every(([absent, indices]) => indices.some((i) => sample.truth[i]) !== absent)) {
        return sample.sample;
      }
    }
    return null;
  }
}

// ---------------------------------------------------------------- words
const headWords = (head) => (head < 0 ? "mean of the heads" : `head ${head}`);
const sampleName = (sample) => (sample === OWN ? "your own image" : `sample ${sample}`);

/** How spread a map is: entropy in nats, and focus, 0 for even attention and 1 for one patch. */
function spread(weights) {
  const entropy = entropyOf(weights);
  return { entropy, focus: 1 - entropy / Math.log(weights.length) };
}

export function explain(sample, { layer, head, attribute }) {
  const { name, frequency, threshold } = sample.meta.attributes[attribute];
  const weights = sample.weights(layer, head, attribute);
  const side = gridOf(sample.meta), best = weights.indexOf(weights.reduce((a, b) => Math.max(a, b), 0));
  const score = sample.score(weights, attribute), outcome = sample.outcome(attribute);
  const said = sample.truth ? `${sample.truth[attribute] ? "present" : "absent"}, so ${outcome}` : "truth unknown";
  return `${name}${frequency === null ? "" : ` (in ${percent(frequency)} of the images)`}: predicted ` +
    `${sample.probabilities[attribute].toFixed(2)} against a threshold of ${threshold.toFixed(2)}; ${said}. ` +
    `Layer ${layer}, ${headWords(head)}: looks most at ${tokenName(side, best)} with ${say(weights[best])}, as ` +
    `widely as if evenly at ${Math.exp(entropyOf(weights)).toFixed(1)} of ${weights.length} patches` +
    (!score ? "; where it should look is unknown."
      : `; ${percent(score.energy)} of its attention is in the true region, which covers ${percent(score.area)} ` +
        `of the image, and its strongest patch ${score.pointing > 0.5 ? "hits" : "misses"} it.`);
}

export function onlookers(sample, { layer, head, patch }) {
  const looks = sample.meta.attributes.map((_, i) => sample.weights(layer, head, i)[patch]);
  const order = looks.map((_, i) => i).sort((a, b) => looks[b] - looks[a]).slice(0, 4);
  return `${tokenName(gridOf(sample.meta), patch).replace("p", "P")} is looked at most by ` +
    order.map((i) => `${sample.meta.attributes[i].name} ${say(looks[i])}`).join(", ") +
    ` (layer ${layer}, ${headWords(head)}); evenly, each would give it ${say(1 / sample.meta.tokens)}.`;
}

const gridOf = ({ tokens }) => {
  const side = Math.round(Math.sqrt(tokens));
  return { count: tokens, names: null, place: { rows: side, columns: side, prefix: 0 } };
};

/** A state within bounds, whatever was asked for. */
export function bounded(meta, wanted) {
  const state = { ...EXPLORER_STATE, ...wanted }, oneOf = (name, options) => {
    if (!options.includes(state[name])) state[name] = options[0];
  };
  state.layer = clamp(state.layer, 0, meta.layers.length - 1);
  state.head = clamp(state.head, -1, meta.layers[state.layer].heads - 1);
  state.checkpoint = clamp(state.checkpoint, 0, Math.max(0, meta.checkpoints.length - 1));
  state.sample = clamp(state.sample, OWN, meta.count - 1);
  state.patch = clamp(state.patch, -1, meta.tokens - 1);
  state.mask = clamp(state.mask, 0, meta.tokens);
  oneOf("attribute", meta.attributes.map(({ name }) => name));
  const known = meta.attributes[0].frequency !== null;
  oneOf("rarity", known ? ["all", "rare", "common"] : ["all"]);
  oneOf("sort", known ? ["probability", "rarity", "error"] : ["probability", "error"]);
  oneOf("outcome", Object.keys(OUTCOMES));
  return state;
}

// ---------------------------------------------------------------- a picture with a map and the true region over it
function lookView(sample, pick) {
  const side = gridOf(sample.meta), view = tokenView(side, sample.image, "patches of the image", pick, veilOf);
  const image = view.root.querySelector("img"), picture = view.root.querySelector(".picture");
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "region");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("preserveAspectRatio", "none");
  for (const name of ["under", "over"]) {
    const path = document.createElementNS(svg.namespaceURI, "path");
    path.setAttribute("class", name);
    svg.append(path);
  }
  const masked = make("div", { class: "masked", "aria-hidden": "true" });
  picture.append(svg, masked);
  let source = sample.image;
  if (pick) view.root.setAttribute("aria-valuemin", -1);

  /** `view` is the state with the attribute's index. */
  function paint(of, state, weights, patches = []) {
    if (of.image !== source) image.src = source = of.image;
    picture.style.setProperty("--strength", state.strength);
    view.paint(weights, state.patch, state.lift, "");
    if (pick) view.root.setAttribute("aria-valuenow", state.patch);
    const outline = (state.outlined && of.outlines?.[state.attribute]) || "";
    svg.setAttribute("viewBox", `0 0 ${of.size[1]} ${of.size[0]}`);
    for (const path of svg.children) path.setAttribute("d", outline);
    const { rows, columns } = side.place;
    masked.replaceChildren(...patches.map((patch) => {
      const square = make("i");
      square.style.cssText = `left:${(100 * (patch % columns)) / columns}%;width:${100 / columns}%;` +
        `top:${(100 * Math.floor(patch / columns)) / rows}%;height:${100 / rows}%`;
      return square;
    }));
  }
  return { root: view.root, paint, image };
}

/** The present view as one PNG: the picture, the pinned ones beside it, and their sentences. */
function picturePng(shots) {
  const side = 420, gap = 24, width = gap + shots.length * (side + gap), lines = shots.map(() => []);
  const canvas = make("canvas", { width: Math.max(width, 560), height: side + 260 }), brush = canvas.getContext("2d");
  brush.fillStyle = "#fff";
  brush.fillRect(0, 0, canvas.width, canvas.height);
  brush.font = "14px sans-serif";
  shots.forEach(({ sample, state, image, weights }, k) => {
    const x = gap + k * (side + gap), count = Math.round(Math.sqrt(weights.length));
    const map = sample.map(state.layer, state.head, state.attribute);
    brush.filter = "grayscale(1)";
    if (image) brush.drawImage(image, x, gap, side, side);
    brush.filter = "none";
    brush.imageSmoothingEnabled = false;
    brush.globalAlpha = state.strength;
    brush.drawImage(mapCanvas(map, { keys: { count }, queries: { count } }, state.lift), x, gap, side, side);
    brush.globalAlpha = 1;
    const outline = state.outlined && sample.outlines?.[state.attribute];
    if (outline) {
      brush.save();
      brush.translate(x, gap);
      brush.scale(side / sample.size[1], side / sample.size[0]);
      for (const [colour, thick] of [["#000", 4], ["#ffdc3c", 2]]) {
        brush.strokeStyle = colour;
        brush.lineWidth = (thick * sample.size[1]) / side;
        brush.stroke(new Path2D(outline));
      }
      brush.restore();
    }
    brush.fillStyle = "#1b2330";
    let line = "", y = gap + side + 26;
    const room = shots.length > 1 ? side : canvas.width - 2 * gap;
    for (const word of `${sampleName(sample.sample)}. ${explain(sample, state)}`.split(" ")) {
      if (brush.measureText(`${line} ${word}`).width > room) { brush.fillText(line, x, y); [line, y] = ["", y + 20]; }
      line = line ? `${line} ${word}` : word;
    }
    brush.fillText(line, x, y);
  });
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

// ---------------------------------------------------------------- the view
export function renderExplorer({ model, el }) {
  const meta = model.get("meta"), tokens = gridOf(meta), names = meta.attributes.map(({ name }) => name);
  const { root: notice, notes, note } = noticeBoard();
  let frame = 0, spoken = 0, playing = 0, ahead = 0, asking = false, shown = null, view = null, masking = "";
  let pointed = { attribute: -1, patch: -1 }, direction = 1;
  const codes = new Map(), failures = new Map(), removals = new Map();
  const unpack = (...parts) => new Sample(...parts);
  const source = meta.kernel ? new AttributeKernel(model, unpack, ({ silence, done, of }) => {
    if (silence !== undefined) note("kernel", silence);
    if (done !== undefined) note("filter", progressOf(done, of));
  }) : new AttributePages(model, unpack);

  const state = () => {
    const s = bounded(meta, Object.fromEntries(Object.keys(EXPLORER_STATE).map((k) => [k, model.get(k)])));
    if (!meta.kernel && !source.samples.includes(s.sample)) s.sample = source.samples[0];
    return s;
  };
  const change = (values) => {
    const next = bounded(meta, { ...state(), ...values });
    for (const name of new Set([...Object.keys(values), "head"])) model.set(name, next[name]);
    model.save_changes();
  };
  const indexed = (s) => ({ ...s, attribute: names.indexOf(s.attribute) });

  // ---- the controls
  const sampleRange = make("input", { type: "range", min: 0,
    oninput: () => change({ sample: at(Number(sampleRange.value)) }) });
  const sampleNumber = make("output", { class: "number" });
  const findInput = make("input", { type: "search", placeholder: "12, or bald -male", "aria-label":
    "Find a sample by its number, or by attributes it has (a minus before those it has not)" });
  const find = make("form", { class: "field", role: "search",
    onsubmit: (event) => { event.preventDefault(); search(); } }, findInput,
      make("button", { type: "submit" }, "Find"));
  const outcomeSelect = make("select", { onchange: () => filter(outcomeSelect.value) },
    ...Object.entries(OUTCOMES).map(([value, text]) => make("option", { value }, text)));
  const fileInput = make("input", { type: "file", accept: "image/png,image/jpeg", class: "unseen", onchange: () => {
    if (fileInput.files[0]) take(fileInput.files[0]);
    fileInput.value = "";
  } });
  const file = make("label", { class: "file", title: "a PNG or JPEG; you can also drop it on the picture" }, fileInput,
    make("span", {}, "Your image…"));
  const bar = make("div", { class: "bar", role: "group", "aria-label": "which sample" },
    make("span", { class: "field grows" }, button("‹", "the sample before", () => go(-1),
      { "aria-label": "sample before" }),
      make("label", { class: "grows" }, make("span", {}, "Sample "), sampleRange),
      button("›", "the next sample", () => go(1), { "aria-label": "next sample" }), sampleNumber),
    find, make("label", { title: "only samples where the chosen attribute came out so" }, "Show ", outcomeSelect),
    meta.kernel ? file : "");

  const checkpointRange = make("input", { type: "range", min: 0, max: Math.max(0, meta.checkpoints.length - 1),
    oninput: () => change({ checkpoint: Number(checkpointRange.value) }) });
  const checkpointName = make("output");
  const play = button("Play", "walk through the checkpoints", () => setPlaying(!playing));
  const checkpoints = make("div", { class: "bar", role: "group", "aria-label": "which checkpoint" },
    make("label", { class: "grows" }, "Checkpoint ", checkpointRange), checkpointName, play);
  checkpoints.hidden = meta.checkpoints.length < 2;

  const strength = make("input", { type: "range", min: 0, max: 1, step: 0.05,
    oninput: () => change({ strength: Number(strength.value) }) });
  const lift = make("input", { type: "checkbox", onchange: () => change({ lift: lift.checked }) });
  const outlined = make("input", { type: "checkbox", onchange: () => change({ outlined: outlined.checked }) });
  const place = make("div"), scale = make("div"), readout = make("dl", { class: "readout" });
  const looking = make("section", { "aria-label": "Where it looks", class: "looking" },
    make("h2", {}, "Where it looks"), place,
    scale, make("div", { class: "options" }, make("label", {}, "Map ", strength),
      make("label", { title: "colours follow the square root of the weight" }, lift, " lift faint weights"),
      make("label", {}, outlined, " outline the true region")));

  const rarities = ["all", "rare", "common"].map((value) => make("button", { type: "button", "data-value": value,
    onclick: () => change({ rarity: value }), title: { all: "all attributes",
      rare: `positive in less than ${percent(meta.rare)}`,
      common: `positive in more than ${percent(meta.common)}` }[value] }, value[0].toUpperCase() + value.slice(1)));
  const known = meta.attributes[0].frequency !== null;
  const sortSelect = make("select", { onchange: () => change({ sort: sortSelect.value }) },
    ...[["probability", "probability"], ...(known ? [["rarity", "rarity"]] : []), ["error", "error"]]
      .map(([value, text]) => make("option", { value }, text)));
  const listed = make("p", { class: "note" }), rows = names.map(makeRow);
  const list = make("div", { class: "list", role: "listbox", tabindex: 0,
    "aria-label": "Attributes: up and down choose one, left and right step through the samples" });
  const choosing = make("section", { "aria-label": "Attributes", class: "choosing" }, make("h2", {}, "Attributes"),
    make("div", { class: "options" },
      known ? make("span", { class: "field", role: "group", "aria-label": "how frequent" }, ...rarities)
        : make("span", { class: "soft" }, "frequencies unknown"),
      make("label", {}, "Sort by ", sortSelect)), list, listed);

  const layerSelect = make("select", { onchange: () => change({ layer: Number(layerSelect.value) }) },
    ...meta.layers.map((layer, l) => make("option", { value: l, title: layer.name }, `${l}`)));
  const headSelect = make("select", { onchange: () => change({ head: Number(headSelect.value) }) });
  const cells = meta.layers.map((layer, l) => Array.from({ length: layer.heads + 1 }, (_, k) => makeCell(l, k - 1)));
  const most = Math.max(...meta.layers.map(({ heads }) => heads));
  const grid = make("div", { class: "heads", role: "radiogroup", style: `--columns: ${most + 1}`, "aria-label":
    "All layers and heads: up and down choose the layer, left and right the head" },
    make("span", { "aria-hidden": "true" }), ...Array.from({ length: most + 1 }, (_, h) =>
      make("span", { class: "soft", "aria-hidden": "true" }, h ? String(h - 1) : "mean")),
    ...cells.flatMap((row, l) => [make("span", { class: "soft", "aria-hidden": "true" }, String(l)), ...row,
      ...Array.from({ length: most + 1 - row.length }, () => make("span"))]));
  const heading = make("section", { "aria-label": "Layers and heads", class: "heading" },
    make("h2", {}, "Layers (rows) and heads (columns)"), make("div", { class: "options" },
      make("label", {}, "Layer ", layerSelect), make("label", {}, "Head ", headSelect)), grid,
    make("p", { class: "note" }, `Each map from 0 to its own largest weight. ${meta.layers.map((layer, l) =>
      `${l}: ${layer.name}`).join("; ")}.`));

  const numbers = make("section", { "aria-label": "In numbers" }, make("h2", {}, "In numbers"), readout);
  const maskRange = make("input", { type: "range", min: 0, max: Math.min(25, meta.tokens),
    onchange: () => change({ mask: Number(maskRange.value) }),
    oninput: () => { maskNumber.textContent = maskRange.value; } });
  const maskNumber = make("output", { class: "number" }), effect = make("div", { class: "effect" });
  const removing = make("section", { "aria-label": "Take patches away", class: "removing" },
    make("h2", {}, "Does it need them?"),
    meta.kernel ? make("label", { class: "options" }, "Paint over the most attended patches: ", maskRange, maskNumber)
      : make("p", { class: "note" }, "Painting over patches, other samples and images of your own need the model: " +
        "open the explorer in a notebook."), effect);

  const text = make("p", { class: "sentence" }), live = make("p", { class: "unseen", "aria-live": "polite" });
  const pins = make("div", { class: "pins" });
  const actions = make("span", { class: "field" }, button("Pin", "keep this view for comparison (key P)", pin),
    button("PNG", "save what is seen as a picture", savePng),
    meta.kernel ? button("Page", "save an offline page of the samples seen last", savePage) : "");
  const panels = make("div", { class: "sights" }, looking, choosing,
    make("div", { class: "side" }, heading, numbers, removing));
  const root = make("div", { class: "attention explorer", "data-lm-suppress-shortcuts": true },     // JupyterLab's keys
    make("style", {}, STYLE + SHARED_STYLE + EXPLORER_STYLE), bar, checkpoints, notice,
      make("div", { class: "saying" }, text, actions),
    live, panels, pins);
  el.append(root);

  // ---- what people do
  const key = (s) => `${s.attribute} ${s.checkpoint}`;
  /** The numbers of the samples that are stepped through; null means all. */
  function path(s) {
    if (s.outcome === "any") return null;
    const known = codes.get(key(s));
    if (!known || known.missing) return null;
    if (!known[s.outcome]) {
      const wanted = CODES[s.outcome], found = [];
      known.codes.forEach((code, position) => {
        if (wanted ? (code & 7) === wanted : code >= 8) found.push(source.number_of(position));
      });
      known[s.outcome] = found;
    }
    return known[s.outcome];
  }
  const at = (position) => (path(state()) || { [position]: source.number_of(position) })[position];
  function positionOf(s) {
    const matches = path(s) || source.samples;
    if (!matches) return s.sample;
    const position = matches.findIndex((number) => number >= s.sample);
    return position < 0 ? matches.length - 1 : position;
  }
  function go(steps) {
    const s = state(), matches = path(s) || source.samples, last = (matches || { length: source.count }).length - 1;
    if (last < 0) return;
    direction = steps;
    const position = positionOf(s), there = !matches || matches[position] === s.sample;
    const between = !there && matches[position] > s.sample;      // then the next one is already the one at `position`
    const next = clamp(between && steps > 0 ? position : position + (there || steps < 0 ? steps : 0), 0, last);
    change({ sample: matches ? matches[next] : next });
  }
  async function search() {
    const words = findInput.value.trim(), s = state(), number = Number(words);
    note("find", "");
    if (!words) return;
    if (/^\d+$/.test(words)) {
      if (number < meta.count && (meta.kernel || source.samples.includes(number))) change({ sample: number });
      else note("find", meta.kernel ? `There is no sample ${words}: they run from 0 to ${meta.count - 1}.`
        : `Sample ${words} is not in this page.`);
      return;
    }
    try {
      const { samples, count } = source;
      const after = samples ? samples[(samples.indexOf(s.sample) + 1) % count] : s.sample + 1;
      const found = await source.find(words, after);
      if (found === null) note("find", `No sample has ${words}.`);
      else change({ sample: found });
    } catch (error) { note("find", `${error.message}.`); }
  }
  async function filter(outcome) {
    change({ outcome });
    const matches = await outcomes(false);
    if (matches?.length && !matches.includes(state().sample)) go(1);
  }
  /** Ask how the samples came out, which may need predictions of all. */
  async function outcomes(predict) {
    const s = state(), name = key(s);
    note("filter", "");
    if (s.outcome === "any") return null;
    if (!codes.get(name)?.codes) {
      if (codes.get(name)?.pending) return null;
      codes.set(name, { missing: true, pending: true });
      try {
        const found = await source.outcomes(s.attribute, s.checkpoint, predict);
        codes.set(name, found);
        note("filter", found.missing ? needsPredictions(found.missing) : "");
      } catch (error) {
        codes.delete(name);
        note("filter", `${error.message}.`);
        return null;
      }
    }
    request();
    return path(state());
  }
  const needsPredictions = (count) => make("span", {},
    `To filter, the model has to predict all ${count.toLocaleString("en")} samples once. `,
    button("Predict", "predict all samples", async () => {
      note("filter", progressOf(0, count));
      codes.delete(key(state()));
      const matches = await outcomes(true);
      if (matches?.length && !matches.includes(state().sample)) go(1);
    }));
  const progressOf = (done, of) => make("label", {},
    `Predicting, ${done.toLocaleString("en")} of ${of.toLocaleString("en")} `,
      make("progress", { max: of, value: done }));

  async function take(chosen) {
    note("image", "");
    if (!meta.kernel) {
      note("image", "An image of your own needs the model: open the explorer in a notebook.");
      return;
    }
    const say_no = (why) => note("image", `“${chosen.name}” ${why}; choose a PNG or JPEG of at least 32 px.`);
    const start = new Uint8Array(await chosen.slice(0, 4).arrayBuffer());
    if (![[0x89, 0x50, 0x4e, 0x47], [0xff, 0xd8, 0xff]].some((magic) => magic.every((byte, i) => start[i] === byte))) {
      say_no("is no PNG or JPEG");
      return;
    }
    let bitmap;
    try { bitmap = await createImageBitmap(chosen); } catch { say_no("is damaged"); return; }
    const shrink = Math.min(1, 1024 / Math.max(bitmap.width, bitmap.height));
    if (Math.min(bitmap.width, bitmap.height) < 32) {
      say_no(`has only ${bitmap.width} × ${bitmap.height} px`);
      return;
    }
    const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.round(side * shrink));
    const canvas = make("canvas", { width, height });
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
    try { await source.ask({ kind: "image", name: chosen.name }, [await blob.arrayBuffer()]); } catch (error) {
      note("image", `${error.message}.`);
    }
  }
  looking.addEventListener("dragover", (event) => { event.preventDefault(); looking.classList.add("dropping"); });
  looking.addEventListener("dragleave", () => looking.classList.remove("dropping"));
  looking.addEventListener("drop", (event) => {
    event.preventDefault();
    looking.classList.remove("dropping");
    if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });

  function pick(patch, event) {
    const s = state();
    if (event.type === "pointermove") point({ patch });
    else if (event.type === "click") change({ patch: s.patch === patch ? -1 : patch });
    else { point({ patch: -1 }); change({ patch: s.patch < 0 ? 0 : patch }); }     // a key: the pointer counts no more
  }
  function point(what) {
    const next = { ...pointed, ...what };
    if (next.attribute === pointed.attribute && next.patch === pointed.patch) return;
    pointed = next;
    request();
  }
  place.addEventListener("pointerleave", () => point({ patch: -1 }));
  list.addEventListener("pointermove", (event) => {
    const row = event.target.closest("[role=option]");
    point({ attribute: row ? Number(row.dataset.index) : -1 });
  });
  list.addEventListener("pointerleave", () => point({ attribute: -1 }));
  list.addEventListener("click", (event) => {
    const row = event.target.closest("[role=option]");
    if (row) change({ attribute: names[row.dataset.index] });
  });
  list.addEventListener("keydown", (event) => {
    const order = [...list.children].map((row) => Number(row.dataset.index)), s = state();
    const now = order.indexOf(names.indexOf(s.attribute)), last = order.length - 1;
    const next = { ArrowDown: now + 1, ArrowUp: now - 1, PageDown: now + 8, PageUp: now - 8, Home: 0,
      End: last }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") go(event.key === "ArrowLeft" ? -1 : 1);
    else if (next !== undefined && order.length) {
      point({ attribute: -1 });
      change({ attribute: names[order[clamp(next, 0, last)]] });
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });
  grid.addEventListener("keydown", (event) => {
    const arrows = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const [down, right] = arrows[event.key] || [];
    if (down === undefined) return;
    event.preventDefault();
    const s = state();
    change({ layer: s.layer + down, head: s.head + right });
    const now = state();
    cells[now.layer][now.head + 1].focus();
  });
  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input")) return;
    const s = state(), action = { p: pin, P: pin, "[": () => change({ checkpoint: s.checkpoint - 1 }),
      "]": () => change({ checkpoint: s.checkpoint + 1 }), Escape: () => change({ patch: -1 }) }[event.key];
    if (action) { event.preventDefault(); event.stopPropagation(); action(); }
  });
  keepKeys(root);
  function pin() {
    const s = state(), mine = Object.fromEntries(PIN.map((name) => [name, s[name]]));
    const others = s.pinned.filter((other) => PIN.some((name) => other[name] !== mine[name]));
    change({ pinned: [...others, mine].slice(-MOST_PINS) });
  }
  function setPlaying(wanted) {
    clearInterval(playing);
    playing = wanted ? setInterval(() => {
      if (!asking) change({ checkpoint: (state().checkpoint + 1) % meta.checkpoints.length });
    }, 600) : 0;
    play.textContent = playing ? "Pause" : "Play";
  }
  const here = (s) => source.store.get(s.sample, s.checkpoint);
  async function savePng() {
    const s = state(), shots = [];
    for (const each of [s, ...s.pinned.map((other) => ({ ...s, ...other }))]) {
      const sample = here(each), of = indexed(each);
      if (!sample) continue;
      const image = new Image();
      image.src = sample.image;
      await image.decode();
      shots.push({ sample, state: of, image, weights: sample.weights(of.layer, of.head, of.attribute) });
    }
    if (shots.length) download(await picturePng(shots), "attention.png");
  }
  async function savePage() {
    const seen = new Set([...source.store.held.values()].map(({ sample }) => sample).filter((sample) => sample >= 0));
    seen.add(Math.max(0, state().sample));
    try {
      const { bytes } = await source.ask({ kind: "page", samples: [...seen].slice(-32).sort((a, b) => a - b) });
      download(new Blob([bytes], { type: "text/html" }), "attention.html");
    } catch (error) { note("sample", `${error.message}.`); }
  }

  // ---- what is drawn
  function makeRow(name, index) {
    const { frequency } = meta.attributes[index], canvas = make("canvas", { "aria-hidden": "true" });
    const [number, fate, meter] = ["number", "fate", "meter"].map((name) => make("span", { class: name }));
    const rare = frequency === null ? "" : frequency < meta.rare ? " · rare"
      : frequency > meta.common ? " · common" : "";
    const id = `row-${Math.random().toString(36).slice(2)}`;
    const row = make("div", { role: "option", id, "data-index": index, class: "entry" }, canvas,
      make("b", {}, name.replaceAll("_", " ")), number, fate,
      make("small", {}, frequency === null ? "frequency unknown" : percent(frequency) + rare), meter);
    meter.style.setProperty("--threshold", `${100 * meta.attributes[index].threshold}%`);
    return { row, canvas, number, fate, meter };
  }
  function makeCell(layer, head) {
    const canvas = make("canvas", { "aria-hidden": "true" });
    const cell = make("button", { type: "button", role: "radio", "aria-checked": "false", tabindex: -1,
      "aria-label": `layer ${layer}, ${headWords(head)}`, title: `layer ${layer}, ${headWords(head)}`,
      onclick: () => change({ layer, head }) }, canvas);
    cell.canvas = canvas;
    return cell;
  }
  const square = { keys: { count: tokens.place.columns }, queries: { count: tokens.place.rows } };
  const MARKS = { found: "✓ found", missed: "✗ missed", "false alarm": "! false alarm",
    "rightly refused": "– absent", unknown: "? unknown" };

  function drawControls(s) {
    const matches = path(s), length = matches ? matches.length : source.count;
    sampleRange.max = Math.max(0, length - 1);
    sampleRange.value = positionOf(s);
    sampleRange.disabled = length === 0;
    const total = meta.count.toLocaleString("en");
    sampleNumber.textContent = s.sample === OWN ? `${model.get("own") || "own image"}` : `${s.sample} of ${total}` +
      (!matches && !meta.kernel ? ` (${source.count} here)` : "") +
      (matches ? ` · ${matches.length ? matches.length.toLocaleString("en") : "none"} match` : "");
    sampleRange.setAttribute("aria-valuetext", sampleNumber.textContent);
    outcomeSelect.value = s.outcome;
    checkpointRange.value = s.checkpoint;
    checkpointName.textContent = meta.checkpoints[s.checkpoint] || "";
    strength.value = s.strength;
    lift.checked = s.lift;
    outlined.checked = s.outlined;
    for (const each of rarities) each.setAttribute("aria-pressed", each.dataset.value === s.rarity);
    sortSelect.value = s.sort;
    layerSelect.value = s.layer;
    const { heads } = meta.layers[s.layer];
    if (headSelect.length !== heads + 1) {
      headSelect.replaceChildren(...Array.from({ length: heads + 1 }, (_, h) =>
        make("option", { value: h - 1 }, h ? String(h - 1) : "mean")));
    }
    headSelect.value = s.head;
    maskRange.value = s.mask;
    maskNumber.textContent = s.mask;
    cells.forEach((row, l) => row.forEach((cell, k) => {
      const on = l === s.layer && k - 1 === s.head;
      cell.setAttribute("aria-checked", on);
      cell.tabIndex = on ? 0 : -1;
    }));
  }
  /** Which attributes are listed, in which order; a held patch puts those first that look there. */
  function ordered(sample, s) {
    const { attributes } = meta, keep = { all: () => true, rare: (a) => a.frequency < meta.rare,
      common: (a) => a.frequency > meta.common };
    const by = s.patch >= 0 ? (i) => -sample.weights(s.layer, s.head, i)[s.patch]
      : { probability: (i) => -sample.probabilities[i], rarity: (i) => attributes[i].frequency,
        error: (i) => -sample.error(i) }[s.sort];
    const keys = attributes.map((_, i) => by(i));
    return attributes.map((_, i) => i).filter((i) => keep[s.rarity](attributes[i])).sort((a, b) => keys[a] - keys[b]);
  }
  function drawList(sample, s) {
    const order = ordered(sample, s);
    for (const i of order) {
      const { canvas, number, fate, meter, row } = rows[i], outcome = sample.outcome(i), p = sample.probabilities[i];
      mapCanvas(sample.map(s.layer, s.head, i), square, s.lift, canvas);
      number.textContent = p.toFixed(2);
      meter.style.setProperty("--share", `${(100 * p).toFixed(1)}%`);
      meter.classList.toggle("predicted", sample.predicted(i));
      fate.textContent = MARKS[outcome];
      fate.dataset.outcome = outcome;
      const { name, frequency, threshold } = meta.attributes[i];
      const often = frequency === null ? "frequency unknown" : `in ${percent(frequency)} of the images`;
      const truth = sample.truth ? (sample.truth[i] ? "present" : "absent") : "truth unknown";
      row.setAttribute("aria-label", `${name}, ${often}, predicted ${p.toFixed(2)}, ` +
        `threshold ${threshold.toFixed(2)}, ${truth}, ${outcome}`);
      row.title = `threshold ${threshold.toFixed(2)}; ${truth}`;
    }
    if (order.length !== list.children.length || order.some((i, k) => list.children[k] !== rows[i].row)) {
      list.replaceChildren(...order.map((i) => rows[i].row));
    }
    listed.textContent = `${order.length < names.length ? `${order.length} of ` : ""}${names.length} attributes` +
      (s.patch >= 0 ? ", those first that look at the chosen patch (Escape lets go of it)."
        : ". Point at one to see its map, at a patch to see who looks there; click to hold.");
  }
  function drawPatchShares(sample, s) {
    const looks = s.patch >= 0 ? rows.map((_, i) => sample.weights(s.layer, s.head, i)[s.patch]) : [];
    const most = looks.reduce((a, b) => Math.max(a, b), 0) || 1;
    rows.forEach(({ row }, i) =>
      row.style.setProperty("--look", s.patch >= 0 ? `${((100 * looks[i]) / most).toFixed(1)}%` : "0%"));
  }
  function drawReadout(sample, weights, attribute) {
    const { entropy, focus } = spread(weights), score = sample.score(weights, attribute);
    const entry = (term, value, chance, title) => make("div", { title }, make("dt", {}, term),
      make("dd", {}, value, " ", make("small", {}, chance)));
    const chance = (share) => `chance ${percent(share)}`;
    readout.replaceChildren(
      entry("Entropy", `${entropy.toFixed(2)} nats`, `even: ${Math.log(weights.length).toFixed(2)}`,
        "how spread the map is"),
      entry("Focus", focus.toFixed(2), "even: 0",
        "1 − entropy / ln(patches): 0 for even attention, 1 for a single patch"),
      entry("Energy in the region", score ? percent(score.energy) : "unknown", score ? chance(score.area) : "",
        "the share of the attention inside the true region; chance is the region's share of the image"),
      entry("Strongest patch", score ? (score.pointing > 0.5 ? "hits" : "misses") : "unknown",
        score ? chance(score.chance) : "",
        "pointing game: whether the strongest patch touches the true region; chance is that of any patch"));
  }
  function drawRemoval(sample, s) {
    const name = [s.sample, model.get("own"), s.checkpoint, s.layer, s.head, s.attribute, s.mask].join();
    if (!s.mask || !meta.kernel) { effect.replaceChildren(); return []; }
    const found = removals.get(name);
    if (!found) {
      if (masking) return [];
      masking = name;
      const { attribute } = state();
      const { sample: number, checkpoint, layer, head, mask: count } = s;
      if (removals.size > 200) removals.clear();
      source.ask({ kind: "mask", sample: number, checkpoint, layer, head, attribute, count })
        .then((answer) => removals.set(name, answer), (error) => removals.set(name, { failed: error.message }))
        .finally(() => { masking = ""; shown = null; request(); });
      return [];
    }
    if (found.failed) { effect.replaceChildren(make("p", { class: "note" }, found.failed)); return []; }
    const mean = found.random.reduce((a, b) => a + b, 0) / found.random.length;
    const threshold = `--threshold: ${100 * meta.attributes[s.attribute].threshold}%`;
    const line = (label, value, range = "") => make("div", { class: "line" }, make("span", {}, label),
      make("span", { class: "meter predicted", style: `--share: ${100 * value}%; ${threshold}` }),
      make("span", { class: "number" }, value.toFixed(2)), make("small", {}, range));
    const [low, high] = [Math.min, Math.max].map((most) => most(...found.random).toFixed(2));
    effect.replaceChildren(make("p", { class: "note" }, `Predicted ${names[s.attribute]}:`),
      line("whole image", found.whole), line(`without the ${s.mask} most attended`, found.attended),
      line(`without ${s.mask} at random`, mean, `${low} to ${high} in ${found.random.length} draws`));
    return found.patches;
  }
  function drawPins(s, weights) {
    pins.replaceChildren(...s.pinned.map((kept, index) => {
      const other = indexed(bounded(meta, { ...s, ...kept, patch: -1 })), sample = here(other);
      const buttons = make("div", { class: "field" }, button("Show", "go back to this", () => change(kept)),
        button("Remove", "unpin", () => change({ pinned: state().pinned.filter((_, i) => i !== index) })));
      if (!sample) {
        const failed = failures.get(`${other.sample} ${other.checkpoint}`);
        if (!failed) load(other);
        const words = failed || `Loading ${sampleName(other.sample)} …`;
        return make("figure", {}, make("p", { class: "note" }, words), buttons);
      }
      const look = lookView(sample), theirs = sample.weights(other.layer, other.head, other.attribute);
      look.paint(sample, other, theirs);
      const shared = weights ? weights.reduce((sum, w, i) => sum + Math.min(w, theirs[i]), 0) : 0;
      return make("figure", {}, make("figcaption", {}, make("b", {}, `${names[other.attribute].replaceAll("_", " ")}`),
        ` · ${sampleName(other.sample)}, layer ${other.layer}, ${headWords(other.head)}`), look.root,
        make("p", { class: "note" },
          `Predicted ${sample.probabilities[other.attribute].toFixed(2)}, ${sample.outcome(other.attribute)}. ` +
          `${Math.round(100 * shared)} % of its attention is where the view above also looks.`), buttons);
    }));
  }
  function load(s) {
    const name = `${s.sample} ${s.checkpoint}`;
    if (asking) return;
    asking = true;
    if (failures.size > KEPT) failures.clear();
    source.store.ask(s.sample, s.checkpoint)
      .then(() => failures.delete(name), (error) => failures.set(name, error.message))
      .finally(() => { asking = false; shown = { ...shown, sample: null, pinned: null }; request(); });
  }

  /** Draw what differs between the state and what is on screen. */
  function paint() {
    frame = 0;
    const s = state(), before = shown || {}, sample = here(s), name = `${s.sample} ${s.checkpoint}`;
    const now = { ...indexed(s), attribute: pointed.attribute >= 0 ? pointed.attribute : names.indexOf(s.attribute),
      patch: pointed.patch >= 0 ? pointed.patch : s.patch };
    const differs = (...which) => !shown || which.some((each) => before[each] !== now[each]);
    if (s.outcome === "any") { if (notes.filter) note("filter", ""); } else if (!codes.has(key(s))) outcomes(false);
    drawControls(s);
    if (!sample) {
      const failed = failures.get(name);
      if (!failed) load(s);
      root.classList.toggle("waiting", !failed);
      root.classList.toggle("failing", Boolean(failed));
      note("sample", failed && `${failed[0].toUpperCase()}${failed.slice(1)}.`);
      if (failed) text.textContent = "This sample cannot be shown.";
      else if (!view) text.textContent = `Loading ${sampleName(s.sample)} …`;
      shown = null;
      return;
    }
    if (notes.sample) note("sample", "");
    root.classList.remove("waiting", "failing");
    root.dataset.sample = name;
    if (!view) { view = lookView(sample, pick); place.replaceChildren(view.root); }
    const fresh = differs("sample", "checkpoint") || before.of !== sample;
    const weights = sample.weights(now.layer, now.head, now.attribute);
    if (fresh || differs("layer", "head", "lift", "rarity", "sort") || (before.held !== s.patch)) drawList(sample, s);
    if (fresh || differs("layer", "head", "patch")) drawPatchShares(sample, now);
    if (fresh || differs("attribute", "lift")) {
      cells.forEach((row, l) => row.forEach((cell, k) =>
        mapCanvas(sample.map(l, k - 1, now.attribute), square, s.lift, cell.canvas)));
    }
    rows.forEach(({ row }, i) => {
      row.setAttribute("aria-selected", i === names.indexOf(s.attribute));
      row.classList.toggle("seen", i === now.attribute);
    });
    const chosen = rows[names.indexOf(s.attribute)].row;
    list.setAttribute("aria-activedescendant", chosen.isConnected ? chosen.id : "");
    if (fresh || before.chosen !== s.attribute || before.rarity !== s.rarity || before.sort !== s.sort) reveal(chosen);
    const patches = drawRemoval(sample, { ...indexed(s) });
    view.paint(sample, now, weights, patches);
    drawReadout(sample, weights, now.attribute);
    scale.replaceChildren(scaleBar(say(weights.reduce((a, b) => Math.max(a, b), 0))));
    if (before.pinned !== s.pinned || fresh || differs("attribute", "layer", "head", "lift", "strength", "outlined")) {
      if (s.pinned.length || pins.children.length) drawPins(s, weights);
    }
    const asked = pointed.patch >= 0 || (s.patch >= 0 && pointed.attribute < 0);
    const words = asked ? onlookers(sample, now) : explain(sample, now);
    text.textContent = words;
    view.root.setAttribute("aria-valuetext", now.patch >= 0 ? onlookers(sample, now) : "no patch chosen");
    clearTimeout(spoken);
    spoken = setTimeout(() => { live.textContent = words; }, 500);
    shown = { ...now, of: sample, held: s.patch, chosen: s.attribute };
    clearTimeout(ahead);
    if (meta.kernel && s.sample !== OWN) ahead = setTimeout(() => prefetch(s), 200);
  }
  /** Scroll the list, never the page. */
  function reveal(row) {
    if (!row.isConnected) return;
    const top = row.offsetTop, bottom = top + row.offsetHeight;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
  }
  function prefetch(s) {
    const matches = path(s), next = matches ? matches[positionOf(s) + direction] : s.sample + direction;
    if (next >= 0 && next < meta.count && !asking) source.store.ask(next, s.checkpoint).catch(() => {});
  }
  const request = () => { frame = frame || requestAnimationFrame(paint); };
  const another = () => {                                        // another image of one's own
    source.store.forget(OWN);
    for (const name of [...failures.keys()]) if (name.startsWith(`${OWN} `)) failures.delete(name);
    request();
  };
  model.on("change", request);
  model.on("change:own", another);
  paint();
  return () => {
    model.off("change", request);
    model.off("change:own", another);
    source.close();
    setPlaying(false);
    clearTimeout(spoken);
    clearTimeout(ahead);
    cancelAnimationFrame(frame);
    root.remove();
  };
}

const EXPLORER_STYLE = `
.explorer .removing label { white-space: normal }
.explorer input[type=search] { font: inherit; color: inherit; background: var(--paper); border: 1px solid var(--soft);
  border-radius: 6px; padding: 3px 8px; width: 11em; min-width: 0 }
.explorer .file span { border: 1px solid var(--soft); border-radius: 6px; padding: 3px 9px; background: var(--paper);
  cursor: pointer }
.explorer .file :focus-visible + span { outline: 3px solid var(--accent); outline-offset: 2px }
.explorer .file span:hover { border-color: var(--accent) }
.explorer .sights { display: grid; gap: 12px; align-items: stretch;
  grid-template-columns: minmax(260px, 1.15fr) minmax(300px, 1.25fr) minmax(220px, 1fr) }
.explorer .side { display: flex; flex-direction: column; gap: 12px; min-width: 0 }
.explorer .side .removing { flex: 1 }
@container (max-width: 960px) { .explorer .sights { grid-template-columns: 1fr 1fr }
  .explorer .side { grid-column: 1 / -1; flex-direction: row }
  .explorer .side > * { flex: 1; min-width: 0 } }
@container (max-width: 640px) { .explorer .sights { grid-template-columns: 100% }
  .explorer .side { flex-direction: column } }
.explorer.waiting .sights { opacity: 0.55 } .explorer.failing .sights { opacity: 0.25 }
.explorer .dropping { outline: 3px dashed var(--accent); outline-offset: -3px }
.explorer .region, .explorer .masked { position: absolute; inset: 0; width: 100%; height: 100%; pointer-events: none }
.explorer .region path { fill: none; vector-effect: non-scaling-stroke; stroke: #000; stroke-width: 4px;
  stroke-linejoin: round }
.explorer .region .over { stroke: #ffdc3c; stroke-width: 2px }
.explorer .masked i { position: absolute; background: repeating-linear-gradient(45deg, #fff 0 2px, #444 2px 7px);
  outline: 1px solid #fff }
.explorer .choosing { display: flex; flex-direction: column }
.explorer .list { position: relative; flex: 1 1 360px; height: 360px; min-height: 300px; overflow-y: auto;
  border: 1px solid var(--line);
  border-radius: 6px; background: var(--paper) }
.explorer .entry { display: grid; grid-template-columns: 32px minmax(0, 1fr) 2.2em 6.4em; gap: 0 8px;
  align-items: center;
  padding: 3px 8px; cursor: pointer; border-left: 4px solid transparent; border-bottom: 1px solid var(--panel);
  background: linear-gradient(90deg, color-mix(in srgb, var(--accent) 12%, transparent) var(--look, 0%),
  transparent var(--look, 0%)) }
.explorer .entry.seen { background-color: var(--panel) }
.explorer .entry[aria-selected=true] { border-left-color: var(--mark); background-color: var(--panel) }
.explorer .entry canvas { grid-row: 1 / 3; width: 32px; height: 32px; image-rendering: pixelated; border-radius: 3px }
.explorer .entry b { font-weight: 600; overflow: hidden; text-overflow: ellipsis; white-space: nowrap;
  line-height: 1.25 }
.explorer .entry .meter { grid-column: 3 / 5 }
.explorer .entry small, .explorer .line small { color: var(--soft); font-size: 11.5px; white-space: nowrap }
.explorer .fate { font-size: 12px; white-space: nowrap; color: var(--soft) }
.explorer .fate[data-outcome=found] { color: var(--found); font-weight: 600 }
.explorer .fate[data-outcome=missed] { color: var(--wrong); font-weight: 600 }
.explorer .fate[data-outcome="false alarm"] { color: var(--alarm); font-weight: 600 }
.explorer .heads { display: grid; grid-template-columns: 16px repeat(var(--columns), minmax(0, 64px)); gap: 3px;
  text-align: center; align-items: center }
.explorer .heads button { padding: 0; border: 2px solid transparent; border-radius: 4px; line-height: 0;
  max-width: none; background: none }
.explorer .heads button[aria-checked=true] { border-color: var(--mark) }
.explorer .heads canvas { width: 100%; aspect-ratio: 1; image-rendering: pixelated; border-radius: 2px }
.explorer .effect .line { display: grid; grid-template-columns: minmax(0, 1.4fr) minmax(40px, 1fr) 2.4em; gap: 2px 8px;
  align-items: center; margin: 5px 0 }
.explorer .line small { grid-column: 2 / -1; white-space: normal }
.explorer .line small:empty { display: none }
.explorer .pins { margin-top: 0; grid-template-columns: repeat(auto-fill, minmax(min(100%, 220px), 300px)) }
.explorer .pins .tokens { margin-bottom: 6px } .explorer figcaption { min-height: 2.9em }
@media (forced-colors: active) { .explorer .meter, .explorer .entry { forced-color-adjust: none } }
`;
export default { render: renderExplorer };
