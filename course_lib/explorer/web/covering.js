/* Does the model need what it looks at? Patches are painted over, the most attended ones, those of the true region or
 * any others, and the model predicts again: on this face, and on sixteen. */
import { button, h, range } from "../../recorder/web/kit.js";
import { spaced } from "./words.js";

const STUDIED = 16, TRIES = 64;

/** Of a list from anywhere the patches that can be. */
export function patchesWithin({ tokens }, wanted) {
  if (!Array.isArray(wanted)) return [];
  const fits = (patch, at) => Number.isInteger(patch) && patch >= 0 && patch < tokens && wanted.indexOf(patch) === at;
  return wanted.every(fits) ? wanted : wanted.filter(fits);
}

/** The patches that are chosen: those of the region, or the ones painted by hand. */
export const chosenPatches = (sample, s) => (s.region ? sample.region(s.attribute) : s.covered);

/** Patches painted over by hand: a click or Enter paints one or uncovers it, a drag goes on with what it began. */
export class Brush {
  constructor(change, request) { Object.assign(this, { change, request, on: false, stroke: null, covered: [] }); }
  toggle() { this.on = !this.on; this.request(); }
  /** Whether this is a stroke of the brush, and not a look at a patch. */
  takes(patch, { type, buttons, key }) {
    if (!this.on) return false;
    if (type === "pointermove" && !(buttons & 1)) { this.stroke = null; return false; }
    if (type === "keydown" && key !== "Enter" && key !== " ") return false;
    if (type === "click" && this.stroke !== null) { this.stroke = null; return true; }       // the end of a drag
    const covers = !this.covered.includes(patch);
    if (type === "pointermove") this.stroke ??= covers;
    if (type !== "pointermove" || this.stroke === covers) this.paint(patch, covers);
    return true;
  }
  paint(patch, covers) {
    this.covered = covers ? [...this.covered, patch] : this.covered.filter((other) => other !== patch);
    this.change({ covered: this.covered, mask: 0, region: false });
  }
}

const signed = (value) => (Math.abs(value) < 0.005 ? "0.00" : `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`);
const meanOf = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** A mean with its 95 % interval, by Student's t in its expansion around the normal quantile. */
function changeOf(values) {
  const mean = meanOf(values), free = values.length - 1, z = 1.96;
  if (free < 3) return signed(mean);
  const spread = Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / free);
  const t = z + (z ** 3 + z) / (4 * free) + (5 * z ** 5 + 16 * z ** 3 + 3 * z) / (96 * free ** 2);
  return `${signed(mean)} ± ${((t * spread) / Math.sqrt(values.length)).toFixed(2)}`;
}

/** What becomes of an attribute without its region, on the next faces that have it. */
export class Study {
  constructor(source, request) { Object.assign(this, { source, request, of: "", rounds: [], failed: "", runs: false }); }
  async run(s, attribute) {
    if (this.runs) return;
    Object.assign(this, { of: this.key(s), after: s.sample, rounds: [], failed: "", runs: true });
    const { source } = this, { checkpoint } = s, seen = new Set();
    try {
      for (let at = s.sample; this.rounds.length < STUDIED && seen.size < TRIES;) {
        this.request();
        at = await source.find(s.attribute, source.after(at));
        if (at === null || seen.has(at)) break;
        seen.add(at);
        await source.store.ask(at, checkpoint);
        const sample = source.store.get(at, checkpoint), patches = sample.region(attribute);
        if (!sample.truth[attribute] || !patches.length) continue;
        this.rounds.push(await source.ask({ kind: "mask", sample: at, checkpoint, layer: s.layer, head: s.head,
          attribute: s.attribute, count: 0, patches }));
      }
      if (!this.rounds.length) this.failed = "No face with a known region of it was found.";
    } catch (error) { this.failed = `${error.message}.`; }
    this.runs = false;
    this.request();
  }
  key = ({ attribute, checkpoint }) => `${attribute} ${checkpoint}`;
  /** One sentence; empty if nothing was asked of this attribute. */
  says(s) {
    const { rounds } = this;
    if (this.of !== this.key(s)) return "";
    if (this.failed) return this.failed;
    if (this.runs) return `Face ${rounds.length + 1} of ${STUDIED} …`;
    const without = rounds.map((round) => round.without - round.whole);
    const random = rounds.map((round) => meanOf(round.random) - round.whole);
    const lower = without.filter((by) => by < 0).length, after = this.after < 0 ? "yours" : this.after;
    return `${rounds.length} faces with it after ${after}: ${changeOf(without)} without its region, lower on ${lower}; ` +
      `${changeOf(random)} at random (95 %).`;
  }
}

/** What a removal says of one face: whether these patches do more than patches by chance, and which way. */
function verdictOf({ whole, without, random }) {
  const mean = meanOf(random), spread = Math.sqrt(meanOf(random.map((value) => (value - mean) ** 2)));
  const change = without - whole, clear = Math.abs(without - mean) > Math.max(0.02, 2 * spread);
  if (!clear || Math.abs(change) <= Math.abs(mean - whole)) {
    return "On this face they matter no more than patches at random.";
  }
  return change < 0 ? "This face needs them: without them the probability falls."
    : "On this face they speak against it: without them the probability rises.";
}

export function removing(v, sample, s, removal) {
  const { meta, names, change, brush, study, source } = v, most = Math.min(25, meta.tokens), random = removal?.random;
  const attribute = names.indexOf(s.attribute), threshold = 100 * meta.attributes[attribute].threshold;
  const count = brush.covered.length || s.mask, region = sample.region(attribute), said = study.says(s);
  const line = (label, value, spread = "") => h("div", { class: "line" }, h("span", {}, label),
    h("span", { class: "meter predicted", style: `--share:${100 * value}%;--threshold:${threshold}%` }),
    h("span", { class: "number", title: spread }, value.toFixed(2)),
    h("span", { class: "change" }, label === "whole image" ? "" : signed(value - removal.whole)));
  const which = s.region ? `its region (${count})` : brush.covered.length ? `your ${count}` : `these ${count}`;
  const effect = random && [line("whole image", removal.whole), line(`without ${which}`, removal.without),
    line(`without ${count} at random`, meanOf(random), `${Math.min(...random).toFixed(2)} to ` +
      `${Math.max(...random).toFixed(2)} in ${random.length} draws`)];
  const title = h("h2", {}, `Does ${spaced(s.attribute)} need these patches?`);
  if (!source.alive) {
    return h("div", { class: "removing", role: "group", "aria-label": "Take patches away" }, title,
      h("p", { class: "note" }, "Painting over patches, other samples and images of your own need the model: open the " +
        "explorer in a notebook."));
  }
  const hint = brush.on ? "Click or drag over patches of the face."
    : s.region && !region.length ? "This face has no region of it to paint over."
      : "Its probability without them, and without as many at random. The model gets the picture's mean colour there.";
  return h("div", { class: "removing", role: "group", "aria-label": "Take patches away" }, title,
    h("div", { class: "field" }, range("Paint over the most attended patches", v.sliding ?? s.mask,
      (chosen) => v.slide(chosen), { max: most, onchange: ({ target }) => {
        v.slide(null);
        change({ mask: Number(target.value), covered: [], region: false });
      } }), h("output", { class: "number" }, v.sliding ?? s.mask)),
    h("div", { class: "field" }, button("By hand", "paint over patches on the face: click or drag, or press Enter on one",
      () => brush.toggle(), { "aria-pressed": brush.on }),
    button("Uncover", "paint nothing over", () => change({ covered: [], mask: 0, region: false }),
      { disabled: !count && !s.region }),
    button("Its region", "paint over what decides this attribute, on each face that has it",
      () => change({ region: !s.region, covered: [], mask: 0 }),
      { "aria-pressed": s.region, disabled: !s.region && !region.length }),
    button(`On ${STUDIED} faces`, "what its region is worth on the next faces that have it; ± is a 95 % interval over " +
      "faces", () => study.run(s, attribute), { disabled: study.runs || !sample.outlines })),
    h("div", { class: "effect" }, removal?.failed ? h("p", { class: "note" }, removal.failed) : effect,
      said ? h("p", { class: "note", role: "status" }, said)
        : h("p", { class: "note" }, !effect ? !removal?.failed && hint : verdictOf(removal))));
}
