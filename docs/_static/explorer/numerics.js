// Losses of the spectral-diagonal regime (τ = 1) on a power-law spectrum at any time, as the package finds them
// (sgdsim.recurrence.contour, sgdsim.problem.power_modes), to about six digits. No DOM: a page and node both load it.
//
// With s_t = Σ_k c_k(t), s_0 = 1: the loss relative to its start. γ is the noise factor of the batch size.
(function (root) {
  "use strict";

  const LEADING = 100, LAST = 12; // modes kept by themselves at either end
  const EXPLICIT = 300; // N up to which all are
  const NODES = 8; // of Gauss and Legendre in a bin
  const BEYOND = 1e-20; // λ where an infinite spectrum ends in one mode
  const EARLIEST = 40, LONGEST = 8000; // steps: no contour before, no recurrence after
  const DIGITS = 28; // −log of what modes off the contour may leave
  const ROUNDING = 1e-13, DEEP = 1e-6; // error of a rate, in all and relative
  const LOWEST = -700; // log of the least float

  // ---- the spectrum -------------------------------------------------------------------------------------------------

  function legendre(n) {
    const places = [], weights = [];
    for (let i = 0; i < n; i++) {
      let x = Math.cos(Math.PI * (i + 0.75) / (n + 0.5)), slope = 1;
      for (let round = 0; round < 50; round++) {
        let before = 1, now = x;
        for (let k = 2; k <= n; k++) [before, now] = [now, ((2 * k - 1) * x * now - (k - 1) * before) / k];
        slope = n * (x * now - before) / (x * x - 1);
        const step = now / slope;
        x -= step;
        if (Math.abs(step) < 1e-15) break;
      }
      places.push(x);
      weights.push(2 / ((1 - x * x) * slope * slope));
    }
    return { places, weights };
  }
  const GAUSS = legendre(NODES);

  /** Σ_{k ≥ first} k^{−power}, first large. */
  const tail = (power, first) =>
    first ** (1 - power) / (power - 1) + 0.5 * first ** -power + power / 12 * first ** (-power - 1);

  /** λ_k = k^−ν and c_k ∝ k^{−κ−1} of sum 1, k = 1 … n (may be Infinity, then ν > 1), on few modes with counts.
   *  `width`: of bins, in e-folds of λ. `norm`: Σ k^{−κ−1}. */
  function spectrum(nu, kappa, n, width) {
    const k = [], counts = [], add = (place, count) => { k.push(place); counts.push(count); };
    if (n <= EXPLICIT) {
      for (let i = 1; i <= n; i++) add(i, 1);
      return finished(nu, kappa, k, counts);
    }
    if (!(nu > 1) && n === Infinity) throw new Error("infinite N needs ν > 1: else Σλ is infinite");
    // Euler and Maclaurin: the sum is an integral, and 1/24 of a mode moves across each of its ends.
    const last = n === Infinity ? Math.max(BEYOND ** (-1 / nu), 1e4) : n - LAST;
    for (let i = 1; i <= LEADING + 1; i++) add(i, i < LEADING ? 1 : i === LEADING ? 23 / 24 : 1 / 24);
    for (const [low, high] of bins(Math.log(LEADING + 0.5), Math.log(last + 0.5), width / Math.max(nu, 1), n))
      for (let i = 0; i < NODES; i++) {
        const place = Math.exp(0.5 * (low + high) - 0.5 * (high - low) * GAUSS.places[i]);
        add(place, 0.5 * (high - low) * GAUSS.weights[i] * place);
      }
    if (n === Infinity) return finished(nu, kappa, k, counts, last + 0.5);
    for (let i = last; i <= n; i++) add(i, i > last + 1 ? 1 : i > last ? 23 / 24 : 1 / 24);
    return finished(nu, kappa, k, counts);
  }

  /** Ends of bins in log k; at the last mode, whose tail is steep, they get narrower. */
  function bins(first, end, width, n) {
    const number = Math.ceil((end - first) / width), edges = [];
    for (let i = 0; i <= number; i++) edges.push(first + (end - first) * i / number);
    if (n !== Infinity) {
      const before = edges[edges.length - 2];
      edges.pop();
      for (let i = 1; i <= 6; i++) edges.push(end - (end - before) * 0.5 ** i);
      edges.push(end);
    }
    return edges.slice(1).map((edge, i) => [edges[i], edge]);
  }

  function finished(nu, kappa, k, counts, beyond) {
    const lam = k.map((place) => place ** -nu), c = k.map((place, i) => counts[i] * place ** (-kappa - 1));
    if (beyond) { // one mode with the sums of λ, λ² and c of all that is left
      const first = tail(nu, beyond + 0.5), second = tail(2 * nu, beyond + 0.5);
      lam.push(second / first);
      counts.push(first * first / second);
      c.push(tail(kappa + 1, beyond + 0.5));
    }
    const norm = c.reduce((a, b) => a + b, 0);
    const weights = lam.map((value, i) => counts[i] * value * value);
    return {
      lam: Float64Array.from(lam), counts: Float64Array.from(counts), weights: Float64Array.from(weights),
      c: Float64Array.from(c, (value) => value / norm), norm,
    };
  }

  const noiseFactor = (n, b) => (n === Infinity ? 1 / b : n === b ? 0 : (n - b) / ((n - 1) * b));

  // ---- the rate at infinite time ----------------------------------------------------------------------------------

  /** 1 − zŨ(z) at z = e^{−σ}, σ real; −∞ left of a singularity of one mode. */
  function gap(modes, alpha, beta, gamma, sigma) {
    const { lam, weights } = modes, z = Math.exp(-sigma), bz = 1 - beta * z;
    const a0 = -Math.expm1(-sigma) * bz * (1 - beta * beta * z);
    const a1 = alpha * 2 * z * (1 + beta) * bz, a2 = alpha * alpha * z * (gamma * (1 + beta * z) - bz);
    let total = 0;
    for (let k = 0; k < lam.length; k++) {
      const s = a0 + lam[k] * (a1 + lam[k] * a2);
      if (!(s > 0)) return -Infinity;
      total += weights[k] / s;
    }
    return 1 - z * gamma * (1 + beta * z) * total * alpha * alpha;
  }

  /** σ₁ of L_t ~ e^{σ₁t}: growth where positive, the tail of a finite spectrum where negative. */
  function rate(modes, alpha, beta, gamma, tolerance) {
    if (gamma === 0) return modes.lam.reduce((most, x) => Math.max(most, 2 * logRadius(alpha * x, beta)), LOWEST);
    const floor = beta === 0 ? LOWEST : Math.max(Math.log(Math.abs(beta)), LOWEST);
    const at = (sigma) => (sigma <= floor ? -Infinity : gap(modes, alpha, beta, gamma, sigma));
    let low = 0, high = 0, step;
    if (at(0) > 0) {
      step = Math.max(tolerance, Math.min(alpha * modes.lam[modes.lam.length - 1] / (1 - beta), 0.1));
      for (low = -step; at(low) > 0 && low > floor; low = -step) { high = low; step *= 4; }
      low = Math.max(low, floor);
    } else {
      step = Math.max(tolerance, 1e-6);
      for (high = step; at(high) <= 0; high = step) { low = high; step *= 4; }
    }
    // Regula falsi in the Illinois form, and a bisection now and then.
    let fLow = at(low), fHigh = at(high), side = 0;
    for (let count = 1; high - low > tolerance && high - low > 1e-13 * Math.abs(low); count++) {
      let middle = 0.5 * (low + high);
      if (fLow !== -Infinity && count % 4) {
        const width = high - low;
        middle = Math.min(Math.max(high - fHigh * width / (fHigh - fLow), low + 0.01 * width), high - 0.01 * width);
      }
      const f = at(middle);
      if (f > 0) {
        [high, fHigh] = [middle, f];
        if (side === 1) fLow *= 0.5;
        side = 1;
      } else {
        [low, fLow] = [middle, f];
        if (side === -1) fHigh *= 0.5;
        side = -1;
      }
    }
    return high;
  }

  // ---- the contour ------------------------------------------------------------------------------------------------

  const mul = (a, b) => [a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]];
  const add = (...all) => all.reduce((a, b) => [a[0] + b[0], a[1] + b[1]]);
  const times = (f, a) => [f * a[0], f * a[1]];
  const plus = (f, a) => [f + a[0], a[1]];
  const inverse = (a) => times(1 / (a[0] * a[0] + a[1] * a[1]), [a[0], -a[1]]);

  /** Ũ, Ṽ, Ũ', Ṽ' at z = e^{−σ}, σ complex, and z: written so that digits stay where z → 1 and λ → 0. */
  function transforms(modes, alpha, beta, gamma, sigma) {
    const half = Math.sin(0.5 * sigma[1]), size = Math.exp(-sigma[0]);
    const oneZ = [-Math.expm1(-sigma[0]) * Math.cos(sigma[1]) + 2 * half * half, size * Math.sin(sigma[1])];
    const z = [size * Math.cos(sigma[1]), -size * Math.sin(sigma[1])];
    const bz = plus(1 - beta, times(beta, oneZ)), up = plus(1 + beta, times(-beta, oneZ));
    const b2z = plus((1 - beta) * (1 + beta), times(beta * beta, oneZ));
    const both = mul(bz, b2z), slope = times(-beta, add(b2z, times(beta, bz)));
    const turned = add(bz, times(-beta, z));
    const a0 = mul(oneZ, both), a1 = times(2 * alpha * (1 + beta), mul(z, bz));
    const a2 = times(alpha * alpha, mul(z, add(times(gamma, up), times(-1, bz))));
    const b0 = add(times(-1, both), mul(oneZ, slope)), b1 = times(2 * alpha * (1 + beta), turned);
    const b2 = times(alpha * alpha, add(times(gamma, add(up, times(beta, z))), times(-1, turned)));
    const [u0, u1, c0, c1, c2, c3] = sums(modes, a0, a1, a2, b0, b1, b2);
    const noise = gamma * alpha * alpha, bent = times(2 * alpha * beta, z);
    return {
      z, u: times(noise, mul(up, u0)), v: add(mul(both, c0), mul(bent, c1)),
      du: times(noise, add(times(beta, u0), times(-1, mul(up, u1)))),
      dv: add(times(2 * alpha * beta, c1), mul(slope, c0), times(-1, mul(both, c2)), times(-1, mul(bent, c3))),
    };
  }

  /** Σ wλ²/S, Σ wλ²S'/S², Σ c/S, Σ cλ/S, Σ cS'/S², Σ cλS'/S² for S = Σ a_i λ^i, S' = Σ b_i λ^i. */
  function sums(modes, [a0, a0i], [a1, a1i], [a2, a2i], [b0, b0i], [b1, b1i], [b2, b2i]) {
    const { lam, weights, c } = modes;
    let u0 = 0, u0i = 0, u1 = 0, u1i = 0, c0 = 0, c0i = 0, c1 = 0, c1i = 0, c2 = 0, c2i = 0, c3 = 0, c3i = 0;
    for (let k = 0; k < lam.length; k++) {
      const l = lam[k], w = weights[k], ck = c[k], cl = ck * l;
      const sr = a0 + l * (a1 + l * a2), si = a0i + l * (a1i + l * a2i);
      const dr = b0 + l * (b1 + l * b2), di = b0i + l * (b1i + l * b2i);
      const size = 1 / (sr * sr + si * si), pr = sr * size, pi = -si * size;
      const hr = pr * dr - pi * di, hi = pr * di + pi * dr, qr = hr * pr - hi * pi, qi = hr * pi + hi * pr;
      u0 += w * pr; u0i += w * pi; u1 += w * qr; u1i += w * qi;
      c0 += ck * pr; c0i += ck * pi; c2 += ck * qr; c2i += ck * qi;
      c1 += cl * pr; c1i += cl * pi; c3 += cl * qr; c3i += cl * qi;
    }
    return [[u0, u0i], [u1, u1i], [c0, c0i], [c1, c1i], [c2, c2i], [c3, c3i]];
  }

  /** e^{−shift·t} s_t along the hyperbola of Weideman and Trefethen (Math. Comp. 76, 2007) around what is left of the
   *  shift, by parts; with the size of what was summed. */
  function contour(modes, alpha, beta, gamma, shift, t, nodes) {
    const angle = 1.1721, step = 1.0818 / nodes, scale = 4.4921 * nodes;
    let total = 0, size = 0;
    for (let i = 0; i < nodes; i++) {
      const u = (i + 0.5) * step, up = Math.cosh(u), down = Math.sinh(u);
      const local = [scale * (1 - Math.sin(angle) * up), scale * Math.cos(angle) * down];
      const around = [Math.cos(angle) * up, Math.sin(angle) * down]; // cos(iu − angle)
      const grown = Math.exp(local[0]) * scale / t / t * step / Math.PI;
      const weight = mul([grown * Math.cos(local[1]), grown * Math.sin(local[1])], around);
      const { z, u: U, v, du, dv } = transforms(modes, alpha, beta, gamma, [shift + local[0] / t, local[1] / t]);
      const over = inverse(plus(1, times(-1, mul(z, U))));
      const term = mul(mul(weight, z), mul(add(dv, mul(mul(add(U, mul(z, du)), v), over)), over));
      total += term[0];
      size += Math.hypot(...term) * (1 + Math.hypot(...over));
    }
    return { value: total, size };
  }

  // ---- what the contour misses: modes that turn, or change sign from step to step (sgdsim.recurrence.turning) -----

  /** Largest moduli of the zeros m = 1/z of one mode's S that are complex, and of those that are negative. */
  function turning(x, beta, g) {
    const mean = 1 + beta * beta - 2 * x * (1 + beta) + x * x;
    const a2 = g * x * x - mean - beta, a1 = beta * (beta + mean + g * x * x), a0 = -(beta ** 3);
    const p = (a1 - a2 * a2 / 3) / 3, q = a2 * (2 * a2 * a2 / 27 - a1 / 3) / 2 + a0 / 2, inside = q * q + p * p * p;
    if (inside > 0) {
      const edge = Math.cbrt(-q - Math.sign(q || 1) * Math.sqrt(inside)), real = edge - p / edge - a2 / 3;
      return [Math.sqrt(Math.abs(a1 + real * (a2 + real))), Math.max(0, -real)];
    }
    const size = 2 * Math.sqrt(Math.max(-p, 0));
    const angle = size > 0 ? Math.acos(Math.min(Math.max(-8 * q / size ** 3, -1), 1)) / 3 : 0;
    return [0, Math.max(0, a2 / 3 - size * Math.cos(angle + 2 * Math.PI / 3))];
  }

  /** log of the largest modulus e^σ off the positive real axis, or right of it. */
  function missed(modes, alpha, beta, gamma) {
    let low = Math.abs(beta), high = 0;
    for (const x of modes.lam) {
      const [turns, changes] = turning(alpha * x, beta, gamma);
      low = Math.max(low, turns);
      high = Math.max(high, changes);
    }
    return Math.log(high > low ? alternating(modes, alpha, beta, gamma, Math.max(low, 1e-3 * high), high) : low);
  }

  /** 1 − zŨ(z) at z = −1/size, and how many S are negative there. */
  function alternatingGap(modes, alpha, beta, gamma, size) {
    const z = -1 / size, bz = 1 - beta * z, up = 1 + beta * z;
    const a0 = (1 - z) * bz * (1 - beta * beta * z), a1 = alpha * 2 * z * (1 + beta) * bz;
    const a2 = alpha * alpha * z * (gamma * up - bz);
    let total = 0, negative = 0;
    modes.lam.forEach((l, k) => {
      const s = a0 + l * (a1 + l * a2);
      total += modes.weights[k] / s;
      if (s < 0) negative += modes.counts[k];
    });
    return { value: 1 - z * gamma * up * total * alpha * alpha, negative };
  }

  /** The largest root z = −1/m of zŨ = 1, between the first two modes' own zeros; never below it. */
  function alternating(modes, alpha, beta, gamma, low, high) {
    let right = high, left = low, seen = false, found = false;
    for (let k = 1; k <= 40 && !found; k++) {
      const size = high * (low / high) ** (k / 40);
      const { value, negative } = alternatingGap(modes, alpha, beta, gamma, size);
      found = negative > 1 || (negative === 1 && value > 0) || (negative === 0 && seen);
      if (found) left = size;
      else [right, seen] = [size, seen || negative === 1];
    }
    if (!found) return low;
    while (right - left > 1e-13 * right) {
      const size = 0.5 * (left + right), { value, negative } = alternatingGap(modes, alpha, beta, gamma, size);
      if (negative === 0 || (negative === 1 && value <= 0)) right = size;
      else left = size;
    }
    return right;
  }

  // ---- step by step, and without noise ----------------------------------------------------------------------------

  /** log s_t by the recurrence at ascending steps; ∞ once it is no float. */
  function recurrence(modes, alpha, beta, gamma, steps) {
    const { lam, counts } = modes, n = lam.length, c = modes.c.slice(), j = new Float64Array(n), p = new Float64Array(n);
    let s = 1, scale = 0, now = 0;
    return steps.map((t) => {
      for (; now < t && scale < 700; now++) {
        let total = 0;
        for (let k = 0; k < n; k++) {
          const x = alpha * lam[k], ck = c[k], jk = j[k];
          const pk = x * x * (ck + gamma * (counts[k] * s - ck)) + beta * (beta * p[k] - 2 * x * jk);
          const next = beta * jk - x * ck;
          c[k] = ck + 2 * next + pk;
          j[k] = next + pk;
          p[k] = pk;
          total += c[k];
        }
        s = total;
        if ((s > 1e100 || s < 1e-100) && s > 0) {
          scale += Math.log(s);
          for (let k = 0; k < n; k++) { c[k] /= s; j[k] /= s; p[k] /= s; }
          s = 1;
        }
      }
      return scale < 700 ? scale + Math.log(s) : Infinity;
    });
  }

  /** log of the larger root of μ² − (1 − x + β)μ + β. */
  function logRadius(x, beta) {
    const b = 1 + x - beta, square = (b - 2 * Math.sqrt(x)) * (b + 2 * Math.sqrt(x));
    if (square < 0) return 0.5 * Math.log(beta);
    const middle = 0.5 * (1 - x + beta), root = Math.sqrt(square);
    if (middle > 0) return Math.log1p(-2 * x / (b + root));
    return Math.max(Math.log(root / 2 - middle), LOWEST);
  }

  /** e^{−slope·t} r_t/r_0 of one mode without noise (Polyak 1964). */
  function meanFactor(x, beta, t, slope) {
    const even = t % 2 === 0 ? 1 : -1, power = (base) =>
      (base === 0 ? 0 : (base > 0 ? 1 : even) * Math.exp(t * (Math.log(Math.abs(base)) - slope)));
    if (beta === 0) return x < 0.5 ? Math.exp(t * (Math.log1p(-x) - slope)) : power(1 - x);
    const b = 1 + x - beta, middle = 0.5 * (1 - x + beta);
    const square = (b - 2 * Math.sqrt(x)) * (b + 2 * Math.sqrt(x));
    if (square < 0) {
      const theta = Math.atan2(0.5 * Math.sqrt(-square), middle);
      const wave = Math.sin((t + 1) * theta) - Math.sqrt(beta) * Math.sin(t * theta);
      return Math.exp(t * (0.5 * Math.log(beta) - slope)) * wave / Math.sin(theta);
    }
    const root = Math.sqrt(square);
    if (root < 1e-7) return power(middle) / middle * (middle * (t + 1) - beta * t);
    if (middle > 0) {
      const less = 2 * x / (b + root), one = 1 - less, two = beta / one;
      return ((one - beta) * Math.exp(t * (Math.log1p(-less) - slope)) + (beta - two) * power(two)) / root;
    }
    const two = middle - 0.5 * root, one = beta / two;
    return ((one - beta) * power(one) + (beta - two) * power(two)) / root;
  }

  function closed(modes, alpha, beta, sigma, steps) {
    return steps.map((t) => {
      let total = 0;
      for (let k = 0; k < modes.lam.length; k++)
        total += modes.c[k] * meanFactor(alpha * modes.lam[k], beta, t, 0.5 * sigma) ** 2;
      return Math.log(total) + sigma * t;
    });
  }

  // ---- all together -----------------------------------------------------------------------------------------------

  /** Modes for losses at this momentum: modes that share a bin oscillate where it is near 1. */
  const FINE = [[0.97, 0.25], [0.8, 0.5], [-1, 1]];
  function modesFor(nu, kappa, n, beta, gamma) {
    const width = FINE.find(([least]) => beta >= least)[1];
    return spectrum(nu, kappa, n, gamma === 0 ? 0.5 * width : width);
  }

  /** log of the loss over its start at ascending whole steps, with an estimate of the relative error of each. */
  function losses(modes, alpha, beta, gamma, steps) {
    const last = steps[steps.length - 1], sigma = rate(modes, alpha, beta, gamma, 0.02 / Math.max(last, 1));
    if (gamma === 0)
      return { log: closed(modes, alpha, beta, sigma, steps), error: steps.map(() => 1e-9), rate: sigma };
    const apart = sigma - missed(modes, alpha, beta, gamma);
    const until = apart > 0 ? Math.min(Math.max(EARLIEST, DIGITS / apart), LONGEST) : LONGEST;
    const early = steps.filter((t) => t <= until), late = steps.slice(early.length);
    const looks = until === LONGEST && late.length ? [0.25, 0.45, 0.7, 1].map((share) => share * LONGEST) : [];
    const times = [...new Set([...early, ...looks])].sort((a, b) => a - b);
    const stepped = recurrence(modes, alpha, beta, gamma, times), at = (t) => stepped[times.indexOf(t)];
    const around = (t, nodes) => contour(modes, alpha, beta, gamma, sigma, t, nodes);
    // What the contour misses never grows beside e^{σ₁t}, as no loss is negative: less than where both are known.
    const seen = looks.map((t) => Math.abs(Math.exp(at(t) - sigma * t) - around(t, 10).value));
    const most = looks.length ? 3 * Math.max(...seen) : Infinity;
    const log = early.map(at), error = early.map(() => 1e-9);
    for (const t of late) {
      const better = around(t, 10), other = around(t, 7);
      const left = Math.min(10 * Math.exp(-t * apart), most);
      const wrong = Math.abs(better.value - other.value) + 1e-14 * better.size + left +
        (ROUNDING + DEEP * Math.abs(sigma)) * t * better.value;
      log.push(better.value > 0 ? Math.log(better.value) + sigma * t : NaN);
      error.push(wrong < better.value ? wrong / (better.value - wrong) : Infinity);
    }
    return { log, error, rate: sigma };
  }

  const Numerics = { spectrum, noiseFactor, gap, rate, losses, modesFor };
  if (typeof module !== "undefined" && module.exports) module.exports = Numerics;
  else root.Numerics = Numerics;
})(typeof globalThis !== "undefined" ? globalThis : this);
