/* Point first: a person, the model and chance each choose one patch of a face; after ten faces, who hits how often.
 *
 * All three play the same game: a patch hits if it touches the region that decides the attribute. The model's patch is
 * the strongest one of its last layer, heads averaged. Nothing of a game is part of the state.
 */
import { button, h, patchGrid, patchName, patchStyle, percent, segment, strongest } from "../../recorder/web/kit.js";
import { picture } from "./picture.js";
import { sampleName, spaced } from "./words.js";

const FACES = 10, WIDEST = 0.3;      // faces of a game; the share of patches that a region may touch
const PLAYERS = [["you", "You", "Y"], ["model", "Model", "M"], ["chance", "Chance", "C"]];

/** Wilson's interval for a rate of `hits` in `count`, 95 %. */
export function wilson(hits, count) {
  const rate = hits / count, z2 = 1.96 ** 2 / count, middle = (rate + z2 / 2) / (1 + z2);
  const half = (1.96 / (1 + z2)) * Math.sqrt((rate * (1 - rate)) / count + z2 / (4 * count));
  return [Math.max(0, middle - half), Math.min(1, middle + half)];
}

/** The attributes that a face has and whose region is known and small enough to point at; not No_Beard, because nobody
 * can point at what is absent. */
function decidable(sample) {
  const { attributes, tokens } = sample.meta;
  return [...attributes.keys()].filter((i) => {
    if (!sample.cover || !sample.truth?.[i] || !sample.outlines?.[i] || attributes[i].name.startsWith("No_")) return false;
    const touched = sample.cover.subarray(i * tokens, (i + 1) * tokens).reduce((sum, c) => sum + (c > 0), 0);
    return touched > 0 && touched / tokens <= WIDEST;
  });
}
const oneOf = (list) => list[Math.floor(Math.random() * list.length)];

export class Game {
  constructor(source, request) { Object.assign(this, { source, request, turn: 0, rounds: [], asked: null }); }
  get count() { return this.rounds.length; }
  get over() { return this.count === FACES; }
  get last() { return this.rounds.at(-1); }
  get answered() { return Boolean(this.asked) && this.last?.asked === this.asked; }

  start(checkpoint) {
    this.rounds = [];
    return this.next(checkpoint);
  }
  /** Ask for another face, one not seen before in this game if there is one. */
  async next(checkpoint) {
    const turn = this.turn += 1, { source } = this, seen = new Set(this.rounds.map(({ asked }) => asked.sample.sample));
    const named = new Set(this.rounds.map(({ asked }) => asked.attribute));
    Object.assign(this, { asked: null, cursor: -1, failure: "" });
    this.request();
    for (let tries = 0; tries < 60; tries++) {
      const number = source.samples ? oneOf(source.samples) : Math.floor(Math.random() * source.count);
      if (seen.has(number) && seen.size < source.count && tries < 40) continue;
      await source.store.ask(number, checkpoint).catch(() => {});
      if (turn !== this.turn) return;
      const sample = source.store.get(number, checkpoint), all = sample ? decidable(sample) : [];
      if (!all.length) continue;
      const fresh = all.filter((attribute) => !named.has(attribute));
      this.asked = { sample, attribute: oneOf(fresh.length ? fresh : all) };
      this.request();
      return;
    }
    this.failure = "No face was found on which a small region is known to decide an attribute.";
    this.request();
  }
  /** The person's patch; the model's and chance's are chosen with it. */
  guess(patch) {
    if (!this.asked || this.answered) return;
    const { sample, attribute } = this.asked, { tokens, layers } = sample.meta;
    const cover = sample.cover.subarray(attribute * tokens, (attribute + 1) * tokens);
    const patches = { you: patch, chance: Math.floor(Math.random() * tokens),
      model: strongest(sample.weights({ layer: layers.length - 1, head: -1, attribute })) };
    const hits = Object.fromEntries(Object.entries(patches).map(([who, at]) => [who, cover[at] > 0]));
    this.rounds.push({ asked: this.asked, patches, hits, share: cover.reduce((sum, c) => sum + (c > 0), 0) / tokens });
    this.request();
  }
  hits(who) { return this.rounds.filter(({ hits }) => hits[who]).length; }
}

const nameOf = ({ sample, attribute }) => spaced(sample.meta.attributes[attribute].name);
const ofTen = (count) => `${count} of ${FACES}`;

/** One sentence on where the game stands. */
export function gameSentence(game) {
  const { asked, last } = game;
  if (game.failure) return game.failure;
  if (!asked) return "A face is coming …";
  if (!game.answered) return `Face ${game.count + 1} of ${FACES}: point at what shows ${nameOf(asked)}.`;
  const fate = (who) => (last.hits[who] ? "hit" : "missed");
  const round = `${nameOf(asked)}: you ${fate("you")}, the model ${fate("model")}, chance ${fate("chance")}.`;
  if (!game.over) return round;
  const share = game.rounds.reduce((sum, each) => sum + each.share, 0);
  return `You hit ${ofTen(game.hits("you"))}, the model ${ofTen(game.hits("model"))}, chance ` +
    `${ofTen(game.hits("chance"))}; chance is expected to hit ${share.toFixed(1)}.`;
}

function scores(game) {
  return h("table", { class: "score" }, h("caption", {}, "Patches that touch the region, with a 95 % interval"),
    h("tbody", {}, PLAYERS.map(([who, title, letter]) => {
      const [low, high] = game.count ? wilson(game.hits(who), game.count) : [0, 1];
      const rate = game.count ? game.hits(who) / game.count : 0;
      return h("tr", { "data-who": who }, h("th", { scope: "row" }, h("i", { class: `spot ${who}` }, letter), ` ${title}`),
        h("td", {}, `${game.hits(who)} of ${game.count}`),
        h("td", {}, h("span", { class: "interval", hidden: !game.count,
          style: `--low:${100 * low}%;--high:${100 * (1 - high)}%;--rate:${100 * rate}%` })),
        h("td", { class: "number" }, game.count ? `${percent(low)} to ${percent(high)}` : ""));
    })));
}

/** Who chose which patch, as letters on the picture; two that chose the same one stand together. */
function spots({ patches }, place) {
  const at = new Map();
  for (const [who, , letter] of PLAYERS) at.set(patches[who], [...(at.get(patches[who]) || []), [who, letter]]);
  return [...at].map(([patch, those]) => h("div", { class: "spots", style: patchStyle(patch, place) },
    those.map(([who, letter]) => h("i", { class: `spot ${who}` }, letter))));
}

/** The whole view of a game: the face, and beside it the question, the answer and the score. */
export function gamePanels(v, game, s) {
  const { asked } = game, { tokens } = v.meta, grid = patchGrid(tokens), columns = Math.sqrt(tokens);
  const leave = button("Explore", "back to the explorer", () => v.change({ mode: "explore" }));
  if (!asked) {
    return [h("section", { class: "looking", "aria-label": "The face" }, h("p", { class: "note" }, gameSentence(game))),
      h("section", { class: "choosing playing", "aria-label": "Point first" }, leave)];
  }
  const { sample, attribute } = asked, shown = game.answered;
  const pick = (patch, event) => {
    if (shown) return;
    if (event.type === "click") { game.cursor = patch; game.guess(patch); }
    else if (event.key === "Enter" || event.key === " ") { if (game.cursor >= 0) game.guess(game.cursor); }
    else if (game.cursor !== patch) { game.cursor = patch; game.request(); }
  };
  const current = () => (game.cursor >= 0 ? game.cursor : Math.floor(tokens / 2 + columns / 2));
  const next = async ({ currentTarget }) => {
    const root = currentTarget.closest(".explorer");
    await (game.over ? game.start(s.checkpoint) : game.next(s.checkpoint));
    requestAnimationFrame(() => requestAnimationFrame(() =>
      root.querySelector(".looking .tokens")?.focus({ preventScroll: true })));
  };
  const state = { ...s, attribute, layer: v.meta.layers.length - 1, head: -1, patch: shown ? -1 : game.cursor,
    strength: shown ? s.strength : 0, outlined: shown, together: false, lift: false };
  const line = ([who, title]) => h("p", { class: "fate", "data-outcome": game.last.hits[who] ? "found" : "missed" },
    `${game.last.hits[who] ? "✓" : "✗"} ${title} ${game.last.hits[who] ? "hit" : "missed"}`);
  return [h("section", { class: "looking", "aria-label": "The face" },
    h("div", { class: "options" }, sample.clear && segment("which picture",
      [[true, "Clearly", "the same person and pose, drawn without damage"],
        [false, "As the model sees it", "the image that the model gets"]], s.clear, (clear) => v.change({ clear }))),
    picture(sample, state, [], { pick, current, marks: shown ? spots(game.last, grid.place) : [],
      label: "patches of the face: arrow keys move, Enter points",
      text: game.cursor >= 0 ? `${patchName(game.cursor, columns)}` : "no patch chosen" })),
  h("section", { class: "choosing playing", "aria-label": "Point first", "data-sample": sample.sample,
    "data-attribute": sample.meta.attributes[attribute].name },
  h("h2", {}, `Face ${game.count + (shown ? 0 : 1)} of ${FACES}, ${sampleName(sample.sample)}`),
  h("p", { class: "question" }, "Point at what shows ", h("b", {}, nameOf(asked)), "."),
  h("div", { class: "answers" }, shown ? [PLAYERS.map(line), h("p", { class: "note" },
    `${percent(game.last.share)} of the patches touch the region: so often a patch by chance hits.`)]
    : h("p", { class: "note" }, "Click a place on the face, or move there with the arrow keys and press Enter. Then you " +
      "see where the model looks most, and a place taken by chance.")),
  h("div", { class: "field" }, button(game.over ? "New game" : shown ? "Next face" : "Skip this face", "", next,
    { key: shown ? "next" : "skip", draw: shown && [(node) => node.focus({ preventScroll: true }), game.count] }), leave),
  scores(game),
  h("p", { class: "note" }, game.over ? "Ten faces are few. Where two intervals overlap, this game does not tell the two " +
    "players apart." : "Y is your patch, M the model's strongest one, C one by chance."))];
}
