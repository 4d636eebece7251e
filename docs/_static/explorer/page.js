// The page: sliders, the point in the plane, the link, the file. Numbers come from Theory, pictures from Drawing.
(function () {
  "use strict";
  const { number, power } = Drawing, byId = (id) => document.getElementById(id);
  const PAUSE = 900, CALM = 150; // ms: after which a change is a new one; and until the map is computed
  const SIGNS = { nu: "ν", kappa: "κ", n: "N", alpha: "α", beta: "β", b: "b", last: "t" };

  const logarithmic = { get: (v) => Math.log10(v), set: (x) => Number((10 ** x).toPrecision(3)), step: 0.01 };
  const stops = (list) => ({
    get: (v) => list().reduce((best, stop, i) => (Math.abs(Math.log(Math.min(stop, 1e12) / Math.min(v, 1e12))) <
      Math.abs(Math.log(Math.min(list()[best], 1e12) / Math.min(v, 1e12))) ? i : best), 0),
    set: (i) => list()[Math.round(i)], step: 1, range: () => [0, list().length - 1],
  });
  const plain = (step) => ({ get: (v) => v, set: (x) => Number(x.toPrecision(6)), step });
  const SLIDERS = [
    { key: "nu", label: "ν, eigenvalues k<sup>−ν</sup>", ...plain(0.05) },
    { key: "kappa", label: "κ, errors k<sup>−κ−1</sup>", ...plain(0.1) },
    { key: "n", label: "N, training points", ...stops(() => State.SIZES) },
    { key: "b", label: "b, batch size", ...stops(() => State.batches(now.n)) },
    { key: "alpha", label: "α, learning rate", ...logarithmic },
    { key: "beta", label: "β, momentum", ...plain(0.005) },
    { key: "last", label: "t, last step", ...logarithmic, set: (x) => Math.round(10 ** x), step: 0.5 },
  ];

  let now = { ...State.START }, view = null, ghost = null, changedAt = -Infinity, due = false, later = null;
  let region = { key: "" }, map = { key: "" };

  // ---- what is shown ----------------------------------------------------------------------------------------------

  const shown = (key, value = now[key]) =>
    key === "beta" || key === "nu" || key === "kappa" ? number(value, 4) : number(value);
  const title = () => Object.keys(SIGNS).slice(0, 6).map((key) => `${SIGNS[key]} = ${shown(key)}`).join(", ");

  /** One sentence, and others below it; HTML. */
  function verdict() {
    if (!view) return ["", []];
    const { stable, top, rate, steps, log } = view, limit = number(top, 4), end = number(steps[steps.length - 1]);
    const here = `${limit}, the largest stable one here.`;
    if (!stable)
      return [`Diverges: α = ${shown("alpha")} is not below ${here}`,
        [`In the end the loss grows like e<sup>${number(Math.max(rate, 0))} t</sup>.`]];
    const value = log[log.length - 1];
    let late = `At t = ${end} the loss is ${Number.isFinite(value) ? `${ofStart(value)} of its start` : "not known to 10⁻³"}.`;
    if (rate < 0 && -1 / rate < steps[steps.length - 1])
      late += ` From t ≈ ${number(-1 / rate)} on it falls exponentially, as N is finite.`;
    return [`Stable: α = ${shown("alpha")} is below ${here}`, [lawInWords(), late, bestInWords(value, end)]];
  }

  function lawInWords() {
    const { law, window, steps, log } = view, end = steps.filter((_, i) => Number.isFinite(log[i])).pop() ?? 1;
    if (law.exponent === null) return "For ν ≤ 1 no power law is known. As N grows, the largest stable α goes to 0.";
    const name = law.phase[0].toUpperCase() + law.phase.slice(1);
    const formula = `loss ≈ ${number(law.constant)} t<sup>−${number(law.exponent)}</sup>`;
    if (!window) return `${name}. Up to t = ${number(end)} its power law, ${formula}, holds nowhere to 10%.`;
    const until = window[1] === end ? `${number(end)} at least` : `${number(window[1])}, elsewhere it does not hold`;
    return `${name}: ${formula}, to 10% from t = ${number(window[0])} to ${until}.`;
  }

  function bestInWords(value, end) {
    if (map.best === undefined) return `Looking for the least loss at t = ${end} …`;
    if (!map.best) return `The least loss at t = ${end} is not known.`;
    const { alpha, beta, log, edge } = map.best, gain = value - log;
    const less = !Number.isFinite(gain) ? "" : gain < 0.005 ? ", as low as here" : gain < 0.3
      ? `, ${number(100 * -Math.expm1(-gain), 2)}% lower` : gain < 7
        ? `, ${number(Math.exp(gain), 2)} times lower` : `, ${power(Math.round(gain / Math.LN10))} times lower`;
    return `Least possible at t = ${end}: with α = ${number(alpha)}, β = ${number(beta)}${less}${edge ? "; the edge of what was tried" : ""}.`;
  }

  function ofStart(log) {
    const k = Math.floor(log / Math.LN10), front = number(10 ** (log / Math.LN10 - k));
    return k >= -3 ? number(Math.exp(log)) : `${front}·${power(k)}`;
  }

  const colors = () => (matchMedia("(prefers-color-scheme: dark)").matches ? Drawing.DARK : Drawing.LIGHT);
  function sizes() {
    const narrow = innerWidth <= 700, wide = (id) => Math.floor(byId(id).clientWidth);
    const tall = Math.min(Math.max(innerHeight - 245, 400), 640);
    return {
      curve: [wide("curve"), narrow ? 330 : innerWidth <= 1020 ? 360 : tall],
      plane: [wide("plane"), narrow ? 470 : innerWidth <= 1020 ? 560 : tall],
    };
  }
  const planeOf = ([width, height]) => Drawing.plane(region.low, width, height);
  const inPlane = () => ({ setting: now, view, region, map: map.map, best: map.best, low: region.low });

  function draw() {
    due = false;
    compute();
    const { curve, plane } = sizes(), look = colors(), [first, more] = verdict();
    byId("verdict").innerHTML = first;
    byId("verdict").className = view && !view.stable ? "diverges" : "";
    byId("details").innerHTML = more.map((words) => `<li>${words}</li>`).join("");
    byId("curve").innerHTML = view ? Drawing.curve(view, ghost, look, ...curve) : "";
    byId("pictured").innerHTML = region.low ? Drawing.stability(inPlane(), look, ...plane) : "";
    byId("handle").hidden = !region.low;
    if (region.low) {
      const at = planeOf(plane), y = Math.min(Math.max(at.y(Math.log10(now.alpha)), at.top), at.bottom);
      Object.assign(byId("handle").style, { left: `${at.x(now.beta)}px`, top: `${y}px` });
    }
    sliders();
    byId("best").disabled = !map.best;
    byId("unstable").disabled = byId("file").disabled = !view;
    document.documentElement.dataset.drawn = State.toLink(now); // for whoever waits for it
  }
  const redraw = () => { if (!due) { due = true; requestAnimationFrame(draw); } };

  function compute() {
    const { nu, kappa, n, b, last } = now;
    try {
      view = { ...Theory.view(now), setting: now };
      if (region.key !== [nu, kappa, n, b].join()) {
        region = { key: [nu, kappa, n, b].join(), ...Theory.region(now) };
        region.low = Drawing.lowest(region);
      }
    } catch (error) {
      [view, ghost, region] = [null, null, { key: "" }];
      notice(error.message);
    }
    const key = [nu, kappa, n, b, last].join();
    if (map.key !== key) {
      map = { key };
      clearTimeout(later);
      if (view) later = setTimeout(fill, CALM, key, Theory.map(now), 0);
    }
  }

  /** The map, a row at a time so that sliders stay quick; then the best point. */
  function fill(key, cells, row) {
    if (key !== map.key) return;
    if (row < cells.rows.length) {
      cells.fill(row);
      later = setTimeout(fill, 0, key, cells, row + 1);
      return;
    }
    Object.assign(map, { map: cells, best: Theory.best(now, cells) });
    document.documentElement.dataset.mapped = key;
    redraw();
  }

  // ---- what is set ------------------------------------------------------------------------------------------------

  function change(some) {
    const time = performance.now();
    if (view && time - changedAt > PAUSE) ghost = { ...view };
    changedAt = time;
    now = State.within({ ...now, ...some });
    if (ghost) {
      const keys = Object.keys(SIGNS).filter((key) => key !== "last" && ghost.setting[key] !== now[key]);
      if (keys.length) ghost.changed = keys.map((key) => `${SIGNS[key]} = ${shown(key, ghost.setting[key])}`).join(", ");
      else ghost = null;
    }
    notice("");
    try {
      history.replaceState(null, "", State.toLink(now));
    } catch {
      location.hash = State.toLink(now);
    }
    redraw();
  }

  function notice(words) {
    byId("notice").textContent = words;
    byId("notice").hidden = !words;
  }

  function fromAddress() {
    const { setting, refused } = State.fromLink(location.hash);
    changedAt = performance.now();
    ghost = null;
    now = setting;
    notice(refused.length ? `Not taken from the link: ${refused.join(", ")}` : "");
    redraw();
  }

  function sliders() {
    for (const { key, get, range } of SLIDERS) {
      const input = byId(key);
      if (range) [input.min, input.max] = range();
      input.value = get(now[key]);
      const words = key === "b" && now.b === now.n ? `${shown(key)} (full batch)` : shown(key);
      byId(`${key}-value`).textContent = words;
      input.setAttribute("aria-valuetext", words);
    }
  }

  function controls() {
    const rows = SLIDERS.map(({ key, label, get, step, range }) => {
      const [low, high] = range ? range() : State.RANGES[key].map(get);
      return `<div class="row"><label for="${key}"><span>${label}</span><output id="${key}-value" for="${key}"></output>` +
        `</label><input type="range" id="${key}" min="${low}" max="${high}" step="${step}"></div>`;
    });
    const buttons = [["best", "Best point"], ["unstable", "Just unstable"], ["link", "Copy link"], ["file", "Save SVG"],
      ["start", "Start again"], ["forget", "Hide old curve"]];
    byId("controls").innerHTML = rows.join("") + `<div class="buttons">${buttons.map(([id, words]) =>
      `<button type="button" id="${id}">${words}</button>`).join("")}</div>`;
    for (const { key, set } of SLIDERS)
      byId(key).addEventListener("input", (event) => change({ [key]: set(Number(event.target.value)) }));
    const on = (id, act) => byId(id).addEventListener("click", act);
    on("best", () => { apart(); change({ alpha: Number(map.best.alpha.toPrecision(3)), beta: Number(map.best.beta.toFixed(3)) }); });
    on("unstable", () => { apart(); change({ alpha: Number((1.01 * view.top).toPrecision(4)) }); });
    on("start", () => { apart(); change(State.START); });
    on("forget", () => { ghost = null; redraw(); });
    on("link", copy);
    on("file", save);
  }
  const apart = () => { changedAt = -Infinity; }; // a jump is a change by itself

  async function copy() {
    try {
      await navigator.clipboard.writeText(location.href);
      notice("Copied: this link holds the whole setting.");
    } catch {
      notice("The address above holds the whole setting; copy it from there.");
    }
  }

  function save() {
    const widths = [640, 480], height = 480, look = Drawing.LIGHT;
    const svg = Drawing.sheet(title(), Drawing.curve(view, ghost, look, widths[0], height),
      Drawing.stability(inPlane(), look, widths[1], height), widths, height);
    const address = URL.createObjectURL(new Blob([svg], { type: "image/svg+xml" }));
    Object.assign(document.createElement("a"), { href: address, download: "sgdsim.svg" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  }

  /** The point: dragged by its handle, set by a click into the plane, moved by arrow keys. */
  function plane() {
    const place = (event) => {
      const at = planeOf(sizes().plane), box = byId("plane").getBoundingClientRect();
      const x = event.clientX - box.left, y = event.clientY - box.top;
      return { beta: Number(at.unX(x).toFixed(3)), alpha: Number((10 ** at.unY(y)).toPrecision(3)),
        inside: x >= at.left && x <= at.right && y >= at.top && y <= at.bottom };
    };
    const handle = byId("handle");
    let held = false;
    handle.addEventListener("pointerdown", (event) => { held = true; handle.setPointerCapture(event.pointerId); });
    handle.addEventListener("pointermove", (event) => { if (held) change(place(event)); });
    for (const name of ["pointerup", "pointercancel"]) handle.addEventListener(name, () => { held = false; });
    handle.addEventListener("keydown", (event) => {
      const [right, up] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key] || [];
      if (right === undefined) return;
      event.preventDefault();
      change({ beta: Number((now.beta + 0.01 * right).toFixed(3)), alpha: Number((now.alpha * 10 ** (0.02 * up)).toPrecision(3)) });
    });
    byId("pictured").addEventListener("click", (event) => {
      const to = region.low && place(event);
      if (to && to.inside) change(to);
    });
  }

  controls();
  plane();
  const docs = location.protocol === "file:" && location.pathname.includes("/docs/_static/");
  byId("home").hidden = docs; // there the pages are not built
  addEventListener("hashchange", fromAddress);
  addEventListener("resize", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  fromAddress();
})();
