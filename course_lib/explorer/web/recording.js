/* Record yourself: the camera is asked for on a click, four seconds of it go to the kernel, and nothing is stored.
 *
 * Python joins this module to the kit and the view of clips.
 */
import { button, download, h, panel } from "../../recorder/web/kit.js";

const LENGTH = 4.8, BITS = 4e6;              // seconds, a little more than the model reads; bits a second
const KINDS = ["video/webm;codecs=vp8", "video/webm", "video/mp4"];        // the first that the browser can write

const refusal = ({ name, message }) => (name === "NotFoundError" ? "No camera was found; connect one."
  : `The browser gives no camera (${message || name}); allow it for this page.`);

/** So many seconds of a stream, as the bytes of a video file. */
async function take(stream, seconds) {
  const mimeType = KINDS.find((kind) => MediaRecorder.isTypeSupported(kind)), parts = [];
  const recorder = new MediaRecorder(stream, { mimeType, videoBitsPerSecond: BITS });
  recorder.ondataavailable = ({ data }) => parts.push(data);
  const stopped = new Promise((done, fail) => { recorder.onstop = done; recorder.onerror = fail; });
  recorder.start();
  setTimeout(() => { if (recorder.state === "recording") recorder.stop(); }, 1000 * seconds);
  await stopped;
  return new Blob(parts, { type: mimeType });
}

/** The button and the panel; `source` is the kernel, `warning` what is to be known before one reads the numbers. */
export function recording({ source, request, warning }) {
  let phase = "closed", stream = null, problem = "", clip = null, left = 0;
  const enter = (next, trouble = "") => { [phase, problem] = [next, trouble]; request(); };
  const release = () => { stream?.getTracks().forEach((track) => track.stop()); stream = null; };
  const close = () => { release(); enter("closed"); };

  async function open() {
    enter("asking");
    try {
      if (!navigator.mediaDevices?.getUserMedia) throw new Error("this page may not use one");
      const wanted = { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: "user" };
      const given = await navigator.mediaDevices.getUserMedia({ video: wanted, audio: false });
      if (phase !== "asking") { given.getTracks().forEach((track) => track.stop()); return; }
      stream = given;
      enter("seeing");
    } catch (error) { enter("open", refusal(error)); }
  }
  async function record() {
    left = Math.floor(LENGTH);
    enter("recording");
    const clock = setInterval(() => { left = Math.max(1, left - 1); request(); }, 1000);
    try {
      const taken = await take(stream, LENGTH);
      release();
      if (phase !== "recording") return;
      enter("reading");
      const bytes = await taken.arrayBuffer();
      await source.ask({ kind: "clip", name: "your clip" }, [bytes]);
      clip = taken;
      enter("done");
    } catch (error) { release(); enter("open", `${error.message}.`); } finally { clearInterval(clock); }
  }
  const save = () => download(clip, `my_clip.${clip.type.includes("mp4") ? "mp4" : "webm"}`);

  const preview = () => h("video", { muted: "", playsinline: "", "aria-label": "what the camera sees",
    draw: [(video) => {
      if (video.srcObject === stream) return;
      Object.assign(video, { srcObject: stream, muted: true });
      video.play().catch(() => {});
    }, stream] });
  const steps = {
    open: () => button("Open the camera", "the browser asks you first", open),
    asking: () => "Waiting for the browser's permission …",
    seeing: () => button("Record four seconds", "look into the camera, and move your face", record),
    recording: () => ["Recording four seconds …", h("b", { class: "left", "aria-hidden": "true" }, left)],
    reading: () => "The face is found and followed, and the model reads the clip …",
    done: () => ["Your clip is shown below.", button("Record again", "open the camera once more", open), button("Save the clip", "as a file on this machine", save)],
  };
  return {
    close,
    button: () => button("Record yourself", "four seconds from your camera, for this model",
      () => (phase === "closed" ? enter("open") : close()), { "aria-expanded": phase !== "closed" }),
    panel: () => (phase === "closed" ? "" : panel("Record yourself", { class: "recording" },
      phase !== "done" && [h("p", {}, "Four seconds from your camera go to this notebook's Python and to no one else. " +
        "Nothing is stored unless you save it."), h("p", { class: "warning" }, warning)],
      stream && (phase === "seeing" || phase === "recording") ? preview() : "",
      h("div", { class: "options", role: "status" }, steps[phase](), problem && h("span", {}, problem),
        button("Close", "stop the camera and close this", close)))),
  };
}
