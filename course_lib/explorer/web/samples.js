/* What both explorers start from: where their samples come from, and the frame around them.
 *
 * Python joins the kit, this module and one explorer's, so the imports are for readers and editors.
 */
import {
  asBytes, button, clamp, download, h, mount, range, readArrays, shortcuts, speaker, stateOf, STYLE, within,
} from "../../recorder/web/kit.js";

// ---------------------------------------------------------------- where samples come from
const HELD = 64;
const SILENCE = "The kernel does not answer: it is busy, or it was restarted or shut down. What is on screen still " +
  "works; after a restart, run the cells again to get a new explorer.";

/** Holds the last `HELD` samples, and asks `fetch` for others; `changed` hears of each that came or failed. */
class Store {
  constructor(fetch, changed) {
    Object.assign(this, { fetch, changed, held: new Map(), asked: new Map(), failures: new Map(), loading: false });
  }
  get(sample, checkpoint = 0) {
    const name = `${sample} ${checkpoint}`, held = this.held.get(name);
    if (held) { this.held.delete(name); this.held.set(name, held); }        // the one used last is dropped last
    return held;
  }
  /** The sample if it is here; otherwise it is asked for, unless another one is, or it failed before. */
  want(sample, checkpoint = 0) {
    const held = this.get(sample, checkpoint), name = `${sample} ${checkpoint}`;
    if (held || this.loading || this.failures.has(name)) return held;
    this.loading = true;
    if (this.failures.size > HELD) this.failures.clear();
    this.ask(sample, checkpoint).catch((error) => this.failures.set(name, error.message))
      .finally(() => { this.loading = false; this.changed(); });
    return undefined;
  }
  failed(sample, checkpoint = 0) { return this.failures.get(`${sample} ${checkpoint}`); }
  ask(sample, checkpoint = 0) {
    const name = `${sample} ${checkpoint}`;
    if (this.held.has(name)) return Promise.resolve();
    if (!this.asked.has(name)) {
      this.asked.set(name, this.fetch(sample, checkpoint).then((answer) => this.hold(answer))
        .finally(() => this.asked.delete(name)));
    }
    return this.asked.get(name);
  }
  hold(sample) {
    this.held.set(`${sample.sample} ${sample.checkpoint || 0}`, sample);
    if (this.held.size > HELD) this.held.delete(this.held.keys().next().value);
  }
  forget(sample) {
    for (const names of [this.held, this.failures]) {
      for (const name of [...names.keys()]) if (name.startsWith(`${sample} `)) names.delete(name);
    }
  }
}

/** Samples from the kernel: each question has a number, and its answer comes as a message with the same one. */
export class Kernel {
  constructor(model, unpack, note, changed, patience = 6000) {
    Object.assign(this, { model, note, patience, questions: new Map(), me: Math.random().toString(36).slice(2),
      number: 0, meta: model.get("meta") });
    this.receive = (message, buffers) => {
      const question = this.questions.get(message.ask);
      if (!question) return;
      if (message.kind === "progress") { this.wait(question); this.progress(message); return; }
      clearTimeout(question.timer);
      this.questions.delete(message.ask);
      if (!this.questions.size) note("kernel", "");
      if (message.failed) question.reject(new Error(message.failed));
      else question.resolve({ ...message, bytes: buffers?.[0] && asBytes(buffers[0]) });
    };
    model.on("msg:custom", this.receive);
    const read = (header, planes) => unpack(this.meta, header, header.arrays && readArrays(header.arrays, planes));
    this.store = new Store(async (sample, checkpoint) => {
      const { header, bytes } = await this.ask({ kind: "item", sample, checkpoint });
      return read(header, bytes);
    }, changed);
    const first = model.get("first");
    if (first && !first.failed) this.store.hold(read(first, model.get("planes")));
  }
  get count() { return this.meta.count; }
  after(sample) { return sample + 1; }
  get alive() { return true; }                 // whether it can ask the model
  progress() {}
  wait(question) {
    clearTimeout(question.timer);
    question.timer = setTimeout(() => this.note("kernel", SILENCE), this.patience);
  }
  ask(content, buffers) {
    return new Promise((resolve, reject) => {
      const ask = `${this.me} ${this.number++}`, question = { resolve, reject };
      this.questions.set(ask, question);
      this.wait(question);
      try { this.model.send({ ...content, ask }, undefined, buffers); } catch {
        this.questions.delete(ask);
        clearTimeout(question.timer);
        this.note("kernel", SILENCE);
        reject(new Error("the kernel is gone"));
      }
    });
  }
  /** Ask for an offline page of the samples seen last, and save it. */
  async savePage(sample, most, name) {
    const seen = [...this.store.held.values()].map((held) => held.sample).filter((number) => number >= 0);
    const samples = [...new Set([...seen, Math.max(0, sample)])].slice(-most).sort((a, b) => a - b);
    try {
      const { bytes } = await this.ask({ kind: "page", samples });
      download(new Blob([bytes], { type: "text/html" }), name);
    } catch (error) { this.note("page", `${error.message}.`); }
  }
  close() {
    this.model.off("msg:custom", this.receive);
    for (const { timer } of this.questions.values()) clearTimeout(timer);
  }
}

/** Samples out of a saved page. */
export class Pages {
  constructor(model, unpack, note, changed) {
    this.meta = model.get("meta");
    const planes = asBytes(model.get("planes")), items = new Map(), first = new Map();
    for (const item of this.meta.items) {
      if (!item.checkpoint) first.set(item.sample, item);
      items.set(`${item.sample} ${item.checkpoint || 0}`, item);
    }
    this.samples = [...first.keys()].filter((sample) => sample >= 0).sort((a, b) => a - b);
    this.read = (sample, checkpoint) => {
      const item = items.get(`${sample} ${checkpoint}`);
      if (!item) throw new Error(`sample ${sample} is not in this page; it holds ${this.samples.length} samples`);
      if (item.failed) throw new Error(item.failed);
      const { image, clear, outlines } = first.get(sample);     // stored once, with the first checkpoint
      const arrays = readArrays(item.arrays, planes.subarray(item.at, item.at + item.bytes));
      return unpack(this.meta, { ...item, image, clear, outlines }, arrays);
    };
    this.store = new Store(async (sample, checkpoint) => this.read(sample, checkpoint), changed);
  }
  get count() { return this.samples.length; }
  after(sample) { return this.samples[(this.samples.indexOf(sample) + 1) % this.count]; }
  readable(sample, checkpoint) { try { return this.read(sample, checkpoint); } catch { return null; } }
  close() {}
}

// ---------------------------------------------------------------- the frame around them
/** State, source and notes of an explorer; `what` its samples are called, `sources` the classes they come from. */
export function explorer({ model, el }, { what, initial, unpack, style, fitting = () => ({}),
  sources = [Kernel, Pages], patience }) {
  const meta = model.get("meta"), notes = {};
  let page = null, timer = 0;
  const request = () => page?.request();
  const note = (kind, content) => { notes[kind] = content || ""; request(); };
  const source = new sources[meta.kernel ? 0 : 1](model, unpack, note, request, patience);
  const { state, change } = stateOf(model, initial, (wanted) => {
    const bounded = within(meta.bounds, initial, wanted);
    Object.assign(bounded, fitting(meta, bounded));
    if (source.samples && !source.samples.includes(bounded.sample) && !source.has?.(bounded.sample)) {
      [bounded.sample] = source.samples;
    }
    return bounded;
  });
  const asked = Object.keys(initial).filter((name) => JSON.stringify(model.get(name)) !== JSON.stringify(state()[name]));
  if (asked.length && !meta.kernel) {
    note("address", `The address asks for what this page does not have (${asked.join(", ")}); that part is left out.`);
  }
  const speech = speaker(request);
  const history = historyOf(state, change);

  /** How samples are stepped through: `matches(state)` are their numbers, null all of them. */
  let direction = 1;
  const stepper = (matches = () => null, set = change) => {
    const place = (s) => {
      const numbers = matches(s) || source.samples, last = (numbers ? numbers.length : source.count) - 1;
      const after = numbers ? numbers.findIndex((number) => number >= s.sample) : s.sample;
      return { last, position: after < 0 ? last : after, at: (position) => (numbers ? numbers[position] : position) };
    };
    const go = (steps) => {
      const s = state(), { last, position, at } = place(s), there = at(position) === s.sample;
      if (last < 0) return;
      direction = steps;
      const ahead = !there && at(position) > s.sample && steps > 0;       // the next one is the one at `position`
      set({ sample: at(clamp(ahead ? position : position + (there || steps < 0 ? steps : 0), 0, last)) });
    };
    const next = (s) => { const { position, at } = place(s); return at(position + direction); };
    const bar = (s, number) => {
      const { last, position } = place(s), jump = (value) => set({ sample: place(state()).at(value) });
      return h("span", { class: "field grows" },
        button("‹", `the ${what} before`, () => go(-1), { "aria-label": `${what} before` }),
        range(`${what[0].toUpperCase()}${what.slice(1)}`, position, jump,
          { max: Math.max(0, last), disabled: last < 0, "aria-valuetext": number }),
        button("›", `the next ${what}`, () => go(1), { "aria-label": `next ${what}` }),
        h("output", { class: "number" }, number));
    };
    const random = () => {
      const { last, at } = place(state());
      if (last >= 0) set({ sample: at(Math.floor(Math.random() * (last + 1))) });
    };
    return { go, next, bar, random };
  };

  /** Notes to be read, and why a sample could not be shown. They lie over the sentence, so that nothing moves. */
  const notices = (failed, hidden = []) => {
    const reason = failed && `${failed[0].toUpperCase()}${failed.slice(1)}.`;
    return h("div", { class: "notice", role: "status" }, Object.entries({ ...notes, sample: reason })
      .filter(([kind, content]) => content && !hidden.includes(kind)).map(([kind, content]) => h("p", { key: kind },
        h("span", {}, content), kind !== "sample" && button("×", "close this message", () => note(kind, ""),
          { "aria-label": "close" }))));
  };
  /** What was said before a change is said no more; a question stays, and so does a word on the camera. */
  const changed = () => {
    for (const kind of Object.keys(notes)) if (!["filter", "camera"].includes(kind)) notes[kind] = "";
    request();
  };

  const root = (name, { shown, failed, keys }, ...children) => h("div", { "data-lm-suppress-shortcuts": "true",
    class: `attention explorer ${name}${shown ? "" : failed ? " failing" : " waiting"}`,
    "data-sample": shown, onkeydown: shortcuts(keys) }, h("style", {}, STYLE + FRAME + style), ...children);

  const open = (view, close = () => {}) => {
    page = mount(el, view);
    model.on("change", changed);
    return () => {
      model.off("change", changed);
      clearTimeout(timer);
      source.close();
      speech.close();
      close();
      page.close();
    };
  };
  /** Ask for a sample that will be wanted soon. */
  let soon = "";
  const prefetch = (sample, checkpoint, delay) => {
    if (soon === `${sample} ${checkpoint}` || !meta.kernel || sample < 0 || sample >= meta.count) return;
    soon = `${sample} ${checkpoint}`;
    clearTimeout(timer);
    timer = setTimeout(() => {
      if (!source.store.loading) source.store.ask(sample, checkpoint).catch(() => {});
    }, delay);
  };
  return { meta, notes, note, source, state, change, history, request, speech, stepper, notices, root, open, prefetch };
}

/** What a person changed can be taken back, step by step or at once; the steps of one drag are one. */
function historyOf(state, change) {
  const opened = state(), past = [];
  let names = "", at = 0;
  const act = (values) => {
    const before = state(), now = performance.now(), same = names === Object.keys(values).join() && now - at < 300;
    [names, at] = [Object.keys(values).join(), now];
    change(values);
    const after = state();
    if (same || Object.keys(before).every((name) => before[name] === after[name])) return;
    past.push(before);
    if (past.length > 100) past.shift();
  };
  const undo = () => { names = ""; if (past.length) change(past.pop()); };
  const reset = () => act(opened);
  const buttons = () => h("span", { class: "field" },
    button("↶", "take back the last change (key U)", undo, { "aria-label": "undo", disabled: !past.length }),
    button("↺", "everything as it was at first", reset, { "aria-label": "reset" }));
  return { act, undo, reset, buttons };
}

const FRAME = `
.explorer { --found: light-dark(#18703d, #6ee7a0); --wrong: light-dark(#b3261e, #ff8f86);
  --alarm: light-dark(#8a5a00, #ffcb66); padding: 2px; max-width: 1500px }
.explorer .bar { margin-bottom: 6px }
.explorer label, .explorer dt { margin: 0; font-weight: 400; line-height: inherit }      /* not the notebook's own */
.explorer output { padding: 0; color: inherit; font-size: inherit; line-height: inherit }
.explorer input[type=range] { width: 60px; min-width: 60px; flex: 1 }
.explorer .grows { flex: 1 1 300px; display: inline-flex; align-items: center; gap: 6px; min-width: min-content }
.explorer .number { font-variant-numeric: tabular-nums }
.explorer .grows > .number { flex: none; max-width: 17em; overflow: hidden; text-overflow: ellipsis }
.explorer .soft { color: var(--soft); font-size: 12px }
.explorer .notice { position: absolute; inset: 0 0 auto; z-index: 5 }
.explorer .notice p { margin: 0; padding: 6px 12px; border: 1px solid var(--line); display: flex; gap: 8px;
  border-left: 4px solid var(--mark); border-radius: 6px; background: var(--panel); align-items: flex-start }
.explorer .notice span { flex: 1 } .explorer .notice button { padding: 0 8px }
.explorer .saying { position: relative; margin-bottom: 5px; padding-left: 8px; border-left: 4px solid var(--line) }
.explorer.waiting .sights { opacity: 0.55 } .explorer.failing .sights { opacity: 0.25 }
.explorer section { min-width: 0 }
.explorer .options { display: flex; flex-wrap: wrap; gap: 6px 14px; align-items: center; margin: 6px 0 8px }
.explorer .picture canvas { opacity: var(--strength) }
.explorer .picture { max-width: 460px; margin: 0 auto; overflow: hidden; border-radius: 4px }
.explorer .picture .mark { outline-width: 3px; z-index: 2; padding: 0; background: none }
.explorer .readout { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 8px 12px;
  margin: 0 }
.explorer dd small { color: var(--soft); font-weight: 400; white-space: nowrap }
.explorer .readout dt, .explorer .readout dd { float: none; width: auto; margin: 0; padding: 0; text-align: left }
.explorer dt { font-size: 12px; color: var(--soft) }
.explorer dd { font-variant-numeric: tabular-nums; font-weight: 600 }
.explorer .meter { position: relative; height: 9px; border-radius: 3px; background: linear-gradient(90deg,
  var(--soft) var(--share), color-mix(in srgb, var(--soft) 25%, transparent) var(--share)) }
.explorer .meter.predicted { background: linear-gradient(90deg, var(--accent) var(--share),
  color-mix(in srgb, var(--soft) 25%, transparent) var(--share)) }
.explorer .meter::after { content: ""; position: absolute; left: calc(var(--threshold) - 1px); top: -3px; bottom: -3px;
  width: 2px; background: var(--ink) }
`;
