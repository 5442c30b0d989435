/* Draw your own face: switches and sliders; the kernel draws it, and the prediction and the maps follow. */
import { button, h, range } from "../../recorder/web/kit.js";
import { OWN } from "./sample.js";
import { MARKS, spaced } from "./words.js";

const SHOWN_AS = { person: "Person", skin: "Skin", turn: "Turn", nod: "Nod", tilt: "Tilt", size: "Size", right: "Right",
  down: "Down", blur: "Blur", noise: "Noise", dim: "Dim", cover: "Bar" };
const DAMAGE = new Set(["blur", "noise", "dim", "cover"]);       // what the clear picture does not show
const TITLES = { person: "another person with the same attributes", skin: "from light to dark",
  right: "where the face is, from left to right", down: "where the face is, from top to bottom",
  dim: "how much of the contrast is lost", cover: "a grey bar across the face" };

/** A drawing that can be drawn, the same object if it is one; else an empty one. */
export function drawingWithin({ drawing: table, kernel }, wanted) {
  const none = drawingWithin.none ||= {};
  if (!table || !kernel || typeof wanted !== "object" || !wanted || Array.isArray(wanted)) return none;
  const { sliders, excludes } = table, { attributes } = wanted, names = Object.keys(sliders);
  const fits = Array.isArray(attributes) && attributes.every((name) => Object.hasOwn(excludes, name)) &&
    attributes.every((name) => !attributes.some((other) => excludes[name].includes(other))) &&
    names.every((name) => Number.isFinite(wanted[name]) && wanted[name] >= sliders[name][0] &&
      wanted[name] <= sliders[name][1]);
  return fits && Object.keys(wanted).length === names.length + 1 ? wanted : none;
}

/** The first drawing: what the present face has, as far as it is known. */
function firstDrawing(v, sample) {
  const { sliders, excludes } = v.meta.drawing;
  const first = Object.fromEntries(Object.entries(sliders).map(([name, [, , value]]) => [name, value]));
  const there = v.names.filter((name, i) => sample?.truth?.[i]);
  return { ...first, attributes: there.filter((name) => !there.some((other) => excludes[name].includes(other))) };
}
/** Change to the drawing mode. */
export function startDrawing(v, sample) {
  const { drawing } = v.state();
  if (!v.meta.kernel || !v.meta.drawing) v.change({ mode: "draw" });
  else v.change({ mode: "draw", drawing: drawing.attributes ? drawing : firstDrawing(v, sample), sample: OWN });
}

const hintOf = ({ meta }) => (!meta.kernel ? "A face is drawn by Python, which this page does not have. Open the explorer " +
  "in a notebook to draw your own."
  : "This model has attributes, or images of a shape, that no drawn face has, so none can be drawn for it.");

export function drawingPanel(v, sample, s, now) {
  const { meta, names, change, point, state } = v;
  const leave = button("Explore", "back to the list of attributes", () => change({ mode: "explore" }));
  if (!meta.kernel || !meta.drawing) {
    return h("section", { class: "choosing drawing", "aria-label": "Draw a face" }, h("h2", {}, "Draw a face"),
      h("p", {}, hintOf(v)), h("div", { class: "field" }, leave));
  }
  const { sliders, excludes } = meta.drawing;
  const present = () => (state().drawing.attributes ? state().drawing : firstDrawing(v, sample));
  const drawing = present(), has = new Set(drawing.attributes);
  const set = (name, value) => change({ drawing: { ...present(), [name]: value }, sample: OWN,
    ...(DAMAGE.has(name) && { clear: false }) });
  const toggle = (name, on) => {
    const others = present().attributes.filter((other) => other !== name);
    const attributes = on ? [...others.filter((other) => !excludes[name].includes(other)), name] : others;
    change({ drawing: { ...present(), attributes }, sample: OWN, attribute: name });
  };
  const row = (name, i) => h("label", { class: i === now.attribute ? "switch seen" : "switch", key: name,
    onpointerenter: () => point({ attribute: i }) },
  h("input", { type: "checkbox", checked: has.has(name), onfocus: () => point({ attribute: i }),
    onchange: ({ target }) => toggle(name, target.checked),
    "aria-label": `${spaced(name)}, predicted ${sample.probabilities[i].toFixed(2)}` }),
  h("b", {}, spaced(name)), h("span", { class: sample.predicted(i) ? "meter predicted" : "meter",
    style: `--share:${(100 * sample.probabilities[i]).toFixed(1)}%;--threshold:${100 * meta.attributes[i].threshold}%` }),
  h("span", { class: "number" }, sample.probabilities[i].toFixed(2)),
  h("span", { class: "fate", "data-outcome": sample.outcome(i), title: sample.outcome(i) }, MARKS[sample.outcome(i)][0]));
  return h("section", { class: "choosing drawing", "aria-label": "Draw a face" },
    h("div", { class: "sliders", role: "group", "aria-label": "Pose and damage" },
      Object.entries(sliders).map(([name, [min, max]]) => range(SHOWN_AS[name], drawing[name],
        (value) => set(name, value), { min, max, step: Number.isInteger(max) && max > 100 ? 1 : (max - min) / 50,
          title: TITLES[name] }))),
    h("div", { class: "switches", role: "group", "aria-label": "Attributes of the face",
      onpointerleave: () => point({ attribute: -1 }) }, names.map(row)),
    h("p", { class: "note" }, "A tick draws it, and drops what contradicts it. Bars are the predictions; " +
      "from the black mark on, the model says yes (✓ found, ✗ missed, ! false alarm)."),
    h("div", { class: "field" }, button("Plain face", "no attribute, no turn, no damage", () =>
      change({ drawing: firstDrawing(v, null), sample: OWN })), leave));
}
