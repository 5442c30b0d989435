/* What the attention explorer says: the sentences that Python's `verdict` and `details` say, too. */
import { breadth, headName, patchGrid, percent, say, strongest, tokenName } from "../../recorder/web/kit.js";
import { OWN } from "./sample.js";

export const OUTCOMES = { any: "all samples", found: "where it is found", missed: "where it is missed",
  "false alarm": "where it is a false alarm", "off region": "where attention is off its region" };
export const MARKS = { found: ["✓", "found"], missed: ["✗", "missed"], "false alarm": ["!", "false alarm"],
  "rightly refused": ["–", "absent"], unknown: ["?", "unknown"] };
const MODELS = { untrained: "untrained model", "mean map": "mean map of many images" };

export const spaced = (name) => name.replaceAll("_", " ");
export const sampleName = (sample) => (sample === OWN ? "your own image" : `sample ${sample}`);
export const truthOf = ({ truth }, attribute) => (!truth ? "truth unknown" : truth[attribute] ? "present" : "absent");
const times = (ratio) => `${ratio.toFixed(ratio >= 9.95 ? 0 : 1)} times chance`;

/** How much of a map is where it should be. */
const aim = ({ energy, area }) => `${percent(energy)} of the attention on ${percent(area)} of the image, ` +
  `${times(energy / area)}`;

/** How the prediction came out, and where the attention is; of another model's maps only the latter. */
export function verdict(sample, { layer, head, attribute, maps }) {
  const { threshold } = sample.meta.attributes[attribute], name = spaced(sample.meta.attributes[attribute].name);
  const p = sample.probabilities[attribute].toFixed(2), predicted = sample.predicted(attribute);
  const score = sample.score(sample.weights({ layer, head, attribute }), attribute);
  if (MODELS[maps]) {
    return `${name}, ${MODELS[maps]}: ` + (score ? `${aim(score)}.`
      : sample.truth && !sample.truth[attribute] ? "it is absent." : "where it should look is unknown.");
  }
  if (!sample.truth) return `${name} predicted ${predicted ? "present" : "absent"}, ${p}; the truth is unknown.`;
  if (!sample.truth[attribute]) return `${name} is ${predicted ? "a false alarm" : "absent, and predicted so"}, ${p}.`;
  const fate = predicted ? `found, ${p}` : `missed, ${p} of the ${threshold.toFixed(2)} it needs`;
  if (!sample.outlines) return `${name} ${fate}; where it should look is unknown.`;
  return `${name} ${fate}` + (score ? `: ${aim(score)}${score.pointing > 0.5 ? "" : "; the strongest patch is elsewhere"}.`
    : "; no single place decides it.");
}

const place = (layer, head, { layers }) => (layers.length > 1 ? `layer ${layer}, ` : "") + headName(head);

export function details(sample, { layer, head, attribute }) {
  const { frequency, threshold } = sample.meta.attributes[attribute];
  const weights = sample.weights({ layer, head, attribute }), score = sample.score(weights, attribute);
  const best = strongest(weights), columns = Math.sqrt(weights.length), who = place(layer, head, sample.meta);
  return `${who[0].toUpperCase()}${who.slice(1)}: looks most at row ${Math.floor(best / columns)}, column ` +
    `${best % columns}, with ${say(weights[best])}, spread over about ${breadth(weights)} of ` +
    `${weights.length} patches` + (score ? `; its strongest patch ${score.pointing > 0.5 ? "hits" : "misses"} the ` +
      `region, which ${percent(score.chance)} of the patches touch` : "") +
    `. Predicted ${sample.probabilities[attribute].toFixed(2)} against a threshold of ${threshold.toFixed(2)}` +
    (frequency === null ? "" : `; ${percent(frequency)} of the images have it`) + ".";
}

export function onlookers(sample, { layer, head, patch }) {
  const looks = sample.looks({ layer, head, patch });
  const order = looks.map((_, i) => i).sort((a, b) => looks[b] - looks[a]).slice(0, 4);
  return `${tokenName(patchGrid(sample.meta.tokens), patch).replace("p", "P")} is looked at most by ` +
    order.map((i) => `${spaced(sample.meta.attributes[i].name)} ${say(looks[i])}`).join(", ") +
    ` (${place(layer, head, sample.meta)}); evenly, each would give it ${say(1 / sample.meta.tokens)}.`;
}
