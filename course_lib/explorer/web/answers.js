/* A saved page that holds the model: it answers what a view else asks the kernel.
 *
 * Python joins this module to the parts before it.
 */
import { Live, carried, openCamera, takenFile } from "./live.js";
import { AttributePages, OWN } from "./sample.js";

/** The samples of a saved page; if the page holds the model, also what else a kernel would answer. */
export class LivePages extends AttributePages {
  constructor(model, unpack, note, changed) {
    super(model, unpack, note, changed);
    Object.assign(this, { model, unpack, note, changed, camera: null, shown: 0 });
    const read = this.read;
    this.read = (sample, checkpoint) => {
      if (sample !== OWN) return read(sample, checkpoint);
      if (!this.own || checkpoint) throw new Error("of an image of your own, only the trained model's maps are here");
      return this.own.sample;
    };
    if (this.meta.model) this.start(new Live(this.meta, model.get("planes")));
  }
  get alive() { return Boolean(this.live); }
  has(sample) { return sample === OWN && Boolean(this.own); }

  /** The model is used if it says of a sample what Python said of it; that also warms it up. */
  async start(live) {
    this.live = live;
    try {
      const sample = this.samples.map((number) => this.readable(number, 0)).find(Boolean);
      const { probabilities } = await live.look(await carried(sample.image));
      const off = Math.max(...probabilities.map((p, i) => Math.abs(p - sample.probabilities[i])));
      if (!(off < 0.01)) throw new Error(`it computes other numbers here than in Python, by ${off.toFixed(3)}`);
    } catch (error) {
      this.live = null;
      live.close();
      this.note("image", `The model in this page is not used: ${error.message}.`);
    }
    this.changed();
  }

  async ask({ kind, name, sample, checkpoint, layer, head, attribute, count, patches }, buffers) {
    if (kind === "image") return this.show(await takenFile(buffers[0], this.live.size, name), name);
    const index = this.meta.attributes.findIndex((each) => each.name === attribute);
    const of = this.read(sample, checkpoint), pixels = sample === OWN ? this.own.pixels : await carried(of.image);
    const painted = patches.length ? patches : of.most({ layer, head, attribute: index }, count);
    return this.live.remove(pixels, painted, index);
  }

  /** Let the model look at a picture of one's own, and show it; one that is not `wanted` any more is dropped. */
  async show(picture, name, wanted = () => true) {
    const [header, arrays] = await this.live.pack(picture);
    if (!wanted()) return;
    this.own = { pixels: picture.pixels, sample: this.unpack(this.meta, { ...header, sample: OWN }, arrays) };
    this.shown += 1;
    this.store.forget(OWN);
    this.store.hold(this.own.sample);
    this.model.set("own", this.camera ? `camera, picture ${this.shown}` : name);
    this.model.set("sample", OWN);
    this.model.save_changes();
    this.store.hold(this.own.sample);
  }

  /** Show what the camera sees, picture after picture, until it is stopped or another sample is looked at. */
  async film() {
    const camera = this.camera = await openCamera(this.live.size), goes = () => this.camera === camera;
    const seen = () => goes() && this.model.get("sample") === OWN;
    try {
      await this.show(camera.frame(), "camera", goes);
      while (seen()) {
        await new Promise((done) => { setTimeout(done, 30); });
        await this.show(camera.frame(), "camera", seen);
      }
    } finally { if (goes()) this.stopCamera(); else camera.close(); }
  }
  stopCamera() {
    this.camera?.close();
    this.camera = null;
  }
  close() { this.stopCamera(); this.live?.close(); }
}
