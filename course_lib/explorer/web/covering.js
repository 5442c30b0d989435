/* Does the model need what it looks at? Patches are painted over, the most attended ones or any others, and the model
 * predicts again. */
import { button, h, range } from "../../recorder/web/kit.js";
import { spaced } from "./words.js";

/** Of a list from anywhere the patches that can be. */
export function patchesWithin({ tokens }, wanted) {
  if (!Array.isArray(wanted)) return [];
  const fits = (patch, at) => Number.isInteger(patch) && patch >= 0 && patch < tokens && wanted.indexOf(patch) === at;
  return wanted.every(fits) ? wanted : wanted.filter(fits);
}

/** Patches painted over by hand: a click or Enter paints one or uncovers it, a drag goes on with what it began. */
export class Brush {
  constructor(state, change, request) { Object.assign(this, { state, change, request, on: false, stroke: null }); }
  toggle() { this.on = !this.on; this.request(); }
  /** Whether this is a stroke of the brush, and not a look at a patch. */
  takes(patch, { type, buttons, key }) {
    if (!this.on) return false;
    if (type === "pointermove" && !(buttons & 1)) { this.stroke = null; return false; }
    if (type === "keydown" && key !== "Enter" && key !== " ") return false;
    if (type === "click" && this.stroke !== null) { this.stroke = null; return true; }       // the end of a drag
    const covers = !this.state().covered.includes(patch);
    if (type === "pointermove") this.stroke ??= covers;
    if (type !== "pointermove" || this.stroke === covers) this.paint(patch, covers);
    return true;
  }
  paint(patch, covers) {
    const { covered } = this.state();
    this.change({ covered: covers ? [...covered, patch] : covered.filter((other) => other !== patch), mask: 0 });
  }
}

export function removing(v, sample, s, removal) {
  const { meta, names, change, brush } = v, most = Math.min(25, meta.tokens), random = removal?.random;
  const attribute = names.indexOf(s.attribute), threshold = 100 * meta.attributes[attribute].threshold;
  const byHand = s.covered.length, count = byHand || s.mask, region = sample.region(attribute);
  const line = (label, value, spread = "") => h("div", { class: "line" }, h("span", {}, label),
    h("span", { class: "meter predicted", style: `--share:${100 * value}%;--threshold:${threshold}%` }),
    h("span", { class: "number", title: spread }, value.toFixed(2)));
  const mean = random && random.reduce((a, b) => a + b, 0) / random.length;
  const effect = random && [line("whole image", removal.whole),
    line(`without ${byHand ? "your" : "these"} ${count}`, removal.without),
    line(`without ${count} at random`, mean, `${Math.min(...random).toFixed(2)} to ` +
      `${Math.max(...random).toFixed(2)} in ${random.length} draws`)];
  return h("div", { class: "removing", role: "group", "aria-label": "Take patches away" },
    h("h2", {}, `Does it need them? ${spaced(s.attribute)}`),
    v.source.alive ? [h("div", { class: "field" }, range("Paint over the most attended patches", v.sliding ?? s.mask,
      (chosen) => v.slide(chosen), { max: most, onchange: ({ target }) => {
        v.slide(null);
        change({ mask: Number(target.value), covered: [] });
      } }), h("output", { class: "number" }, v.sliding ?? s.mask)),
    h("div", { class: "field" }, button("By hand", "paint over patches on the face: click or drag, or press Enter on one",
      () => brush.toggle(), { "aria-pressed": brush.on }),
    button("Its region", "paint over what decides this attribute", () => change({ covered: region, mask: 0 }),
      { disabled: !region.length }),
    button("Uncover", "paint nothing over", () => change({ covered: [], mask: 0 }), { disabled: !count }))]
      : h("p", { class: "note" }, "Painting over patches, other samples and images of your own need the model: " +
        "open the explorer in a notebook."),
    h("div", { class: "effect" }, removal?.failed ? h("p", { class: "note" }, removal.failed) : effect
      || (v.source.alive && h("p", { class: "note" }, brush.on ? "Click or drag over patches of the face."
        : "Its probability without them, and without as many at random."))));
}
