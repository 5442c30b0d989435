/* A face with a map over it and the true region around what decides; and the same as a file. */
import {
  MAP_COLOUR, border, h, paintMap, paintOver, paintValues, patchGrid, patchStyle, sheet, toLevel, tokenView,
  weightsOf,
} from "../../recorder/web/kit.js";
import { details, sampleName, verdict } from "./words.js";

// One colour a head, told apart by every kind of eye, and by no skin or hair.
export const HEAD_COLOURS = [[225, 0, 190], [0, 114, 255], [0, 170, 80], [255, 140, 0], [0, 190, 200], [120, 70, 255],
  [190, 205, 0], [255, 60, 60]];
export const headColour = (head) => HEAD_COLOURS[head % HEAD_COLOURS.length];

/** All heads of a layer in one map, each in its colour: opaque where one of them looks most. */
function paintTogether(canvas, sample, { layer, attribute, lift }) {
  const { tokens, layers } = sample.meta, columns = Math.sqrt(tokens);
  const maps = Array.from({ length: layers[layer].heads }, (_, head) => sample.map(layer, head, attribute));
  const shares = maps.map((map) => weightsOf(map).map((weight) => weight / (map.top || 1)));
  paintValues(canvas, Array.from({ length: tokens }, (_, i) => i), columns, (i) => {
    const most = Math.max(...shares.map((share) => share[i])), colour = [0, 0, 0];
    let total = 0;
    shares.forEach((share, head) => {
      total += share[i] ** 2;
      headColour(head).forEach((value, c) => { colour[c] += share[i] ** 2 * value; });
    });
    return [...colour.map((sum) => sum / (total || 1)), toLevel(most, lift)];
  });
}
/** What lies over the picture: the map of the state, or of all heads together. */
export function paintState(canvas, sample, s) {
  if (s.together) paintTogether(canvas, sample, s);
  else paintOver(canvas, sample.weights(s), sample.scale(s), Math.sqrt(sample.meta.tokens), s.lift);
}

/** The picture that a state shows: the clear twin, if there is one and it is wanted, or what the model sees. */
export const shownImage = (sample, { clear }) => (clear && sample.clear) || sample.image;

/** `s` is the state with the attribute's index; `painted` are patches that are painted over, `marks` lie on top. */
export function picture(sample, s, painted, { marks = [], ...more }) {
  const { layer, head, attribute, lift, together } = s, grid = patchGrid(sample.meta.tokens);
  const draw = [(canvas) => paintState(canvas, sample, s), sample, layer, head, attribute, lift, together];
  const over = [border((s.outlined && sample.outlines?.[attribute]) || "", sample.size),
    h("div", { class: "masked", "aria-hidden": "true" },
      painted.map((patch) => h("i", { style: patchStyle(patch, grid.place) }))), marks];
  return tokenView(grid, { image: shownImage(sample, s), label: "patches of the image", draw, over, chosen: s.patch,
    lowest: -1, smooth: s.smooth, style: `--strength:${s.strength}`, alt: s.clear && sample.clear
      ? "the face, drawn clearly" : "the face as the model sees it", ...more });
}

/** Lay a view on a sheet: the face, its map and the true region. */
export async function layView(brush, lay, sample, s, x, y, side) {
  const outline = s.outlined && sample.outlines?.[s.attribute], image = new Image();
  const canvas = document.createElement("canvas");
  image.src = shownImage(sample, s);
  await image.decode();
  lay(image, x, y, side);
  paintState(canvas, sample, s);
  brush.globalAlpha = s.strength;
  if (s.smooth) lay(canvas, x, y, side); else brush.drawImage(canvas, x, y, side, side);
  brush.globalAlpha = 1;
  if (!outline) return;
  brush.save();
  brush.translate(x, y);
  brush.scale(side / sample.size[1], side / sample.size[0]);
  for (const [colour, thick] of [["#141414", 3.5], ["#fff", 1.5]]) {
    brush.strokeStyle = colour;
    brush.lineWidth = (thick * sample.size[1]) / side;
    brush.stroke(new Path2D(outline));
  }
  brush.restore();
}

/** The view and its pins as one PNG. */
export async function savePng(shots) {
  const side = 420, gap = 24, width = Math.max(gap + shots.length * (side + gap), 560);
  const { brush, write, image: lay, save } = sheet(width, side + 300);
  for (const [k, [sample, s]] of shots.entries()) {
    const x = gap + k * (side + gap);
    await layView(brush, lay, sample, s, x, gap, side);
    write(`${sampleName(sample.sample)}. ${verdict(sample, s)} ${details(sample, s)}`, x, gap + side + 26,
      shots.length > 1 ? side : width - 2 * gap);
  }
  save("attention.png");
}

/** A small map by itself, in the colour of maps; of one head in its own colour if the heads stand together. */
export const paintSmall = (canvas, map, columns, lift, colour = MAP_COLOUR, top = map.top) => paintValues(canvas,
  weightsOf(map), columns, (weight) => [...colour, toLevel(weight / (top || 1), lift)]);

/** Numbers from low to high as a picture of patches: what a softmax is taken of. */
export const paintComparisons = (canvas, values, columns) => {
  const low = Math.min(...values), high = Math.max(...values);
  paintMap(canvas, { values: Uint8Array.from(values, (v) => Math.round(255 * Math.sqrt((v - low) / (high - low || 1)))),
    levels: 255 }, columns, values.length / columns, false);
};

/** A file as a PNG of at most 1,024 px; an error says why it cannot be taken. */
export async function readPicture(file) {
  const start = new Uint8Array(await file.slice(0, 4).arrayBuffer());
  const kinds = [[0x89, 0x50, 0x4e, 0x47], [0xff, 0xd8, 0xff]];
  const is = (magic) => magic.every((byte, i) => start[i] === byte);
  const refuse = (why) => { throw new Error(`“${file.name}” ${why}; choose a PNG or JPEG of at least 32 px`); };
  if (!kinds.some(is)) refuse("is no PNG or JPEG");
  const bitmap = await createImageBitmap(file).catch(() => refuse("is damaged"));
  if (Math.min(bitmap.width, bitmap.height) < 32) refuse(`has only ${bitmap.width} × ${bitmap.height} px`);
  const shrink = Math.min(1, 1024 / Math.max(bitmap.width, bitmap.height));
  const canvas = Object.assign(document.createElement("canvas"),
    { width: Math.round(bitmap.width * shrink), height: Math.round(bitmap.height * shrink) });
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
  return blob.arrayBuffer();
}
