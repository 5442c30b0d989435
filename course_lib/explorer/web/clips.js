/* The personality explorer: a clip plays beside what the face's tokens listen to in it, for each trait.
 *
 * What is drawn is a function of the state (`CLIP_STATE`, the widget's traits), of the frame that plays, and of where
 * the pointer is. Python joins this module to the viewer's and the shared one.
 */
import { KEPT, Kernel, Pages, SHARED_STYLE, button, keepKeys, noticeBoard, percent } from "../../recorder/web/shared.js";
import { CIVIDIS, STYLE, asBytes, clamp, download, entropyOf, make, say, scaleBar, tokenView } from "../../recorder/web/viewer.js";

// ---------------------------------------------------------------- the state
export const CLIP_STATE = {
  sample: 0,
  trait: "attention",               // or a trait's name: its attention × gradient
  head: -1,                         // of the attention; -1 is the mean
  token: -1,                        // the face token whose listening is shown; -1 is the whole face
  step: 0, playing: true,           // the time step; playing moves it
};
const ATTENTION = "attention", RATE = 8;                        // frames a second
const PATIENCE_FOR_CLIPS = 30000;                               // ms: a clip is drawn, its flow found, the model run
const RAISES = [240, 138, 36], LOWERS = [63, 142, 252];         // orange and blue are told apart by every kind of eye

// ---------------------------------------------------------------- one clip
/** The bytes are float32: the weights, `heads tokens steps`, then attention × gradient, `traits tokens steps`. */
export class Clip {
  constructor(meta, header, planes) {
    Object.assign(this, header);
    this.meta = meta;
    this.values = new Float32Array(asBytes(planes).slice().buffer);
    this.tops = new Map();
  }

  /** One map, `tokens steps`: the weights of a head or their mean, or a trait's attention × gradient. */
  map({ trait, head }) {
    const { heads, names, tokens, steps } = this.meta, size = tokens * steps;
    const at = (k) => this.values.subarray(k * size, (k + 1) * size);
    if (trait !== ATTENTION) return at(heads + names.indexOf(trait));
    if (head >= 0) return at(head);
    return this.mean ||= Float32Array.from({ length: size }, (_, i) => {
      let sum = 0;
      for (let k = 0; k < heads; k++) sum += this.values[k * size + i];
      return sum / heads;
    });
  }

  /** How listening is spread over time, summing to 1: `up` raises a trait, `down` lowers it (attention: only `up`). */
  shares(view) {
    const { tokens, steps } = this.meta, map = this.map(view), weighted = view.trait === ATTENTION && view.token < 0;
    const up = new Float32Array(steps), down = new Float32Array(steps);
    for (let token = Math.max(0, view.token); token < (view.token < 0 ? tokens : view.token + 1); token++) {
      for (let step = 0; step < steps; step++) {
        const value = map[token * steps + step] * (weighted ? this.importance[token] : 1);
        (value > 0 ? up : down)[step] += Math.abs(value);
      }
    }
    const total = view.trait === ATTENTION ? 1 : up.reduce((a, b) => a + b, 0) + down.reduce((a, b) => a + b, 0) || 1;
    return { up: up.map((v) => v / total), down: down.map((v) => v / total),
      all: up.map((v, step) => (v + down[step]) / total) };
  }

  predicted(trait) { return this.traits[this.meta.names.indexOf(trait)]; }
  truthOf(trait) { return this.truth && this.truth[this.meta.names.indexOf(trait)].toFixed(2); }
}

const strongest = (values) => values.indexOf(values.reduce((a, b) => Math.max(a, b), -Infinity));

// ---------------------------------------------------------------- words
const percentSpace = (share) => percent(share).replace("\u00a0", " ");

const prediction = (clip, trait) => `${trait}, predicted ${clip.predicted(trait).toFixed(2)}, ` +
  (clip.truth ? `in truth ${clip.truthOf(trait)}` : "truth unknown");

export function describeClip(clip, { trait, head, token }) {
  const { steps, tokens } = clip.meta, side = Math.round(Math.sqrt(tokens));
  const { all } = clip.shares({ trait, head, token }), best = strongest(all);
  const subject = trait === ATTENTION ? `Attention, ${head < 0 ? "mean of the heads" : `head ${head}`}`
    : `${prediction(clip, trait)}: attention × gradient`;
  const who = token < 0 ? "the whole face" : `face patch ${token} (row ${Math.floor(token / side)}, column ` +
    `${token % side}), whose answer counts ${percentSpace(clip.importance[token])}`;
  const known = clip.moment === null ? "when it should listen is unknown"
    : `the moment that decides is step ${clip.moment}, with ${percentSpace(all[clip.moment])} against 1 in ` +
      `${steps} by chance`;
  return `Clip ${clip.sample}. ${subject}, ${who}: most at time step ${best}, ${percentSpace(all[best])}, as widely ` +
    `as if evenly at ${Math.exp(entropyOf(all)).toFixed(1)} of ${steps}; ${known}.`;
}

/** A state within bounds, whatever was asked for. */
export function boundedClip(meta, wanted) {
  const state = { ...CLIP_STATE, ...wanted };
  state.sample = clamp(state.sample, 0, meta.count - 1);
  state.head = clamp(state.head, -1, meta.heads - 1);
  state.token = clamp(state.token, -1, meta.tokens - 1);
  state.step = clamp(state.step, 0, meta.steps - 1);
  state.playing = Boolean(state.playing);
  if (![ATTENTION, ...meta.names].includes(state.trait)) state.trait = ATTENTION;
  return state;
}

// ---------------------------------------------------------------- colours of a map
/** A weight from dark to bright; a signed value by hue, and by how much of the colour there is. */
function colourOf(share, signed, veil = 1) {
  if (signed) return [...(share > 0 ? RAISES : LOWERS), 255 * Math.sqrt(Math.abs(share))];
  const level = Math.round(255 * Math.min(1, share));
  return [...CIVIDIS[level], 255 * (veil < 1 ? veil + ((1 - veil) * level) / 255 : 1)];
}

/** Values as a canvas with a pixel each, `top` the one that is brightest. */
function paintValues(canvas, values, columns, top, signed, veil) {
  [canvas.width, canvas.height] = [columns, values.length / columns];
  const brush = canvas.getContext("2d"), pixels = brush.createImageData(canvas.width, canvas.height);
  values.forEach((value, i) => pixels.data.set(colourOf(value / top, signed, veil), 4 * i));
  brush.putImageData(pixels, 0, 0);
}
const topOf = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0) || 1;

// ---------------------------------------------------------------- the view
export function renderClips({ model, el }) {
  const meta = model.get("meta"), { names, steps, tokens } = meta, side = Math.round(Math.sqrt(tokens));
  const { root: notice, note } = noticeBoard(), failures = new Map(), films = new Map();
  let frame = 0, drawing = 0, ticking = 0, last = 0, spoken = 0, ahead = 0, asking = false, shown = null, view = null;
  let pointed = { token: -1, trait: "" };
  const unpack = (...parts) => new Clip(...parts);
  const source = meta.kernel ? new Kernel(model, unpack, ({ silence }) => note("kernel", silence), PATIENCE_FOR_CLIPS)
    : new Pages(model, unpack);
  const state = () => {
    const s = boundedClip(meta, Object.fromEntries(Object.keys(CLIP_STATE).map((name) => [name, model.get(name)])));
    if (!meta.kernel && !source.samples.includes(s.sample)) s.sample = source.samples[0];
    return s;
  };
  const change = (values) => {
    const next = boundedClip(meta, { ...state(), ...values });
    for (const name of Object.keys(values)) model.set(name, next[name]);
    model.save_changes();
  };

  // ---- the controls
  const sampleRange = make("input", { type: "range", min: 0, max: source.count - 1,
    oninput: () => change({ sample: source.number_of(Number(sampleRange.value)) }) });
  const sampleNumber = make("output", { class: "number" });
  const headSelect = make("select", { onchange: () => change({ head: Number(headSelect.value) }) },
    ...Array.from({ length: meta.heads + 1 }, (_, k) => make("option", { value: k - 1 }, k ? String(k - 1) : "mean")));
  const bar = make("div", { class: "bar", role: "group", "aria-label": "which clip" },
    make("span", { class: "field grows" }, button("‹", "the clip before", () => go(-1),
      { "aria-label": "clip before" }),
      make("label", { class: "grows" }, make("span", {}, "Clip "), sampleRange),
      button("›", "the next clip", () => go(1), { "aria-label": "next clip" }), sampleNumber),
    make("label", { title: "of the attention; a trait's map is the mean over the heads" }, "Head ", headSelect),
    meta.kernel ? button("Page", "save an offline page of the clips seen last", savePage) : "");

  const filmCanvas = make("canvas", { role: "img" }), flowCanvas = make("canvas", { role: "img" });
  const play = button("", "play or pause the clip (space)", () => setPlaying(!state().playing), { class: "play" });
  const stepRange = make("input", { type: "range", min: 0, max: steps - 1,
    oninput: () => change({ step: Number(stepRange.value), playing: false }) });
  const stepNumber = make("output", { class: "number" }), place = make("div"), scale = make("div");
  const flowWords = make("figcaption", {});
  const pictures = make("div", { class: "pictures" },
    make("figure", {}, filmCanvas, make("figcaption", {}, "The clip")), make("figure", {}, flowCanvas, flowWords),
    make("figure", {}, place, make("figcaption", {}, "The face that asks")));

  const cells = Array.from({ length: steps }, (_, step) => {
    const canvas = make("canvas", { "aria-hidden": "true" }), up = make("i", { class: "up" });
    const down = make("i", { class: "down" }), number = make("span", { class: "number" });
    const cell = make("button", { type: "button", role: "radio", tabindex: -1,
      onclick: () => change({ step, playing: false }) }, make("small", {}), canvas,
      make("span", { class: "column" }, up, down), number);
    return Object.assign(cell, { canvas, up, down, number, word: cell.firstChild });
  });
  const strip = make("div", { class: "steps", role: "radiogroup", style: `--count: ${steps}`, "aria-label":
    "Time steps: left and right choose one" }, ...cells);
  const matrix = make("canvas", { "aria-hidden": "true" }), rowMark = make("div", { class: "mark" });
  const columnMark = make("div", { class: "mark playhead" }), deciding = make("div", { class: "deciding" });
  const matrixBox = make("div", { class: "matrix" }, matrix, deciding, columnMark, rowMark);
  const matrixNote = make("p", { class: "note" });
  const watching = make("section", { "aria-label": "The clip" },
    make("h2", {}, "The clip, and the face that asks about it"),
    pictures, make("div", { class: "options" }, play, make("label", { class: "grows" }, "Time step ", stepRange),
      stepNumber));
  const timing = make("section", { "aria-label": "Over time" }, make("h2", {}, "When it listens (columns: time steps)"),
    strip, make("h3", {}, `Each of the ${tokens} face tokens (rows, counted row by row)`), matrixBox, scale,
      matrixNote);

  const rows = [ATTENTION, ...names].map(makeRow);
  const list = make("div", { class: "traits", role: "radiogroup", "aria-label":
    "What is shown: attention, or one trait's attention × gradient; up and down choose" }, ...rows);
  const choosing = make("section", { "aria-label": "Traits" }, make("h2", {}, "Attention, and the five traits"), list,
    make("p", { class: "note" }, "Bars: predicted; the line: the truth. Small maps: the whole face over time. " +
      "Point at a trait, or at a place of the face, to see when it listens; click to hold."));
  const readout = make("dl", { class: "readout" });
  const numbers = make("section", { "aria-label": "In numbers" }, make("h2", {}, "In numbers"), readout);
  const text = make("p", { class: "sentence" }), live = make("p", { class: "unseen", "aria-live": "polite" });
  const root = make("div", { class: "attention explorer clips", "data-lm-suppress-shortcuts": true },
    make("style", {}, STYLE + SHARED_STYLE + CLIP_STYLE), bar, notice, make("div", { class: "saying" }, text), live,
    make("div", { class: "sights" }, make("div", { class: "side" }, watching, timing),
      make("div", { class: "side" }, choosing, numbers)));
  el.append(root);

  // ---- what people do
  function go(by) {
    const position = (source.samples || { indexOf: (number) => number }).indexOf(state().sample) + by;
    change({ sample: source.number_of(clamp(position, 0, source.count - 1)) });
  }
  function setPlaying(playing) { change({ playing }); }
  function point(what) {
    const next = { ...pointed, ...what };
    if (next.token === pointed.token && next.trait === pointed.trait) return;
    pointed = next;
    request();
  }
  function pick(token, event) {
    const s = state();
    if (event.type === "pointermove") point({ token });
    else if (event.type === "click") change({ token: s.token === token ? -1 : token });
    else { point({ token: -1 }); change({ token: s.token < 0 ? 0 : token }); }     // a key: the pointer counts no more
  }
  place.addEventListener("pointerleave", () => point({ token: -1 }));
  const matrixAt = (event) => {
    const box = matrixBox.getBoundingClientRect();
    return { token: clamp(Math.floor(((event.clientY - box.top) / box.height) * tokens), 0, tokens - 1),
      step: clamp(Math.floor(((event.clientX - box.left) / box.width) * steps), 0, steps - 1) };
  };
  matrixBox.addEventListener("pointermove", (event) => {
    const { token, step } = matrixAt(event), clip = source.store.get(state().sample);
    point({ token });
    if (clip) matrixNote.textContent = cellWords(clip, { ...state(), token, step });
  });
  matrixBox.addEventListener("pointerleave", () => { point({ token: -1 }); matrixNote.textContent = MATRIX_HINT; });
  matrixBox.addEventListener("click", (event) => change({ ...matrixAt(event), playing: false }));
  list.addEventListener("pointermove", (event) =>
    point({ trait: event.target.closest("[role=radio]")?.dataset.trait || "" }));
  list.addEventListener("pointerleave", () => point({ trait: "" }));
  const byArrows = (element, move) => element.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (!by || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    move(by);
  });
  byArrows(list, (by) => {
    const all = [ATTENTION, ...names], next = clamp(all.indexOf(state().trait) + by, 0, names.length);
    point({ trait: "" });
    change({ trait: all[next] });
    rows[next].focus();
  });
  byArrows(strip, (by) => {
    const step = clamp(state().step + by, 0, steps - 1);
    change({ step, playing: false });
    cells[step].focus();
  });
  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input, button, [role=slider]")
      && event.key === " ") return;
    const s = state(), action = { " ": () => setPlaying(!s.playing), Escape: () => change({ token: -1 }) }[event.key];
    if (action) { event.preventDefault(); event.stopPropagation(); action(); }
  });
  keepKeys(root);
  async function savePage() {
    const seen = new Set([...source.store.held.values()].map(({ sample }) => sample).concat(state().sample));
    try {
      const { bytes } = await source.ask({ kind: "page", samples: [...seen].slice(-8).sort((a, b) => a - b) });
      download(new Blob([bytes], { type: "text/html" }), "personality.html");
    } catch (error) { note("sample", `${error.message}.`); }
  }

  // ---- what is drawn
  function makeRow(trait) {
    const canvas = make("canvas", { "aria-hidden": "true" }), meter = make("span", { class: "meter predicted" });
    const number = make("span", { class: "number" }), isTrait = trait !== ATTENTION;
    const row = make("button", { type: "button", role: "radio", tabindex: -1, "data-trait": trait,
      onclick: () => change({ trait }) }, make("b", {}, isTrait ? trait : "Attention"),
      isTrait ? meter : make("small", {}, "the weights as they are"), isTrait ? number : "",
      make("span", { class: "small" }, canvas));
    return Object.assign(row, { canvas, meter, number, trait });
  }
  const MATRIX_HINT = "Point at a row to see its place on the face, click to hold it and its time step.";
  matrixNote.textContent = MATRIX_HINT;
  function cellWords(clip, s) {
    const value = clip.map(s)[s.token * steps + s.step], row = Math.floor(s.token / side);
    const does = s.trait === ATTENTION ? say(value)
      : `${value > 0 ? "raises" : "lowers"} ${s.trait} (${value > 0 ? "+" : "−"}${say(Math.abs(value))})`;
    return `Face patch ${s.token} (row ${row}, column ${s.token % side}), time step ${s.step}: ${does}.`;
  }
  const stepOf = (clip, at) => Math.min(steps - 1, Math.floor((at * steps) / clip.count));
  const middleOf = (clip, step) => Math.floor(((step + 0.5) * clip.count) / steps);

  /** The pictures of a film, decoded once; null until they are. */
  function filmOf(film) {
    if (!film) return null;
    if (!films.has(film.source)) {
      if (films.size > 8) films.clear();
      const image = new Image();
      films.set(film.source, null);
      image.src = film.source;
      image.decode().then(() => { films.set(film.source, image); shown = null; request(); }, () => {});
    }
    return films.get(film.source);
  }
  function drawFrame(canvas, film, at) {
    const image = filmOf(film);
    if (canvas.width !== film.width) canvas.width = film.width;
    if (canvas.height !== film.height) canvas.height = film.height;
    if (!image) return;
    canvas.getContext("2d").drawImage(image, (at % film.columns) * film.width,
      Math.floor(at / film.columns) * film.height,
      film.width, film.height, 0, 0, film.width, film.height);
  }
  function drawFilms(clip) {
    if (clip.frames) drawFrame(filmCanvas, clip.frames, frame);
    drawFrame(flowCanvas, clip.flow, frame);
    columnMark.style.setProperty("--within",
      `${(100 * (frame * steps / clip.count - stepOf(clip, frame))).toFixed(0)}%`);
  }
  function tick(now) {
    ticking = 0;
    const s = state(), clip = source.store.get(s.sample);
    if (!s.playing) return;
    if (clip && now - last >= 1000 / RATE) {
      last = now;
      frame = (frame + 1) % clip.count;
      if (stepOf(clip, frame) !== s.step) change({ step: stepOf(clip, frame) });
      else drawFilms(clip);
    }
    ticking = requestAnimationFrame(tick);
  }

  function drawControls(s) {
    sampleRange.value = source.samples ? source.samples.indexOf(s.sample) : s.sample;
    sampleNumber.textContent = `${s.sample} of ${meta.count.toLocaleString("en")}` +
      (meta.kernel ? "" : ` (${source.count} here)`);
    sampleRange.setAttribute("aria-valuetext", sampleNumber.textContent);
    headSelect.value = s.head;
    headSelect.disabled = s.trait !== ATTENTION;
    play.textContent = s.playing ? "❚❚ Pause" : "▶ Play";
    stepRange.value = s.step;
    for (const [list, chosen] of [[cells, cells[s.step]], [rows, rows.find(({ trait }) => trait === s.trait)]]) {
      for (const each of list) {
        each.setAttribute("aria-checked", each === chosen);
        each.tabIndex = each === chosen ? 0 : -1;
      }
    }
  }
  function drawClip(clip) {
    if (!view) view = faceView(clip);
    view.image.src = clip.face;
    filmCanvas.parentElement.hidden = !clip.frames;
    filmCanvas.setAttribute("aria-label", `the frames of clip ${clip.sample}`);
    flowCanvas.setAttribute("aria-label", `the optical flow of clip ${clip.sample}`);
    flowWords.textContent = `Its flow (hue: where to; full: ${clip.fastest.toFixed(1)} px)`;
    cells.forEach((cell, step) => {
      drawFrame(cell.canvas, clip.frames || clip.flow, middleOf(clip, step));
      cell.word.replaceChildren(String(step), step === clip.moment ? make("span", {}, " decides") : "");
      cell.classList.toggle("decides", step === clip.moment);
    });
    deciding.hidden = clip.moment === null;
    deciding.style.cssText = `left:${(100 * clip.moment) / steps}%;width:${100 / steps}%`;
    for (const row of rows) {
      const { all } = clip.shares({ trait: row.trait, head: -1, token: -1 });
      paintValues(row.canvas, all, steps, Math.max(0.5, topOf(all)), false);
      if (row.trait === ATTENTION) continue;
      row.setAttribute("aria-label", prediction(clip, row.trait));
      row.meter.style.setProperty("--share", `${100 * clip.predicted(row.trait)}%`);
      row.meter.style.setProperty("--threshold", `${100 * clip.truthOf(row.trait)}%`);
      row.meter.classList.toggle("unknown", !clip.truth);
      row.number.textContent = `${clip.predicted(row.trait).toFixed(2)} / ${clip.truthOf(row.trait) || "?"}`;
    }
  }
  function faceView(clip) {
    const one = tokenView({ count: tokens, names: null, place: { rows: side, columns: side, prefix: 0 } }, clip.face,
      "patches of the face", pick);
    one.root.setAttribute("aria-valuemin", -1);
    one.image = one.root.querySelector("img");
    one.root.querySelector(".picture").style.setProperty("--strength", 0.75);
    place.replaceChildren(one.root);
    return one;
  }
  function drawMap(clip, now) {
    const map = clip.map(now), signed = now.trait !== ATTENTION, top = topOf(map);
    paintValues(matrix, map, steps, top, signed);
    scale.replaceChildren(signed ? make("div", { class: "scale" }, `lowers ${say(top)}`,
      make("span", { class: "ramp signed" }),
      `raises ${say(top)}`) : scaleBar(say(top)));
    const { up, down, all } = clip.shares(now), most = Math.max(0.5, topOf(all));
    cells.forEach((cell, step) => {
      cell.up.style.height = `${(100 * up[step]) / most}%`;
      cell.down.style.height = `${(100 * down[step]) / most}%`;
      cell.number.textContent = all[step].toFixed(2);
      cell.setAttribute("aria-label", `time step ${step}${step === clip.moment ? ", the moment that decides" : ""}, ` +
        percent(all[step]) + (signed ? `, ${percent(up[step])} of it raises ${now.trait}` : ""));
    });
    strip.classList.toggle("signed", signed);
    strip.style.setProperty("--even", `${100 / steps / most}%`);
    return all;
  }
  function drawReadout(clip, now, all) {
    const entry = (term, value, chance, title) => make("div", { title }, make("dt", {}, term),
      make("dd", {}, value, " ", make("small", {}, chance)));
    const chance = `chance: 1 in ${steps}`, { moment } = clip, known = moment !== null;
    readout.replaceChildren(
      entry("On the moment that decides", known ? percent(all[moment]) : "unknown", known ? chance : "",
        "the share of what was listened to at the deciding moment; chance: one of the time steps"),
      entry("Strongest time step", known ? (strongest(all) === moment ? "hits" : "misses") : "unknown",
        known ? chance : "",
        "whether the strongest time step is the deciding one"),
      entry("As widely as evenly at", Math.exp(entropyOf(all)).toFixed(1), `of ${steps}`,
        "e to the entropy of the shares"),
      now.token < 0 ? entry("Who asks", "the whole face", "", "choose a place of the face to see what it asks")
        : entry("Its answer counts", percent(clip.importance[now.token]), `even: ${percent(1 / tokens)}`,
          "how much this place of the face counts among all"));
  }
  function load(s) {
    if (asking) return;
    asking = true;
    source.store.ask(s.sample).then(() => failures.delete(s.sample), (error) => failures.set(s.sample, error.message))
      .finally(() => { asking = false; shown = null; request(); });
  }

  /** Draw what differs between the state and what is on screen. */
  function paint() {
    drawing = 0;
    const s = state(), clip = source.store.get(s.sample), before = shown || {};
    drawControls(s);
    if (s.playing && !ticking) ticking = requestAnimationFrame(tick);
    if (!clip) {
      const failed = failures.get(s.sample);
      if (!failed) load(s);
      root.classList.toggle("waiting", !failed);
      root.classList.toggle("failing", Boolean(failed));
      note("sample", failed && `${failed[0].toUpperCase()}${failed.slice(1)}.`);
      text.textContent = failed ? "This clip cannot be shown." : `Loading clip ${s.sample} …`;
      shown = null;
      return;
    }
    root.classList.remove("waiting", "failing");
    if (before.clip !== clip) { note("sample", ""); drawClip(clip); }
    root.dataset.sample = s.sample;
    const now = { ...s, trait: pointed.trait || s.trait, token: pointed.token >= 0 ? pointed.token : s.token };
    const differs = (...which) => before.clip !== clip || which.some((name) => before[name] !== now[name]);
    if (stepOf(clip, frame) !== s.step || (!s.playing && before.playing === undefined)) {
      const first = Math.ceil((s.step * clip.count) / steps);
      frame = s.playing ? first : middleOf(clip, s.step);
    }
    if (differs("trait", "head", "token")) {
      const all = drawMap(clip, now);
      drawReadout(clip, now, all);
      const words = describeClip(clip, now);
      text.textContent = words;
      clearTimeout(spoken);
      spoken = setTimeout(() => { live.textContent = words; }, 500);
      rows.forEach((row) => row.classList.toggle("seen", row.trait === now.trait));
      rowMark.hidden = now.token < 0;
      rowMark.style.top = `${(100 * now.token) / tokens}%`;
      rowMark.style.height = `${100 / tokens}%`;
    }
    if (differs("trait", "head", "token", "step")) {
      const map = clip.map(now), signed = now.trait !== ATTENTION;
      view.paint(null, now.token, false, now.token < 0 ? "the whole face" : cellWords(clip, now));
      if (now.token < 0) view.root.setAttribute("aria-valuetext", "the whole face");
      view.root.setAttribute("aria-valuenow", now.token);
      const column = Float32Array.from({ length: tokens }, (_, token) => map[token * steps + s.step]);
      paintValues(view.heat, column, side, topOf(map), signed, 0.25);
      columnMark.style.left = `${(100 * s.step) / steps}%`;
      columnMark.style.width = `${100 / steps}%`;
      stepNumber.textContent = `${s.step}${s.step === clip.moment ? ", decides" : ""}`;
      stepRange.setAttribute("aria-valuetext", stepNumber.textContent);
    }
    drawFilms(clip);
    shown = { ...now, clip };
    clearTimeout(ahead);
    const next = s.sample + 1;
    if (meta.kernel && next < meta.count) ahead = setTimeout(() => source.store.ask(next).catch(() => {}), 400);
  }
  const request = () => { drawing = drawing || requestAnimationFrame(paint); };
  model.on("change", request);
  if (state().playing && matchMedia("(prefers-reduced-motion: reduce)").matches) setPlaying(false);
  paint();
  return () => {
    model.off("change", request);
    source.close();
    clearTimeout(spoken);
    clearTimeout(ahead);
    cancelAnimationFrame(drawing);
    cancelAnimationFrame(ticking);
    root.remove();
  };
}

const CLIP_STYLE = `
.explorer.clips { --up: rgb(${RAISES}); --down: rgb(${LOWERS}) }
.explorer.clips .sights { display: grid; gap: 12px; align-items: start;
  grid-template-columns: minmax(0, 2.1fr) minmax(280px, 1fr) }
.explorer.clips .side { display: grid; gap: 12px; min-width: 0; grid-template-columns: 100% }
.explorer.clips .saying .sentence { min-height: 2.9em }
@container (max-width: 820px) { .explorer.clips .sights { grid-template-columns: 100% } }
@container (max-width: 520px) { .explorer.clips .pictures figure:last-child { grid-column: 1 / -1 }
  .explorer.clips .steps small span { display: none } }
.explorer.clips.waiting .sights { opacity: 0.55 } .explorer.clips.failing .sights { opacity: 0.25 }
.explorer.clips .pictures { display: grid; gap: 10px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 140px),
  1fr)) }
.explorer.clips .pictures figure { margin: 0; padding: 0; border: 0; background: none }
.explorer.clips figure[hidden] { display: none }
.explorer.clips .pictures canvas { width: 100%; border-radius: 4px }
.explorer.clips .pictures .picture { max-width: none }
.explorer.clips figcaption { margin: 4px 0 0; font-size: 12px; color: var(--soft); min-height: 0 }
.explorer.clips .play { min-width: 6.5em }
.explorer.clips .steps { display: grid; grid-template-columns: repeat(var(--count), minmax(0, 1fr)); gap: 0 }
.explorer.clips .steps button { display: grid; grid-template-columns: 100%; padding: 2px; border: 2px solid transparent;
  border-radius: 5px;
  background: none; text-align: center; max-width: none; gap: 3px; min-width: 0 }
.explorer.clips .steps button[aria-checked=true] { border-color: var(--accent); background: var(--paper) }
.explorer.clips .steps canvas { width: 100%; border-radius: 3px }
.explorer.clips .steps small { font-size: 11.5px; color: var(--soft); white-space: nowrap }
.explorer.clips .steps .number { font-size: 12px }
.explorer.clips .decides small { color: var(--mark); font-weight: 600 }
.explorer.clips .decides canvas { outline: 2px solid var(--mark) }
.explorer.clips .column { position: relative; display: flex; flex-direction: column-reverse; height: 64px;
  border-bottom: 1px solid var(--line) }
.explorer.clips .column::after { content: ""; position: absolute; left: 0; right: 0; bottom: var(--even);
  border-top: 1px dashed var(--soft) }
.explorer.clips .column i { display: block; width: 60%; margin: 0 auto; background: var(--accent) }
.explorer.clips .signed .up { background: var(--up) } .explorer.clips .signed .down { background: var(--down) }
.explorer.clips .matrix { height: 300px; max-height: none; background: var(--paper) }
.explorer.clips .matrix .deciding { position: absolute; top: 0; bottom: 0; outline: 2px solid var(--mark);
  pointer-events: none }
.explorer.clips .matrix .mark { left: 0; width: 100% }
.explorer.clips .matrix .playhead { top: 0; height: 100%; outline-color: var(--accent) }
.explorer.clips .playhead::after { content: ""; position: absolute; top: 0; bottom: 0; left: var(--within);
  border-left: 1px solid #fff; mix-blend-mode: difference }
.explorer.clips .meter.unknown::after { content: none }
.explorer.clips .ramp.signed { background: linear-gradient(90deg, var(--down), var(--paper), var(--up)) }
.explorer.clips .traits { display: grid; gap: 4px }
.explorer.clips .traits button { display: grid; grid-template-columns: minmax(0, 1fr) 5.5em; gap: 3px 10px;
  align-items: center;
  text-align: left; padding: 6px 8px; max-width: none; border-left: 4px solid transparent }
.explorer.clips .traits button.seen { background: var(--panel) }
.explorer.clips .traits [aria-checked=true] { border-left-color: var(--mark) }
.explorer.clips .traits b { font-weight: 600; grid-column: 1 / -1 }
.explorer.clips .traits small { color: var(--soft); grid-column: 1 / -1 }
.explorer.clips .traits .number { text-align: right; font-size: 12.5px }
.explorer.clips .traits .small { grid-column: 1 / -1 }
.explorer.clips .traits canvas { width: 100%; height: 12px; image-rendering: pixelated; border-radius: 2px }
@media (forced-colors: active) { .explorer.clips .column i { forced-color-adjust: none } }
`;
export default { render: renderClips };
