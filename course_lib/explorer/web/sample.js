/* One sample: its maps, what they are the softmax of, its truth; and what is known of many samples.
 *
 * Python joins this module to the kit, the samples and the parts that follow.
 */
import { h, meanMap, topOf, weightAt, weightsOf } from "../../recorder/web/kit.js";
import { Kernel, Pages } from "./samples.js";

export const OWN = -1, MEAN = -2;      // no sample of the data set: an image of one's own, and the mean of many maps
export const UNTRAINED = "untrained";  // no checkpoint: the same architecture with random weights
const CODES = { found: 1, missed: 2, "false alarm": 3 };

/** What `pack_item` packs: levels and largest weight of each map, and how much of each token a region covers. */
export class Sample {
  constructor(meta, header, arrays) {
    Object.assign(this, header, { meta, means: new Map(), starts: [0] }, arrays);
    for (const { heads } of meta.layers) this.starts.push(this.starts.at(-1) + heads * meta.attributes.length);
  }
  /** The same sample, seen with the maps of another model. */
  withMaps({ tops, levels }) {
    return Object.assign(Object.create(this), { tops, levels, scores: undefined, means: new Map(), trained: this });
  }

  /** The same sample with other predictions: those of the picture painted over. */
  withProbabilities(probabilities) { return Object.assign(Object.create(this), { probabilities }); }

  row(layer, head, attribute) { return this.starts[layer] + head * this.meta.attributes.length + attribute; }
  map(layer, head, attribute) {
    const { tokens, attributes, layers } = this.meta, name = layer * attributes.length + attribute;
    if (head >= 0) {
      const row = this.row(layer, head, attribute);
      return { values: this.levels.subarray(row * tokens, (row + 1) * tokens), levels: 255, top: this.tops[row] };
    }
    if (!this.means.has(name)) {
      const maps = Array.from({ length: layers[layer].heads }, (_, k) => this.map(layer, k, attribute));
      this.means.set(name, meanMap(maps));
    }
    return this.means.get(name);
  }
  /** What is opaque in the picture: of another model's maps as much as of the trained one's, to compare by eye. */
  scale({ layer, head, attribute }) {
    return Math.max(this.map(layer, head, attribute).top, this.trained?.map(layer, head, attribute).top || 0);
  }
  weights({ layer, head, attribute }) { return weightsOf(this.map(layer, head, attribute)); }
  /** What a head's weights are the softmax of, q·k / √dim of each patch; null where it is not known. */
  comparisons({ layer, head, attribute }) {
    if (!this.scores || head < 0) return null;
    const { tokens } = this.meta, row = this.row(layer, head, attribute);
    return Float32Array.from(this.scores.subarray(row * tokens, (row + 1) * tokens),
      (step) => this.low[row] + ((this.high[row] - this.low[row]) * step) / 255);
  }
  /** The patches of most weight. */
  most(s, count) {
    const weights = this.weights(s);
    return [...weights.keys()].sort((a, b) => weights[b] - weights[a] || a - b).slice(0, count);
  }
  /** The patches that touch the true region; none where it is not known. */
  region(attribute) {
    if (!this.cover || !this.outlines[attribute]) return [];
    const { tokens } = this.meta;
    return [...Array(tokens).keys()].filter((patch) => this.cover[attribute * tokens + patch]);
  }
  /** The weight of one patch in the map of each attribute. */
  looks({ layer, head, patch }) {
    return this.meta.attributes.map((_, i) => weightAt(this.map(layer, head, i), patch));
  }

  predicted(attribute) { return this.probabilities[attribute] >= this.meta.attributes[attribute].threshold; }
  outcome(attribute) {
    if (!this.truth) return "unknown";
    return this.truth[attribute] ? (this.predicted(attribute) ? "found" : "missed")
      : this.predicted(attribute) ? "false alarm" : "rightly refused";
  }
  error(attribute) { return this.truth ? Math.abs(this.truth[attribute] - this.probabilities[attribute]) : 0; }

  /** Energy: the share of the attention inside the region. Pointing: whether the strongest patch touches it. */
  score(weights, attribute) {
    if (!this.cover || !this.outlines[attribute]) return null;
    const { tokens } = this.meta, cover = this.cover.subarray(attribute * tokens, (attribute + 1) * tokens);
    let inside = 0, total = 0, area = 0, most = 0, hits = 0, touched = 0;
    const top = topOf(weights);
    weights.forEach((weight, i) => {
      inside += (weight * cover[i]) / 255;
      total += weight;
      area += cover[i] / 255 / tokens;
      touched += (cover[i] > 0) / tokens;
      if (weight === top) { most += 1; hits += cover[i] > 0; }
    });
    return { energy: inside / (total || 1), area, pointing: hits / most, chance: touched };
  }
}

// ---------------------------------------------------------------- what is known of many samples
export const predicting = (done, of) => h("label", {}, `Predicting, ${done.toLocaleString("en")} of ` +
  `${of.toLocaleString("en")} `, h("progress", { max: of, value: done }));

/** Asked from the kernel. */
export class AttributeKernel extends Kernel {
  async outcomes(attribute, checkpoint, predict) {
    const { missing, bytes } = await this.ask({ kind: "outcomes", attribute, checkpoint, predict });
    return missing ? { missing } : { codes: bytes };
  }
  progress({ done, of }) { this.note("filter", predicting(done, of)); }
  async find(words, start) { return (await this.ask({ kind: "find", words, start })).sample; }
}

/** The same, worked out from the samples of a saved page. */
export class AttributePages extends Pages {
  async outcomes(name, checkpoint) {
    const { attributes, layers } = this.meta, attribute = attributes.findIndex((each) => each.name === name);
    return { codes: this.samples.map((number) => {
      const sample = this.readable(number, checkpoint);
      if (!sample) return 0;
      const score = sample.score(sample.weights({ layer: layers.length - 1, head: -1, attribute }), attribute);
      const off = sample.truth?.[attribute] && score && score.pointing < 0.5;
      return (CODES[sample.outcome(attribute)] || 0) + (off ? 8 : 0);
    }) };
  }
  /** What `find_terms` makes of words. */
  terms(words) {
    const { attributes, near } = this.meta, indexOf = (name) => attributes.findIndex((each) => each.name === name);
    return words.toLowerCase().split(/\s+/).filter(Boolean).map((term) => {
      const word = term.replace(/^-+/, ""), name = Object.hasOwn(near, word) ? near[word] : "";
      const indices = name ? [indexOf(name.replace("-", ""))]
        : [...attributes.keys()].filter((i) => attributes[i].name.toLowerCase().includes(word));
      if (!indices.length) throw new Error(`no attribute has '${word}' in its name`);
      return [term.startsWith("-") !== name.startsWith("-"), indices];
    });
  }
  async find(words, start) {
    const terms = this.terms(words), first = Math.max(0, this.samples.indexOf(start));
    for (let step = 0; step < this.count; step++) {
      const sample = this.readable(this.samples[(first + step) % this.count], 0);
      if (sample?.truth && terms.every(([absent, indices]) => indices.some((i) => sample.truth[i]) !== absent)) {
        return sample.sample;
      }
    }
    return null;
  }
}

/** The numbers of the samples that came out in one way; the outcomes are those of `outcomes`. */
export function matching({ codes }, outcome, samples) {
  const wanted = (code) => (CODES[outcome] ? (code & 7) === CODES[outcome] : code >= 8);
  return [...codes.keys()].filter((position) => wanted(codes[position]))
    .map((position) => (samples ? samples[position] : position));
}
