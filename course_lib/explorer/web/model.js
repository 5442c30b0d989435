/* A model in the page: the steps that Python wrote down (`live.py`), taken in plain JavaScript by workers.
 *
 * `modelCode` is all that runs in a worker: its text becomes the worker's, so it may use nothing from outside.
 */

/** `open(description, bytes)` makes a function from pixels, `3 height width` in [0, 1], to what the model says. */
export function modelCode() {
  const product = (numbers) => numbers.reduce((a, b) => a * b, 1);

  // -------------------------------------------------------------- numbers
  const POWERS = Array.from({ length: 32 }, (_, exponent) => 2 ** (Math.max(1, exponent) - 25));
  function fromHalf(bits) {
    const exponent = (bits >> 10) & 31, size = ((bits & 1023) + (exponent ? 1024 : 0)) * POWERS[exponent];
    return bits >> 15 ? -size : size;
  }
  /** The arrays of `pack_arrays`, all as float32, which has every number of half precision. */
  function readNumbers(described, bytes) {
    return Object.fromEntries(Object.entries(described).map(([name, { dtype, shape, at }]) => {
      const half = dtype === "float16", { buffer } = bytes.slice(at, at + product(shape) * (half ? 2 : 4));
      const data = half ? Float32Array.from(new Uint16Array(buffer), fromHalf) : new Float32Array(buffer);
      return [name, { shape, data }];
    }));
  }

  // -------------------------------------------------------------- the one loop that takes the time
  /** Rows times rows: c[i, j] = Σ a[i, k] b[j, k], for `m` rows of a, `n` of b and `depth` numbers in each.
   *
   * Four rows of each are taken together, so that eight numbers that are read make sixteen products. At the end the
   * last row stands in for those that are missing, and its results are written twice. */
  function multiply(a, aAt, b, bAt, c, cAt, m, n, depth) {
    for (let i = 0; i < m; i += 4) {
      const i1 = Math.min(i + 1, m - 1), i2 = Math.min(i + 2, m - 1), i3 = Math.min(i + 3, m - 1);
      const a0 = aAt + i * depth, a1 = aAt + i1 * depth, a2 = aAt + i2 * depth, a3 = aAt + i3 * depth;
      const c0 = cAt + i * n, c1 = cAt + i1 * n, c2 = cAt + i2 * n, c3 = cAt + i3 * n;
      for (let j = 0; j < n; j += 4) {
        const j1 = Math.min(j + 1, n - 1), j2 = Math.min(j + 2, n - 1), j3 = Math.min(j + 3, n - 1);
        const b0 = bAt + j * depth, b1 = bAt + j1 * depth, b2 = bAt + j2 * depth, b3 = bAt + j3 * depth;
        let s00 = 0, s01 = 0, s02 = 0, s03 = 0, s10 = 0, s11 = 0, s12 = 0, s13 = 0;
        let s20 = 0, s21 = 0, s22 = 0, s23 = 0, s30 = 0, s31 = 0, s32 = 0, s33 = 0;
        for (let k = 0; k < depth; k++) {
          const p = a[a0 + k], q = a[a1 + k], r = a[a2 + k], s = a[a3 + k];
          const w = b[b0 + k], x = b[b1 + k], y = b[b2 + k], z = b[b3 + k];
          s00 += p * w; s01 += p * x; s02 += p * y; s03 += p * z;
          s10 += q * w; s11 += q * x; s12 += q * y; s13 += q * z;
          s20 += r * w; s21 += r * x; s22 += r * y; s23 += r * z;
          s30 += s * w; s31 += s * x; s32 += s * y; s33 += s * z;
        }
        c[c0 + j] = s00; c[c0 + j1] = s01; c[c0 + j2] = s02; c[c0 + j3] = s03;
        c[c1 + j] = s10; c[c1 + j1] = s11; c[c1 + j2] = s12; c[c1 + j3] = s13;
        c[c2 + j] = s20; c[c2 + j1] = s21; c[c2 + j2] = s22; c[c2 + j3] = s23;
        c[c3 + j] = s30; c[c3 + j1] = s31; c[c3 + j2] = s32; c[c3 + j3] = s33;
      }
    }
  }
  /** b[j, i] = a[i, j] */
  function turn(a, aAt, b, rows, columns) {
    for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) b[j * rows + i] = a[aAt + i * columns + j];
  }
  /** e^x over their sum, in each row of so many numbers. */
  function softmax(from, to, length) {
    for (let at = 0; at < from.length; at += length) {
      let top = -Infinity, sum = 0;
      for (let i = at; i < at + length; i++) top = Math.max(top, from[i]);
      for (let i = at; i < at + length; i++) sum += Math.exp(from[i] - top);
      for (let i = at; i < at + length; i++) to[i] = Math.exp(from[i] - top) / sum;
    }
  }
  /** The error function within 1.2e-7: Press et al., Numerical Recipes, section 6.2, from Chebyshev's coefficients. */
  const ERF = [-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587,
    -0.82215223, 0.17087277];
  function erf(x) {
    const t = 1 / (1 + 0.5 * Math.abs(x)), sum = ERF.reduceRight((above, number) => above * t + number, 0);
    return Math.sign(x) * (1 - t * Math.exp(-x * x + sum));
  }

  // -------------------------------------------------------------- steps: each makes a function that fills `out`
  const each = (compute) => (step, out, [x]) => () => {
    for (let i = 0; i < out.length; i++) out[i] = compute(x.data[i]);
  };

  const stridesOf = (shape) => shape.map((_, axis) => product(shape.slice(axis + 1)));
  /** Where each number of a result of this shape comes from, if an array of another shape is repeated to fit it. */
  function repeated(shape, to) {
    const strides = stridesOf(shape), ahead = to.length - shape.length, wide = stridesOf(to);
    return Int32Array.from({ length: product(to) }, (_, i) => shape.reduce((at, side, axis) => at +
      (side === 1 ? 0 : (Math.floor(i / wide[axis + ahead]) % to[axis + ahead]) * strides[axis]), 0));
  }
  const both = (compute) => (step, out, parts) => {
    const [x, y] = parts.map((part) => (typeof part === "number" ? { shape: [1], data: [part] } : part));
    const [from, other] = [x, y].map(({ shape }) => repeated(shape, step.shape));
    return () => { for (let i = 0; i < out.length; i++) out[i] = compute(x.data[from[i]], y.data[other[i]]); };
  };

  /** Rows of numbers, all of which one function changes. */
  const rows = (compute) => (step, out, [x, ...more]) => {
    const length = step.shape.at(-1);
    return () => { for (let at = 0; at < out.length; at += length) compute(x.data, out, at, length, step, more); };
  };
  function layerNorm(x, out, at, length, { eps }, [weight, bias]) {
    let mean = 0, variance = 0;
    for (let i = 0; i < length; i++) mean += x[at + i] / length;
    for (let i = 0; i < length; i++) variance += (x[at + i] - mean) ** 2 / length;
    const scale = 1 / Math.sqrt(variance + eps);
    for (let i = 0; i < length; i++) {
      out[at + i] = (x[at + i] - mean) * scale * (weight ? weight.data[i] : 1) + (bias ? bias.data[i] : 0);
    }
  }
  function normalize(x, out, at, length, { eps }) {
    let square = 0;
    for (let i = at; i < at + length; i++) square += x[i] ** 2;
    const most = Math.max(Math.sqrt(square), eps);
    for (let i = at; i < at + length; i++) out[i] = x[i] / most;
  }

  function affine(step, out, [x, scale, shift]) {
    const plane = product(step.shape.slice(2)), channels = step.shape[1];
    return () => {
      for (let i = 0; i < out.length; i++) {
        const channel = Math.floor(i / plane) % channels;
        out[i] = x.data[i] * scale.data[channel] + shift.data[channel];
      }
    };
  }

  /** Every place's surroundings as a row; times the kernels, which are rows too. */
  function convolution({ shape, stride, padding, dilation, groups }, out, [x, weight, bias]) {
    const [, , height, width] = x.shape, [, channels, tall, wide] = shape;
    const [kernels, inside, kernelHeight, kernelWidth] = weight.shape;
    const depth = inside * kernelHeight * kernelWidth, places = tall * wide, own = kernels / groups;
    const patches = new Float32Array(places * depth);
    const gather = (group) => {
      let to = 0;
      for (let row = 0; row < tall; row++) for (let column = 0; column < wide; column++) {
        for (let c = 0; c < inside; c++) for (let ky = 0; ky < kernelHeight; ky++) {
          const y = row * stride[0] - padding[0] + ky * dilation[0];
          const from = ((group * inside + c) * height + y) * width;
          for (let kx = 0; kx < kernelWidth; kx++) {
            const right = column * stride[1] - padding[1] + kx * dilation[1];
            patches[to++] = y >= 0 && y < height && right >= 0 && right < width ? x.data[from + right] : 0;
          }
        }
      }
    };
    return () => {
      for (let group = 0; group < groups; group++) {
        gather(group);
        multiply(weight.data, group * own * depth, patches, 0, out, group * own * places, own, places, depth);
      }
      if (bias) for (let i = 0; i < channels * places; i++) out[i] += bias.data[Math.floor(i / places)];
    };
  }

  function linear(step, out, [x, weight, bias]) {
    const [width, depth] = weight.shape, count = out.length / width;
    return () => {
      multiply(x.data, 0, weight.data, 0, out, 0, count, width, depth);
      if (bias) for (let i = 0; i < out.length; i++) out[i] += bias.data[i % width];
    };
  }

  /** Matrices side by side: as many of the one as of the other. */
  function matmul(step, out, [x, y]) {
    const [m, depth] = x.shape.slice(-2), n = y.shape.at(-1), count = out.length / (m * n);
    if (product(x.shape) / (m * depth) !== count || product(y.shape) / (depth * n) !== count) {
      throw new Error("matmul repeats one of its sides");
    }
    const turned = new Float32Array(n * depth);
    return () => {
      for (let at = 0; at < count; at++) {
        turn(y.data, at * depth * n, turned, depth, n);
        multiply(x.data, at * m * depth, turned, 0, out, at * m * n, m, n, depth);
      }
    };
  }

  /** softmax(q kᵀ · scale) v; the weights and the scores before the softmax stay readable in `step`. */
  function attention(step, out, [q, k, v]) {
    const [queries, keys] = step.weights.slice(-2), dim = q.shape.at(-1), wide = v.shape.at(-1);
    const heads = product(step.weights) / (queries * keys), turned = new Float32Array(keys * wide);
    const scores = step.scores = new Float32Array(product(step.weights));
    const weights = step.shares = new Float32Array(scores.length);
    return () => {
      for (let head = 0; head < heads; head++) {
        const [fromQuery, fromKey] = [head * queries * dim, head * keys * dim];
        multiply(q.data, fromQuery, k.data, fromKey, scores, head * queries * keys, queries, keys, dim);
      }
      for (let i = 0; i < scores.length; i++) scores[i] *= step.scale;
      softmax(scores, weights, keys);
      for (let head = 0; head < heads; head++) {
        turn(v.data, head * keys * wide, turned, keys, wide);
        multiply(weights, head * queries * keys, turned, 0, out, head * queries * wide, queries, wide, keys);
      }
    };
  }

  function permute({ shape, axes }, out, [x]) {
    const strides = stridesOf(x.shape), wide = stridesOf(shape);
    const from = Int32Array.from({ length: out.length }, (_, i) =>
      axes.reduce((at, axis, j) => at + (Math.floor(i / wide[j]) % shape[j]) * strides[axis], 0));
    return () => { for (let i = 0; i < out.length; i++) out[i] = x.data[from[i]]; };
  }

  /** A matrix for the rows and one for the columns: rows · x · columnsᵀ, for each channel. */
  function separable({ shape }, out, [x, rows_, columns]) {
    const [, channels, height, width] = x.shape, [tall, wide] = shape.slice(-2);
    const thin = new Float32Array(height * wide), turned = new Float32Array(wide * height);
    return () => {
      for (let c = 0; c < channels; c++) {
        multiply(x.data, c * height * width, columns.data, 0, thin, 0, height, wide, width);
        turn(thin, 0, turned, height, wide);
        multiply(rows_.data, 0, turned, 0, out, c * tall * wide, tall, wide, height);
      }
    };
  }

  /** A sum of products over the letters that the result lacks, number by number: for small ones. */
  function einsum({ equation }, out, [x, y]) {
    const [inputs, kept] = equation.split("->"), [one, other] = inputs.split(","), sides = {};
    [[one, x], [other, y]].forEach(([letters, { shape }]) => [...letters].forEach((l, i) => { sides[l] = shape[i]; }));
    const letters = [...kept, ...Object.keys(sides).filter((letter) => !kept.includes(letter))];
    const whole = stridesOf(letters.map((letter) => sides[letter])), total = product(Object.values(sides));
    const placed = (own) => {
      const strides = stridesOf([...own].map((letter) => sides[letter]));
      return Int32Array.from({ length: total }, (_, i) => [...own].reduce((at, letter, axis) => {
        const j = letters.indexOf(letter);
        return at + (Math.floor(i / whole[j]) % sides[letter]) * strides[axis];
      }, 0));
    };
    const a = placed(one), b = placed(other), inner = total / out.length;
    return () => {
      for (let i = 0; i < out.length; i++) {
        let sum = 0;
        for (let k = i * inner; k < (i + 1) * inner; k++) sum += x.data[a[k]] * y.data[b[k]];
        out[i] = sum;
      }
    };
  }
  function sum(step, out, [x]) {
    const length = x.shape.at(-1);
    return () => {
      for (let i = 0; i < out.length; i++) {
        out[i] = 0;
        for (let k = i * length; k < (i + 1) * length; k++) out[i] += x.data[k];
      }
    };
  }
  const sigmoid = (x) => 1 / (1 + Math.exp(-x));
  const STEPS = {
    convolution, affine, linear, matmul, attention, permute, separable, einsum, sum,
    "layer norm": rows(layerNorm), normalize: rows(normalize),
    relu: each((x) => (x > 0 ? x : 0)), gelu: each((x) => 0.5 * x * (1 + erf(x * Math.SQRT1_2))),
    sigmoid: each(sigmoid), tanh: each(Math.tanh), silu: each((x) => x * sigmoid(x)),
    add: both((a, b) => a + b), sub: both((a, b) => a - b), mul: both((a, b) => a * b), div: both((a, b) => a / b),
    softmax: (step, out, [x]) => {
      [step.scores, step.shares] = [x.data, out];
      return () => softmax(x.data, out, step.shape.at(-1));
    },
  };

  // -------------------------------------------------------------- a whole model
  function open(description, bytes) {
    const values = readNumbers(description.arrays, bytes), { size } = description, acts = [];
    const image = values.v0 = { shape: [1, 3, ...size], data: new Float32Array(3 * product(size)) };
    const byName = {};
    for (const step of description.steps.map((one) => ({ ...one }))) {
      const parts = step.of.map((part) => (typeof part === "string" ? values[part] : part));
      byName[step.to] = step;
      if (step.do === "reshape") { values[step.to] = { shape: step.shape, data: parts[0].data }; continue; }
      const out = new Float32Array(product(step.shape));
      if (!(step.do in STEPS)) throw new Error(`the page knows no step "${step.do}"`);
      acts.push(STEPS[step.do](step, out, parts));
      values[step.to] = { shape: step.shape, data: out };
    }
    return (pixels) => {
      image.data.set(pixels);
      for (const act of acts) act();
      const logits = values[description.logits].data.slice();
      const layers = description.attention.map((name) => {
        const { scores, shares, weights, shape } = byName[name], [, heads, queries, tokens] = weights || shape;
        return { heads, queries, tokens, weights: shares.slice(), scores: scores.slice() };
      });
      return { logits, probabilities: Float32Array.from(logits, sigmoid), attention: layers };
    };
  }

  /** The pixels with these tokens of a square grid painted in a colour, by default the image's mean. */
  function painted(pixels, [height, width], tokens, masked, fill) {
    const side = Math.round(Math.sqrt(tokens)), plane = height * width, hidden = new Set(masked);
    const result = pixels.slice();
    if (!hidden.size) return result;
    for (let c = 0; c < 3; c++) {
      let mean = 0;
      for (let i = c * plane; i < (c + 1) * plane; i++) mean += pixels[i] / plane;
      for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
        const token = Math.floor(((y + 0.5) * side) / height) * side + Math.floor(((x + 0.5) * side) / width);
        if (hidden.has(token)) result[c * plane + y * width + x] = fill ? fill[c] : mean;
      }
    }
    return result;
  }

  /** Answer the page's questions, one after the other: `{ question, pixels, masked, fill }`. */
  function serve(scope) {
    let look = null, size = null, tokens = 0;
    scope.onmessage = ({ data }) => {
      const { question } = data;
      try {
        if (data.description) {
          look = open(data.description, data.bytes);
          ({ size } = data.description);
          tokens = data.tokens;
          scope.postMessage({ question });
        } else {
          const start = performance.now();
          const seen = look(painted(data.pixels, size, tokens, data.masked, data.fill));
          scope.postMessage({ question, seen: { ...seen, milliseconds: performance.now() - start } });
        }
      } catch (error) { scope.postMessage({ question, failed: error.message }); }
    };
  }
  return { open, painted, serve };
}

// ---------------------------------------------------------------- the page's side
/** One worker with the model in it. */
class ModelWorker {
  constructor(description, bytes, tokens) {
    const address = URL.createObjectURL(new Blob([`(${modelCode})().serve(self);`], { type: "text/javascript" }));
    Object.assign(this, { waiting: new Map(), number: 0, worker: new Worker(address) });
    this.worker.onmessage = ({ data: { question, failed, seen } }) => {
      const { resolve, reject } = this.waiting.get(question);
      this.waiting.delete(question);
      if (failed) reject(new Error(failed)); else resolve(seen);
    };
    this.worker.onerror = (event) => {
      event.preventDefault?.();
      for (const { reject } of this.waiting.values()) reject(new Error(event.message || "no worker could be started"));
      this.waiting.clear();
    };
    this.ready = this.ask({ description, bytes, tokens });
    this.ready.finally(() => URL.revokeObjectURL(address)).catch(() => {});
  }
  ask(content) {
    return new Promise((resolve, reject) => {
      const question = this.number++;
      this.waiting.set(question, { resolve, reject });
      this.worker.postMessage({ ...content, question });
    });
  }
  close() { this.worker.terminate(); }
}

/** The packed model in so many workers, by default one a core up to four; the others start when there is work for them.
 *
 * `look(pixels, { masked, fill })` promises `{ logits, probabilities, attention, milliseconds }`, where a layer's
 * `weights` and `scores` are `heads queries tokens`; `masked` are tokens that are painted over. `looks(pixels, lists)`
 * does so for several lists of tokens. */
export async function openModel({ description, bytes, tokens }, { workers = navigator.hardwareConcurrency || 1 } = {}) {
  const [height, width] = description.size, start = () => new ModelWorker(description, bytes, tokens);
  const team = [start()];
  await team[0].ready;
  const looks = (pixels, lists, fill) => {
    if (pixels.length !== 3 * height * width) {
      throw new Error(`the image has ${pixels.length} numbers, expected 3 × ${height} × ${width}`);
    }
    while (team.length < Math.min(workers, 4, lists.length)) team.push(start());
    return Promise.all(lists.map((masked, k) => team[k % team.length].ask({ pixels, masked, fill })));
  };
  return {
    size: [height, width], looks,
    look: async (pixels, { masked = [], fill } = {}) => (await looks(pixels, [masked], fill))[0],
    close: () => team.forEach((worker) => worker.close()),
  };
}
