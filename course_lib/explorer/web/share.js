/* What is handed on: the state as an address or as a line of Python, and a card with picture, map and verdict. */
import { addressOf, button, h, sheet } from "../../recorder/web/kit.js";
import { layView, shownImage } from "./picture.js";
import { details, sampleName, verdict } from "./words.js";

const CARD = [1200, 630];

/** A value as Python writes it. */
const python = (value) => (typeof value === "boolean" ? (value ? "True" : "False") : JSON.stringify(value));

/** The call that shows this state in a notebook: what differs from the first state. */
export function callOf(state, initial) {
  const given = Object.entries(state).filter(([name, value]) =>
    JSON.stringify(value) !== JSON.stringify(initial[name]) || ["sample", "attribute"].includes(name));
  return `explorer.create_interactive_viewer(${given.map(([name, value]) => `${name}=${python(value)}`).join(", ")})`;
}

/** A picture to send: the face with the map, what the model sees, the verdict. */
export async function saveCard(sample, s) {
  const [width, height] = CARD, { brush, write, image: lay, save } = sheet(width, height);
  await layView(brush, lay, sample, s, 30, 30, 570);
  const seen = new Image();
  seen.src = sample.image;
  await seen.decode();
  lay(seen, 630, 400, 170);
  write("Where does it look?", 630, 68, 540, 34, true);
  write(verdict(sample, s), 630, 124, 540, 28);
  write(`What the model sees, ${seen.naturalWidth} × ${seen.naturalHeight} px.`, 820, 424, 350, 18);
  write(`${sampleName(sample.sample)}. ${details(sample, s)}`, 820, 478, 350, 15);
  save("card.png");
}

let copied = "";              // the button says so, because the notice stands above, out of sight

export function sharing(v, sample, s, now) {
  const { meta, model, state } = v, framed = location.protocol === "about:";
  const text = meta.kernel ? callOf(state(), v.initial) : `${location.href.split("#")[0]}${addressOf(model, v.initial)}`;
  const what = meta.kernel ? "a line of Python that shows this view" : "the address of this view";
  const copy = async ({ currentTarget }) => {
    const field = currentTarget.closest("section").querySelector("input");
    field.select();
    try { await navigator.clipboard.writeText(field.value); } catch { document.execCommand("copy"); }
    v.note("share", `Copied: ${what}.`);
    copied = text;
  };
  return [h("p", { class: "note" }, meta.kernel
    ? "The whole view, its pins included, as a line of Python for a notebook with the same explorer. For someone " +
      "without one, Card saves a picture with the verdict, and Page (above, on the right) a file that any browser opens."
    : framed ? "This page is shown in a frame, which has no address of its own. Open the saved file itself to share a view."
      : "The whole view, its pins included, is in the address of this page. It helps those who have the same file."),
  h("div", { class: "field sharing" }, h("input", { type: "text", readonly: true, value: text, "aria-label": what,
    onfocus: ({ target }) => target.select() }),
  button(copied === text ? "Copied" : "Copy", `copy ${what}`, copy), button("Card", "save a picture with the face, the map and the verdict",
    () => saveCard(sample, v.indexed({ ...state() }))))];
}
