/* A tour of five steps: each sets the state and outlines a part. Where one left it is remembered while the page is
 * open, and stored nowhere. */
import { button, h } from "../../recorder/web/kit.js";

/** The part that is outlined, what is said, and the state that shows it. */
const TOUR = [
  { at: "looking", title: "Where it looks", state: { clear: true },
    words: "This is one face of the data set. The colour shows where the attention of the chosen attribute lies, and the " +
      "thin line surrounds what decides it." },
  { at: "looking", title: "What the model sees", state: { clear: false },
    words: "The model gets this smaller, damaged picture of the same person. “Clearly” draws the person again without " +
      "damage. The map is the same." },
  { at: "list", title: "Other attributes", state: { clear: true },
    words: "Each attribute has a query, and so a map of its own. Point at a name to see its map, and click to keep it." },
  { at: "looking", title: "Against what?", state: { maps: "mean map" },
    words: "This is the mean map: one map for all faces. A model earns something only where its own map does better, so " +
      "compare “Trained” and “Untrained”." },
  { at: "removing", title: "Does it need these patches?", state: { maps: "trained", mask: 5 },
    words: "The five patches with the most attention are painted over. Compare the probability with the one without five " +
      "patches taken by chance." },
];

export class Tour {
  constructor(change, opened, request) { Object.assign(this, { change, opened, request, step: 0, open: false }); }
  get part() { return this.open ? TOUR[this.step].at : ""; }
  go(step) {
    const start = { mode: "explore", maps: "trained", mask: 0, covered: [], region: false, patch: -1, together: false, outlined: true };
    const { sample, attribute, layer, head } = this.opened;
    [this.step, this.open] = [step, true];
    this.change({ ...start, sample, attribute, layer, head, ...TOUR[step].state });
    this.request();
  }
  close() { this.open = false; this.request(); }
  /** Open it where it was left, or close it. */
  toggle() { if (this.open) this.close(); else this.go(this.step); }
}

export function tourCard(tour, back) {
  if (!tour.open) return "";
  const { title, words } = TOUR[tour.step], last = tour.step === TOUR.length - 1;
  const leave = () => { tour.close(); back(); };
  const end = () => { tour.step = 0; leave(); };
  return h("div", { class: "tour", role: "group", "aria-label": `Tour, step ${tour.step + 1} of ${TOUR.length}`,
    onkeydown: (event) => {
      const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (event.key === "Escape") leave();
      else if (move && TOUR[tour.step + move]) tour.go(tour.step + move);
      else return;
      event.preventDefault();
      event.stopPropagation();
    } },
  h("p", { "aria-live": "polite" }, h("b", {}, `${tour.step + 1} of ${TOUR.length} · ${title}. `), words),
  h("div", { class: "field" }, button("Back", "the step before", () => tour.go(tour.step - 1),
    { disabled: tour.step === 0 }),
  button(last ? "End" : "Next", "the next step", last ? end : () => tour.go(tour.step + 1),
    { draw: [(node) => node.focus({ preventScroll: true }), tour.open] }),
  button("Skip", "leave the tour (Escape); it goes on from here", leave)));
}
