/* Frames as a film that can be paused: play, speed, and a slider over the frames, for each figure that holds some.
 *
 * `data-film` of the figure holds the frames a second and all frames but the last, which is the figure's own still
 * picture. Without this script the still and its sentence are all there is; who asked for less motion begins with it.
 */
(() => {
  const SPEEDS = [1, 2, 0.25, 0.5];
  const make = (tag, style, properties) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.style.cssText = style;
    return element;
  };

  async function play(figure) {
    const { fps, frames } = JSON.parse(figure.dataset.film), still = figure.querySelector("img");
    if (!frames.every((source) => source.startsWith("data:image/"))) return;    // nothing is fetched
    const pictures = [...frames.map((source) => Object.assign(new Image(), { src: source })), still];
    await Promise.all(pictures.map((picture) => picture.decode()));
    const last = pictures.length - 1, canvas = make("canvas", "display: block; max-width: 100%; cursor: pointer",
      { width: still.naturalWidth, height: still.naturalHeight });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", still.alt);
    const look = "font: inherit; color: inherit; background: none; border: 1px solid currentColor; border-radius: 6px; " +
      "padding: 2px 9px; cursor: pointer; min-width: ";
    const toggle = make("button", `${look}6em`, { type: "button", title: "play or pause (space)" });
    const slider = make("input", "flex: 1; min-width: 60px; accent-color: #4c78b5",
      { type: "range", min: 0, max: last, step: 1, title: "choose a frame (arrow keys)" });
    slider.setAttribute("aria-label", "frame");
    const number = make("output", "color: inherit; font: inherit; padding: 0; white-space: nowrap; font-variant-numeric: tabular-nums");
    const speed = make("button", `${look}3.4em`, { type: "button" });
    const controls = make("div", "display: flex; gap: 10px; align-items: center; margin: 4px 0; " +
      `font: 13px/1.4 system-ui, sans-serif; max-width: ${Math.max(320, still.naturalWidth)}px`);
    controls.append(toggle, slider, number, speed);

    let at = last, playing = !matchMedia("(prefers-reduced-motion: reduce)").matches, rate = SPEEDS[0], shown = 0;
    const show = () => {
      canvas.getContext("2d").drawImage(pictures[at], 0, 0);
      slider.value = at;
      number.value = `${at + 1} / ${last + 1}`;
      slider.setAttribute("aria-valuetext", `${at + 1} of ${last + 1}`);
      toggle.textContent = playing ? "❚❚ Pause" : "▶ Play";
      speed.textContent = `${rate}×`;
      speed.title = `speed ${rate}, click for ${SPEEDS[(SPEEDS.indexOf(rate) + 1) % SPEEDS.length]}`;
    };
    const tick = (now) => {
      if (!playing || !figure.isConnected) return;
      if (now - shown >= 1000 / (fps * rate)) {
        shown = now;
        at = (at + 1) % (last + 1);
        show();
      }
      requestAnimationFrame(tick);
    };
    const set = (wanted) => {
      if (wanted && !playing) requestAnimationFrame(tick);
      playing = wanted;
      show();
    };
    toggle.onclick = canvas.onclick = () => set(!playing);
    slider.onpointerdown = () => set(false);  // also where it stands already
    slider.oninput = () => { at = Number(slider.value); set(false); };
    speed.onclick = () => { rate = SPEEDS[(SPEEDS.indexOf(rate) + 1) % SPEEDS.length]; show(); };
    controls.onkeydown = (event) => {
      event.stopPropagation();                        // a notebook program would take the keys for its cells
      if (/^(Arrow|Page|Home|End)/.test(event.key) && event.target === slider) set(false);    // also at its last place
      if (event.key !== " " || event.target.type === "button") return;
      event.preventDefault();
      set(!playing);
    };
    figure.dataset.lmSuppressShortcuts = "true";      // JupyterLab's own word for the same
    still.hidden = true;
    still.after(canvas, controls);
    show();
    requestAnimationFrame(tick);
  }

  for (const figure of document.querySelectorAll("figure[data-film]:not([data-plays])")) {
    figure.dataset.plays = "";
    play(figure).catch(() => {});                     // a picture that cannot be decoded leaves the still
  }
})();
