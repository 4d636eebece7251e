// What can be set, in which range, and the link that holds it (#nu=1.5&kappa=3…). No DOM.
(function (root) {
  "use strict";

  const stops = (most) => {
    const out = [];
    for (let size = 1; size <= most; size *= 10) for (const k of [1, 2, 5]) if (k * size <= most) out.push(k * size);
    return out;
  };
  const SIZES = [...stops(1e9).filter((n) => n >= 10), Infinity];
  const batches = (n) => (n === Infinity ? stops(1e6) : [...stops(n).filter((b) => b < n), n]);

  const RANGES = {
    nu: [0.6, 3], kappa: [0.2, 8], n: [2, Infinity], alpha: [1e-6, 4], beta: [-0.98, 0.995], b: [1, 1e9],
    last: [100, 1e9],
  };
  const START = { nu: 1.5, kappa: 3, n: 10000, alpha: 0.2, beta: 0, b: 1, last: 1e6 };
  const WHOLE = ["n", "b", "last"];
  const NAMES = { alpha: "lr", beta: "momentum", b: "batch_size", last: "t" }; // in a link, as the package has them

  /** The setting as it can be: inside all ranges, b no more than N. */
  function within(setting) {
    const out = {};
    for (const [key, [low, high]] of Object.entries(RANGES)) {
      const value = Math.min(Math.max(setting[key], low), high);
      out[key] = WHOLE.includes(key) && value !== Infinity ? Math.round(value) : value;
    }
    out.b = Math.min(out.b, out.n);
    return out;
  }

  const short = (value) => (value === Infinity ? "inf" : String(Number(value.toPrecision(12))));

  const toLink = (setting) => "#" + Object.keys(START).map((k) => `${NAMES[k] || k}=${short(setting[k])}`).join("&");

  /** The setting a link holds, and what of it could not be taken. */
  function fromLink(link) {
    const setting = { ...START }, refused = [];
    const keys = Object.fromEntries(Object.keys(START).map((k) => [NAMES[k] || k, k]));
    for (const part of link.replace(/^#/, "").split("&").filter((text) => text)) {
      const [name, text = ""] = part.split("="), key = keys[name];
      const value = text === "inf" ? Infinity : /^[-+.\de]+$/i.test(text) ? Number(text) : NaN;
      if (!key || Number.isNaN(value) || (value === Infinity && key !== "n")) refused.push(part);
      else setting[key] = value;
    }
    const taken = within(setting);
    for (const key of Object.keys(START))
      if (taken[key] !== setting[key]) refused.push(`${NAMES[key] || key}=${short(setting[key])}`);
    return { setting: taken, refused };
  }

  const State = { SIZES, batches, RANGES, START, within, toLink, fromLink };
  if (typeof module !== "undefined" && module.exports) module.exports = State;
  else root.State = State;
})(typeof globalThis !== "undefined" ? globalThis : this);
