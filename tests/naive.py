"""Slow literal twins of the compiled loops and of the averaged recursion, written straight from the formulas."""

from __future__ import annotations

import itertools

import numpy as np


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 in Python integers (Salmon et al. 2011, fig. 3)."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 2**32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [c0, c1, c2, c3]


class Words:
    """Unbiased integers from the Philox stream (stream, position), by rejection on the whole product."""

    def __init__(self, key, stream, position):
        self.key, self.stream, self.position = [int(k) for k in key], stream, position
        self.block, self.words = 0, []

    def below(self, bound):
        while True:
            if not self.words:
                counter = [self.block, self.position % 2**32, self.position // 2**32, self.stream]
                self.words = philox(counter, self.key)
                self.block += 1
            high, low = divmod(self.words.pop(0) * bound, 2**32)
            if low >= 2**32 % bound:
                return high


def batch(n_samples, size, step, key, with_replacement=False):
    """The mini-batch of one step."""
    words = Words(key, 0, step)
    if with_replacement:
        return [words.below(n_samples) for _ in range(size)]
    order = list(range(n_samples))
    for i in range(size):
        j = i + words.below(n_samples - i)
        order[i], order[j] = order[j], order[i]
    return order[:size]


def by_chance(chances, size, step, key):
    """The mini-batch of one step, each point by the inverse of its cumulated chances."""
    points, out = list(range(len(chances))), []
    for i in range(size):
        counter = [i // 2, step % 2**32, step // 2**32, 0]
        high, low = philox(counter, [int(k) for k in key])[2 * (i % 2) :][:2]
        uniform = ((high >> 5) * 2**26 + (low >> 6)) / 2**53
        cumulated = np.cumsum(chances) / np.cumsum(chances)[-1]
        out.append(next(point for point in points if cumulated[point] > uniform))
    return out


def reshuffled(n_samples, sizes, key):
    """The batches of all steps: every epoch a new permutation, cut up; what does not fill the next batch is left."""
    batches, epoch, rest = [], -1, []
    for size in sizes:
        if len(rest) < size:
            epoch += 1
            words = Words(key, 1, epoch)
            rest = list(range(n_samples))
            for i in range(n_samples):
                j = i + words.below(n_samples - i)
                rest[i], rest[j] = rest[j], rest[i]
        batches.append(rest[:size])
        rest = rest[size:]
    return batches


def normals(size, stream, step, key):
    """Standard normals of a stream of one step."""
    out = []
    for block in range(-(-size // 4)):
        words = philox([block, step % 2**32, step // 2**32, stream], [int(k) for k in key])
        for first, second in (words[:2], words[2:]):
            radius, angle = np.sqrt(-2 * np.log((first + 1) / 2**32)), 2 * np.pi * second / 2**32
            out += [radius * np.cos(angle), radius * np.sin(angle)]
    return np.array(out[:size])


def chi_square(degrees, step, key):
    """χ², by rejection from a normal's cube for more than one degree of freedom."""
    for block in itertools.count():
        words = philox([block, step % 2**32, step // 2**32, 4], [int(k) for k in key])
        z = np.sqrt(-2 * np.log((words[0] + 1) / 2**32)) * np.cos(2 * np.pi * words[1] / 2**32)
        if degrees == 1:
            return z**2
        shape = degrees / 2 - 1 / 3
        cube = (1 + z / np.sqrt(9 * shape)) ** 3
        if cube > 0 and np.log((words[2] + 1) / 2**32) < z**2 / 2 + shape * (1 - cube + np.log(cube)):
            return 2 * shape * cube


def one_pass(eigenvalues, start, maps, begins, readout, sizes, key, label):
    """One run on fresh Gaussian samples, over the modes: the iterate after every step, (T + 1, n). Of Zᵀ Z v, what is
    along v and what is across it."""
    components = np.outer(begins, start)
    out = [readout @ components]
    for t, b in enumerate(sizes):
        v, chi = np.append(components[0], -label), chi_square(b, t, key)
        xi = normals(v.size, 3, t, key)
        across = xi - v * (v @ xi) / (v @ v)
        gradient = eigenvalues * (chi * v + np.sqrt(chi) * np.linalg.norm(v) * across)[:-1] / b
        components = maps.transition[t] @ components + np.outer(maps.kick[t], gradient)
        out.append(readout @ components)
    return np.array(out)


def sampled(kernel, residual, lr, momentum, batches):
    """Linearised SGD, one batch sequence; residuals after every step, (T + 1, N)."""
    n = len(residual)
    r, v = residual.copy(), np.zeros(n)
    out = [r.copy()]
    for alpha, beta, chosen in zip(lr, momentum, batches, strict=True):
        v = beta * v - alpha * (n / len(chosen)) * kernel[:, chosen] @ r[chosen]
        r = r + v
        out.append(r.copy())
    return np.array(out)


def enumerated(kernel, residual, lr, momentum, sizes, with_replacement=False):
    """E r rᵀ and E r after every step, over *all* batch sequences: (T + 1, N, N), (T + 1, N)."""
    n = len(residual)
    options = [
        list(itertools.product(range(n), repeat=b) if with_replacement else itertools.combinations(range(n), b))
        for b in sizes
    ]
    second, first, count = 0.0, 0.0, 0
    for batches in itertools.product(*options):
        path = sampled(kernel, residual, lr, momentum, [list(chosen) for chosen in batches])
        second = second + np.einsum("ti,tj->tij", path, path)
        first = first + path
        count += 1
    return second / count, first / count


def averaged(kernel, residual, lr, momentum, noise, symmetrise):
    """The averaged recursion in the data basis, with or without symmetrising; loss at every step.

    Without symmetrising it is numerically unstable: C K + (C K)ᵀ carries no antisymmetric part, so nothing damps that
    of the rounding errors, and K C K feeds it. With it, it is a slow truth.
    """
    n = len(residual)
    c, j, p = np.outer(residual, residual), np.zeros((n, n)), np.zeros((n, n))
    losses = [np.trace(c) / (2 * n)]
    for alpha, beta, gamma in zip(lr, momentum, noise, strict=True):
        q = kernel @ (gamma * n * np.diag(np.diag(c)) + (1 - gamma) * c) @ kernel
        cross = kernel @ j if beta else 0 * j
        p = beta**2 * p - alpha * beta * (cross + cross.T) + alpha**2 * q
        drift = beta * j - alpha * c @ kernel  # E r v'ᵀ
        c, j = c + drift + drift.T + p, drift + p
        if symmetrise:
            c, p = (c + c.T) / 2, (p + p.T) / 2
        losses.append(np.trace(c) / (2 * n))
    return np.array(losses)


def diagonal(eigenvalues, coefficients, lr, momentum, noise, tau, multiplicity=1.0):
    """The spectral-diagonal recurrence, mode by mode; c_k after every step, (T + 1, n)."""
    c = coefficients**2
    j, p = np.zeros_like(c), np.zeros_like(c)
    out = [c]
    for alpha, beta, gamma in zip(lr, momentum, noise, strict=True):
        x, s = alpha * eigenvalues, c.sum()
        p = x**2 * c - 2 * beta * x * j + beta**2 * p + gamma * x**2 * (multiplicity * s - tau * c)
        c, j = c - 2 * x * c + 2 * beta * j + p, beta * j - x * c + p
        out.append(c)
    return np.array(out)


def volterra(eigenvalues, coefficients, lr, momentum, gamma, tau, n_steps):
    """Loss sums s_t of the spectral-diagonal regime by its renewal equation, s_t = V_t + Σ U_{t−τ} s_τ."""
    v_sum, u_sum = np.zeros(n_steps + 1), np.zeros(n_steps)
    for value, a in zip(lr * eigenvalues, coefficients, strict=True):
        step = np.array([[1 - value, momentum], [-value, momentum]])

        def advance(m, step=step, value=value):
            return step @ m @ step.T - gamma * tau * value**2 * m[0, 0]

        m = np.array([[a**2, 0.0], [0.0, 0.0]])
        kick = gamma * value**2 * np.ones((2, 2))
        for t in range(n_steps + 1):
            v_sum[t] += m[0, 0]
            m = advance(m)
        for t in range(n_steps):
            u_sum[t] += kick[0, 0]
            kick = advance(kick)
    s = np.zeros(n_steps + 1)
    for t in range(n_steps + 1):
        s[t] = v_sum[t] + sum(u_sum[t - 1 - i] * s[i] for i in range(t))
    return s


def jacobian_ntk(module, x):
    """The NTK from one gradient per sample, by plain autograd."""
    import torch

    rows = []
    for sample in torch.as_tensor(x):
        module.zero_grad()
        module(sample[None]).sum().backward()
        rows.append(torch.cat([p.grad.ravel() for p in module.parameters() if p.requires_grad and p.grad is not None]))
    jacobian = torch.stack(rows)
    return (jacobian @ jacobian.T).numpy()


def rowwise_ntk(module, x):
    """The NTK of all pairs of outputs, (n, n, C, C)."""
    jacobian = rowwise_jacobian(module, x)
    return np.einsum("icp,jep->ijce", jacobian, jacobian)


def rowwise_jacobian(module, x):
    """(n, C, parameters): a copy of each row by itself, a backward pass for each output."""
    import torch

    trained = [p for p in module.parameters() if p.requires_grad]
    rows = []
    for row in torch.as_tensor(x):
        jacobian = []
        for c in range(module(row[None].clone()).numel()):
            f = module(row[None].clone()).reshape(-1)[c]
            parts = torch.autograd.grad(f, trained, allow_unused=True, materialize_grads=True)
            jacobian.append(torch.cat([part.to_dense().ravel() for part in parts]))
        rows.append(torch.stack(jacobian))
    return torch.stack(rows).detach().numpy()


def tiers(eigenvalues, u, block, variances, mean, residual, trend, shares, hyper):
    """One step of `sgdsim.regimes.averaged.tiers.Tiers`: E r² before it, the new block and variances. `trend`: what the
    slow pairs give, per S, and how the far variances spread over the points; u: the modes with an exact source."""
    (lr, momentum, noise), (c, j, p), n, b = hyper, block, len(residual), len(block[0])
    scale, near, far = (mean @ mean + np.trace(c) + variances[0].sum()) / n, u.shape[1] - b, variances[0]
    squares = residual**2 + scale * trend[0] + far[near:].sum() * trend[1]
    squares = squares + np.diag(u[:, :b] @ c @ u[:, :b].T) + u[:, b:] ** 2 @ far[:near]

    def moved(i, k, moments, source):
        maps = [np.array([[1 - lr * eigenvalues[at], momentum], [-lr * eigenvalues[at], momentum]]) for at in (i, k)]
        drawn = noise * (n * source - moments[0, 0] - mean[i] * mean[k])
        return maps[0] @ moments @ maps[1].T + lr**2 * eigenvalues[i] * eigenvalues[k] * drawn

    new, rest = np.zeros((3, b, b)), np.zeros((3, len(far)))
    for i in range(b):
        for k in range(b):
            pair = np.array([[c[i, k], j[i, k]], [j[k, i], p[i, k]]])
            pair = moved(i, k, pair, (squares * u[:, i] * u[:, k]).sum())
            new[:, i, k] = pair[0, 0], pair[0, 1], pair[1, 1]
    for k in range(len(far)):
        source = (squares * u[:, b + k] ** 2).sum() if k < near else scale * shares[k - near]
        both = moved(b + k, b + k, np.array([[v[k] for v in variances[:2]], [v[k] for v in variances[1:]]]), source)
        rest[:, k] = both[0, 0], both[0, 1], both[1, 1]
    return squares, new, rest


def slow_pairs(problem, exact, moments, means, squares, hypers):
    """An interval of `sgdsim.regimes.averaged.slow_pairs.SlowPairs`, step by step; moments: whole (m, m) c, j, p.

    E r² of step t is replaced by the straight line through them, weighted as the doc says: its mean S_t times
    (level + slope t); and the pairs' own part of the source by S_t/S_0 times what it is at the beginning.
    """
    c, j, p = moments
    m, n, count = len(c), problem.n, len(means)
    u, lam = problem.eigenvectors[:, :m], problem.eigenvalues[:m]
    scales, times = squares.mean(1), np.arange(count)
    middle = (scales * times).sum() / scales.sum()
    level = squares.sum(0) / scales.sum()
    slope = 0 * level
    if count > 1:
        slope = ((times - middle)[:, None] * squares).sum(0) / (scales * (times - middle) ** 2).sum()
    slow = ~np.eye(m, dtype=bool)
    slow[:exact, :exact] = False
    start = c.copy()
    for t, (lr, momentum, noise) in enumerate(hypers):
        profile = level + (t - middle) * slope
        source = scales[t] * (n * u.T @ np.diag(profile) @ u - start / scales[0]) - np.outer(means[t][:m], means[t][:m])
        a = np.diag(lr * lam)
        p = momentum**2 * p - momentum * (a @ j + (a @ j).T) + a @ c @ a + noise * a @ source @ a
        drift = momentum * j - c @ a
        c, j = c + drift + drift.T + p, drift + p
        c, j, p = (np.where(slow, x, 0) for x in (c, j, p))
    return c, j, p


def linear(kernel, residual, maps, begins, readout, batches, errors=None):
    """Any linear method on one batch sequence: the readout after every step, (T + 1, N). `errors`: of the labels."""
    n = len(residual)
    components = np.outer(begins, residual)
    out = [residual.copy()]
    for t, chosen in enumerate(batches):
        seen = components[0, chosen] - (0 if errors is None else errors[t])
        gradient = (n / len(chosen)) * kernel[:, chosen] @ seen
        components = maps.transition[t] @ components + maps.kick[t][:, None] * gradient
        out.append(readout @ components)
    return np.array(out)


def enumerated_weighted(kernel, residual, maps, begins, readout, size, label_noise=0.0):
    """Mean loss and moments E r rᵀ after every step of importance sampling, over all batch sequences by their chances,
    and over all signs ±σ of the labels' errors."""
    n, diagonal = len(residual), np.diag(kernel)
    chances = diagonal / diagonal.sum()
    signs = [-1.0, 1.0] if label_noise else [0.0]
    errors = [label_noise * np.array(signed) for signed in itertools.product(signs, repeat=size)]
    options = [(list(b), e) for b in itertools.product(range(n), repeat=size) for e in errors]
    second, m = 0.0, maps.kick.shape[1]
    for draws in itertools.product(options, repeat=len(maps.kick)):
        chance, components = 1.0, np.zeros((m, n))
        components += np.multiply.outer(begins, residual)
        path = [readout @ components]
        for t, (batch, error) in enumerate(draws):
            gradient = np.zeros(n)
            for i, e in zip(batch, error, strict=True):
                chance *= chances[i] / len(errors) ** (1 / size)
                gradient += n / size * kernel[:, i] * (components[0, i] - e) / (n * chances[i])
            components = maps.transition[t] @ components + maps.kick[t][:, None] * gradient
            path.append(readout @ components)
        second = second + chance * np.einsum("ti,tj->tij", path, path)
    return second


def enumerated_linear(kernel, residual, maps, begins, readout, size, label_noise=0.0):
    """Mean loss after every step over all batch sequences, and over all signs ±σ of the labels' errors."""
    n, total, count = len(residual), 0.0, 0
    steps = len(maps.kick)
    signs = [-1.0, 1.0] if label_noise else [0.0]
    errors = [label_noise * np.array(one) for one in itertools.product(signs, repeat=size)]
    options = [(list(b), e) for b in itertools.combinations(range(n), size) for e in errors]
    for draws in itertools.product(options, repeat=steps):
        path = linear(kernel, residual, maps, begins, readout, [b for b, _ in draws], [e for _, e in draws])
        total, count = total + (path**2).mean(1) / 2, count + 1
    return total / count


def linear_diagonal(eigenvalues, coefficients, maps, noise, label, tau, begins, readout):
    """The spectral-diagonal recurrence of any linear method; Σ of the readout's second moments, (T + 1,)."""
    m = maps.kick.shape[1]
    second = [np.outer(v, v) for v in np.outer(coefficients, begins)]
    totals = [sum(readout @ s @ readout for s in second)]
    for t in range(len(maps.kick)):
        total, k = sum(s[0, 0] for s in second), maps.kick[t]
        new = []
        for lam, s in zip(eigenvalues, second, strict=True):
            r = maps.transition[t] + lam * np.outer(k, np.eye(m)[0])
            new.append(r @ s @ r.T + lam**2 * (noise[t] * (total - tau * s[0, 0]) + label[t]) * np.outer(k, k))
        second = new
        totals.append(sum(readout @ s @ readout for s in second))
    return np.array(totals)


def loss_transform(eigenvalues, c, z, *, lr, momentum, noise, tau=1.0, multiplicity=None):
    """`s̃(z) = Σ_t s_t z^t = Ṽ/(1 − zŨ)` of heavy ball, at every z."""
    counts, b, g = np.ones(len(eigenvalues)) if multiplicity is None else multiplicity, momentum, noise * tau
    out = []
    for at in np.ravel(z):
        u = v = 0.0
        for lam, error, count in zip(eigenvalues, c, counts, strict=True):
            x, slow = lr * lam, 1 - b * at
            s = (1 - at) * slow * (1 - b**2 * at) + 2 * x * at * (1 + b) * slow + x**2 * at * (g * (1 + b * at) - slow)
            u += count * noise * x**2 * (1 + b * at) / s
            v += error * (2 * b * x * at + slow * (1 - b**2 * at)) / s
        out.append(v / (1 - at * u))
    return np.reshape(out, np.shape(z))


def population_risk(eigenvalues, weights, lr, batch_size, variance, steps):
    """Excess risk ½ tr(H S) before each of `steps` steps of SGD and at the end, S = E uuᵀ in full, (steps + 1,).

    `u ← u − (lr/b) Σ x(⟨x, u⟩ − ε)` with x ~ N(0, H), E ε² = variance; `E xxᵀSxxᵀ = 2HSH + tr(HS)H` (Isserlis).
    """
    h = np.diag(eigenvalues)
    u = np.sqrt(np.divide(weights, eigenvalues))
    s = np.outer(u, u)
    out = []
    for _ in range(steps + 1):
        out.append(np.trace(h @ s) / 2)
        drawn = 2 * h @ s @ h + np.trace(h @ s) * h + variance * h
        s = s - lr * (h @ s + s @ h) + lr**2 * ((1 - 1 / batch_size) * h @ s @ h + drawn / batch_size)
    return np.array(out)


def polyak(jacobian, residual, factor, batches, errors, floor, maximum):
    """A linear model's losses under stochastic Polyak steps: jacobian (N, P), residual (N,), batches, errors (T, b)."""
    moved, losses = np.zeros(jacobian.shape[1]), [np.mean(residual**2) / 2]
    for batch, error in zip(batches, errors, strict=True):
        seen = residual[batch] + jacobian[batch] @ moved - error
        gradient = sum(s * jacobian[i] for s, i in zip(seen, batch, strict=True)) / len(batch)
        excess = max(np.mean(seen**2) / 2 - floor, 0.0)
        moved = moved - min(factor * excess / (gradient @ gradient), maximum) * gradient
        losses.append(np.mean((residual + jacobian @ moved) ** 2) / 2)
    return losses


def pair_transforms(eigenvalues, counts, c, transition, kick, begins, readout, own, z):
    """Ũ, Ũ of what is read, Ṽ and Ṽ of what is read at z, on all m² moments of each mode; `own`: γτ."""
    size, out = len(kick), np.zeros(4, complex)
    for lam, count, weight in zip(eigenvalues, counts, c, strict=True):
        r = np.array(transition)
        r[:, 0] += lam * kick
        step = np.kron(r, r)
        step[:, 0] -= own * lam**2 * np.kron(kick, kick)
        inverse = np.linalg.inv(np.eye(size**2) - z * step)
        noise, signal = inverse @ np.kron(kick, kick), inverse @ np.kron(begins, begins)
        read = np.kron(readout, readout)
        out += [
            count * lam**2 * noise[0],
            count * lam**2 * (read @ noise),
            weight * signal[0],
            weight * (read @ signal),
        ]
    return out
