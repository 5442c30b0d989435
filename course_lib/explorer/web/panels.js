/* The panels of the attention explorer. Each is a function of the view `v` (what `renderExplorer` makes: `meta`,
 * `names`, `state`, `change`, `point` and so on), of the sample that is shown with its maps, of the state `s`, and of
 * `now`: the state with the attribute's index, and with what is pointed at instead of what is held.
 */
import {
  arrows, breadth, button, cellAt, check, clamp, h, headName, patchGrid, patchName, patchStyle, percent,
  radio, range, readout, say, scaleBar, segment, select, sharedShare, strongest, topOf, within,
} from "../../recorder/web/kit.js";
import { headColour, paintComparisons, paintSmall, picture, shownImage } from "./picture.js";
import { sharing } from "./share.js";
import { MEAN, UNTRAINED } from "./sample.js";
import { MARKS, details, onlookers, sampleName, spaced, truthOf } from "./words.js";

const MOST_PINS = 3;
const box = (title, properties, ...children) => h("section", { "aria-label": title, ...properties }, ...children);
const soft = (text) => h("span", { class: "soft", "aria-hidden": "true" }, text);

// ---------------------------------------------------------------- the face
export function looking(v, sample, s, now, weights, painted) {
  const { meta, change, point } = v, drop = (over) => (event) => v.drop(event, over);
  const kinds = ["looking", v.dropping && "dropping", v.brush.on && "covering"].filter(Boolean).join(" ");
  return box("Where it looks", { class: kinds, ondragover: drop(true),
    ondragleave: drop(false), ondrop: drop(false) },
  h("div", { class: "options" },
    sample.clear && segment("which picture", [[true, "Clearly", "the same person and pose, drawn without damage"],
      [false, "As the model sees it", "the image that the model gets"]], s.clear, (clear) => change({ clear })),
    segment("whose map", [["trained", "Trained", "the map of the model"],
      ["untrained", "Untrained", "the map of the same model with random weights, on the same scale"],
      ["mean map", "Mean map", `one map for all images, the mean over ${meta.averaged}, on the same scale`]], s.maps,
    (maps) => change({ maps }))),
  h("div", { onpointerleave: () => point({ patch: -1 }) }, picture(sample, now, painted, { pick: v.pick,
    current: () => (v.pointed.patch >= 0 ? v.pointed.patch : v.state().patch),
    text: now.patch >= 0 ? onlookers(sample, now) : "no patch chosen" })),
  s.together ? h("div", { class: "scale" }, Array.from({ length: meta.layers[s.layer].heads }, (_, head) =>
    h("span", { style: `color:rgb(${headColour(head)})` }, "■ ", h("span", { class: "soft" }, `head ${head}`))))
    : scaleBar([say(sample.scale(now)), s.maps !== "trained" && h("span", { class: "soft" },
      `its largest: ${say(topOf(weights))}`)], "over-ramp"),
  heads(v, sample, s, now),
  h("div", { class: "options small" },
    range("Opacity", s.strength, (strength) => change({ strength }), { max: 1, step: 0.05, grows: false }),
    check("smooth", s.smooth, (smooth) => change({ smooth }),
      `interpolates between patches; the model has only ${meta.tokens} numbers`),
    check("true region", s.outlined, (outlined) => change({ outlined }), "outline where it should look"),
    check("faint weights", s.lift, (lift) => change({ lift }), "colours follow the square root of the weight"),
    meta.layers[s.layer].heads > 1 && check("heads in colour", s.together, (together) => change({ together }),
      "all heads in one picture, each in its own colour"),
    meta.layers.length > 1 && select("Layer", meta.layers.map(({ name }, l) => [l, String(l), name]), s.layer,
      (layer) => change({ layer }))));
}

/** All heads of the layer (of all layers, a row each) as small pictures; one is chosen, or all lie together. */
function heads(v, sample, s, now) {
  const { meta, change, state } = v, { layers } = meta, side = Math.sqrt(meta.tokens);
  const most = Math.max(...layers.map((layer) => layer.heads)), columns = [...Array(most + 1).keys()];
  const choose = (choice) => { const [layer, head] = choice.split(" ").map(Number); change({ layer, head }); };
  const chosen = ({ layer, head }) => `${layer} ${head}`, several = layers.length > 1;
  const cell = (l, head) => {
    const label = (several ? `layer ${l}, ` : "") + headName(head);
    return radio(`${l} ${head}`, chosen(s), choose, { "aria-label": label, title: label },
      h("canvas", { "aria-hidden": "true", draw: [(canvas) => paintSmall(canvas, sample.map(l, head, now.attribute),
        side, s.lift, s.together && head >= 0 ? headColour(head) : undefined,
        sample.scale({ layer: l, head, attribute: now.attribute })), sample, now.attribute, s.lift,
      s.together] }));
  };
  return h("div", { class: several ? "heads layered" : "heads", role: "radiogroup",
    style: `--columns:${most + 1};--face:url("${shownImage(sample, s)}")`,
    "aria-label": several ? "All layers and heads: up and down choose the layer, left and right the head"
      : "Heads: left and right choose one", onkeydown: arrows((down, right) => {
      change({ layer: state().layer + down, head: state().head + right });
      return chosen(state());
    }) }, several && soft(""), columns.map((k) => h("span", { class: "soft", "aria-hidden": "true" },
    k ? [h("span", { class: "word" }, "head "), String(k - 1)] : "mean")),
  layers.map((layer, l) => [several && soft(String(l)),
    columns.map((k) => (k <= layer.heads ? cell(l, k - 1) : soft("")))]));
}

// ---------------------------------------------------------------- the list of attributes
/** Which attributes are listed, in which order; a held patch puts those first that look there. */
export function ordered(v, sample, s) {
  const { attributes, rare, common } = v.meta, listed = { all: () => true, rare: (a) => a.frequency < rare,
    common: (a) => a.frequency > common }[s.rarity];
  const looks = s.patch >= 0 && sample.looks(s);
  const by = looks ? (i) => -looks[i] : { probability: (i) => -sample.probabilities[i],
    rarity: (i) => attributes[i].frequency, error: (i) => -sample.error(i) }[s.sort];
  return [...attributes.keys()].filter((i) => listed(attributes[i])).sort((a, b) => by(a) - by(b));
}
/** How far painting over moved a probability. */
const changeMark = (by) => (Math.abs(by) < 0.005 ? "=" : `${by < 0 ? "▼" : "▲"} ${Math.abs(by).toFixed(2)}`);
function entry(v, whole, s, now, looks, painted, i) {
  const sample = painted ? whole.withProbabilities(painted) : whole;
  const { name, frequency, threshold } = v.meta.attributes[i], outcome = sample.outcome(i), truth = truthOf(sample, i);
  const p = sample.probabilities[i], unknown = frequency === null, often = unknown ? "unknown" : percent(frequency);
  const rarity = frequency < v.meta.rare ? " · rare" : frequency > v.meta.common ? " · common" : "";
  const look = looks ? (100 * looks[i]) / (topOf(looks) || 1) : 0, side = Math.sqrt(v.meta.tokens);
  const [mark, word] = MARKS[outcome], unread = { "aria-hidden": "true" };
  return h("div", { role: "option", id: `${v.id}-${i}`, key: i, "data-index": i,
    class: i === now.attribute ? "entry seen" : "entry", "aria-selected": name === s.attribute,
    style: `--look:${look.toFixed(1)}%`,
    title: `${unknown ? "frequency unknown" : `in ${often} of the images`}, predicted ` +
      `${p.toFixed(2)}${painted ? `, ${whole.probabilities[i].toFixed(2)} with nothing painted over` : ""}, ` +
      `threshold ${threshold.toFixed(2)}, ${truth}, ${outcome}` },
  h("canvas", { ...unread, draw: [(canvas) => paintSmall(canvas, sample.map(s.layer, s.head, i), side,
    s.lift), sample, s.layer, s.head, s.lift] }),
  h("div", {}, h("b", {}, spaced(name)),
    painted ? h("span", { class: "fate" }, changeMark(p - whole.probabilities[i]))
      : h("span", { class: "fate", "data-outcome": outcome }, h("span", unread, mark), h("span", { class: "word" }, ` ${word}`))),
  h("div", {}, painted ? h("small", {}, `was ${whole.probabilities[i].toFixed(2)}`)
    : h("small", {}, unknown ? "" : often, h("span", { class: "word" }, rarity)),
    h("span", { class: sample.predicted(i) ? "meter predicted" : "meter",
      style: `--share:${(100 * p).toFixed(1)}%;--threshold:${100 * threshold}%` }),
    h("span", { class: "number" }, p.toFixed(2))));
}
/** `painted` are the probabilities of the picture painted over, if it is. */
export function choosing(v, sample, s, now, effect, painted) {
  const { names, meta, change, point, state } = v, order = ordered(v, sample, v.indexed(s));
  const looks = now.patch >= 0 && sample.looks(now), chosen = names.indexOf(s.attribute);
  const rowOf = ({ target }) => target.closest("[role=option]"), aware = meta.attributes[0].frequency !== null;
  const onkeydown = (event) => {
    const at = order.indexOf(names.indexOf(state().attribute)), end = order.length - 1;
    const next = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + 8, PageUp: at - 8, Home: 0,
      End: end }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") v.stepper.go(event.key === "ArrowLeft" ? -1 : 1);
    else if (next !== undefined && order.length) {
      point({ attribute: -1 });
      change({ attribute: names[order[clamp(next, 0, end)]] });
    } else return;
    event.preventDefault();
    event.stopPropagation();
  };
  const reveal = (list) => {                                     // scroll the list, never the page
    const row = list.querySelector("[aria-selected=true]"), top = row?.offsetTop, bottom = top + row?.offsetHeight;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
  };
  const rarities = { all: "all attributes", rare: `positive in less than ${percent(meta.rare)}`,
    common: `positive in more than ${percent(meta.common)}` };
  return box("Attributes", { class: "choosing" },
    h("div", { class: "options" }, aware ? h("span", { class: "field", role: "group", "aria-label": "how frequent" },
      Object.entries(rarities).map(([rarity, title]) => button(rarity[0].toUpperCase() + rarity.slice(1), title,
        () => change({ rarity }), { "aria-pressed": rarity === s.rarity })))
      : h("span", { class: "soft" }, "frequencies unknown"),
    select("Sort by", meta.bounds.options.sort.map((sort) => [sort, sort]), s.sort, (sort) => change({ sort }))),
    h("div", { class: "list", role: "listbox", tabindex: 0, onkeydown,
      "aria-label": "Attributes: up and down choose one, left and right step through the samples",
      "aria-activedescendant": order.includes(chosen) ? `${v.id}-${chosen}` : "",
      onpointermove: (event) => point({ attribute: Number(rowOf(event)?.dataset.index ?? -1) }),
      onpointerleave: () => point({ attribute: -1 }),
      onclick: (event) => { if (rowOf(event)) change({ attribute: names[rowOf(event).dataset.index] }); },
      draw: [reveal, sample, s.attribute, s.rarity, s.sort] },
    order.map((i) => entry(v, sample, s, now, looks, painted, i))),
    h("p", { class: "note" }, order.length < names.length && `${order.length} of `, `${names.length} attributes` +
      (s.patch >= 0 ? ", those first that look at the chosen patch (Escape lets go)."
        : "; a bar's mark is what a yes needs. Point at one or at a patch, click to hold.")),
    effect);
}

// ---------------------------------------------------------------- views that are kept beside the present one
const PIN = ["sample", "checkpoint", "layer", "head", "attribute"];
/** Of a list from anywhere the views that can be, the same list if all can. */
export function pinsWithin(bounds, initial, wanted) {
  if (!Array.isArray(wanted)) return [];
  const fits = (pinned) => {
    if (typeof pinned !== "object" || !pinned || Object.keys(pinned).length !== PIN.length) return false;
    const bounded = within(bounds, initial, pinned);
    return PIN.every((name) => Object.hasOwn(pinned, name) && bounded[name] === pinned[name]);
  };
  return wanted.length <= MOST_PINS && wanted.every(fits) ? wanted : wanted.filter(fits).slice(-MOST_PINS);
}
export function pin({ state, change }) {
  const s = state(), mine = Object.fromEntries(PIN.map((name) => [name, s[name]]));
  const others = s.pinned.filter((other) => PIN.some((name) => other[name] !== mine[name]));
  change({ pinned: [...others, mine].slice(-MOST_PINS) });
}
export function pins(v, s, weights) {
  const { meta, names, change, state, source } = v;
  const slot = (wanted, index) => {
    if (!wanted) {
      return h("div", { class: "slot", key: `empty ${index}` },
        index === s.pinned.length && h("p", { class: "note" }, "Pin (P) keeps a view here."));
    }
    const other = v.indexed(within(meta.bounds, v.initial, { ...s, ...wanted, patch: -1 }));
    const sample = source.store.want(other.sample, other.checkpoint);
    const buttons = h("div", { class: "field" }, button("Show", "go back to this", () => change(wanted)),
      button("×", "remove this pin", () => change({ pinned: state().pinned.filter((_, i) => i !== index) }),
        { "aria-label": "Remove" }));
    const key = PIN.map((name) => wanted[name]).join();
    if (!sample) {
      const failed = source.store.failed(other.sample, other.checkpoint);
      return h("figure", { class: "slot", key },
        h("p", { class: "note" }, failed || `Loading ${sampleName(other.sample)} …`), buttons);
    }
    const where = [sampleName(other.sample), meta.layers.length > 1 && `layer ${other.layer}`,
      other.head < 0 ? "mean" : headName(other.head)].filter(Boolean).join(", ");
    const shared = sharedShare(weights, sample.weights(other)), [mark, word] = MARKS[sample.outcome(other.attribute)];
    return h("figure", { class: "slot", key, title: `${where}: ${shared}` },
      picture(sample, { ...other, together: false }, [], {}),
      h("figcaption", {}, h("b", {}, spaced(names[other.attribute])),
        h("span", {}, `${sample.probabilities[other.attribute].toFixed(2)} ${mark} ${word}`), h("small", {}, `${other.sample < 0 ? "yours" : other.sample} · ${other.head < 0 ? "mean" : headName(other.head)}`),
        h("small", {}, `shares ${shared.split(" of")[0]}`)), buttons);
  };
  return box("Pins", { class: "pins" }, Array.from({ length: MOST_PINS }, (_, k) => slot(s.pinned[k], k)));
}

// ---------------------------------------------------------------- what is read on demand
/** Each drawer: its name in the state, its title, and what is in it. Others may be added. */
export const DRAWERS = [["details", "Details", numbers], ["weight", "How this weight arose", arising],
  ["share", "Share", sharing]];

export function drawers(v, sample, s, now, weights) {
  const open = DRAWERS.find(([name]) => name === s.drawer);
  return h("div", { class: "drawers" }, h("div", { class: "bar", role: "group", "aria-label": "more" },
    DRAWERS.map(([name, title]) => button(title, "show or hide it below",
      () => { v.opened = name; v.change({ drawer: s.drawer === name ? "" : name }); },
      { "aria-expanded": s.drawer === name })),
    h("span", { class: "spring" }),
    button("Pin", "keep this view for comparison (key P)", () => pin(v)),
    button(v.saved || "PNG", "save what is seen as a picture", v.saveShots),
    v.meta.kernel && button("Page", "save an offline page of the samples seen last",
      () => v.source.savePage(v.state().sample, 16, "attention.html"))),
  open && box(open[1], { class: `drawer ${open[0]}`, key: open[0], draw: [(node) => {
    if (v.opened === open[0]) node.scrollIntoView({ block: "nearest" });           // a link opens it without moving
    v.opened = "";
  }, open[0]] }, open[2](v, sample, s, now, weights)));
}

function numbers({ meta, source }, sample, s, now, weights) {
  const score = sample.score(weights, now.attribute), chance = (share) => (score ? `chance: ${percent(share)}` : "");
  const none = sample.truth && !sample.truth[now.attribute] ? "absent: none" : "unknown";
  const baseline = (title, ...which) => {
    const maps = source.store.want(...which), its = maps && sample.withMaps(maps);
    const waiting = source.store.failed(...which) ? "unknown" : "…";
    return [`… ${title}`, its ? percent(its.score(its.weights(now), now.attribute).energy) : waiting, "",
      `the same share, ${title}`];
  };
  return [h("p", { class: "all" }, details(sample, now)), readout(
    ["Attention on the region", score ? percent(score.energy) : none, chance(score?.area),
      "the share of the attention inside the true region; chance is the region's share of the image"],
    ...(score ? [baseline("of the mean map", MEAN, s.checkpoint), baseline("untrained", s.sample, UNTRAINED)] : []),
    ["Strongest patch", score ? (score.pointing > 0.5 ? "hits" : "misses") : none, chance(score?.chance),
      "pointing game: whether the strongest patch touches the true region; chance is that of any patch"],
    ["Spread over about", breadth(weights), `of ${weights.length} patches`,
      "e to the entropy of the weights: how many patches would hold as much, evenly"],
    ["Largest weight", say(topOf(weights)), `even: ${say(1 / weights.length)}`, "of all patches"]),
  meta.layers.length > 1 && h("p", { class: "note" }, `Layers: ${meta.layers.map(({ name }, l) => `${l} ${name}`)
    .join("; ")}.`)];
}

/** One query and its patches: what is compared, and what the softmax makes of it. */
function arising(v, sample, s, now, weights) {
  const { point } = v, columns = Math.sqrt(weights.length), { place } = patchGrid(weights.length);
  const patch = now.patch >= 0 ? now.patch : strongest(weights);
  const ofHeads = Array.from({ length: sample.meta.layers[s.layer].heads }, (_, head) => sample.weights({ ...now, head }));
  const head = s.head >= 0 ? s.head : strongest(ofHeads.map((each) => each[patch]));
  const values = sample.comparisons({ ...now, head }), made = ofHeads[head];
  if (!values) {
    return h("p", { class: "note" }, s.maps === "trained" ? "What this model compares before its softmax is not known."
      : "What the weights arose from is kept for the trained model only.");
  }
  const total = values.reduce((sum, value) => sum + Math.exp(value), 0), one = values[patch];
  const grid = (title, low, high, draw, ...inputs) => h("figure", {}, h("figcaption", {}, title),
    h("div", { class: "grid", onpointermove: (event) => {
      const [row, column] = cellAt(event, event.currentTarget, columns, columns);
      point({ patch: row * columns + column });
    }, onpointerleave: () => point({ patch: -1 }) },
    h("canvas", { "aria-hidden": "true", draw: [draw, sample, s.layer, head, now.attribute, ...inputs] }),
    h("div", { class: "mark", style: patchStyle(patch, place) })), h("small", {}, `${low} to ${high}`));
  const scores = [...values].map((value) => value.toFixed(1));
  return [h("p", { class: "all" }, `${spaced(v.names[now.attribute])}, head ${head}` +
    (s.head < 0 ? " (it looks here most)" : "") + `, patch ${patch} ${patchName(patch, columns)}. ` +
    `Its query and the patch's key: q · k / √d = ${scores[patch]}. e to that power is ${say(Math.exp(one))}, of ` +
    `${say(total)} in all ${weights.length} patches: the weight is ${say(made[patch])}, even ` +
    `would be ${say(1 / weights.length)}.`),
  h("div", { class: "steps" }, grid("query · key, each patch", Math.min(...values).toFixed(1),
    Math.max(...values).toFixed(1), (canvas) => paintComparisons(canvas, values, columns)), h("span", { class: "arrow", "aria-hidden": "true" }, "softmax →"),
  grid("weights, together 1", say(Math.min(...made)), say(Math.max(...made)),
    (canvas) => paintSmall(canvas, sample.map(s.layer, head, now.attribute), columns, false)))];
}
