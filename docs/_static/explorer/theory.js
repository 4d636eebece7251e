// What theory says about one setting: the largest stable learning rate, the power law and where it holds, the best
// point; as sgdsim.theory.stability and sgdsim.theory.power_law. Losses are relative to their start. No DOM.
(function (root) {
  "use strict";
  const N = typeof module !== "undefined" && module.exports ? require("./numerics.js") : root.Numerics;

  const WITHIN = 0.1; // relative deviation of law and curve in the window
  const KNOWN = 1e-3; // relative error up to which a loss is shown
  const BETAS = Array.from({ length: 97 }, (_, i) => Math.tanh(-3.2 + 7 * i / 96));
  const MAP = { betas: 21, alphas: 26, lowest: -0.96, highest: 0.99, decades: 4 };

  /** α at which Ũ(1) = 1, or 2(1+β). */
  function maxLr(modes, beta, gamma, tolerance = 1e-15) {
    const full = 2 * (1 + beta);
    if (gamma === 0 || N.gap(modes, full, beta, gamma, 0) > 0) return full;
    let low = 0, high = full;
    while (high - low > tolerance * high) {
      const middle = 0.5 * (low + high);
      if (middle <= low || middle >= high) break;
      if (N.gap(modes, middle, beta, gamma, 0) > 0) low = middle;
      else high = middle;
    }
    return low;
  }

  /** λ_crit, where Σ λ/(λ_crit + λ) = 1: as β → 1 stable iff α/(1−β) < 2/(γλ_crit). */
  function criticalEigenvalue(modes) {
    const excess = (value) => modes.lam.reduce((sum, l, k) => sum + modes.counts[k] * l / (value + l), -1);
    if (excess(1e-300) <= 0) return 0;
    let low = -300 * Math.log(10), high = Math.log(modes.lam.reduce((sum, l, k) => sum + modes.counts[k] * l, 1));
    while (high - low > 1e-13 * Math.max(1, Math.abs(low))) {
      const middle = 0.5 * (low + high);
      if (excess(Math.exp(middle)) > 0) low = middle;
      else high = middle;
    }
    return Math.exp(low);
  }

  /** Γ(x), x > 0, by Stirling's series further up. */
  function factor(x) {
    let below = 1;
    for (; x < 15; x++) below *= x;
    const y = 1 / (x * x), series = (1 - y * (1 / 30 - y * (1 / 105 - y / 140))) / (12 * x);
    return Math.exp((x - 0.5) * Math.log(x) - x + 0.5 * Math.log(2 * Math.PI) + series) / below;
  }

  function phase(nu, zeta, gamma) {
    if (gamma === 0) return "signal-dominated";
    if (nu <= 0.5) return "immediate divergence";
    if (nu <= 1) return "eventual divergence";
    return zeta < 2 - 1 / nu ? "signal-dominated" : "noise-dominated";
  }

  /** Ũ(1) and Ṽ(1). */
  function atOne(modes, alpha, beta, gamma) {
    let noise = 0, signal = 0;
    modes.lam.forEach((l, k) => {
      const x = alpha * l, below = x * (beta * (1 + gamma) + gamma - 1) + 2 * (1 - beta * beta);
      noise += modes.counts[k] * x * (1 + beta) / below;
      signal += modes.c[k] * (2 * beta * x + (1 - beta) * (1 - beta * beta)) / (x * below);
    });
    return { noise: gamma * noise, signal };
  }

  /** Phase, exponent and constant of L_t/L_0 ≈ constant · t^−exponent below the threshold; null where there is none.
   *  `signal` and `noise` are the constants of t^−ζ and t^{1/ν−2}. */
  function law(nu, kappa, modes, alpha, beta, gamma) {
    const zeta = kappa / nu, rest = 2 - 1 / nu, name = phase(nu, zeta, gamma), eff = alpha / (1 - beta);
    if (name.endsWith("divergence")) return { phase: name, exponent: null, constant: null };
    const sums = atOne(modes, alpha, beta, gamma), left = 1 - sums.noise;
    const signal = factor(zeta + 1) * (2 * eff) ** -zeta / (kappa * modes.norm) / left;
    const noise = gamma === 0 ? 0
      : sums.signal * gamma * eff * eff / nu * factor(rest) * (2 * eff) ** -rest / (left * left);
    const [exponent, constant] = name === "noise-dominated" ? [rest, noise] : [zeta, signal];
    return { phase: name, exponent, constant, signal, noise };
  }

  /** First and last t of the longest run, in log t, where the law is near the curve; half a decade at least. */
  function window(steps, log, found) {
    let best = null, first = null;
    steps.forEach((t, i) => {
      const near = Math.abs(Math.exp(Math.log(found.constant) - found.exponent * Math.log(t) - log[i]) - 1) <= WITHIN;
      if (!near) first = null;
      else if (first === null) first = t;
      if (near && t > Math.sqrt(10) * first && (!best || t / first > best[1] / best[0])) best = [first, t];
    });
    return best;
  }

  /** Whole numbers, ten a decade, from 1 to `last`. */
  function steps(last) {
    const out = [];
    for (let i = 0; i <= 10 * Math.log10(last) + 1e-9; i++) {
      const t = Math.round(10 ** (i / 10));
      if (t !== out[out.length - 1]) out.push(t);
    }
    return out;
  }

  /** Where (β, α) are stable: boundary, its limit at β → 1 (null where noise alone does no harm), full batch. */
  function region({ nu, kappa, n, b }) {
    const gamma = N.noiseFactor(n, b), modes = N.spectrum(nu, kappa, n, 1), critical = criticalEigenvalue(modes);
    const bound = BETAS.map((beta) => maxLr(modes, beta, gamma, 1e-5));
    return {
      beta: BETAS, bound, full: BETAS.map((beta) => 2 * (1 + beta)),
      limit: gamma * critical > 0 ? BETAS.map((beta) => 2 * (1 - beta) / (gamma * critical)) : null,
    };
  }

  /** All that is drawn for one setting but its region and map. Throws where there is nothing to draw, and says why. */
  function view({ nu, kappa, n, alpha, beta, b, last }) {
    const gamma = N.noiseFactor(n, b);
    if (n === Infinity && nu <= 1)
      throw new Error("With infinitely many modes and ν ≤ 1, Σλ is infinite: SGD diverges at every learning rate.");
    const modes = N.modesFor(nu, kappa, n, beta, gamma), top = maxLr(modes, beta, gamma), at = steps(last);
    const { log, error, rate } = N.losses(modes, alpha, beta, gamma, at), stable = alpha < top;
    const known = log.map((value, i) => (error[i] <= KNOWN ? value : value === Infinity ? Infinity : NaN));
    const found = stable ? law(nu, kappa, modes, alpha, beta, gamma) : null;
    const near = found && found.exponent !== null ? window(at, known, found) : null;
    return { gamma, top, stable, rate, steps: at, log: known, law: found, window: near };
  }

  // ---- the least loss at one time ---------------------------------------------------------------------------------

  /** log L_t/L_0 at one time, ∞ where unstable or not known. */
  function lossAt(modes, alpha, beta, gamma, t) {
    const { log, error } = N.losses(modes, alpha, beta, gamma, [t]);
    return error[0] <= 0.01 ? log[0] : Infinity;
  }

  /** A grid over stable (β, α), one row of learning rates below the threshold of each β: `fill(i)` computes row i. */
  function map({ nu, kappa, n, b, last }) {
    const gamma = N.noiseFactor(n, b), low = Math.atanh(MAP.lowest), high = Math.atanh(MAP.highest);
    const rows = Array.from({ length: MAP.betas }, (_, i) => {
      const at = (j) => Math.tanh(low + (high - low) * j / (MAP.betas - 1));
      return { beta: at(i), from: i ? at(i - 0.5) : at(0), to: i < MAP.betas - 1 ? at(i + 0.5) : at(i), log: null };
    });
    const fill = (i) => {
      const row = rows[i], modes = N.spectrum(nu, kappa, n, 1);
      row.top = maxLr(modes, row.beta, gamma, 1e-6);
      row.alphas = Array.from({ length: MAP.alphas }, (_, j) => row.top * 10 ** (-MAP.decades * (j + 0.5) / MAP.alphas));
      row.log = row.alphas.map((alpha) => lossAt(modes, alpha, row.beta, gamma, last));
    };
    return { rows, fill, ratio: 10 ** (MAP.decades / MAP.alphas) };
  }

  /** The point of least loss, from the best cell of a full map by halved steps in artanh β and log α/α_max. */
  function best({ nu, kappa, n, b, last }, { rows }) {
    const gamma = N.noiseFactor(n, b);
    let found = { log: Infinity };
    rows.forEach((row) => row.log.forEach((log, j) => {
      if (log < found.log) found = { log, beta: row.beta, share: Math.log(row.alphas[j] / row.top) };
    }));
    if (found.log === Infinity) return null;
    const value = (beta, share) => {
      const modes = N.modesFor(nu, kappa, n, beta, gamma), alpha = maxLr(modes, beta, gamma, 1e-9) * Math.exp(share);
      return { log: lossAt(modes, alpha, beta, gamma, last), beta, share, alpha };
    };
    found = value(found.beta, found.share);
    for (let size = 0.2; size > 0.01; size *= 0.5)
      for (const [p, q] of [[1, 0], [-1, 0], [0, 1], [0, -1], [1, -1], [-1, 1], [1, 1], [-1, -1]])
        for (let tries = 0; tries < 8; tries++) {
          const beta = Math.tanh(Math.atanh(found.beta) + p * size), share = found.share + q * size;
          if (Math.abs(beta) > MAP.highest || share >= -1e-6) break;
          const other = value(beta, share);
          if (!(other.log < found.log)) break;
          found = other;
        }
    return { ...found, edge: Math.abs(found.beta) > MAP.highest - 0.003 || found.share < -MAP.decades * Math.LN10 };
  }

  const Theory = { maxLr, criticalEigenvalue, factor, phase, law, window, steps, region, view, map, best, lossAt };
  if (typeof module !== "undefined" && module.exports) module.exports = Theory;
  else root.Theory = Theory;
})(typeof globalThis !== "undefined" ? globalThis : this);
