/* The playground: attention over a few points in a plane, computed here while one drags.
 *
 * What is drawn is a function of the state (`PLAYGROUND_STATE`, the widget's traits) and of what is pointed at. Python
 * joins this module to the kit.
 */
import {
  arrows, button, check, CSS_COLOURS, h, mount, panel, radio, range, speaker, stateOf, STYLE, strongest,
} from "../../recorder/web/kit.js";

// ---------------------------------------------------------------- the state
export const PLAYGROUND_STATE = { query: null, points: null, values: null, mask: null, temperature: 1, heads: 1,
  self_attention: false };

const between = (value, low, high) => Math.min(high, Math.max(low, Number(value) || 0));

/** A state that can be, whatever was asked for; what is missing is as at the opening. */
function possible({ opening, reach, temperatures, projections }, wanted) {
  const point = (given, otherwise) => otherwise.map((place, axis) => between(given?.[axis] ?? place, -reach, reach));
  const list = (name) => opening[name].map((otherwise, i) => point(wanted[name]?.[i], otherwise));
  return { query: point(wanted.query, opening.query), points: list("points"), values: list("values"),
    mask: opening.mask.map((allowed, i) => Boolean(wanted.mask?.[i] ?? allowed)),
    temperature: between(wanted.temperature, ...temperatures),
    heads: Math.round(between(wanted.heads, 1, projections.length)), self_attention: Boolean(wanted.self_attention) };
}

// ---------------------------------------------------------------- attention
const dot = (one, other) => one[0] * other[0] + one[1] * other[1];
const weighted = (weights, points) => [0, 1].map((axis) =>
  weights.reduce((sum, weight, i) => sum + weight * points[i][axis], 0));
const mean = (points) => weighted(points.map(() => 1 / points.length), points);

/** Over what the mask allows; nothing but zeros where it allows nothing. */
function softmax(scores, mask) {
  const top = Math.max(...scores.filter((_, i) => mask[i]));
  const powers = scores.map((score, i) => (mask[i] ? Math.exp(score - top) : 0));
  const total = powers.reduce((a, b) => a + b, 0) || 1;
  return powers.map((power) => power / total);
}

/** For each head its projected queries, scores, weights and outputs; `weights` and `outputs` are the heads' means. */
function attend({ query, points: keys, values, mask, temperature, heads, self_attention: within }, projections) {
  const queries = within ? keys : [query], ofHeads = projections.slice(0, heads).map((projection) => {
    const projected = queries.map((asks) => weighted(asks, projection));
    const scores = projected.map((asks) => keys.map((key) => dot(asks, key) / (Math.SQRT2 * temperature)));
    const weights = scores.map((row) => softmax(row, mask));
    return { projected, scores, weights, outputs: weights.map((row) => weighted(row, within ? keys : values)) };
  });
  const average = (row, j) => ofHeads.reduce((sum, { weights }) => sum + weights[row][j], 0) / heads;
  return { ofHeads, weights: queries.map((_, row) => keys.map((_, j) => average(row, j))),
    outputs: queries.map((_, row) => mean(ofHeads.map(({ outputs }) => outputs[row]))) };
}

// ---------------------------------------------------------------- words
const two = (value) => (Math.abs(value) < 0.005 ? 0 : value).toFixed(2);
const minus = (text) => text.replaceAll("-", "−");
const place = ([x, y]) => `(${two(x)}, ${two(y)})`;

/** Whom a query attends to; all alike within what two digits show. */
function target(weights, names, mask) {
  const best = strongest(weights), least = Math.min(...weights.filter((_, i) => mask[i]));
  const alike = weights[best] - least < 0.005 && mask.filter(Boolean).length > 1;
  return `attends ${alike ? "to all alike" : `most to ${names[best]}`} (${two(weights[best])}`;
}

/** What Python's `describe` says. */
function sentenceOn(s, names, { weights, outputs }) {
  if (!s.mask.includes(true)) {
    return "Every key is masked, so there is nothing to attend to and the output is zero.";
  }
  const heads = s.heads > 1 ? `, mean of ${s.heads} heads` : "";
  if (s.self_attention) {
    const each = names.map((name, i) => `${name} ${target(weights[i], names, s.mask)})`);
    return `Self-attention${heads}: ${each.join(", ")}.`;
  }
  return `The query at ${place(s.query)} ${target(weights[0], names, s.mask)}${heads}); ` +
    `the output is ${place(outputs[0])}.`;
}

// ---------------------------------------------------------------- a plane to drag points in
const UNIT = 100, EDGE = 270;         // of the drawing, y upwards
const at = ([x, y]) => ({ x: UNIT * x, y: -UNIT * y });
const line = (from, to, weight, more) => h("line", { x1: at(from).x, y1: at(from).y, x2: at(to).x, y2: at(to).y,
  "stroke-width": weight, ...more });
const lie = (point) => `translate(${at(point).x} ${at(point).y})`;
const numbered = (point, head) => h("g", { class: `of-head head${head}`, transform: lie(point) },
  h("circle", { r: 13 }), h("text", { x: -6, y: 7 }, head + 1));
const STAR = Array.from({ length: 10 }, (_, i) => [Math.sin, Math.cos].map((turn) =>
  ((i % 2 ? 9 : 22) * turn((i * Math.PI) / 5)).toFixed(1))).join(" ");

/** The corners of what holds all points: no weighted mean lies outside. */
function hull(points) {
  const sorted = [...points].sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const half = (ordered) => ordered.reduce((corners, point) => {
    const turnsRight = ([a, b]) => (b[0] - a[0]) * (point[1] - a[1]) - (b[1] - a[1]) * (point[0] - a[0]) <= 0;
    while (corners.length > 1 && turnsRight(corners.slice(-2))) corners.pop();
    return [...corners, point];
  }, []);
  return [...half(sorted), ...half(sorted.reverse())];
}

/** `move(name, index, place)` puts a point elsewhere, `nudge` moves it by so much, `choose` learns which one is meant;
 * `empty` names the point that comes to where the plane is clicked. */
function plane(label, { reach, points, over, move, nudge, choose, empty }, ...drawn) {
  const where = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    return [(2 * (event.clientX - box.left)) / box.width - 1, 1 - (2 * (event.clientY - box.top)) / box.height]
      .map((share) => (share * EDGE) / UNIT);
  };
  const under = (event) => event.target.closest("[data-index]");
  const onpointerdown = (event) => {
    const node = under(event), [x, y] = where(event), svg = event.currentTarget;
    if (event.button || (!node && (!empty || event.pointerType === "touch"))) return;      // touch: it may scroll
    const { name, index } = node ? node.dataset : { name: empty, index: 0 };
    const point = points.find((other) => other.name === name && other.index === Number(index));
    svg.dragged = { name, index: Number(index), from: node ? [point.at[0] - x, point.at[1] - y] : [0, 0] };
    svg.setPointerCapture(event.pointerId);
    if (!node) move(name, 0, [x, y]);
  };
  const onpointermove = (event) => {
    const dragged = event.currentTarget.dragged, [x, y] = where(event);
    if (dragged) move(dragged.name, dragged.index, [x + dragged.from[0], y + dragged.from[1]]);
    else choose(under(event)?.dataset);
  };
  const ontouchstart = (event) => { if (under(event)) event.preventDefault(); };      // it drags, and does not scroll
  const release = (event) => { event.currentTarget.dragged = null; };
  const onkeydown = (point) => (event) => {
    const step = event.shiftKey ? 0.01 : 0.1, { key } = event;
    const moved = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] }[key];
    if (!moved || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    nudge(point.name, point.index, moved);
  };
  const near = (one, other) => Math.hypot(one.at[0] - other.at[0], one.at[1] - other.at[1]) < 0.2;
  const node = (point, i) => h("g", { key: `${point.name} ${point.index}`, class: `point ${point.class}`,
    "data-name": point.name, "data-index": point.index, transform: lie(point.at),
    tabindex: 0, role: "slider", "aria-label": point.label, "aria-valuemin": -reach, "aria-valuemax": reach,
    "aria-valuenow": point.at[0], "aria-valuetext": place(point.at), onkeydown: onkeydown(point),
    onfocus: () => choose({ name: point.name, index: point.index }), onblur: () => choose() },
    h("circle", { class: "grip", r: 30 }), point.shape, h("text", { x: point.at[0] > 1.2 ? -16 : 16,
      "text-anchor": point.at[0] > 1.2 ? "end" : "start",
      y: -14 + 24 * points.slice(0, i).filter((other) => near(point, other)).length },
      point.label, point.note && h("tspan", { class: "amount", dx: 7 }, point.note)));
  return h("svg", { xmlns: "http://www.w3.org/2000/svg", viewBox: `${-EDGE} ${-EDGE} ${2 * EDGE} ${2 * EDGE}`,
    role: "group", "aria-label": label, class: empty ? "plane open" : "plane", ontouchstart, onpointerdown,
    onpointermove, onpointerup: release, onpointercancel: release, onpointerleave: () => choose(),
    onclick: (event) => { if (empty && !under(event)) move(empty, 0, where(event)); } },
    line([-3, 0], [3, 0], 1, { class: "axis" }), line([0, -3], [0, 3], 1, { class: "axis" }), drawn,
    points.map(node), over || "");
}

// ---------------------------------------------------------------- the view
export function renderPlayground({ model, el }) {
  const meta = model.get("meta"), { names, projections, effects, reach, opening } = meta;
  const { state, change } = stateOf(model, PLAYGROUND_STATE, (wanted) => possible(meta, wanted));
  let page = null, pointed = { head: 0, key: -1 }, row = 0;
  const request = () => page?.request();
  const speech = speaker(request);

  // ---- what people do
  const move = (name, index, point) => {
    const there = point.map((value) => Math.round(100 * between(value, -reach, reach)) / 100);
    if (name === "points") row = index;
    change({ [name]: name === "query" ? there : state()[name].map((old, i) => (i === index ? there : old)) });
  };
  const nudge = (name, index, step) => {      // from where it is now: a key may come twice before the next frame
    const now = name === "query" ? state().query : state()[name][index];
    move(name, index, now.map((value, axis) => value + step[axis]));
  };
  const point = (what) => { pointed = { ...pointed, ...what }; request(); };
  const choose = (of) => {
    const key = of && of.name !== "query" ? Number(of.index) : -1;
    if (state().self_attention && key >= 0) row = key; else point({ key });
    request();
  };
  const replace = (list, index, value) => list.map((old, i) => (i === index ? value : old));
  const presets = [
    ["two keys alike", "both get the same weight", () => ({ points: replace(state().points, 1, state().points[0]) })],
    ["one key", "all others are masked", () => ({ mask: names.map((_, i) => !i) })],
    ["very cold", "the best key gets everything", () => ({ temperature: meta.temperatures[0] })],
    ["very hot", "all keys get the same", () => ({ temperature: meta.temperatures[1] })],
    ["reset", "as at the beginning", () => opening],
  ];

  function controls(s) {
    const kind = () => (state().self_attention ? "self" : "cross");
    const become = (chosen) => change({ self_attention: chosen === "self" });
    const flip = () => { become(kind() === "self" ? "cross" : "self"); return kind(); };
    const mode = (value) => radio(value, kind(), become, {}, `as ${value}-attention`);
    const few = (count) => radio(count, s.heads, (heads) => change({ heads }),
      { "aria-label": count > 1 ? `${count} heads` : "1 head" }, count);
    const warmth = (power) => change({ temperature: Number((10 ** power).toPrecision(2)) });
    return h("div", { class: "bar", role: "group", "aria-label": "settings" },
      h("span", { class: "field choice", role: "radiogroup", "aria-label": "kind of attention",
        onkeydown: arrows(flip) }, mode("cross"), mode("self")),
      h("span", { class: "field choice", role: "radiogroup", "aria-label": "heads", onkeydown: arrows((down, right) => {
        change({ heads: state().heads + down + right });
        return state().heads;
      }) }, "Heads", projections.map((_, i) => few(i + 1))),
      range("Temperature", Number(Math.log10(s.temperature).toFixed(2)), warmth, { min: -1.3, max: 1.3, step: 0.05,
        "aria-valuetext": s.temperature }), h("output", { class: "number" }, s.temperature),
      h("span", { class: "field", role: "group", "aria-label": "mask: which keys may be attended to" }, "Mask keeps",
        names.map((name, i) => check(name, s.mask[i],
          (allowed) => change({ mask: replace(state().mask, i, allowed) })))),
      h("span", { class: "field" }, "Try", presets.map(([text, title, values]) =>
        button(text, title, () => change(values())))));
  }

  /** Points of one kind, as the plane draws and moves them. */
  const dots = (s, name, shape, weights) => s[name].map((point, index) => ({ name, index, at: point,
    label: names[index], note: s.mask[index] && weights && two(weights[index]),
    class: `${name}${s.mask[index] ? "" : " masked"}${index === pointed.key ? " on" : ""}`, shape: shape(index) }));
  const round = () => h("circle", { class: "shape", r: 10 });

  function asking(s, found) {
    const within = s.self_attention, i = within ? row : 0, plain = !within && s.heads === 1;
    const lines = found.ofHeads.map(({ projected, weights }, k) => [
      line([0, 0], projected[i], 2, { class: `arrow head${k}` }),
      weights[i].map((weight, j) => weight > 0.005 && line(!k && within ? s.points[i] : projected[i], s.points[j],
        22 * weight, { class: `weight head${k}` })),
      k > 0 && numbered(projected[i], k)]);
    const query = { name: "query", index: 0, at: s.query, label: "query", class: "query",
      shape: h("path", { class: "shape", d: "M0 -19 L19 0 L0 19 L-19 0 Z" }) };
    const [x, y] = s.query, length = Math.hypot(x, y);
    const level = plain && length > 0 && [[-y, x], [y, -x]].map((end) => end.map((value) => (4 * value) / length));
    return panel(within ? "Points" : "Query and keys", { heading: within
      ? "Drag: a point is query, key and value" : "Drag the query, or a key" },
      plane(within ? "points" : "query and keys", { reach, move, nudge, choose, empty: !within && "query",
        points: [...dots(s, "points", round, found.weights[i]), ...(within ? [] : [query])] },
      level && line(...level, 2, { class: "level" }), s.points.map((key) => line([0, 0], key, 1, { class: "axis" })),
      lines), h("p", { class: "key" }, plain ? "Thick line: large weight. Dotted across: the score is 0."
      : within ? `Thick line: what ${names[row]} attends to.` : "Circled numbers: the query as each head sees it."));
  }

  function answering(s, found) {
    const within = s.self_attention, values = within ? s.points : s.values;
    const allowed = values.filter((_, i) => s.mask[i]), box = (index) => {
      const side = 14 + 34 * Math.sqrt(found.weights[within ? row : 0][index]);
      return h("rect", { class: "shape", x: -side / 2, y: -side / 2, width: side, height: side });
    };
    const star = (point, index) => h("g", { class: within && index !== row ? "output" : "output on",
      transform: lie(point), "data-output": JSON.stringify(point) },
      h("polygon", { points: STAR }));
    const [{ x, y }, leftwards] = [at(found.outputs[0]), found.outputs[0][0] > 1.2];
    const label = !within && h("text", { class: "named", x: leftwards ? x - 20 : x + 20, y: y + 36,
      "text-anchor": leftwards ? "end" : "start" }, "output");
    const heads = within || s.heads < 2 ? [] : found.ofHeads.map(({ outputs }, k) => numbered(outputs[0], k));
    return panel(within ? "Outputs" : "Values and the output", { heading: within
      ? "Outputs ★: weighted means of the points" : "Output ★: weighted mean of values" },
      plane(within ? "outputs" : "values and the output", { reach, move, nudge, choose,
        points: dots(s, within ? "points" : "values", within ? round : box),
        over: [found.outputs.map(star), heads, label] },
      h("polygon", { class: "hull", points: hull(allowed).map((p) => `${at(p).x},${at(p).y}`).join(" ") }),
      found.outputs.map((output, i) => (within ? line(s.points[i], output, 2, { class: "weight head0" })
        : values.map((value, j) => line(output, value, 22 * found.weights[0][j], { class: "weight head0" }))))),
      h("p", { class: "key" }, within ? "A line leads from each point to its output."
      : "Large square: large weight."));
  }

  /** A head's scores and weights: a row a key, or with self-attention a grid. */
  function ofHead(s, { scores, weights }, k) {
    const on = (query, key) => ({ onpointermove: () => {
      if (s.self_attention) row = query;
      point({ head: k, key });
    } });
    const numbers = (i, j) => ({ "data-head": k, "data-query": i, "data-key": j, "data-weight": weights[i][j],
      "data-score": scores[i][j] });
    const title = s.heads > 1 ? `Head ${k + 1}: ${effects[k]}`
      : s.self_attention ? "Weights" : "Scores and weights";
    const bars = () => h("table", {}, h("thead", {}, h("tr", {}, ["key", "score", "weight"].map((text) =>
      h("th", { scope: "col" }, text)))), h("tbody", {}, names.map((name, j) => h("tr", { ...on(0, j),
      class: `${s.mask[j] ? "" : "masked"} ${j === pointed.key && k === pointed.head ? "on" : ""}` },
      h("th", { scope: "row" }, name), h("td", {}, s.mask[j] ? minus(two(scores[0][j])) : "masked"),
      h("td", { class: "share", style: `--share:${100 * weights[0][j]}%`, ...numbers(0, j) },
        weights[0][j].toFixed(3))))));
    const cell = (i, j) => {
      const level = Math.round(255 * weights[i][j]);
      return h("td", { ...on(i, j), ...numbers(i, j), class: i === row && j === pointed.key ? "on" : "",
        style: `background:${CSS_COLOURS[level]};color:${level > 125 ? "#000" : "#fff"}` }, two(weights[i][j]));
    };
    const grid = () => h("table", { class: "grid" }, h("thead", {}, h("tr", {},
      ["from ↓ to →", ...names].map((name) => h("th", { scope: "col" }, name)))), h("tbody", {},
      names.map((name, i) => h("tr", { class: i === row ? "on" : "" },
        h("th", { scope: "row" }, name), names.map((_, j) => cell(i, j))))));
    return panel(title, { class: `head-panel head${k}`, onpointerleave: () => point({ head: 0, key: -1 }) },
      h("div", { class: "scroll" }, s.self_attention ? grid() : bars()),
      s.heads > 1 && h("p", { class: "key" }, "q = query · ", h("span", { class: "square" },
        projections[k].flat().map((entry) => h("span", {}, minus(String(entry)))))));
  }

  /** How one weight comes about, in numbers. */
  function formula(s, found) {
    const i = s.self_attention ? row : 0, k = Math.min(pointed.head, s.heads - 1);
    const { projected, scores, weights } = found.ofHeads[k], j = pointed.key < 0 ? strongest(weights[i]) : pointed.key;
    const [q, key] = [projected[i], s.points[j]], asker = s.self_attention ? names[i] : "query";
    const total = scores[i].reduce((sum, score, n) => sum + (s.mask[n] ? Math.exp(score) : 0), 0);
    const power = (value) => (value < 1000 && value >= 0.01 ? two(value) : value.toExponential(1).replace("e+", "e"));
    const lines = s.heads > 1 ? " = mean over the heads of Σ weight · value" : " = Σ weight · value";
    const sum = `${two(q[0])} · ${two(key[0])} + ${two(q[1])} · ${two(key[1])}`;
    return panel("Formula", { class: s.heads > 1 ? "formula wide" : "formula",
      heading: `From ${asker} to ${names[j]}${s.heads > 1 ? `, head ${k + 1}` : ""}` },
      h("p", {}, h("b", {}, "score"), " = q · k / (√2 · temperature)", h("br"),
        minus(` = (${sum}) / (1.41 · ${s.temperature}) = `), h("b", {}, minus(two(scores[i][j])))),
      s.mask[j] ? h("p", {}, h("b", {}, "weight"), " = e", h("sup", {}, "score"), " / Σ e", h("sup", {}, "score"),
        h("br"), ` = ${power(Math.exp(scores[i][j]))} / ${power(total)} = `, h("b", {}, weights[i][j].toFixed(3)))
        : h("p", {}, h("b", {}, "weight"), " = 0, because the mask takes this key away"),
      h("p", {}, h("b", {}, "output"), lines, h("br"), " = ", h("b", {}, minus(place(found.outputs[i])))));
  }

  function view() {
    const s = state(), found = attend(s, projections);
    row = Math.min(row, names.length - 1);
    return h("div", { class: "attention playground", "data-lm-suppress-shortcuts": "true",
      onkeydown: (event) => { if (event.target.matches("input")) event.stopPropagation(); } },
      h("style", {}, STYLE + PLAYGROUND_STYLE), controls(s), speech.say(sentenceOn(s, names, found)),
      h("div", { class: "planes" }, asking(s, found), answering(s, found)),
      h("div", { class: "planes" }, formula(s, found), found.ofHeads.map((head, k) => ofHead(s, head, k))));
  }
  page = mount(el, view);
  model.on("change", request);
  return () => { model.off("change", request); speech.close(); page.close(); };
}

const PLAYGROUND_STYLE = `
.playground { max-width: 1000px; padding: 2px }
.playground label { margin: 0; font-weight: 400; line-height: inherit }      /* not the notebook's own */
.playground .grows { flex: 1 1 220px; min-width: 0 } .playground input[type=range] { min-width: 80px; flex: 1 }
.playground .number { font-variant-numeric: tabular-nums; min-width: 2.5em; padding: 0; color: inherit }
.playground .field { flex-wrap: wrap; white-space: normal }
.playground .choice [aria-checked=true] { background: var(--accent); color: var(--paper); border-color: var(--accent) }
.playground h2 { font-size: 15px; color: var(--ink) }
.playground .sentence { min-height: 0 }
.playground .planes { display: grid; gap: 10px; margin-bottom: 10px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)) }
.playground .wide { grid-column: 1 / -1; display: flex; flex-wrap: wrap; gap: 0 36px }
.playground .wide h2 { flex-basis: 100% }
.playground .key { margin: 6px 0 0; font-size: 13px; color: var(--soft) }
.playground .plane { display: block; width: 100%; max-width: 460px; margin: 0 auto; background: var(--paper);
  border-radius: 6px; user-select: none; touch-action: pan-y }
.playground .plane.open { cursor: crosshair }
.playground .plane text { font-size: 22px; fill: var(--ink); paint-order: stroke; stroke: var(--paper);
  stroke-width: 5px; stroke-linejoin: round }
.playground .plane .amount { font-weight: 700 }
.playground .axis { stroke: var(--line) } .playground .level { stroke: var(--soft); stroke-dasharray: 3 7 }
.playground .point { cursor: grab }
.playground .grip { fill: transparent }
.playground .point:is(:hover, .on) .grip { stroke: var(--line); stroke-width: 3 }
.playground .shape { fill: var(--ink); stroke: var(--paper); stroke-width: 3 }
.playground .values .shape { fill: var(--accent) }
.playground .query .shape { fill: var(--mark) } .playground .query text { font-weight: 700 }
.playground .masked .shape { fill: var(--paper); stroke: var(--soft); stroke-dasharray: 5 4 }
.playground .masked text { fill: var(--soft) }
.playground .weight { opacity: .55 } .playground .arrow { stroke-dasharray: 2 5; opacity: .8 }
.playground .head0 { stroke: var(--mark) } .playground .head1 { stroke: var(--accent) }
.playground .head2 { stroke: var(--soft) } .playground .head3 { stroke: var(--ink) }
.playground .output, .playground .of-head { pointer-events: none }
.playground .output polygon { fill: var(--mark); stroke: var(--ink); stroke-width: 2; opacity: .55 }
.playground .output.on polygon { opacity: 1; stroke-width: 3 }
.playground .named { font-weight: 700; pointer-events: none }
.playground .of-head circle { fill: var(--paper); stroke-width: 3 } .playground .of-head text { stroke: none }
.playground .hull { fill: var(--panel); stroke: var(--line); stroke-width: 2 }
.playground .square { display: inline-grid; grid-template-columns: auto auto; gap: 0 8px; padding: 0 6px;
  border: solid var(--soft); border-width: 0 1px; border-radius: 6px; vertical-align: middle; text-align: right;
  line-height: 1.2 }
.playground sup { line-height: 0 }
.playground .formula p { margin: 0 0 8px; font-size: 15px; font-variant-numeric: tabular-nums }
.playground th { text-align: left } .playground tr > * + * { text-align: right }
.playground td { font-variant-numeric: tabular-nums } .playground .share { width: 55% }
.playground tr.masked { color: var(--soft) }
.playground .grid tr > * { padding: 4px; text-align: center }
.playground .grid td.on { outline: 3px solid var(--mark); outline-offset: -3px }
@media (forced-colors: active) { .playground .grid td { forced-color-adjust: none } }
`;
export default { render: renderPlayground };
