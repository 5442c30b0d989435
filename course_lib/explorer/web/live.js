/* What the model in a page looks at: the page's own pictures, a photograph, the camera; whole or painted over.
 *
 * Nothing of it leaves the machine: the page's policy forbids every connection. Python joins this module, `model.js`
 * and the view.
 */
import { openModel } from "./model.js";

const SMALLEST = 32, LARGEST = 1024, DRAWS = 16;

// ---------------------------------------------------------------- pictures as the model takes them
const canvasOf = (width, height) => Object.assign(document.createElement("canvas"), { width, height });
const brushOf = (canvas) => canvas.getContext("2d", { willReadFrequently: true });

/** Bytes of red, green, blue and opacity as `3 height width` in [0, 1]. */
export function planar({ data }) {
  const plane = data.length / 4, pixels = new Float32Array(3 * plane);
  for (let i = 0; i < plane; i++) for (let c = 0; c < 3; c++) pixels[c * plane + i] = data[4 * i + c] / 255;
  return pixels;
}

/** A picture that the page carries, pixel by pixel as Python had it: such a page carries PNGs. */
export async function carried(address) {
  const image = new Image();
  image.src = address;
  await image.decode();
  const brush = brushOf(canvasOf(image.naturalWidth, image.naturalHeight));
  brush.drawImage(image, 0, 0);
  return planar(brush.getImageData(0, 0, image.naturalWidth, image.naturalHeight));
}

/** How much each pixel of a line counts for each of a shorter one: the share of it that the new pixel covers. */
function areaWeights(before, after) {
  const scale = before / after;
  return Array.from({ length: after }, (_, i) => {
    const from = i * scale, to = Math.min(from + scale, before), first = Math.floor(from);
    return { first, weights: Array.from({ length: Math.ceil(to - 1e-9) - first }, (_, k) =>
      (Math.min(to, first + k + 1) - Math.max(from, first + k)) / (to - from)) };
  });
}
/** The same for a longer one: Keys' cubic with a = -0.75, as OpenCV has it. */
function cubicWeights(before, after) {
  const near = (x) => (1.25 * x - 2.25) * x * x + 1, far = (x) => ((-0.75 * x + 3.75) * x - 6) * x + 3;
  return Array.from({ length: after }, (_, i) => {
    const at = ((i + 0.5) * before) / after - 0.5, first = Math.floor(at) - 1, x = at - Math.floor(at);
    return { first, weights: [far(1 + x), near(x), near(1 - x), far(2 - x)] };
  });
}

/** The largest piece of the shape `size` from the middle of a canvas, scaled to it as `read_image` does: averaged over
 * areas where it shrinks, bicubic where it grows. Bytes of red, green, blue and opacity. */
export function fitted(canvas, [height, width]) {
  const scale = Math.min(canvas.height / height, canvas.width / width);
  const rows = Math.round(height * scale), columns = Math.round(width * scale);
  const [top, left] = [(canvas.height - rows) >> 1, (canvas.width - columns) >> 1];
  const { data } = brushOf(canvas).getImageData(left, top, columns, rows), result = new ImageData(width, height);
  const weights = scale > 1 ? areaWeights : cubicWeights;
  const [down, right] = [weights(rows, height), weights(columns, width)];
  const inside = (at, last) => Math.max(0, Math.min(last, at));
  const thin = new Float32Array(rows * width * 3);
  for (let y = 0; y < rows; y++) for (let x = 0; x < width; x++) for (let c = 0; c < 3; c++) {
    let sum = 0;
    right[x].weights.forEach((weight, k) => {
      sum += weight * data[4 * (y * columns + inside(right[x].first + k, columns - 1)) + c];
    });
    thin[(y * width + x) * 3 + c] = sum;
  }
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
    for (let c = 0; c < 3; c++) {
      let sum = 0;
      down[y].weights.forEach((weight, k) => {
        sum += weight * thin[(inside(down[y].first + k, rows - 1) * width + x) * 3 + c];
      });
      result.data[4 * (y * width + x) + c] = sum;        // the array rounds and clamps
    }
    result.data[4 * (y * width + x) + 3] = 255;
  }
  return result;
}

/** A bitmap, image or video on white, of at most 1,024 px, cut and scaled to `size`: its pixels, and its address. */
export function taken(source, size, mirrored = false) {
  const [wide, tall] = [source.videoWidth || source.width, source.videoHeight || source.height];
  const shrink = Math.min(1, LARGEST / Math.max(wide, tall));
  const canvas = canvasOf(Math.round(wide * shrink), Math.round(tall * shrink)), brush = brushOf(canvas);
  brush.fillStyle = "#fff";
  brush.fillRect(0, 0, canvas.width, canvas.height);
  if (mirrored) brush.setTransform(-1, 0, 0, 1, canvas.width, 0);
  brush.drawImage(source, 0, 0, canvas.width, canvas.height);
  const piece = fitted(canvas, size), small = canvasOf(piece.width, piece.height);
  brushOf(small).putImageData(piece, 0, 0);
  return { pixels: planar(piece), image: small.toDataURL("image/png") };
}

/** The bytes of a PNG or JPEG, as `taken` makes them. */
export async function takenFile(bytes, size, name = "the image") {
  const bitmap = await createImageBitmap(new Blob([bytes])).catch(() => {
    throw new Error(`“${name}” is no PNG or JPEG that can be read; choose an image file of one of these two kinds`);
  });
  if (Math.min(bitmap.width, bitmap.height) < SMALLEST) {
    const sides = `${bitmap.width} × ${bitmap.height}`;
    throw new Error(`“${name}” has only ${sides} px; choose a PNG or JPEG of at least ${SMALLEST} px`);
  }
  return taken(bitmap, size);
}

/** The camera, opened on a click: `frame()` is what it sees now, as in a mirror. */
export async function openCamera(size) {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Error("This page has no camera here; open the saved file itself in a browser");
  }
  const video = Object.assign(document.createElement("video"), { muted: true, playsInline: true });
  video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" } }).catch((error) => {
    throw new Error(error.name === "NotFoundError" ? "No camera was found; choose a picture"
      : `The browser gives no camera (${error.message || error.name}); allow it for this page, or choose a picture`);
  });
  await video.play();
  return { frame: () => taken(video, size, true),
    close: () => video.srcObject.getTracks().forEach((track) => track.stop()) };
}

// ---------------------------------------------------------------- what a view asks
/** Numbers from 0 up to 1 that are the same for the same seed: Tommy Ettinger's mulberry32. */
function randomFrom(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
/** So many of `tokens` by chance, each at most once: the first steps of Fisher and Yates' shuffle. */
function someOf(tokens, count, random) {
  const all = [...Array(tokens).keys()];
  for (let i = 0; i < count; i++) {
    const j = i + Math.floor(random() * (tokens - i));
    [all[i], all[j]] = [all[j], all[i]];
  }
  return all.slice(0, count);
}

/** What a kernel would answer, from the model that `meta.model` describes, whose bytes end the page's `planes`. */
export class Live {
  constructor(meta, planes) {
    const { at, description } = meta.model;
    this.meta = meta;
    this.size = description.size;
    this.opened = openModel({ description, bytes: planes.slice(at), tokens: meta.tokens });
    this.opened.catch(() => {});
  }
  async look(pixels, options) { return (await this.opened).look(pixels, options); }

  /** One attribute's probability with the picture whole, without `patches`, and without as many at random, `DRAWS`
   * times; all are painted in the picture's mean colour. Without `patches` also those of all attributes. */
  async remove(pixels, patches, attribute) {
    const random = randomFrom(patches.length), { tokens } = this.meta;
    const draws = Array.from({ length: DRAWS }, () => someOf(tokens, patches.length, random));
    const seen = await (await this.opened).looks(pixels, [[], patches, ...draws]);
    const [whole, without, ...others] = seen.map(({ probabilities }) => probabilities[attribute]);
    return { whole, without, random: others, patches, probabilities: [...seen[1].probabilities], draws };
  }

  /** A picture of one's own as `pack_item` packs it: a header, and arrays with a row for each map. */
  async pack({ pixels, image }) {
    const { probabilities, attention } = await this.look(pixels), { tokens } = this.meta;
    const join = (name) => Float32Array.from(attention.flatMap((layer) => [...layer[name]]));
    const [weights, scores] = [join("weights"), join("scores")], count = weights.length / tokens;
    const ofRows = (values, compute) => Float32Array.from({ length: count }, (_, row) =>
      compute(...values.subarray(row * tokens, (row + 1) * tokens)));
    const tops = ofRows(weights, Math.max), low = ofRows(scores, Math.min), high = ofRows(scores, Math.max);
    const rowOf = (i) => Math.floor(i / tokens);
    return [{ checkpoint: 0, image, size: this.size, outlines: null, clear: null, truth: null,
      probabilities: [...probabilities] }, { tops, low, high,
      levels: Uint8Array.from(weights, (weight, i) =>
        Math.round(255 * Math.sqrt(weight / Math.max(tops[rowOf(i)], 1e-30)))),
      scores: Uint8Array.from(scores, (score, i) =>
        Math.round((255 * (score - low[rowOf(i)])) / Math.max(high[rowOf(i)] - low[rowOf(i)], 1e-9))) }];
  }
  close() { this.opened.then((model) => model.close(), () => {}); }
}
