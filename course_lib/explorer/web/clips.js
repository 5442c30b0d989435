/* The personality explorer: a clip plays beside what the face's tokens attend to in it, for each trait.
 *
 * What is drawn is a function of the state (`CLIP_STATE`, the widget's traits), of the frame that plays, of where
 * the pointer is, and of the camera. Python joins this module to the kit, the samples and the recording.
 */
import {
  CIVIDIS, arrows, border, breadth, button, cellAt, h, headName, headSelect, MAP_COLOUR, paintValues, panel, patchGrid,
  patchName, patchStyle, percent, radio, range, readout, remember, say, scaleBar, select, strongest, tokenView, topOf,
} from "../../recorder/web/kit.js";
import { recording } from "./recording.js";
import { explorer } from "./samples.js";

// ---------------------------------------------------------------- the state
export const CLIP_STATE = {
  sample: 0,                        // -1 is a clip of one's own
  trait: "attention",               // or a trait's name: its attention × gradient
  head: -1,                         // of the attention; -1 is the mean
  token: -1,                        // the face token whose attention is shown; -1 is the whole face
  step: 0, playing: true,           // the time step; playing moves it
  speed: 1,                         // of playing; 1 is as fast as it happened
};
const ATTENTION = "attention", RATE = 8;                        // frames a second
const MINE = -1;                                                // the sample that is a clip of one's own
const PATIENCE_FOR_CLIPS = 30000;                               // ms: a clip is drawn, its flow found, the model run
const RAISES = [240, 138, 36], LOWERS = [63, 142, 252];         // orange and blue are told apart by every kind of eye

// ---------------------------------------------------------------- one clip
/** Weights, `heads tokens steps`, and attention × gradient, `traits tokens steps`, beside what the header says. */
export class Clip {
  constructor(meta, header, { weights, relevance }) {
    Object.assign(this, header, { meta, weights, relevance });
  }

  /** One map, `tokens steps`: the weights of a head or their mean, or a trait's attention × gradient. */
  map({ trait, head }) {
    const { heads, names, tokens, steps } = this.meta, size = tokens * steps;
    const k = trait === ATTENTION ? head : names.indexOf(trait);
    if (k >= 0) return (trait === ATTENTION ? this.weights : this.relevance).subarray(k * size, (k + 1) * size);
    return this.mean ||= Float32Array.from({ length: size }, (_, i) => {
      let sum = 0;
      for (let k = 0; k < heads; k++) sum += this.weights[k * size + i];
      return sum / heads;
    });
  }

  /** How attention is spread over time, summing to 1: `up` raises a trait, `down` lowers it (attention: only `up`). */
  shares(view) {
    const { tokens, steps } = this.meta, map = this.map(view), weighted = view.trait === ATTENTION && view.token < 0;
    const up = new Float32Array(steps), down = new Float32Array(steps);
    for (let token = Math.max(0, view.token); token < (view.token < 0 ? tokens : view.token + 1); token++) {
      for (let step = 0; step < steps; step++) {
        const value = map[token * steps + step] * (weighted ? this.importance[token] : 1);
        (value > 0 ? up : down)[step] += Math.abs(value);
      }
    }
    const total = view.trait === ATTENTION ? 1 : [...up, ...down].reduce((a, b) => a + b, 0) || 1;
    return { up: up.map((v) => v / total), down: down.map((v) => v / total),
      all: up.map((v, step) => (v + down[step]) / total) };
  }

  predicted(trait) { return this.traits[this.meta.names.indexOf(trait)]; }
  truthOf(trait) { return this.truth && this.truth[this.meta.names.indexOf(trait)].toFixed(2); }
}

// ---------------------------------------------------------------- words
const plainPercent = (share) => percent(share).replace("\u00a0", " ");

const prediction = (clip, trait) => `${trait}, predicted ${clip.predicted(trait).toFixed(2)}, ` +
  (clip.truth ? `in truth ${clip.truthOf(trait)}` : "truth unknown");

export function describeClip(clip, { trait, head, token }) {
  const { steps, tokens } = clip.meta, { up, down, all } = clip.shares({ trait, head, token }), best = strongest(all);
  const subject = trait === ATTENTION ? `Attention, ${headName(head)}`
    : `${prediction(clip, trait)}: attention × gradient`;
  const who = token < 0 ? "the whole face" : `face patch ${token} ${patchName(token, Math.sqrt(tokens))}, whose ` +
    `answer counts ${plainPercent(clip.importance[token])}`;
  const name = clip.sample === MINE ? "Your clip" : `Clip ${clip.sample}`;
  const does = trait === ATTENTION ? "" : up[best] >= down[best] ? ", raising it" : ", lowering it";
  const moment = clip.moment === null
    ? `which moment decides is unknown, and evenly each would get ${plainPercent(1 / steps)}`
    : `the moment that decides is step ${clip.moment}, with ${plainPercent(all[clip.moment])} against 1 in ` +
      `${steps} by chance`;
  return `${name}. ${subject}, ${who}: most at time step ${best}, ${plainPercent(all[best])}${does}, spread ` +
    `over about ${breadth(all)} of ${steps} steps; ${moment}.`;
}

function describeCell(clip, { trait, head, token, step }) {
  const { steps, tokens } = clip.meta, value = clip.map({ trait, head })[token * steps + step];
  const does = trait === ATTENTION ? say(value)
    : `${value > 0 ? "raises" : "lowers"} ${trait} (${value > 0 ? "+" : "−"}${say(Math.abs(value))})`;
  return `Face patch ${token} ${patchName(token, Math.sqrt(tokens))}, time step ${step}: ${does}.`;
}

// ---------------------------------------------------------------- colours of a map
/** A weight is one colour, by transparency; a signed value has a hue for its sign. */
const overFace = (top, signed) => (value) => {
  const share = value / (top || 1);
  if (!signed) return [...MAP_COLOUR, 255 * Math.min(1, share)];
  return [...(share > 0 ? RAISES : LOWERS), 255 * Math.sqrt(Math.abs(share))];
};
/** The small maps beside the traits have no face below: from dark to bright. */
const bright = (top) => (value) => [...CIVIDIS[Math.round(255 * Math.min(1, value / (top || 1)))], 255];

// ---------------------------------------------------------------- the view
/** What the faces below the time steps show. */
function facesHint(clip, trait, region) {
  const does = trait === ATTENTION ? "attends to that step"
    : `raises or lowers ${trait} through that step; the numbers are shares of that, whichever way`;
  const truth = clip.moment === null ? ""
    : ` The answer was drawn into step ${clip.moment}${region ? ", inside the thin line" : ""}.`;
  return `The same face at each time step, and over it how much each place of it ${does}.${truth} Point at a place, ` +
    "click to hold it and its time step.";
}
const SPEEDS = [0.25, 0.5, 1, 2];

export function renderClips({ model, el }) {
  const { meta, source, state, change, request, speech, ...frames } = explorer({ model, el }, { what: "clip",
    initial: CLIP_STATE, style: CLIP_STYLE, patience: PATIENCE_FOR_CLIPS, unpack: (...parts) => new Clip(...parts) });
  const { names, steps, tokens } = meta, grid = patchGrid(tokens), choices = [ATTENTION, ...names];
  const stepper = frames.stepper();
  const camera = recording({ source, request, warning: meta.warning });
  let pointed = { token: -1, trait: "" }, hint = "", frame = -1, ticking = 0, last = 0, clip = null;

  // ---- what people do
  const point = (what) => {
    if (Object.entries(what).every(([name, value]) => pointed[name] === value)) return;
    pointed = { ...pointed, ...what };
    request();
  };
  function pick(token, event) {
    const s = state();
    if (event.type === "pointermove") point({ token });
    else if (event.type === "click") change({ token: s.token === token ? -1 : token });
    else { point({ token: -1 }); change({ token: s.token < 0 ? 0 : token }); }     // a key: the pointer counts no more
  }
  /** What lies under the pointer on the face of a time step. */
  const onFace = (event, step) => {
    const { rows, columns } = grid.place, [row, column] = cellAt(event, event.currentTarget, rows, columns);
    return { token: row * columns + column, step };
  };
  const chooseStep = (step) => change({ step, playing: false });
  function chooseFrame(at) {
    frame = Math.min(clip.count - 1, Math.max(0, at));
    change({ step: stepOf(frame), playing: false });
    request();
  }
  const changeSpeed = (by) => {
    const at = SPEEDS.indexOf(state().speed) + by;
    change({ speed: SPEEDS[Math.min(SPEEDS.length - 1, Math.max(0, at))] });
  };
  const chooseTrait = (trait) => { point({ trait: "" }); change({ trait }); };

  // ---- the frame that plays
  const stepOf = (at) => Math.min(steps - 1, Math.floor((at * steps) / clip.count));
  const middleOf = (step) => Math.floor(((step + 0.5) * clip.count) / steps);
  const films = new Map();
  /** The pictures of a film, decoded once; null until they are. */
  function filmOf(film) {
    if (!films.has(film.source)) {
      if (films.size > 8) films.clear();
      const image = new Image();
      films.set(film.source, null);
      image.src = film.source;
      image.decode().then(() => { films.set(film.source, image); request(); }, () => {});
    }
    return films.get(film.source);
  }
  const filmFrame = (film, at, properties) => h("canvas", { ...properties, draw: [(canvas) => {
    const { width, height, columns } = film, image = filmOf(film);
    Object.assign(canvas, { width, height });
    if (image) {
      canvas.getContext("2d").drawImage(image, (at % columns) * width, Math.floor(at / columns) * height, width, height,
        0, 0, width, height);
    }
  }, film, filmOf(film), at] });
  function tick(now) {
    ticking = 0;
    const s = state();
    if (!s.playing) return;
    if (clip && now - last >= 1000 / (RATE * s.speed)) {
      last = now;
      frame = (frame + 1) % clip.count;
      if (stepOf(frame) !== s.step) change({ step: stepOf(frame) }); else request();
    }
    ticking = requestAnimationFrame(tick);
  }

  // ---- what is drawn
  const drawnMap = remember((clip, trait, head) => clip.map({ trait, head }));
  const sharesOf = remember((clip, trait, head, token) => clip.shares({ trait, head, token }));

  const ofStep = (map, step) => Float32Array.from({ length: tokens }, (_, token) => map[token * steps + step]);

  function watching(s, now, map) {
    const signed = now.trait !== ATTENTION, top = topOf(map), mine = clip.sample === MINE;
    const decides = s.step === clip.moment ? ", decides" : "", name = mine ? "your clip" : `clip ${clip.sample}`;
    const face = tokenView(grid, { image: clip.face, label: "patches of the face", pick, lowest: -1, chosen: now.token,
      current: () => (pointed.token >= 0 ? pointed.token : state().token), style: "--strength:0.75",
      alt: "the face whose patches these are", text: now.token < 0 ? "the whole face" : describeCell(clip, now),
      draw: [(canvas) => paintValues(canvas, ofStep(map, s.step), grid.place.columns, overFace(top, signed)), map,
        s.step] });
    return panel("The clip", { heading: "The clip, and the face that asks about it", class: "watching" },
      h("div", { class: "pictures" },
        h("figure", { hidden: !clip.frames }, clip.frames && filmFrame(clip.frames, frame,
          { role: "img", "aria-label": `the frames of ${name}` }), h("figcaption", {}, "The clip")),
        h("figure", {}, filmFrame(clip.flow, frame,
          { role: "img", "aria-label": `the optical flow of ${name}` }),
          h("figcaption", {}, `Its flow (hue: where to; full: ${clip.fastest.toFixed(1)} px)`)),
        h("figure", {}, h("div", { onpointerleave: () => point({ token: -1 }) }, face),
          h("figcaption", {}, `The face that asks, each place a query; its map at step ${s.step}`))),
      h("div", { class: "options" }, button(s.playing ? "❚❚ Pause" : "▶ Play", "play or pause the clip (space)",
        () => change({ playing: !state().playing }), { class: "play" }),
        range("Frame", frame, chooseFrame, { max: clip.count - 1, title: "keys , and . go by one frame",
          "aria-valuetext": `frame ${frame} of ${clip.count}, time step ${s.step}${decides}` }),
        h("output", { class: "number" }, `step ${s.step}${decides}`),
        select("Speed", SPEEDS.map((speed) => [speed, `${speed}×`]), s.speed, (speed) => change({ speed }),
          { title: "keys < and > are slower and faster" })));
  }

  function timing(s, now, map) {
    const signed = now.trait !== ATTENTION, top = topOf(map);
    const { up, down, all } = sharesOf(clip, now.trait, now.head, now.token), most = Math.max(0.5, topOf(all));
    const height = (share) => `height:${(100 * share) / most}%`;
    const inside = (100 * ((frame * steps) / clip.count - stepOf(frame))).toFixed(0);
    const region = signed && clip.regions?.[names.indexOf(now.trait)];
    const face = (step) => h("div", { class: "picture over-image face", style: "--strength:0.75", "data-face": step,
      onclick: (event) => change({ ...onFace(event, step), playing: false }),
      onpointermove: (event) => {
        const cell = onFace(event, step);
        hint = describeCell(clip, { ...state(), trait: now.trait, ...cell });
        point({ token: cell.token });
        request();
      } },
    h("img", { src: clip.face, alt: "", draggable: "false" }), h("canvas", { "aria-hidden": "true",
      draw: [(canvas) => paintValues(canvas, ofStep(map, step), grid.place.columns, overFace(top, signed)), map] }),
    h("div", { class: "mark", hidden: now.token < 0, style: patchStyle(Math.max(0, now.token), grid.place) }));
    const tile = (step) => h("div", { class: step === clip.moment ? "tile decides" : "tile", key: step },
      radio(step, s.step, chooseStep,
        { class: step === clip.moment && "decides",
          "aria-label": `time step ${step}${step === clip.moment ? ", the moment that decides" : ""}, ` +
            percent(all[step]) + (signed ? `, ${percent(up[step])} of it raises ${now.trait}` : "") },
        h("small", {}, step, step === clip.moment && h("span", {}, " decides")),
        h("span", { class: "frame" }, filmFrame(clip.frames || clip.flow, middleOf(step), { "aria-hidden": "true" }),
          step === clip.moment && region ? border(region, clip.size) : "",
          h("i", { class: "playhead", hidden: step !== s.step, style: `--within:${inside}%` })),
        h("span", { class: "column" }, h("i", { class: "up", style: height(up[step]) }),
          h("i", { class: "down", style: height(down[step]) })),
        h("span", { class: "number" }, all[step].toFixed(2))),
      face(step));
    return panel("Over time", { heading: "When it attends: the time steps of the clip, and the face's map at each",
      class: "timing" },
    h("div", { class: signed ? "steps signed" : "steps", role: "radiogroup", "aria-label":
      "Time steps: left and right choose one", style: `--count:${steps};--even:${100 / steps / most}%`,
      onpointerleave: () => { hint = ""; point({ token: -1 }); request(); },
      onkeydown: arrows((below, right) => {
        chooseStep(state().step + below + right);
        return state().step;
      }) }, Array.from({ length: steps }, (_, step) => tile(step))),
    signed ? h("div", { class: "scale" }, `lowers ${say(top)}`, h("span", { class: "ramp signed" }),
      `raises ${say(top)}`) : scaleBar(say(top), "over-ramp"),
    h("p", { class: "note" }, hint || facesHint(clip, now.trait, region)));
  }

  function choosing(s, now) {
    const row = (trait) => {
      const { all } = clip.shares({ trait, head: -1, token: -1 }), isTrait = trait !== ATTENTION;
      const truth = isTrait && clip.truthOf(trait);
      return radio(trait, s.trait, chooseTrait, { "data-trait": trait, class: trait === now.trait && "seen",
        "aria-label": isTrait ? prediction(clip, trait) : null, onpointermove: () => point({ trait }) },
        h("b", {}, isTrait ? trait : "Attention"),
        isTrait ? h("span", { class: clip.truth ? "meter predicted" : "meter predicted unknown",
          style: `--share:${100 * clip.predicted(trait)}%;--threshold:${100 * truth}%` })
          : h("small", {}, "the weights"),
        isTrait && h("span", { class: "number" }, `${clip.predicted(trait).toFixed(2)} / ${truth || "?"}`),
        h("span", { class: "small" }, h("canvas", { "aria-hidden": "true",
          draw: [(canvas) => paintValues(canvas, all, steps, bright(Math.max(0.5, topOf(all)))), clip] })));
    };
    return panel("Traits", { heading: "Attention, and the five traits", class: "choosing" },
      clip.sample === MINE ? h("p", { class: "warning", role: "note" }, meta.warning) : "",
      h("div", { class: "traits", role: "radiogroup",
        "aria-label": "What is shown: attention, or one trait's attention × gradient; up and down choose",
        onpointerleave: () => point({ trait: "" }), onkeydown: arrows((below, right) => {
          const next = choices.indexOf(state().trait) + below + right;
          chooseTrait(choices[Math.min(names.length, Math.max(0, next))]);
          return state().trait;
        }) }, choices.map(row)),
      h("p", { class: "note" }, "Numbers: predicted / truth, which is the line in the bar. Small maps: the whole " +
        "face over time, bright is most. Point to look, click to hold."));
  }

  function numbers(now) {
    const { all } = sharesOf(clip, now.trait, now.head, now.token), { moment } = clip, known = moment !== null;
    const chance = known ? `chance: 1 in ${steps}` : "", best = strongest(all);
    return panel("In numbers", {}, readout(
      ["On the moment that decides", known ? percent(all[moment]) : "unknown", chance,
        "the share of the attention at the deciding moment; chance: one of the time steps"],
      ["Strongest time step", known ? `${best}, ${best === moment ? "hits" : "misses"}` : String(best), chance,
        "whether the strongest time step is the deciding one"],
      ["Spread over about", breadth(all), `of ${steps} steps`, "e to the entropy of the shares"],
      now.token < 0 ? ["Who asks", "the whole face", "", "choose a place of the face to see what it asks"]
        : ["Its answer counts", percent(clip.importance[now.token]), `even: ${percent(1 / tokens)}`,
          "how much this place of the face counts among all"]));
  }

  function view() {
    const s = state(), wanted = source.store.want(s.sample), failed = source.store.failed(s.sample);
    const number = s.sample === MINE ? model.get("own") || "your clip" : `${s.sample} of ${meta.count.toLocaleString("en")}${meta.kernel ? "" : ` (${source.count} here)`}`;
    clip = wanted || clip;
    if (s.playing && !ticking) ticking = requestAnimationFrame(tick);
    if (clip && (frame < 0 || stepOf(frame) !== s.step)) {
      frame = s.playing ? Math.ceil((s.step * clip.count) / steps) : middleOf(s.step);
    }
    const now = { ...s, trait: pointed.trait || s.trait, token: pointed.token >= 0 ? pointed.token : s.token };
    const map = clip && drawnMap(clip, now.trait, now.head);
    if (wanted) frames.prefetch(stepper.next(s), 0, 400);
    return frames.root("clips", { shown: wanted && String(s.sample), failed, keys: {
      " ": () => change({ playing: !s.playing }), Escape: () => change({ token: -1 }),
      ",": () => chooseFrame(frame - 1), ".": () => chooseFrame(frame + 1),
      "<": () => changeSpeed(-1), ">": () => changeSpeed(1) } },
      h("div", { class: "bar", role: "group", "aria-label": "which clip" }, stepper.bar(s, number),
        headSelect(meta.heads, s.head, (head) => change({ head }), { disabled: s.trait !== ATTENTION,
            title: "of the attention; a trait's map is the mean over the heads" }),
        meta.kernel ? camera.button() : h("span", { class: "soft" }, "To record yourself, open it in a notebook."),
        meta.kernel && button("Page", "save an offline page of the clips seen last",
          () => source.savePage(state().sample, 8, "personality.html"))),
      camera.panel(),
      h("div", { class: "saying" }, frames.notices(failed), speech.say(wanted ? describeClip(clip, now)
        : failed ? "This clip cannot be shown." : `Loading ${s.sample === MINE ? "your clip" : `clip ${s.sample}`} …`)),
      clip && h("div", { class: "sights" }, watching(s, now, map), choosing(s, now), timing(s, now, map),
        numbers(now)));
  }
  if (state().playing && matchMedia("(prefers-reduced-motion: reduce)").matches) change({ playing: false });
  const another = () => { source.store.forget(MINE); request(); };      // another clip of one's own
  model.on("change:own", another);
  return frames.open(view, () => {
    cancelAnimationFrame(ticking);
    model.off("change:own", another);
    camera.close();
  });
}

const CLIP_STYLE = `
.explorer.clips { --up: rgb(${RAISES}); --down: rgb(${LOWERS}) }
.explorer.clips .sights { display: grid; gap: 12px; grid-template-columns: minmax(0, 1.9fr) minmax(220px, 1fr) }
.explorer.clips .sights > * { min-width: 0; grid-column: 1 / -1 }
.explorer.clips .sights > .watching, .explorer.clips .sights > .choosing { grid-column: auto }
.explorer.clips .saying > .sentence { min-height: 2.9em; height: auto }        /* also where both explorers are */
@container (max-width: 700px) { .explorer.clips .sights { grid-template-columns: 100% } }
@container (max-width: 520px) { .explorer.clips .pictures figure:last-child { grid-column: 1 / -1 }
  .explorer.clips .steps { --columns: 4 } }
.explorer.clips .warning { margin: 0 0 8px; padding: 6px 8px; border-left: 4px solid var(--mark);
  background: var(--paper) }
.explorer.clips .recording .left { font-size: 20px; line-height: 1 }
.explorer.clips .recording video { display: block; width: 100%; max-width: 320px; border-radius: 4px; background: #000 }
.explorer.clips .pictures { display: grid; gap: 10px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 140px),
  1fr)) }
.explorer.clips .pictures figure { margin: 0; padding: 0; border: 0; background: none }
.explorer.clips figure[hidden] { display: none }
.explorer.clips .pictures canvas { width: 100%; border-radius: 4px }
.explorer.clips .pictures .picture { max-width: none }
.explorer.clips figcaption { margin: 4px 0 0; font-size: 12px; color: var(--soft); min-height: 0 }
.explorer.clips .play { min-width: 6.5em }
.explorer.clips .watching .grows { flex: 1 1 110px }
.explorer.clips .steps { display: grid; gap: 6px 2px;
  grid-template-columns: repeat(var(--columns, var(--count)), minmax(0, 1fr)) }
.explorer.clips .tile { display: grid; gap: 2px; align-content: start; grid-template-columns: 100% }
.explorer.clips .face { margin: 0 2px; border-radius: 3px; max-width: none }
.explorer.clips .decides .face { box-shadow: 0 0 0 1px #fff, 0 0 0 2.5px #141414 }
.explorer.clips .frame { position: relative; display: block }
.explorer.clips .playhead { position: absolute; left: 0; bottom: 0; height: 3px; min-width: 3px;
  width: var(--within); background: var(--accent) }
.explorer.clips .steps button { display: grid; grid-template-columns: 100%; padding: 2px; border: 2px solid transparent;
  border-radius: 5px;
  background: none; text-align: center; max-width: none; gap: 3px; min-width: 0 }
.explorer.clips .steps button[aria-checked=true] { border-color: var(--accent); background: var(--paper) }
.explorer.clips .steps canvas { width: 100%; border-radius: 3px }
.explorer.clips .steps small { font-size: 11.5px; color: var(--soft); white-space: nowrap }
.explorer.clips .steps .number { font-size: 12px }
.explorer.clips .decides small { color: var(--mark); font-weight: 600 }
.explorer.clips .decides canvas { outline: 2px solid var(--mark) }
.explorer.clips .column { position: relative; display: flex; flex-direction: column-reverse; height: 44px;
  border-bottom: 1px solid var(--line) }
.explorer.clips .column::after { content: ""; position: absolute; left: 0; right: 0; bottom: var(--even);
  border-top: 1px dashed var(--soft) }
.explorer.clips .column i { display: block; width: 60%; margin: 0 auto; background: var(--accent) }
.explorer.clips .signed .up { background: var(--up) } .explorer.clips .signed .down { background: var(--down) }
.explorer.clips .meter.unknown::after { content: none }
.explorer.clips .ramp.signed { background: linear-gradient(90deg, var(--down), var(--paper), var(--up)) }
.explorer.clips .traits { display: grid; gap: 4px }
.explorer.clips .traits button { display: grid; grid-template-columns: minmax(0, 1fr) 5.5em; gap: 2px 10px;
  align-items: center; text-align: left; padding: 4px 8px; max-width: none; border-left: 4px solid var(--line) }
.explorer.clips .traits button.seen { background: var(--panel) }
.explorer.clips .traits [aria-checked=true] { border-left-color: var(--mark) }
.explorer.clips .traits b { font-weight: 600 }
.explorer.clips .traits .meter { grid-area: 2 / 1 }
.explorer.clips .traits small { color: var(--soft); grid-area: 2 / 1 }
.explorer.clips .traits .number { text-align: right; font-size: 12.5px }
.explorer.clips .traits .small { grid-area: 2 / 2 }
.explorer.clips .traits canvas { width: 100%; height: 12px; image-rendering: pixelated; border-radius: 2px }
@media (forced-colors: active) { .explorer.clips .column i { forced-color-adjust: none } }
`;
export default { render: renderClips };
