// The two pictures as text of SVG, with all colours in it: what is seen is what a file holds. No DOM.
(function (root) {
  "use strict";

  const LIGHT = {
    paper: "#ffffff", ink: "#1b1f24", soft: "#57606a", grid: "#e4e7eb", curve: "#0173b2", law: "#1b1f24",
    ghost: "#8a929b", alarm: "#c0392b", window: "#0173b2", stable: "#d9efe6", bound: "#017d58", full: "#57606a",
    deep: "#046a4c", star: "#b8500c",
  };
  const DARK = {
    paper: "#131518", ink: "#e8eaed", soft: "#a4acb5", grid: "#2c3137", curve: "#58b4f0", law: "#e8eaed",
    ghost: "#7d868f", alarm: "#ff7b6b", window: "#58b4f0", stable: "#16332a", bound: "#3fc79a", full: "#a4acb5",
    deep: "#53d8ab", star: "#ffab5e",
  };
  const FONT = 13, FLOOR = 1e-20;

  const raised = (k) => String(k).replace(/./g, (d) => (d === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[d]));
  const power = (k) => (k === 0 ? "1" : k === 1 ? "10" : `10${raised(k)}`);
  /** Three digits for the eye, large and small ones with a power of ten. */
  function number(x, digits = 3) {
    if (x === Infinity) return "∞";
    if (x === 0 || !Number.isFinite(x)) return String(x);
    const size = Math.floor(Math.log10(Math.abs(x)) + 1e-9);
    if (size >= -3 && size < 5) return String(Number(x.toPrecision(digits))).replace("-", "−");
    const [front, k] = x.toExponential(digits - 1).split("e"), first = String(Number(front)).replace("-", "−");
    return first === "1" ? power(Number(k)) : `${first}·${power(Number(k))}`;
  }

  const escape = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;");
  const text = (x, y, words, fill, more = "") =>
    `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" fill="${fill}" ${more}>${escape(words)}</text>`;
  const line = (points, stroke, width, dashes = "") => {
    let d = "", pen = false;
    for (const [x, y] of points) {
      if (Number.isFinite(x) && Number.isFinite(y)) d += `${pen ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
      pen = Number.isFinite(x) && Number.isFinite(y);
    }
    const style = dashes ? ` stroke-dasharray="${dashes}"` : "";
    return d && `<path d="${d}" fill="none" stroke="${stroke}" stroke-width="${width}" stroke-linejoin="round"${style}/>`;
  };

  /** A frame in pixels with logarithmic or linear axes. */
  function frame(width, height, margin, [x0, x1], [y0, y1]) {
    const left = margin.left, right = width - margin.right, top = margin.top, bottom = height - margin.bottom;
    return {
      left, right, top, bottom, width, height,
      x: (value) => left + (right - left) * (value - x0) / (x1 - x0),
      y: (value) => bottom - (bottom - top) * (value - y0) / (y1 - y0),
      unX: (px) => x0 + (x1 - x0) * (px - left) / (right - left),
      unY: (px) => y0 + (y1 - y0) * (bottom - px) / (bottom - top),
    };
  }

  const whole = (at, body, colors, label, id) =>
    `<svg xmlns="http://www.w3.org/2000/svg" width="${at.width}" height="${at.height}" ` +
    `viewBox="0 0 ${at.width} ${at.height}" font-family="system-ui, sans-serif" font-size="${FONT}" role="img" ` +
    `aria-label="${escape(label).replace(/"/g, "&quot;")}">` +
    `<rect width="100%" height="100%" fill="${colors.paper}"/><defs><clipPath id="${id}"><rect x="${at.left}" ` +
    `y="${at.top}" width="${at.right - at.left}" height="${at.bottom - at.top}"/></clipPath></defs>${body}</svg>`;

  /** Ticks of an axis of powers, not more than about one for each `room` pixels. */
  function decades(low, high, pixels, room) {
    const step = [1, 2, 3, 4, 5, 10].find((k) => pixels / ((high - low) / k) >= room) || 10, out = [];
    for (let k = Math.ceil(low / step - 1e-9) * step; k <= high + 1e-9; k += step) out.push(k);
    return out;
  }

  function axes(at, colors, xTicks, yTicks, xLabel, yLabel) {
    let out = "";
    for (const [value, words] of xTicks) {
      const x = at.x(value);
      out += line([[x, at.top], [x, at.bottom]], colors.grid, 1);
      out += text(x, at.bottom + 17, words, colors.soft, 'text-anchor="middle"');
    }
    for (const [value, words] of yTicks) {
      const y = at.y(value);
      out += line([[at.left, y], [at.right, y]], colors.grid, 1);
      out += text(at.left - 6, y + 4.5, words, colors.soft, 'text-anchor="end"');
    }
    out += text((at.left + at.right) / 2, at.bottom + 36, xLabel, colors.ink, 'text-anchor="middle"');
    const middle = (at.top + at.bottom) / 2;
    out += text(13, middle, yLabel, colors.ink, `text-anchor="middle" transform="rotate(-90 13 ${middle.toFixed(1)})"`);
    return out;
  }

  const border = (at, colors) =>
    `<rect x="${at.left}" y="${at.top}" width="${at.right - at.left}" height="${at.bottom - at.top}" fill="none" ` +
    `stroke="${colors.soft}"/>`;

  /** Rows (drawn sample, words) from (x, y) on. */
  const legend = (rows, x, y, colors) => rows.map(([sample, words], i) => sample(x, y + 19 * i) +
    text(x + 34, y + 19 * i + 4.5, words, colors.ink)).join("");
  const stroke = (color, width, dashes) => (x, y) => line([[x, y], [x + 27, y]], color, width, dashes);

  /** log₁₀ limits of the losses that are seen. */
  function limits(view, ghost) {
    const values = [view, ghost].flatMap((v) => (v ? v.log : [])).map((v) => v / Math.LN10).filter(Number.isFinite);
    const low = Math.max(Math.min(0, ...values), Math.log10(FLOOR)), high = Math.min(Math.max(0, ...values), 6);
    const down = low > -4 ? Math.min(Math.floor(low), -1) : 2 * Math.floor(low / 2);
    return [down, high > 0.02 ? Math.ceil(high) : 0.15];
  }

  const CURVE_ROWS = 3, PLANE_ROWS = 5; // of the legends below

  /** The loss over time: exact, law, window, and the curve before. */
  function curve(view, ghost, colors, width, height) {
    const [low, high] = limits(view, ghost), end = Math.log10(view.steps[view.steps.length - 1]);
    const at = frame(width, height, { left: 60, right: 18, top: 12, bottom: 52 + 19 * CURVE_ROWS },
      [0, end], [low, high]);
    const main = view.stable ? colors.curve : colors.alarm;
    const points = (v) => v.steps.map((t, i) => [at.x(Math.log10(t)),
      v.log[i] === Infinity ? NaN : at.y(Math.max(Math.min(v.log[i] / Math.LN10, 40), -400))]);
    let body = "";
    const { law, window } = view, rows = [[stroke(main, 3), view.stable ? "loss" : "loss: it diverges"]];
    if (window) {
      const [from, to] = window.map((t) => at.x(Math.log10(t)));
      body += `<rect x="${from}" y="${at.top}" width="${to - from}" height="${at.bottom - at.top}" ` +
        `fill="${colors.window}" opacity="0.11"/>`;
    }
    body += axes(at, colors, decades(0, end, at.right - at.left, 46).map((k) => [k, power(k)]),
      decades(low, high, at.bottom - at.top, 30).map((k) => [k, power(k)]), "step t", "loss / loss at start");
    let inside = "", over = "";
    if (ghost) {
      inside += line(points(ghost), colors.ghost, 2);
      rows.push([stroke(colors.ghost, 2), `before: ${ghost.changed}`]);
    }
    if (law && law.exponent !== null) {
      const y = (t) => at.y((Math.log(law.constant) - law.exponent * Math.log(t)) / Math.LN10);
      const [from, to] = window || [view.steps[0], view.steps[view.steps.length - 1]];
      const part = (first, last, dashes, thick) => line([[at.x(Math.log10(first)), y(first)],
        [at.x(Math.log10(last)), y(last)]], colors.law, thick, dashes);
      inside += part(1, view.steps[view.steps.length - 1], "1.5 5", 1.2);
      if (window) over = part(from, to, "7 5", 1.4);
      rows.push([stroke(colors.law, 1.4, window ? "7 5" : "1.5 5"),
        window ? "its power law (dotted: does not hold)" : "its power law, not seen to hold here"]);
    }
    inside += line(points(view), main, 3) + over;
    body += `<g clip-path="url(#clip-curve)">${inside}</g>${border(at, colors)}`;
    body += legend(rows, at.left, at.bottom + 60, colors);
    return whole(at, body, colors, "Loss over time", "clip-curve");
  }

  /** The frame of the plane (β, log₁₀ α); both pictures and the handle need it. */
  const plane = (low, width, height) =>
    frame(width, height, { left: 60, right: 18, top: 12, bottom: 52 + 19 * PLANE_ROWS }, [-1, 1], [low, 0.68]);

  /** Where the plane's learning rates begin: well below the threshold without momentum. */
  const lowest = (region) => Math.min(-3, Math.floor(Math.log10(Math.min(...region.bound.filter(
    (_, i) => Math.abs(region.beta[i]) < 0.9))) - 0.5));

  function stability({ setting, view, region, map, best, low }, colors, width, height) {
    const at = plane(low, width, height);
    const path = (values) => region.beta.map((beta, i) => [at.x(beta), at.y(Math.log10(values[i]))]);
    const bound = path(region.bound);
    const outline = [...bound, [bound[bound.length - 1][0], at.bottom], [bound[0][0], at.bottom]];
    const stable = `<path d="M${outline.map((p) => p.map((v) => v.toFixed(1)).join(" ")).join("L")}Z"`;
    let body = `<clipPath id="clip-stable">${stable}/></clipPath><g clip-path="url(#clip-plane)">${stable} ` +
      `fill="${colors.stable}"/><g clip-path="url(#clip-stable)">${shades(map, at, colors)}</g></g>`;
    body += axes(at, colors, [-1, -0.5, 0, 0.5, 1].map((b) => [b, number(b)]),
      decades(low, 0.6, at.bottom - at.top, 30).map((k) => [k, power(k)]), "momentum β", "learning rate α");
    let inside = line(path(region.full), colors.full, 1.4, "7 4") + line(bound, colors.bound, 2.4);
    if (region.limit) inside += line(path(region.limit), colors.bound, 1.4, "1.5 4");
    body += `<g clip-path="url(#clip-plane)">${inside}</g>${border(at, colors)}`;
    body += text(at.left + 10, at.top + 19, "diverges", colors.alarm) + text(at.left + 10, at.bottom - 10, "stable", colors.ink);
    if (best) body += star(at.x(best.beta), at.y(Math.log10(best.alpha)), colors);
    body += point(setting, view, at, colors);
    const rows = [
      [stroke(colors.bound, 2.4), "largest stable α at this batch size"],
      [stroke(colors.bound, 1.4, "1.5 4"), region.limit ? "its limit as β → 1" : "no limit as β → 1: without noise"],
      [stroke(colors.full, 1.4, "7 4"), "full batch: 2(1 + β)"],
      [(x, y) => star(x + 13, y, colors), best ? `least loss at t = ${number(setting.last)}` : "least loss: not known yet"],
      [(x, y) => [0.12, 0.3, 0.55].map((o, i) => `<rect x="${x + 9 * i}" y="${y - 6}" width="9" height="12" ` +
        `fill="${colors.deep}" opacity="${o}"/>`).join(""), `lower loss at t = ${number(setting.last)}`],
    ];
    body += legend(rows, at.left, at.bottom + 60, colors);
    return whole(at, body, colors, "Stable learning rates over momentum", "clip-plane");
  }

  /** Cells of the map, the darker the lower their loss, over four decades at most. */
  function shades(map, at, colors) {
    const rows = map ? map.rows.filter((row) => row.log) : [];
    const values = rows.flatMap((row) => row.log).filter(Number.isFinite), least = Math.min(...values);
    const span = Math.min(4 * Math.LN10, Math.max(1e-9, Math.max(...values, least) - least));
    return rows.map((row) => row.log.map((log, j) => {
      const dark = Math.max(0, 1 - (log - least) / span) ** 1.5;
      if (!(dark > 0.01)) return "";
      const [left, right] = [row.from, row.to].map((beta) => Math.round(at.x(beta))), half = Math.log10(map.ratio) / 2;
      const [top, bottom] = [half, -half].map((d) => Math.round(at.y(Math.log10(row.alphas[j]) + d)));
      return `<rect x="${left}" y="${top}" width="${right - left}" height="${bottom - top}" fill="${colors.deep}" ` +
        `opacity="${(0.6 * dark).toFixed(3)}"/>`;
    }).join("")).join("");
  }

  function star(x, y, colors) {
    const corners = Array.from({ length: 10 }, (_, i) => {
      const size = i % 2 ? 3.6 : 8.5, turn = Math.PI * (i / 5 - 0.5);
      return `${(x + size * Math.cos(turn)).toFixed(1)},${(y + size * Math.sin(turn)).toFixed(1)}`;
    });
    return `<polygon points="${corners.join(" ")}" fill="${colors.star}" stroke="${colors.paper}" stroke-width="1.2"/>`;
  }

  function point(setting, view, at, colors) {
    const x = at.x(setting.beta), y = Math.min(Math.max(at.y(Math.log10(setting.alpha)), at.top), at.bottom);
    const stable = view && view.stable, color = stable ? colors.curve : colors.alarm;
    const cross = stable ? "" : line([[x - 4, y - 4], [x + 4, y + 4]], colors.paper, 2) +
      line([[x - 4, y + 4], [x + 4, y - 4]], colors.paper, 2);
    return `<circle cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="8.5" fill="${color}" stroke="${colors.paper}" ` +
      `stroke-width="2"/>${cross}`;
  }

  /** Both pictures beside each other under a title, as a file. */
  function sheet(title, first, second, widths, height) {
    const shifted = (svg, x) => svg.replace("<svg ", `<svg x="${x}" y="34" `);
    const width = widths[0] + widths[1];
    return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height + 34}" viewBox="0 0 ${width} ` +
      `${height + 34}" font-family="system-ui, sans-serif" font-size="14"><rect width="100%" height="100%" ` +
      `fill="${LIGHT.paper}"/>${text(14, 23, title, LIGHT.ink)}${shifted(first, 0)}${shifted(second, widths[0])}</svg>\n`;
  }

  const Drawing = { LIGHT, DARK, number, power, curve, stability, plane, lowest, sheet };
  if (typeof module !== "undefined" && module.exports) module.exports = Drawing;
  else root.Drawing = Drawing;
})(typeof globalThis !== "undefined" ? globalThis : this);
