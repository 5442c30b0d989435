/* The attention explorer: one sample at a time, what each attribute's query looks at.
 *
 * What is drawn is a function of the state (`EXPLORER_STATE`, the widget's traits) and of where the pointer is. A
 * sample's maps come once, from the kernel or out of the page, and everything else happens here. Python joins this
 * module to the kit and the samples.
 */
import {
  CIVIDIS, arrows, breadth, button, check, clamp, entropyOf, h, headName, headSelect, meanMap, paintMap, paintValues,
  panel, patchGrid, patchStyle, percent, player, radio, range, readout, say, scaleBar, select, sharedShare, sheet,
  strongest, toLevel, tokenName, tokenView, topOf, weightAt, weightsOf, within,
} from "../../recorder/web/kit.js";
import { Kernel, Pages, explorer } from "./samples.js";

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
const OUTCOMES = { any: "all samples", found: "found", missed: "missed", "false alarm": "false alarms",
  "off region": "present, attention off its region" };
const CODES = { found: 1, missed: 2, "false alarm": 3 };

// ---------------------------------------------------------------- one sample
/** What `pack_item` packs: levels and largest weight of each map, and how much of each token a region covers. */
export class Sample {
  constructor(meta, header, { tops, levels, cover }) {
    Object.assign(this, header, { meta, tops, levels, cover, means: new Map(), starts: [0] });
    for (const { heads } of meta.layers) this.starts.push(this.starts.at(-1) + heads * meta.attributes.length);
  }

  map(layer, head, attribute) {
    const { tokens, attributes, layers } = this.meta, name = layer * attributes.length + attribute;
    if (head >= 0) {
      const row = this.starts[layer] + head * attributes.length + attribute;
      return { values: this.levels.subarray(row * tokens, (row + 1) * tokens), levels: 255, top: this.tops[row] };
    }
    if (!this.means.has(name)) {
      const maps = Array.from({ length: layers[layer].heads }, (_, k) => this.map(layer, k, attribute));
      this.means.set(name, meanMap(maps));
    }
    return this.means.get(name);
  }
  weights({ layer, head, attribute }) { return weightsOf(this.map(layer, head, attribute)); }
  /** The weight of one patch in the map of each attribute. */
  looks({ layer, head, patch }) {
    return this.meta.attributes.map((_, i) => weightAt(this.map(layer, head, i), patch));
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
    let inside = 0, total = 0, area = 0, most = 0, hits = 0, touched = 0;
    const top = topOf(weights);
    weights.forEach((weight, i) => {
      inside += (weight * cover[i]) / 255;
      total += weight;
      area += cover[i] / 255 / tokens;
      touched += (cover[i] > 0) / tokens;
      if (weight === top) { most += 1; hits += cover[i] > 0; }
    });
    return { energy: inside / (total || 1), area, pointing: hits / most, chance: touched };
  }
}

// ---------------------------------------------------------------- what is known of many samples
/** Asked from the kernel. */
class AttributeKernel extends Kernel {
  async outcomes(attribute, checkpoint, predict) {
    const { missing, bytes } = await this.ask({ kind: "outcomes", attribute, checkpoint, predict });
    return missing ? { missing } : { codes: bytes };
  }
  progress({ done, of }) { this.note("filter", predicting(done, of)); }
  async find(words, start) { return (await this.ask({ kind: "find", words, start })).sample; }
}

/** The same, worked out from the samples of a saved page. */
class AttributePages extends Pages {
  async outcomes(name, checkpoint) {
    const { attributes, layers } = this.meta, attribute = attributes.findIndex((each) => each.name === name);
    return { codes: this.samples.map((number) => {
      const sample = this.readable(number, checkpoint);
      if (!sample) return 0;
      const score = sample.score(sample.weights({ layer: layers.length - 1, head: -1, attribute }), attribute);
      const off = sample.truth?.[attribute] && score && score.pointing < 0.5;
      return (CODES[sample.outcome(attribute)] || 0) + (off ? 8 : 0);
    }) };
  }
  async find(words, start) {
    const terms = words.toLowerCase().split(/\s+/).filter(Boolean).map((word) => {
      const name = word.replace(/^-+/, "");
      const indices = [...this.meta.attributes.keys()].filter((i) =>
        this.meta.attributes[i].name.toLowerCase().includes(name));
      if (!indices.length) throw new Error(`no attribute has '${name}' in its name`);
      return [word.startsWith("-"), indices];
    });
    const first = Math.max(0, this.samples.indexOf(start));
    for (let step = 0; step < this.count; step++) {
      const sample = this.readable(this.samples[(first + step) % this.count], 0);
      if (sample?.truth && terms.every(([absent, indices]) => indices.some((i) => sample.truth[i]) !== absent)) {
        return sample.sample;
      }
    }
    return null;
  }
}

// ---------------------------------------------------------------- words
const sampleName = (sample) => (sample === OWN ? "your own image" : `sample ${sample}`);
const predicting = (done, of) => h("label", {}, `Predicting, ${done.toLocaleString("en")} of ` +
  `${of.toLocaleString("en")} `, h("progress", { max: of, value: done }));
const truthOf = ({ truth }, attribute) => (!truth ? "truth unknown" : truth[attribute] ? "present" : "absent");

export function explain(sample, { layer, head, attribute }) {
  const { name, frequency, threshold } = sample.meta.attributes[attribute];
  const weights = sample.weights({ layer, head, attribute }), score = sample.score(weights, attribute);
  const best = strongest(weights), verdict = sample.truth ? `, so ${sample.outcome(attribute)}` : "";
  return `${name}${frequency === null ? "" : ` (in ${percent(frequency)} of the images)`}: predicted ` +
    `${sample.probabilities[attribute].toFixed(2)} against a threshold of ${threshold.toFixed(2)}; ` +
    `${truthOf(sample, attribute)}${verdict}. Layer ${layer}, ${headName(head)}: looks most at ` +
    `${tokenName(patchGrid(weights.length), best)} with ${say(weights[best])}, as widely as if evenly at ` +
    `${breadth(weights)} of ${weights.length} patches` + (!score ? "; where it should look is unknown."
      : `; ${percent(score.energy)} of its attention is in the true region, which covers ${percent(score.area)} ` +
        `of the image, and its strongest patch ${score.pointing > 0.5 ? "hits" : "misses"} it.`);
}

export function onlookers(sample, { layer, head, patch }) {
  const looks = sample.looks({ layer, head, patch });
  const order = looks.map((_, i) => i).sort((a, b) => looks[b] - looks[a]).slice(0, 4);
  return `${tokenName(patchGrid(sample.meta.tokens), patch).replace("p", "P")} is looked at most by ` +
    order.map((i) => `${sample.meta.attributes[i].name} ${say(looks[i])}`).join(", ") +
    ` (layer ${layer}, ${headName(head)}); evenly, each would give it ${say(1 / sample.meta.tokens)}.`;
}

// ---------------------------------------------------------------- a picture with a map and the true region over it
/** `s` is the state with the attribute's index; `painted` are patches that are painted over. */
function picture(sample, s, painted, more) {
  const { layer, head, attribute, lift } = s, grid = patchGrid(sample.meta.tokens);
  const outline = (s.outlined && sample.outlines?.[attribute]) || "";
  const draw = [(canvas) => {
    const map = sample.map(layer, head, attribute);
    paintValues(canvas, weightsOf(map), grid.place.columns, (weight) => {
      const level = toLevel(weight / (map.top || 1), lift);
      return [...CIVIDIS[level], 255 * (0.35 + (0.65 * level) / 255)];      // dark parts of a map let the image through
    });
  }, sample, layer, head, attribute, lift];
  const over = [
    h("svg", { xmlns: "http://www.w3.org/2000/svg", class: "region", "aria-hidden": "true", preserveAspectRatio: "none",
      viewBox: `0 0 ${sample.size[1]} ${sample.size[0]}` }, h("path", { class: "under", d: outline }),
      h("path", { class: "over", d: outline })),
    h("div", { class: "masked", "aria-hidden": "true" },
      painted.map((patch) => h("i", { style: patchStyle(patch, grid.place) })))];
  return tokenView(grid, { image: sample.image, label: "patches of the image", draw, over, chosen: s.patch, lowest: -1,
    style: `--strength:${s.strength}`, ...more });
}

/** The view and its pins as one PNG. */
async function savePng(shots) {
  const side = 420, gap = 24, width = Math.max(gap + shots.length * (side + gap), 560);
  const { brush, write, grey, save } = sheet(width, side + 260);
  for (const [k, [sample, s]] of shots.entries()) {
    const x = gap + k * (side + gap), outline = s.outlined && sample.outlines?.[s.attribute], image = new Image();
    const count = Math.sqrt(sample.meta.tokens), map = document.createElement("canvas");
    image.src = sample.image;
    await image.decode();
    grey(image, x, gap, side);
    brush.globalAlpha = s.strength;
    brush.drawImage(paintMap(map, sample.map(s.layer, s.head, s.attribute), count, count, s.lift), x, gap, side, side);
    brush.globalAlpha = 1;
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
    write(`${sampleName(sample.sample)}. ${explain(sample, s)}`, x, gap + side + 26,
      shots.length > 1 ? side : width - 2 * gap);
  }
  save("attention.png");
}

/** A file as a PNG of at most 1,024 px; an error says why it cannot be taken. */
async function readPicture(file) {
  const start = new Uint8Array(await file.slice(0, 4).arrayBuffer());
  const kinds = [[0x89, 0x50, 0x4e, 0x47], [0xff, 0xd8, 0xff]];
  const is = (magic) => magic.every((byte, i) => start[i] === byte);
  const refuse = (why) => { throw new Error(`“${file.name}” ${why}; choose a PNG or JPEG of at least 32 px`); };
  if (!kinds.some(is)) refuse("is no PNG or JPEG");
  const bitmap = await createImageBitmap(file).catch(() => refuse("is damaged"));
  if (Math.min(bitmap.width, bitmap.height) < 32) refuse(`has only ${bitmap.width} × ${bitmap.height} px`);
  const shrink = Math.min(1, 1024 / Math.max(bitmap.width, bitmap.height));
  const canvas = Object.assign(document.createElement("canvas"),
    { width: Math.round(bitmap.width * shrink), height: Math.round(bitmap.height * shrink) });
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
  return blob.arrayBuffer();
}

// ---------------------------------------------------------------- the view
const MARKS = { found: "✓ found", missed: "✗ missed", "false alarm": "! false alarm",
  "rightly refused": "– absent", unknown: "? unknown" };

export function renderExplorer({ model, el }) {
  const { meta, notes, note, source, state, change, request, speech, ...frames } = explorer({ model, el },
    { what: "sample", initial: EXPLORER_STATE, style: EXPLORER_STYLE, sources: [AttributeKernel, AttributePages],
      unpack: (...parts) => new Sample(...parts) });
  const names = meta.attributes.map(({ name }) => name), side = Math.sqrt(meta.tokens);
  const aware = meta.attributes[0].frequency !== null, id = `row-${Math.random().toString(36).slice(2)}`;
  const codes = new Map(), removals = new Map();
  let pointed = { attribute: -1, patch: -1 }, last = null, dropping = false, masking = "", sliding = null;
  const indexed = (s) => ({ ...s, attribute: names.indexOf(s.attribute) });

  // ---- which samples are stepped through
  const codesKey = (s) => `${s.attribute} ${s.checkpoint}`;
  /** The numbers of the samples that came out as chosen; null means all. */
  function matchesOf(s) {
    const answer = s.outcome === "any" ? null : codes.get(codesKey(s));
    if (!answer?.codes) return null;
    return answer[s.outcome] ||= [...answer.codes.keys()].filter((position) => {
      const code = answer.codes[position];
      return CODES[s.outcome] ? (code & 7) === CODES[s.outcome] : code >= 8;
    }).map((position) => (source.samples ? source.samples[position] : position));
  }
  const stepper = frames.stepper(matchesOf);
  /** Ask how the samples came out, which may need predictions of all; then go to one that matches. */
  async function askOutcomes(predict, move) {
    const s = state(), name = codesKey(s);
    note("filter", predict && predicting(0, meta.count));
    if (s.outcome === "any" || codes.get(name)?.pending) return;
    if (!codes.get(name)?.codes) {
      codes.set(name, { pending: true });
      try {
        const answer = await source.outcomes(s.attribute, s.checkpoint, predict);
        codes.set(name, answer);
        note("filter", answer.missing && h("span", {}, "To filter, the model has to predict all " +
          `${answer.missing.toLocaleString("en")} samples once. `,
          button("Predict", "predict all samples", () => askOutcomes(true, true))));
      } catch (error) {
        codes.set(name, { failed: true });
        note("filter", `${error.message}.`);
      }
    }
    request();
    const matches = matchesOf(state());
    if (move && matches?.length && !matches.includes(state().sample)) stepper.go(1);
  }
  async function search(event) {
    event.preventDefault();
    const words = event.currentTarget.querySelector("input").value.trim(), s = state(), number = Number(words);
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
      const sample = await source.find(words, after);
      if (sample === null) note("find", `No sample has ${words}.`); else change({ sample });
    } catch (error) { note("find", `${error.message}.`); }
  }
  async function take(file) {
    if (!file) return;
    note("image", meta.kernel ? "" : "An image of your own needs the model: open the explorer in a notebook.");
    if (!meta.kernel) return;
    try { await source.ask({ kind: "image", name: file.name }, [await readPicture(file)]); } catch (error) {
      note("image", `${error.message}.`);
    }
  }

  // ---- what people do
  function point(what) {
    if (Object.entries(what).every(([name, value]) => pointed[name] === value)) return;
    pointed = { ...pointed, ...what };
    request();
  }
  function pick(patch, event) {
    const s = state();
    if (event.type === "pointermove") point({ patch });
    else if (event.type === "click") change({ patch: s.patch === patch ? -1 : patch });
    else { point({ patch: -1 }); change({ patch: s.patch < 0 ? 0 : patch }); }     // a key: the pointer counts no more
  }
  function pin() {
    const s = state(), mine = Object.fromEntries(PIN.map((name) => [name, s[name]]));
    const others = s.pinned.filter((other) => PIN.some((name) => other[name] !== mine[name]));
    change({ pinned: [...others, mine].slice(-MOST_PINS) });
  }
  const drop = (wanted) => (event) => {
    event.preventDefault();
    if (dropping !== wanted) { dropping = wanted; request(); }
    if (event.type === "drop") take(event.dataTransfer.files[0]);
  };
  const steps = player(() => {
    if (!source.store.loading) change({ checkpoint: (state().checkpoint + 1) % meta.checkpoints.length });
  }, 600, request);
  const shots = () => [state(), ...state().pinned.map((other) => ({ ...state(), ...other }))]
    .map((s) => [source.store.get(s.sample, s.checkpoint), indexed(s)]).filter(([sample]) => sample);

  // ---- what is drawn
  function controls(s) {
    const matches = matchesOf(s), total = meta.count.toLocaleString("en");
    const number = s.sample === OWN ? model.get("own") || "own image" : `${s.sample} of ${total}` +
      (!matches && !meta.kernel ? ` (${source.count} here)` : "") +
      (matches ? ` · ${matches.length ? matches.length.toLocaleString("en") : "none"} match` : "");
    return [h("div", { class: "bar", role: "group", "aria-label": "which sample" }, stepper.bar(s, number),
      h("form", { class: "field", role: "search", onsubmit: search },
        h("input", { type: "search", placeholder: "12, or bald -male", "aria-label":
          "Find a sample by its number, or by attributes it has (a minus before those it has not)" }),
        h("button", { type: "submit" }, "Find")),
      select("Show", Object.entries(OUTCOMES), s.outcome, (outcome) => {
        change({ outcome });
        if (codes.get(codesKey(state()))?.failed) codes.delete(codesKey(state()));
        askOutcomes(false, true);
      }, { title: "only samples where the chosen attribute came out so" }),
      meta.kernel && h("label", { class: "file", title: "a PNG or JPEG; you can also drop it on the picture" },
        h("input", { type: "file", accept: "image/png,image/jpeg", class: "unseen", onchange: ({ target }) => {
          take(target.files[0]);
          target.value = "";
        } }), h("span", {}, "Your image…"))),
    h("div", { class: "bar", role: "group", "aria-label": "which checkpoint", hidden: meta.checkpoints.length < 2 },
      range("Checkpoint", s.checkpoint, (checkpoint) => change({ checkpoint }),
        { max: Math.max(0, meta.checkpoints.length - 1) }),
      h("output", {}, meta.checkpoints[s.checkpoint]), steps.button("walk through the checkpoints"))];
  }

  function looking(sample, s, now, weights, painted) {
    return panel("Where it looks", { class: dropping ? "looking dropping" : "looking", ondragover: drop(true),
      ondragleave: drop(false), ondrop: drop(false) },
      h("div", { onpointerleave: () => point({ patch: -1 }) }, picture(sample, now, painted, { pick,
        current: () => (pointed.patch >= 0 ? pointed.patch : state().patch),
        text: now.patch >= 0 ? onlookers(sample, now) : "no patch chosen" })),
      scaleBar(say(topOf(weights))),
      h("div", { class: "options" },
        range("Map", s.strength, (strength) => change({ strength }), { max: 1, step: 0.05, grows: false }),
        check("lift faint weights", s.lift, (lift) => change({ lift }), "colours follow the square root of the weight"),
        check("outline the true region", s.outlined, (outlined) => change({ outlined }))));
  }

  /** Which attributes are listed, in which order; a held patch puts those first that look there. */
  function ordered(sample, s) {
    const { attributes, rare, common } = meta, listed = { all: () => true, rare: (a) => a.frequency < rare,
      common: (a) => a.frequency > common }[s.rarity];
    const looks = s.patch >= 0 && sample.looks(s);
    const by = looks ? (i) => -looks[i] : { probability: (i) => -sample.probabilities[i],
      rarity: (i) => attributes[i].frequency, error: (i) => -sample.error(i) }[s.sort];
    return [...attributes.keys()].filter((i) => listed(attributes[i])).sort((a, b) => by(a) - by(b));
  }
  function entry(sample, s, now, looks, i) {
    const { name, frequency, threshold } = meta.attributes[i], outcome = sample.outcome(i), truth = truthOf(sample, i);
    const p = sample.probabilities[i], unknown = frequency === null, often = unknown ? "unknown" : percent(frequency);
    const rarity = frequency < meta.rare ? " · rare" : frequency > meta.common ? " · common" : "";
    const look = looks ? (100 * looks[i]) / (topOf(looks) || 1) : 0;
    return h("div", { role: "option", id: `${id}-${i}`, key: i, "data-index": i,
      class: i === now.attribute ? "entry seen" : "entry", "aria-selected": names[i] === s.attribute,
      style: `--look:${look.toFixed(1)}%`, title: `threshold ${threshold.toFixed(2)}; ${truth}`,
      "aria-label": `${name}, ${unknown ? "frequency unknown" : `in ${often} of the images`}, predicted ` +
        `${p.toFixed(2)}, threshold ${threshold.toFixed(2)}, ${truth}, ${outcome}` },
      h("canvas", { "aria-hidden": "true", draw: [(canvas) => paintMap(canvas, sample.map(s.layer, s.head, i),
        side, side, s.lift), sample, s.layer, s.head, s.lift] }),
      h("b", {}, name.replaceAll("_", " ")), h("span", { class: "number" }, p.toFixed(2)),
      h("span", { class: "fate", "data-outcome": outcome }, MARKS[outcome]),
      h("small", {}, unknown ? "frequency unknown" : often + rarity),
      h("span", { class: sample.predicted(i) ? "meter predicted" : "meter",
        style: `--share:${(100 * p).toFixed(1)}%;--threshold:${100 * threshold}%` }));
  }
  function choosing(sample, s, now) {
    const order = ordered(sample, indexed(s)), looks = now.patch >= 0 && sample.looks(now);
    const rowOf = ({ target }) => target.closest("[role=option]"), chosen = names.indexOf(s.attribute);
    const onkeydown = (event) => {
      const at = order.indexOf(names.indexOf(state().attribute)), end = order.length - 1;
      const next = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + 8, PageUp: at - 8, Home: 0,
        End: end }[event.key];
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "ArrowLeft" || event.key === "ArrowRight") stepper.go(event.key === "ArrowLeft" ? -1 : 1);
      else if (next !== undefined && order.length) {
        point({ attribute: -1 });
        change({ attribute: names[order[clamp(next, 0, end)]] });
      } else return;
      event.preventDefault();
      event.stopPropagation();
    };
    const reveal = (list) => {                                   // scroll the list, never the page
      const row = list.querySelector("[aria-selected=true]"), top = row?.offsetTop, bottom = top + row?.offsetHeight;
      if (top < list.scrollTop) list.scrollTop = top;
      else if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
    };
    const rarities = { all: "all attributes", rare: `positive in less than ${percent(meta.rare)}`,
      common: `positive in more than ${percent(meta.common)}` };
    return panel("Attributes", { class: "choosing" },
      h("div", { class: "options" }, aware ? h("span", { class: "field", role: "group", "aria-label": "how frequent" },
        Object.entries(rarities).map(([rarity, title]) => button(rarity[0].toUpperCase() + rarity.slice(1), title,
          () => change({ rarity }), { "aria-pressed": rarity === s.rarity })))
        : h("span", { class: "soft" }, "frequencies unknown"),
      select("Sort by", meta.bounds.options.sort.map((sort) => [sort, sort]), s.sort, (sort) => change({ sort }))),
      h("div", { class: "list", role: "listbox", tabindex: 0, onkeydown,
        "aria-label": "Attributes: up and down choose one, left and right step through the samples",
        "aria-activedescendant": order.includes(chosen) ? `${id}-${chosen}` : "",
        onpointermove: (event) => point({ attribute: Number(rowOf(event)?.dataset.index ?? -1) }),
        onpointerleave: () => point({ attribute: -1 }),
        onclick: (event) => { if (rowOf(event)) change({ attribute: names[rowOf(event).dataset.index] }); },
        draw: [reveal, sample, s.attribute, s.rarity, s.sort] }, order.map((i) => entry(sample, s, now, looks, i))),
      h("p", { class: "note" }, order.length < names.length && `${order.length} of `, `${names.length} attributes` +
        (s.patch >= 0 ? ", those first that look at the chosen patch (Escape lets go of it)."
          : ". Point at one to see its map, at a patch to see who looks there; click to hold.")));
  }

  function heading(sample, s, now) {
    const most = Math.max(...meta.layers.map(({ heads }) => heads)), columns = [...Array(most + 1).keys()];
    const choose = (choice) => { const [layer, head] = choice.split(" ").map(Number); change({ layer, head }); };
    const chosen = ({ layer, head }) => `${layer} ${head}`;
    const cell = (l, head) => {
      const label = `layer ${l}, ${headName(head)}`;
      return radio(`${l} ${head}`, chosen(s), choose, { "aria-label": label, title: label },
        h("canvas", { "aria-hidden": "true", draw: [(canvas) => paintMap(canvas, sample.map(l, head, now.attribute),
          side, side, s.lift), sample, now.attribute, s.lift] }));
    };
    const soft = (text) => h("span", { class: "soft", "aria-hidden": "true" }, text);
    return panel("Layers and heads", { class: "heading", heading: "Layers (rows) and heads (columns)" },
      h("div", { class: "options" },
        select("Layer", meta.layers.map(({ name }, l) => [l, String(l), name]), s.layer, (layer) => change({ layer })),
        headSelect(meta.layers[s.layer].heads, s.head, (head) => change({ head }))),
      h("div", { class: "heads", role: "radiogroup", style: `--columns:${most + 1}`,
        "aria-label": "All layers and heads: up and down choose the layer, left and right the head",
        onkeydown: arrows((down, right) => {
          change({ layer: state().layer + down, head: state().head + right });
          return chosen(state());
        }) }, soft(""), columns.map((k) => soft(k ? String(k - 1) : "mean")),
        meta.layers.map(({ heads }, l) => [soft(String(l)),
          columns.map((k) => (k <= heads ? cell(l, k - 1) : soft("")))])),
      h("p", { class: "note" }, `Each map from 0 to its own largest weight. ${meta.layers.map(({ name }, l) =>
        `${l}: ${name}`).join("; ")}.`));
  }

  function numbers(sample, weights, attribute) {
    const score = sample.score(weights, attribute), chance = (share) => (score ? `chance ${percent(share)}` : "");
    const entropy = entropyOf(weights), even = Math.log(weights.length);
    return panel("In numbers", {}, readout(
      ["Entropy", `${entropy.toFixed(2)} nats`, `even: ${even.toFixed(2)}`, "how spread the map is"],
      ["Focus", (1 - entropy / even).toFixed(2), "even: 0",
        "1 − entropy / ln(patches): 0 for even attention, 1 for a single patch"],
      ["Energy in the region", score ? percent(score.energy) : "unknown", chance(score?.area),
        "the share of the attention inside the true region; chance is the region's share of the image"],
      ["Strongest patch", score ? (score.pointing > 0.5 ? "hits" : "misses") : "unknown", chance(score?.chance),
        "pointing game: whether the strongest patch touches the true region; chance is that of any patch"]));
  }

  /** What becomes of the prediction without the most attended patches; asked from the kernel, one at a time. */
  function removalOf(s) {
    const { sample, checkpoint, layer, head, attribute, mask: count } = s;
    if (!count || !meta.kernel) return null;
    const name = [sample, model.get("own"), checkpoint, layer, head, attribute, count].join();
    if (!removals.has(name) && !masking) {
      masking = name;
      if (removals.size > 200) removals.clear();
      source.ask({ kind: "mask", sample, checkpoint, layer, head, attribute, count })
        .then((answer) => removals.set(name, answer), (error) => removals.set(name, { failed: error.message }))
        .finally(() => { masking = ""; request(); });
    }
    return removals.get(name);
  }
  function removing(s, removal) {
    const threshold = 100 * meta.attributes[names.indexOf(s.attribute)].threshold, random = removal?.random;
    const line = (label, value, spread) => h("div", { class: "line" }, h("span", {}, label),
      h("span", { class: "meter predicted", style: `--share:${100 * value}%;--threshold:${threshold}%` }),
      h("span", { class: "number" }, value.toFixed(2)), h("small", {}, spread));
    const effect = random && [h("p", { class: "note" }, `Predicted ${s.attribute}:`),
      line("whole image", removal.whole), line(`without the ${s.mask} most attended`, removal.attended),
      line(`without ${s.mask} at random`,
        random.reduce((a, b) => a + b, 0) / random.length, `${Math.min(...random).toFixed(2)} to ` +
          `${Math.max(...random).toFixed(2)} in ${random.length} draws`)];
    return panel("Take patches away", { class: "removing", heading: "Does it need them?" },
      meta.kernel ? h("div", { class: "options" }, range("Paint over the most attended patches:", sliding ?? s.mask,
        (count) => { sliding = count; request(); }, { max: Math.min(25, meta.tokens),
          onchange: ({ target }) => { sliding = null; change({ mask: Number(target.value) }); } }),
        h("output", { class: "number" }, sliding ?? s.mask))
        : h("p", { class: "note" }, "Painting over patches, other samples and images of your own need the model: " +
          "open the explorer in a notebook."),
      h("div", { class: "effect" }, removal?.failed ? h("p", { class: "note" }, removal.failed) : effect));
  }

  function pinned(s, weights) {
    return h("div", { class: "pins" }, s.pinned.map((pin, index) => {
      const other = indexed(within(meta.bounds, EXPLORER_STATE, { ...s, ...pin, patch: -1 }));
      const sample = source.store.want(other.sample, other.checkpoint);
      const buttons = h("div", { class: "field" }, button("Show", "go back to this", () => change(pin)),
        button("Remove", "unpin", () => change({ pinned: state().pinned.filter((_, i) => i !== index) })));
      if (!sample) {
        const failed = source.store.failed(other.sample, other.checkpoint);
        return h("figure", {}, h("p", { class: "note" }, failed || `Loading ${sampleName(other.sample)} …`), buttons);
      }
      return h("figure", {}, h("figcaption", {}, h("b", {}, names[other.attribute].replaceAll("_", " ")),
        ` · ${sampleName(other.sample)}, layer ${other.layer}, ${headName(other.head)}`),
        picture(sample, other, [], {}),
        h("p", { class: "note" }, `Predicted ${sample.probabilities[other.attribute].toFixed(2)}, ` +
          `${sample.outcome(other.attribute)}. ${sharedShare(weights, sample.weights(other))}`), buttons);
    }));
  }

  function view() {
    const s = state(), { store } = source, wanted = store.want(s.sample, s.checkpoint);
    const failed = store.failed(s.sample, s.checkpoint), sample = wanted || last;
    const now = { ...indexed(s), attribute: pointed.attribute >= 0 ? pointed.attribute : names.indexOf(s.attribute),
      patch: pointed.patch >= 0 ? pointed.patch : s.patch };
    if (s.outcome === "any") notes.filter = ""; else if (!codes.has(codesKey(s))) askOutcomes(false, false);
    last = sample;
    const weights = sample?.weights(now), removal = wanted && removalOf(s);
    const asked = pointed.patch >= 0 || (s.patch >= 0 && pointed.attribute < 0);
    if (wanted && s.sample !== OWN) frames.prefetch(stepper.next(s), s.checkpoint, 200);
    return frames.root("", { shown: wanted && `${s.sample} ${s.checkpoint}`, failed, keys: { p: pin, P: pin,
      "[": () => change({ checkpoint: state().checkpoint - 1 }),
      "]": () => change({ checkpoint: state().checkpoint + 1 }), Escape: () => change({ patch: -1 }) } },
      controls(s), frames.notices(failed),
      h("div", { class: "saying" }, speech.say(wanted ? (asked ? onlookers : explain)(sample, now)
        : failed ? "This sample cannot be shown." : `Loading ${sampleName(s.sample)} …`),
        h("span", { class: "field" }, button("Pin", "keep this view for comparison (key P)", pin),
          button("PNG", "save what is seen as a picture", () => savePng(shots())),
          meta.kernel && button("Page", "save an offline page of the samples seen last",
            () => source.savePage(state().sample, 32, "attention.html")))),
      sample && h("div", { class: "sights" }, looking(sample, s, now, weights, removal?.patches || []),
        choosing(sample, s, now),
        h("div", { class: "side" }, heading(sample, s, now), numbers(sample, weights, now.attribute),
          removing(s, removal))),
      sample && pinned(s, weights));
  }
  const another = () => { source.store.forget(OWN); request(); };      // another image of one's own
  model.on("change:own", another);
  const close = frames.open(view, () => { model.off("change:own", another); steps.play(false); });
  return close;
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
