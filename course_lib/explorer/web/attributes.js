/* The attention explorer: one sample at a time, what each attribute's query looks at.
 *
 * What is drawn is a function of the state (`EXPLORER_STATE`, the widget's traits) and of where the pointer is. A
 * sample's maps come once, from the kernel or out of the page, and everything else happens here. This file holds the
 * state and what people do; the panels, the picture, the sentences and the sample are the parts before it.
 */
import { MAP_OPACITY, button, h, player, range, remember, segment, select } from "../../recorder/web/kit.js";
import { explorer } from "./samples.js";
import { choosing, drawers, looking, pin, pins, pinsWithin } from "./panels.js";
import { Brush, Study, chosenPatches, patchesWithin, removing } from "./covering.js";
import { drawingPanel, drawingWithin, startDrawing } from "./drawing.js";
import { Game, gamePanels, gameSentence } from "./game.js";
import { Tour, tourCard } from "./tour.js";
import { readPicture, savePng } from "./picture.js";
import { LivePages } from "./answers.js";
import { AttributeKernel, MEAN, OWN, Sample, UNTRAINED, matching, predicting } from "./sample.js";
import { OUTCOMES, onlookers, sampleName, spaced, verdict } from "./words.js";

export const EXPLORER_STATE = {
  sample: 0, checkpoint: 0,         // sample -1 is an image of one's own
  layer: 0, head: -1,               // head -1 is the mean of the heads
  attribute: "", patch: -1,         // patch: whose onlookers are listed; -1 is none
  rarity: "all", sort: "probability",
  outcome: "any",                   // which samples are stepped through
  pinned: [],                       // views kept beside the present one
  mask: 0, covered: [], region: false,       // painted over: so many of the most attended patches, these, the region
  maps: "trained",                  // whose: the model's, an untrained one's, or the mean of many images' maps
  clear: true, together: false,     // over the clear twin; all heads in one picture
  lift: false, smooth: false, outlined: true, strength: MAP_OPACITY,
  drawer: "",                       // what is open below
  mode: "explore", drawing: {},     // exploring, pointing first, or drawing a face; the face that is drawn
};
const MODES = [["explore", "Explore", "see where the model looks"],
  ["point", "Point first", "a game: you point, then the model, then chance; ten faces"],
  ["draw", "Draw a face", "switch attributes on and off, turn and damage the face"]];
const fitting = (meta, { pinned, drawing, covered }) => ({ drawing: drawingWithin(meta, drawing),
  pinned: pinsWithin(meta.bounds, EXPLORER_STATE, pinned), covered: patchesWithin(meta, covered) });

export function renderExplorer({ model, el }) {
  const { meta, note, source, state, request, speech, history, ...frames } = explorer({ model, el },
    { what: "sample", initial: EXPLORER_STATE, style: EXPLORER_STYLE, sources: [AttributeKernel, LivePages],
      unpack: (...parts) => new Sample(...parts), fitting });
  const names = meta.attributes.map(({ name }) => name);
  /** What a person changes; patches painted by hand belong to one face. */
  const change = (values) => history.act("sample" in values && values.sample !== state().sample
    ? { covered: [], ...values } : values);
  const codes = new Map(), removals = new Map(), brush = new Brush(change, request);
  const study = new Study(source, request), game = new Game(source, request), tour = new Tour(change, state(), request);
  let last = null, masking = "", painted = null;
  const indexed = (s) => ({ ...s, attribute: names.indexOf(s.attribute) });

  // ---- which samples are stepped through
  const codesKey = (s) => `${s.attribute} ${s.checkpoint}`;
  /** The numbers of the samples that came out as chosen; null means all. */
  function matchesOf(s) {
    const answer = s.outcome === "any" ? null : codes.get(codesKey(s));
    if (!answer?.codes) return null;
    return answer[s.outcome] ||= matching(answer, s.outcome, source.samples);
  }
  /** Go to a sample, which is no drawing. */
  const visit = (values) => change(state().mode === "draw" ? { mode: "explore", ...values } : values);
  const stepper = frames.stepper(matchesOf, visit);
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
      if (number < meta.count && (meta.kernel || source.samples.includes(number))) visit({ sample: number });
      else note("find", meta.kernel ? `There is no sample ${words}: they run from 0 to ${meta.count - 1}.`
        : `Sample ${words} is not in this page.`);
      return;
    }
    try {
      const sample = await source.find(words, source.after(s.sample));
      if (sample === null) note("find", `No sample has ${words}.`); else visit({ sample });
    } catch (error) { note("find", `${error.message}.`); }
  }
  async function take(file) {
    if (!file) return;
    note("image", source.alive ? "" : "An image of your own needs the model: open the explorer in a notebook.");
    if (!source.alive) return;
    source.stopCamera?.();
    try { await source.ask({ kind: "image", name: file.name }, [await readPicture(file)]); } catch (error) {
      note("image", `${error.message}.`);
    }
  }

  async function film() {
    if (source.camera) { source.stopCamera(); return; }
    note("camera", "What the camera sees stays on this machine. The model knows drawn faces only, so do not take what " +
      "it says of you for true.");
    try { await source.film(); } catch (error) { note("image", `${error.message}.`); }
    note("camera", "");
  }

  // ---- what the panels share, and what people do in them
  const v = { meta, model, names, source, state, change, indexed, stepper, note, brush, study, initial: EXPLORER_STATE,
    id: `row-${Math.random().toString(36).slice(2)}`, pointed: { attribute: -1, patch: -1 }, dropping: false,
    sliding: null };
  v.point = (what) => {
    if (Object.entries(what).every(([name, value]) => v.pointed[name] === value)) return;
    v.pointed = { ...v.pointed, ...what };
    request();
  };
  v.pick = (patch, event) => {
    const s = state();
    if (brush.takes(patch, event)) { if (event.type !== "keydown") v.point({ patch }); return; }
    if (event.type === "pointermove") v.point({ patch });
    else if (event.type === "click") change({ patch: s.patch === patch ? -1 : patch });
    else {                                                               // a key: the pointer counts no more
      const first = s.patch < 0 && v.pointed.patch < 0;
      v.point({ patch: -1 });
      change({ patch: first ? 0 : patch });
    }
  };
  v.slide = (count) => { v.sliding = count; request(); };
  v.drop = (event, over) => {
    event.preventDefault();
    if (v.dropping !== over) { v.dropping = over; request(); }
    if (event.type === "drop") take(event.dataTransfer.files[0]);
  };
  v.saveShots = () => {
    const shots = [state(), ...state().pinned.map((other) => ({ ...state(), ...other, maps: "trained" }))];
    savePng(shots.map((s) => [seenBy(source.store.get(s.sample, s.checkpoint), s), indexed(s)])
      .filter(([sample]) => sample));
    v.saved = "Saved";
    request();
    setTimeout(() => { v.saved = ""; request(); }, 2000);
  };
  const steps = player(() => {
    if (!source.store.loading) change({ checkpoint: (state().checkpoint + 1) % meta.checkpoints.length });
  }, 600, request);

  /** The sample with the maps that are wanted, once they are here. */
  const other = remember((sample, maps) => sample.withMaps(maps));
  function seenBy(sample, s) {
    if (!sample || s.maps === "trained") return sample;
    const maps = s.maps === "untrained" ? source.store.want(s.sample, UNTRAINED)
      : source.store.want(MEAN, s.checkpoint);
    return maps ? other(sample, maps) : null;
  }

  /** What becomes of the prediction without what is painted over; one question at a time. */
  function removalOf(s, patches) {
    const { sample, checkpoint, layer, head, attribute, mask: count } = s;
    if (!(count || patches.length) || !source.alive || s.mode !== "explore") { painted = null; return null; }
    const of = [sample, model.get("own"), checkpoint].join();
    const name = [of, layer, head, attribute, count, patches].join();
    if (painted?.of !== of) painted = null;
    if (!removals.has(name) && !masking) {
      masking = name;
      if (removals.size > 200) removals.clear();
      source.ask({ kind: "mask", sample, checkpoint, layer, head, attribute, count, patches })
        .then((answer) => { removals.set(name, answer); painted = { of, probabilities: answer.probabilities }; },
          (error) => removals.set(name, { failed: error.message }))
        .finally(() => { masking = ""; request(); });
    }
    const removal = removals.get(name);
    if (removal?.probabilities) painted = { of, probabilities: removal.probabilities };
    return removal;
  }

  function controls(s) {
    const matches = matchesOf(s), total = meta.count.toLocaleString("en");
    const own = (model.get("own") || "own image").replace(/^(drawn face) \d+$/, "$1");
    const number = s.sample === OWN ? own : `${s.sample} of ${total}` +
      (!matches && !meta.kernel ? ` (${source.count} here)` : "") +
      (matches ? ` · ${matches.length ? matches.length.toLocaleString("en") : "none"} match` : "");
    const sources = [source.alive && h("label", { class: "file", title: "a PNG or JPEG; you can also drop it on the picture" },
      h("input", { type: "file", accept: "image/png,image/jpeg", class: "unseen", onchange: ({ target }) => {
        take(target.files[0]);
        target.value = "";
      } }), h("span", {}, "Your image…")),
    source.live && button(source.camera ? "Stop the camera" : "Camera",
      "look at what the camera sees; the pictures stay on this machine", film, { "aria-pressed": Boolean(source.camera) })];
    return [h("div", { class: "bar", role: "group", "aria-label": "which sample" },
      h("span", { class: "which", inert: s.mode === "point" }, stepper.bar(s, number),
        button("Random", "a sample by chance (key R)", stepper.random),
        h("form", { class: "field", role: "search", onsubmit: search },
          h("input", { type: "search", placeholder: "12 or bald", list: `${v.id}-words`, "aria-label":
            "Find a sample by its number, or by attributes it has (a minus before those it has not)" }),
          h("datalist", { id: `${v.id}-words` }, [...names.map(spaced), ...Object.keys(meta.near)].map((word) =>
            h("option", { value: word.includes(" ") ? word.split(" ").at(-1).toLowerCase() : word.toLowerCase() }, word))),
          h("button", { type: "submit" }, "Find")),
        select("Show", Object.entries(OUTCOMES), s.outcome, (outcome) => {
          change({ outcome });
          if (codes.get(codesKey(state()))?.failed) codes.delete(codesKey(state()));
          askOutcomes(false, true);
        }, { title: "only samples where the chosen attribute came out so" })),
      h("span", { class: "field modes" }, segment("what to do", MODES, s.mode, enter),
        button("Tour", "five steps through the explorer", () => tour.toggle(), { class: "to-tour",
          "aria-expanded": tour.open }), h("span", { class: "spring" }), s.mode !== "point" && sources,
        history.buttons())),
    h("div", { class: "bar", role: "group", "aria-label": "which checkpoint", hidden: meta.checkpoints.length < 2 },
      range("Checkpoint", s.checkpoint, (checkpoint) => change({ checkpoint }),
        { max: Math.max(0, meta.checkpoints.length - 1) }),
      h("output", {}, meta.checkpoints[s.checkpoint]), steps.button("walk through the checkpoints"))];
  }

  /** Another mode: a game begins when it is entered, and goes on when it is entered again. */
  function enter(mode) {
    tour.close();
    if (mode === "draw") startDrawing(v, last); else change({ mode });
  }
  const backFromTour = () => requestAnimationFrame(() =>           // drawn by then: what is hidden takes no focus
    el.querySelector(".to-tour")?.focus({ preventScroll: true }));

  function view() {
    const s = state(), { store } = source, wanted = seenBy(store.want(s.sample, s.checkpoint), s);
    const failed = store.failed(s.sample, s.checkpoint) || (s.maps !== "trained" &&
      (store.failed(s.sample, UNTRAINED) || store.failed(MEAN, s.checkpoint))), sample = wanted || last;
    const { pointed } = v, now = { ...indexed(s), patch: pointed.patch >= 0 ? pointed.patch : s.patch,
      attribute: pointed.attribute >= 0 ? pointed.attribute : names.indexOf(s.attribute) };
    if (s.outcome !== "any" && !codes.has(codesKey(s))) askOutcomes(false, false);
    if (s.mode !== "explore") brush.on = false;
    last = sample;
    brush.covered = sample ? chosenPatches(sample, indexed(s)) : s.covered;
    const weights = sample?.weights(now), removal = wanted && removalOf(s, brush.covered);
    const asked = pointed.patch >= 0 || (s.patch >= 0 && pointed.attribute < 0);
    if (wanted && s.sample !== OWN) frames.prefetch(stepper.next(s), s.checkpoint, 200);
    const keys = { Escape: () => { if (s.mode === "explore") change({ patch: -1 }); else enter("explore"); } };
    if (s.mode === "point") {
      if (!game.turn) game.start(s.checkpoint);
      return frames.root("pointing", { shown: game.asked && `${game.asked.sample.sample} ${s.checkpoint}`, keys },
        controls(s), h("div", { class: "saying" }, frames.notices(""), speech.say(gameSentence(game))),
        h("div", { class: "sights" }, gamePanels(v, game, s)));
    }
    Object.assign(keys, { p: () => pin(v), r: stepper.random, u: history.undo,
      "[": () => change({ checkpoint: state().checkpoint - 1 }),
      "]": () => change({ checkpoint: state().checkpoint + 1 }) });
    for (const name of ["p", "r", "u"]) keys[name.toUpperCase()] = keys[name];
    const among = s.mode === "draw" ? drawingPanel : choosing;
    return frames.root(`${s.mode === "draw" ? "sketching" : ""} ${tour.part && `tour-${tour.part}`}`,
      { shown: wanted && `${s.sample} ${s.checkpoint}`, failed, keys },
    controls(s), tourCard(tour, backFromTour),
    h("div", { class: "saying", "data-outcome": wanted && s.maps === "trained" && sample.outcome(now.attribute) },
      frames.notices(failed, s.outcome === "any" ? ["filter"] : []),
      speech.say(wanted ? (asked ? onlookers : verdict)(sample, now)
        : failed ? "This sample cannot be shown." : `Loading ${sampleName(s.sample)} …`)),
    sample && h("div", { class: "sights" },
      looking(v, sample, s, now, weights, s.mode !== "explore" ? [] : brush.covered.length ? brush.covered
        : removal?.patches || []),
      among(v, sample, s, now, s.mode === "explore" && removing(v, sample, s, removal), painted?.probabilities),
      drawers(v, sample, s, now, weights), pins(v, s, weights)));
  }
  const another = () => { source.store.forget(OWN); request(); };      // another image of one's own
  model.on("change:own", another);
  return frames.open(view, () => { model.off("change:own", another); steps.play(false); });
}

const EXPLORER_STYLE = `
.explorer input[type=search] { font: inherit; color: inherit; background: var(--paper); border: 1px solid var(--soft);
  border-radius: 6px; padding: 3px 8px; width: 8.5em; min-width: 0 }
.explorer ::-webkit-calendar-picker-indicator { display: none !important }     /* it lies over the words */
.explorer .file span { border: 1px solid var(--soft); border-radius: 6px; padding: 3px 9px; background: var(--paper);
  cursor: pointer }
.explorer .file :focus-visible + span { outline: 3px solid var(--accent); outline-offset: 2px }
.explorer .file span:hover { border-color: var(--accent) }
.explorer .saying[data-outcome=found] { border-color: var(--found) }
.explorer .saying[data-outcome=missed] { border-color: var(--wrong) }
.explorer .saying[data-outcome="false alarm"] { border-color: var(--alarm) }
.explorer .saying > .sentence { margin: 0; min-height: 0; height: 2.8em; overflow: hidden; font-size: 14.5px;
  line-height: 1.4 }
.explorer .sights { display: grid; gap: 10px; align-items: stretch;
  grid-template-columns: minmax(0, 312px) minmax(0, 1fr) 122px }
.explorer .sights .options { margin: 0 0 6px; gap: 4px 8px }
.explorer .options.small { gap: 2px 8px; margin: 4px 0 0 }
.explorer .options.small input[type=range] { width: 46px; min-width: 40px }
.explorer .sights .scale { margin-top: 4px }
.explorer .bar[aria-label="which sample"] { font-size: 13px; gap: 6px 8px; padding: 4px 8px }
.explorer .bar[aria-label="which sample"] :is(button, select, .file span, input[type=search]) { padding: 2px 7px }
.explorer .bar[aria-label="which sample"] .grows { flex-basis: 250px }
.explorer .bar[aria-label="which sample"] select { max-width: 9.5em }
.explorer .sights section { padding: 6px 10px }
.explorer .sights button, .explorer .sights select { padding: 2px 7px; font-size: 13px }
.explorer .sights label { font-size: 13px }
.explorer .dropping { outline: 3px dashed var(--accent); outline-offset: -3px }
.explorer .masked { position: absolute; inset: 0; width: 100%; height: 100%; pointer-events: none }
.explorer .masked i { position: absolute; background: repeating-linear-gradient(45deg, #fff 0 2px, #444 2px 7px);
  outline: 1px solid #fff }
.explorer .choosing { display: flex; flex-direction: column }
.explorer .list { position: relative; flex: 1 1 220px; height: 0; min-height: 200px; overflow-y: auto;
  border: 1px solid var(--line); border-radius: 6px; background: var(--paper); scrollbar-gutter: stable }
.explorer .choosing .note { min-height: 2.9em; margin: 4px 0 }
.explorer .entry > div { display: flex; gap: 8px; align-items: center; justify-content: space-between; min-width: 0 }
.explorer .entry { display: grid; grid-template-columns: 32px minmax(0, 1fr); gap: 0 8px; align-items: center;
  padding: 3px 8px; cursor: pointer; border-left: 4px solid transparent; border-bottom: 1px solid var(--panel);
  background: linear-gradient(90deg, color-mix(in srgb, var(--accent) 12%, transparent) var(--look, 0%),
  transparent var(--look, 0%)) }
.explorer .entry.seen { background-color: var(--panel) }
.explorer .entry[aria-selected=true] { border-left-color: var(--mark); background-color: var(--panel) }
.explorer .entry canvas { grid-row: 1 / 3; width: 32px; height: 32px; image-rendering: pixelated; border-radius: 3px;
  border: 1px solid var(--line) }
.explorer .entry b { font-weight: 600; overflow: hidden; text-overflow: ellipsis; white-space: nowrap;
  line-height: 1.25 }
.explorer .entry small { color: var(--soft); font-size: 12px; white-space: nowrap; flex: 1 }
.explorer .entry .meter { width: 62px }
.explorer .fate { font-size: 12.5px; white-space: nowrap; color: var(--soft); text-align: right }
.explorer .fate[data-outcome=found] { color: var(--found); font-weight: 600 }
.explorer .fate[data-outcome=missed] { color: var(--wrong); font-weight: 600 }
.explorer .fate[data-outcome="false alarm"] { color: var(--alarm); font-weight: 600 }
.explorer .heads { display: grid; grid-template-columns: repeat(var(--columns), minmax(0, 62px)); gap: 2px 4px;
  text-align: center; align-items: center; margin-top: 4px; max-height: 170px; overflow: auto; padding: 2px }
.explorer .heads.layered { grid-template-columns: 16px repeat(var(--columns), minmax(0, 62px)) }
.explorer .heads .soft { white-space: nowrap; overflow: hidden; font-size: 12px }
.explorer .heads button { padding: 0; border: 2px solid transparent; border-radius: 4px; line-height: 0;
  max-width: none; background: var(--face) center / cover }
.explorer .heads button[aria-checked=true] { border-color: var(--mark) }
.explorer .heads canvas { width: 100%; aspect-ratio: 1; image-rendering: pixelated; border-radius: 2px; opacity: 0.75 }
.explorer .removing { border-top: 1px solid var(--line); padding-top: 6px; height: 182px; overflow: hidden }
.explorer .removing h2 { margin: 0 0 4px }
.explorer .covering .tokens { touch-action: none; cursor: cell }
.explorer .removing .field { display: flex } .explorer .removing .field + .field { flex-wrap: wrap; gap: 4px }
.explorer .removing .field button { padding-inline: 6px }
.explorer .removing label { flex: 1; white-space: normal; line-height: 1.2 }
.explorer .effect .line { display: grid; grid-template-columns: minmax(0, 1.6fr) minmax(40px, 1fr) 2.2em 2.8em; gap: 0 8px;
  align-items: center; margin: 3px 0; font-size: 13px; line-height: 1.3 }
.explorer .effect .note { margin: 2px 0; min-height: 0 } .explorer .change { color: var(--soft); font-size: 12px }
.explorer .pins { display: flex; flex-direction: column; gap: 6px; grid-area: 1 / 3 }
.explorer .pins.pins { padding: 6px }
.explorer .slot { position: relative; flex: 1 1 0; margin: 0; padding: 0; border: 0; background: none; min-width: 0; overflow: hidden;
  display: flex; flex-direction: column; gap: 3px }
.explorer div.slot { border: 1px dashed var(--line); border-radius: 6px; padding: 4px 6px }
.explorer .slot figcaption { margin: 0; font-size: 12px; line-height: 1.2 }
.explorer .slot figcaption > * { display: block; white-space: nowrap; overflow: hidden; text-overflow: ellipsis }
.explorer .slot small { color: var(--soft); font-size: 12px }
.explorer .slot .tokens { max-width: 150px }
.explorer .slot .field { position: absolute; top: 3px; left: 3px; gap: 3px }
.explorer .sights .slot button { margin: 0; padding: 0 6px; font-size: 12px }
.explorer .modes { flex: 1 1 100%; flex-wrap: wrap } .explorer .which { display: contents }
.explorer .which[inert] > * { opacity: 0.4 }
.explorer { position: relative } .explorer .tour { position: absolute; inset: 0 0 auto; z-index: 6; display: flex; gap: 6px 14px; align-items: center;
  padding: 8px 12px; border: 2px solid var(--mark); border-radius: 8px; background: var(--paper); flex-wrap: wrap }
.explorer .tour p { margin: 0; flex: 1 1 300px; font-size: 14.5px; line-height: 1.35 }
.explorer[class*=tour-] > .bar { visibility: hidden }
.explorer.tour-looking .looking, .explorer.tour-list .list, .explorer.tour-removing .removing { outline: 3px solid var(--mark) }
.explorer.sketching.waiting .sights { opacity: 1 }
.explorer .drawing, .explorer .playing { gap: 6px }
.explorer .drawing .field, .explorer .playing .field { display: flex }
.explorer .sliders { display: grid; grid-template-columns: repeat(auto-fill, minmax(145px, 1fr)); gap: 0 12px }
.explorer .sliders label span { width: 3.6em; flex: none }
.explorer .switches { flex: 1 1 200px; height: 0; min-height: 190px; overflow-y: auto; border: 1px solid var(--line);
  border-radius: 6px; background: var(--paper); scrollbar-gutter: stable }
.explorer .sights .switch { display: flex; gap: 8px; padding: 3px 8px; border-bottom: 1px solid var(--panel) }
.explorer .switch.seen { background: var(--panel) }
.explorer .switch b { flex: 1; font-weight: 600; overflow: hidden; text-overflow: ellipsis; min-width: 0 }
.explorer .switch .meter { width: 80px; flex: none } .explorer .switch .fate { width: 1em; text-align: center }
.explorer .drawing .note { min-height: 0; margin: 2px 0 }
.explorer.pointing .sights { grid-template-columns: minmax(0, 400px) minmax(0, 1fr) }
.explorer .question { margin: 0; font-size: 17px } .explorer .playing h2 { margin: 0 }
.explorer .answers { min-height: 8.6em } .explorer .answers p { margin: 0 0 2px }
.explorer .answers .fate { font-size: 15px; text-align: left }
.explorer .score td, .explorer .score th { background: none; padding: 4px 6px; text-align: left; white-space: nowrap }
.explorer .score td:nth-child(3) { width: 34% }
.explorer .interval:not([hidden]) { display: block; position: relative; height: 8px; border-radius: 4px;
  background: color-mix(in srgb, var(--soft) 25%, transparent) }
.explorer .interval::before { content: ""; position: absolute; inset: 0 var(--high) 0 var(--low); background: var(--accent);
  border-radius: 4px; opacity: 0.6 }
.explorer .interval::after { content: ""; position: absolute; left: calc(var(--rate) - 1px); top: -3px; bottom: -3px;
  width: 3px; background: var(--ink) }
.explorer .spots { position: absolute; display: flex; align-items: center; justify-content: center; gap: 1px;
  outline: 2px solid #fff; box-shadow: 0 0 0 3px #141414; pointer-events: none; z-index: 3 }
.explorer .spot { display: inline-grid; place-items: center; width: 20px; height: 20px; flex: none; font: bold 13px/1
  system-ui, sans-serif; color: #fff; background: #141414; border: 1.5px solid #fff }
.explorer .spot.you { border-radius: 50%; background: #0b5fff } .explorer .spot.model { background: #a3008a }
.explorer .sharing { display: flex } .explorer .sharing input { flex: 1; min-width: 0; font: inherit; font-size: 13px;
  color: inherit; background: var(--paper); border: 1px solid var(--soft); border-radius: 6px; padding: 3px 8px }
.explorer .drawers { min-width: 0; grid-area: 2 / 1 / auto / -1 }
.explorer .drawers .bar { margin: 0; padding: 4px 8px; min-height: 36px }
.explorer .spring { flex: 1 }
.explorer .drawer { margin-top: 8px; min-height: 170px }
.explorer .drawer .all { margin: 0 0 8px; min-height: 4.4em }
.explorer .drawer .steps { display: flex; flex-wrap: wrap; gap: 8px 16px; align-items: center }
.explorer .drawer figure { margin: 0; padding: 0; border: 0; background: none; width: 190px }
.explorer .drawer figcaption { font-size: 12.5px; margin-bottom: 4px; min-height: 0 }
.explorer .drawer .grid { position: relative; width: 180px; height: 180px; cursor: crosshair;
  border: 1px solid var(--line); background: var(--paper) }
.explorer .drawer .grid canvas { width: 100%; height: 100%; image-rendering: pixelated }
.explorer .drawer small { color: var(--soft); font-size: 12px }
@container (min-width: 1000px) {
  .explorer .sights { grid-template-columns: minmax(0, 1.15fr) minmax(0, 1.1fr) 190px }
  .explorer .looking .tokens { max-width: 430px; margin-inline: auto } }
@container (max-width: 999px) { .explorer .bar .grows label span { position: absolute; clip-path: inset(50%) } }
@container (max-width: 759px) { .explorer .saying > .sentence { height: 4.2em }
  .explorer .sights, .explorer.pointing .sights { grid-template-columns: minmax(0, 0.95fr) minmax(0, 1fr) }
  .explorer .score td:nth-child(3) { display: none } .explorer .switch .meter { width: 34px }
  .explorer .switches .switch { gap: 5px; padding: 3px 5px }
  .explorer .drawers, .explorer .pins { grid-area: auto / 1 / auto / -1 }
  .explorer .pins { flex-direction: row } .explorer .slot { min-height: 184px }
  .explorer .removing { height: 330px } .explorer .removing .field { flex-wrap: wrap; gap: 4px }
  .explorer .effect .line { grid-template-columns: minmax(0, 1fr) 2.2em 2.8em }
  .explorer .effect .meter { display: none }
  .explorer .sights .word { display: none } .explorer .entry .meter { width: 46px }
  .explorer .sights .segment button { padding: 2px 4px; font-size: 12px } }
@container (max-width: 469px) { .explorer.pointing .sights { grid-template-columns: 100% } }
@container (max-width: 439px) { .explorer .saying > .sentence { height: 5.6em }
  .explorer .sights { grid-template-columns: 100% } .explorer .sights .word { display: inline }
  .explorer .looking .tokens { max-width: 300px; margin-inline: auto } .explorer .list { flex-basis: 230px }
  .explorer .removing { height: 200px } .explorer .effect .meter { display: block }
  .explorer .effect .line { grid-template-columns: minmax(0, 1.6fr) minmax(40px, 1fr) 2.2em 2.8em }
  .explorer .sights .segment button { padding: 2px 7px; font-size: 13px }
  .explorer.sketching .looking .tokens { max-width: 190px } .explorer.sketching :is(.heads, .options.small) { display: none }
  .explorer .drawer figure { width: 150px } .explorer .drawer .grid { width: 150px; height: 150px }
  .explorer .drawer .all { min-height: 7.3em } }
@media (forced-colors: active) { .explorer .meter, .explorer .entry { forced-color-adjust: none } }
`;
export default { render: renderExplorer };
