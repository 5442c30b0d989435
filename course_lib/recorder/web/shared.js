/* What the explorers share: where their samples come from, and how their pages look.
 *
 * Python joins the viewer's module, this one and one explorer's, so the imports are for readers and editors.
 */
import { asBytes, make } from "./viewer.js";

// ---------------------------------------------------------------- where samples come from
export const KEPT = 64;             // samples that are held
const SILENCE = "The kernel does not answer: it is busy, or it was restarted or shut down. What is on screen still " +
  "works; after a restart, run the cells again to get a new explorer.";

/** Keeps the last `KEPT` samples; `fetch` is asked for the others, once each. */
export class Store {
  constructor(fetch) { this.fetch = fetch; this.held = new Map(); this.asked = new Map(); }
  get(sample, checkpoint = 0) {
    const name = `${sample} ${checkpoint}`, found = this.held.get(name);
    if (found) { this.held.delete(name); this.held.set(name, found); }
    return found;
  }
  /** Resolves when the sample is there, or rejects with the reason. */
  ask(sample, checkpoint = 0) {
    const name = `${sample} ${checkpoint}`;
    if (this.held.has(name)) return Promise.resolve();
    if (!this.asked.has(name)) {
      this.asked.set(name, this.fetch(sample, checkpoint).then((found) => this.keep(found))
        .finally(() => this.asked.delete(name)));
    }
    return this.asked.get(name);
  }
  keep(found) {
    this.held.set(`${found.sample} ${found.checkpoint || 0}`, found);
    if (this.held.size > KEPT) this.held.delete(this.held.keys().next().value);
  }
  forget(sample) { for (const [name, found] of this.held) if (found.sample === sample) this.held.delete(name); }
}

/** Samples from the kernel: each question has a number, and its answer comes as a message with the same one.
 *
 * `unpack(meta, header, bytes)` makes a sample; `told({ silence, done, of })` hears what a person should know; after
 * `patience` ms without an answer the kernel is called silent.
 */
export class Kernel {
  constructor(model, unpack, told, patience = 6000) {
    Object.assign(this, { model, told, patience, asked: new Map(), me: Math.random().toString(36).slice(2),
      number: 0 });
    this.meta = model.get("meta");
    this.receive = (message, buffers) => {
      const question = this.asked.get(message.ask);
      if (!question) return;
      if (message.kind === "progress") { this.wait(question); told({ done: message.done, of: message.of }); return; }
      clearTimeout(question.timer);
      this.asked.delete(message.ask);
      if (!this.asked.size) told({ silence: "" });
      if (message.failed) question.reject(new Error(message.failed));
      else question.resolve({ ...message, bytes: buffers?.[0] && asBytes(buffers[0]) });
    };
    model.on("msg:custom", this.receive);
    this.store = new Store(async (sample, checkpoint) => {
      const { header, bytes } = await this.ask({ kind: "item", sample, checkpoint });
      return unpack(this.meta, header, bytes);
    });
    const first = model.get("first");
    if (first && !first.failed) this.store.keep(unpack(this.meta, first, model.get("planes")));
  }
  get count() { return this.meta.count; }
  number_of(position) { return position; }
  wait(question) {
    clearTimeout(question.timer);
    question.timer = setTimeout(() => this.told({ silence: SILENCE }), this.patience);
  }
  ask(content, buffers) {
    return new Promise((resolve, reject) => {
      const ask = `${this.me} ${this.number++}`, question = { resolve, reject };
      this.asked.set(ask, question);
      this.wait(question);
      try { this.model.send({ ...content, ask }, undefined, buffers); } catch {
        this.asked.delete(ask);
        clearTimeout(question.timer);
        this.told({ silence: SILENCE });
        reject(new Error("the kernel is gone"));
      }
    });
  }
  close() {
    this.model.off("msg:custom", this.receive);
    for (const { timer } of this.asked.values()) clearTimeout(timer);
  }
}

/** Samples out of a saved page. */
export class Pages {
  constructor(model, unpack) {
    this.meta = model.get("meta");
    const planes = asBytes(model.get("planes")), byName = new Map(), whole = new Map();
    for (const item of this.meta.items) {
      if (!item.checkpoint) whole.set(item.sample, item);
      byName.set(`${item.sample} ${item.checkpoint || 0}`, item);
    }
    this.samples = [...whole.keys()].sort((a, b) => a - b);
    this.read = (sample, checkpoint) => {
      const item = byName.get(`${sample} ${checkpoint}`);
      if (!item) throw new Error(`sample ${sample} is not in this page; it holds ${this.samples.length} samples`);
      if (item.failed) throw new Error(item.failed);
      const { image, outlines } = whole.get(sample);            // stored once, with the first checkpoint
      return unpack(this.meta, { ...item, image, outlines }, planes.subarray(item.at, item.at + item.bytes));
    };
    this.store = new Store(async (sample, checkpoint) => this.read(sample, checkpoint));
  }
  get count() { return this.samples.length; }
  number_of(position) { return this.samples[position]; }
  readable(sample, checkpoint) { try { return this.read(sample, checkpoint); } catch { return null; } }
  close() {}
}

// ---------------------------------------------------------------- how they look
/** Lines of words to be read, one for each kind of news; `note(kind, content)` sets or clears one. */
export function noticeBoard() {
  const notes = {}, root = make("div", { class: "notice", role: "status" });
  return { root, notes, note(kind, content) {
    notes[kind] = content || "";
    root.replaceChildren(...Object.values(notes).filter(Boolean).map((each) => make("p", {}, each)));
  } };
}

/** A slider's keys are its own: a notebook program around it would take the arrows for other cells. */
export const keepKeys = (root) => root.addEventListener("keydown", (event) => {
  if (event.target.matches("select, input")) event.stopPropagation();
});

export const button = (text, title, onclick, more = {}) =>
  make("button", { type: "button", title, onclick, ...more }, text);

export const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}\u00a0%`;

export const SHARED_STYLE = `
.explorer { --found: #1b7a43; --wrong: #b3261e; --alarm: #8a5a00; padding: 2px; max-width: 1500px }
@media (prefers-color-scheme: dark) { .explorer { --found: #6ee7a0; --wrong: #ff8f86; --alarm: #ffcb66 } }
.explorer .bar { margin-bottom: 8px }
.explorer label, .explorer dt { margin: 0; font-weight: 400;
  line-height: inherit }              /* not the notebook's own */
.explorer output { padding: 0; color: inherit; font-size: inherit; line-height: inherit }
.explorer input[type=range] { min-width: 60px; flex: 1 }
.explorer .grows { flex: 1 1 300px; display: inline-flex; align-items: center; gap: 6px; min-width: 0 }
.explorer .number { font-variant-numeric: tabular-nums }
.explorer .soft { color: var(--soft); font-size: 12px }
.explorer .notice p { margin: 0 0 8px; padding: 8px 12px; border: 1px solid var(--line);
  border-left: 4px solid var(--mark);
  border-radius: 6px; background: var(--panel) }
.explorer .saying { display: flex; gap: 0 12px; margin-bottom: 8px; align-items: flex-start; flex-wrap: wrap }
.explorer .saying .sentence { flex: 1 1 320px; min-height: 5.9em }
.explorer .saying .field { margin-top: 10px }
.explorer section { min-width: 0 }
.explorer .options { display: flex; flex-wrap: wrap; gap: 6px 14px; align-items: center; margin: 6px 0 8px }
.explorer .picture img { filter: grayscale(calc(var(--strength) * 1.5)) }
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
  var(--soft) var(--share),
  color-mix(in srgb, var(--soft) 25%, transparent) var(--share)) }
.explorer .meter.predicted { background: linear-gradient(90deg, var(--accent) var(--share), color-mix(in srgb,
  var(--soft) 25%, transparent) var(--share)) }
.explorer .meter::after { content: ""; position: absolute; left: calc(var(--threshold) - 1px); top: -3px; bottom: -3px;
  width: 2px; background: var(--ink) }
`;
