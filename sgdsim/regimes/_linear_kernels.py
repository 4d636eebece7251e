"""Compiled loops of any linear method (`sgdsim.algorithm.methods`): arrays in, arrays out. Twins in `tests/naive.py`.

`transition` (T, m, m) and `kick` (T, m) are the steps of the m components; `starts` (m + 1,) and `columns` list where
rows of the transition may differ from 0, as most memory vectors see only themselves. The diagonal regime's are in
`sgdsim.recurrence.linear_kernels`.
"""

from __future__ import annotations

import numba
import numpy as np

from sgdsim.algorithm.draws import FEATURES, LENGTHS, chi_square, normals, seek
from sgdsim.recurrence.linear_kernels import conjugate


@numba.njit(cache=True, nogil=True, parallel=True)
def averaged(eigenvalues, second, first, source, n_samples, transition, kick, noise, label, starts, columns):
    """One step of the batch-averaged noise: `second` (n, n, m, m) in place, [i, k] the covariance of components of
    mode i (rows) and of mode k; `first` (n, m) the mean before the step; source (n, n) = Uᵀ diag(E r²) U.

    Each pair i ≥ k is computed once and written twice, so that it stays symmetric to the last bit.
    """
    n, m = second.shape[0], second.shape[2]
    for i in numba.prange(n):
        half, new = np.empty((m, m)), np.empty((m, m))
        for k in range(i + 1):
            drawn = noise * (n_samples * source[i, k] - second[i, k, 0, 0] - first[i, 0] * first[k, 0])
            if i == k:
                drawn += label
            drawn *= eigenvalues[i] * eigenvalues[k]
            conjugate(second[i, k], transition, kick, eigenvalues[i], eigenvalues[k], starts, columns, half, new)
            for a in range(m):
                for b in range(m if i > k else a + 1):
                    value = new[a, b] + drawn * kick[a] * kick[b]
                    second[i, k, a, b] = value
                    second[k, i, b, a] = value


@numba.njit(cache=True, nogil=True)
def _move(components, gradient, transition, kick, starts, columns, old):
    """One step of all components (m, n) of a replicate, in place."""
    m, n = components.shape
    for k in range(n):
        for i in range(m):
            old[i] = components[i, k]
        for i in range(m):
            value = kick[i] * gradient[k]
            for at in range(starts[i], starts[i + 1]):
                value += transition[i, columns[at]] * old[columns[at]]
            components[i, k] = value


@numba.njit(cache=True, nogil=True, parallel=True)
def sampled(kernel, components, transition, kick, sizes, batches, errors, weights, starts, columns):
    """The linearised run on mini-batches: components (R, m, N) in place; batches (R, T, b) int32, errors (R, T, b) of
    the labels and weights (R, T, b) of the points (or of length 0: none)."""
    replicates, m, n = components.shape
    for replicate in numba.prange(replicates):
        own, gradient, old = components[replicate], np.empty(n), np.empty(m)
        for t in range(sizes.size):
            b = sizes[t]
            gradient[:] = 0.0
            for at in range(b):
                point = batches[replicate, t, at]
                weight = own[0, point]
                if errors.shape[2] > 0:
                    weight -= errors[replicate, t, at]
                weight *= n / b
                if weights.shape[2] > 0:
                    weight *= weights[replicate, t, at]
                row = kernel[point]
                for k in range(n):
                    gradient[k] += weight * row[k]
            _move(own, gradient, transition[t], kick[t], starts, columns, old)


@numba.njit(cache=True, nogil=True, parallel=True)
def one_pass(eigenvalues, components, transition, kick, sizes, keys, start, label, starts, columns):
    """The run on fresh Gaussian samples, in the eigenbasis: components (R, m, n) in place; `label`: deviation of the
    labels' error times √n. A sample's features are √λ_k z_k with z standard normal, its residual Σ z_k a_k.

    With v = (a, −label) and Z (b, n + 1) of all samples, `ZᵀZv = χ v + √χ (‖v‖ ξ − v (v·ξ)/‖v‖)`, χ of b degrees of
    freedom and ξ standard normal: of the same law, whatever b.
    """
    replicates, m, n = components.shape
    for replicate in numba.prange(replicates):
        own, gradient, old = components[replicate], np.empty(n), np.empty(m)
        key0, key1 = keys[replicate, 0], keys[replicate, 1]
        counter, words, xi = np.empty(4, np.uint64), np.empty(4, np.uint64), np.empty(n + 1)
        for t in range(sizes.size):
            seek(counter, start + t, FEATURES)
            normals(counter, words, key0, key1, xi)
            seek(counter, start + t, LENGTHS)
            chi = chi_square(counter, words, key0, key1, sizes[t])
            square, along = label * label, -label * xi[n]
            for k in range(n):
                square += own[0, k] * own[0, k]
                along += own[0, k] * xi[k]
            length, root = np.sqrt(square), np.sqrt(chi)
            straight, across = (chi - root * along / max(length, 1e-300)) / sizes[t], root * length / sizes[t]
            for k in range(n):
                gradient[k] = eigenvalues[k] * (straight * own[0, k] + across * xi[k])
            _move(own, gradient, transition[t], kick[t], starts, columns, old)


@numba.njit(cache=True, nogil=True, parallel=True)
def one_pass_outputs(eigenvalues, components, transition, kick, sizes, keys, start, label, starts, columns):
    """`one_pass` of C outputs that see the same samples, each with label errors of its own: components (R, C, m, n).

    The columns of V (n + C, C) are (a_o, −label e_o). With V = QR, `ZᵀZV = Q LLᵀ R + P_⊥ Ξ Lᵀ R`, where LLᵀ is a
    Wishart matrix of b degrees of freedom (Bartlett), Ξ standard normal (n + C, C) and P_⊥ takes Q out: of the same
    law. Equal targets have equal runs, those of `one_pass`.
    """
    replicates, outputs, m, n = components.shape
    for replicate in numba.prange(replicates):
        own, old, gradient = components[replicate], np.empty(m), np.empty(n)
        key0, key1 = keys[replicate, 0], keys[replicate, 1]
        counter, words = np.empty(4, np.uint64), np.empty(4, np.uint64)
        q, xi = np.empty((outputs, n + outputs)), np.empty((outputs, n + outputs))
        lower, upper = np.empty((outputs, outputs)), np.empty((outputs, outputs))
        for t in range(sizes.size):
            seek(counter, start + t, FEATURES)
            for o in range(outputs):
                normals(counter, words, key0, key1, xi[o])
            seek(counter, start + t, LENGTHS)
            _bartlett(counter, words, key0, key1, sizes[t], lower)
            q[:] = 0.0
            for o in range(outputs):
                q[o, :n] = own[o, 0]
                q[o, n + o] = -label
            _orthonormal(q, upper)
            _without(xi, q)
            for o in range(outputs):
                gradient[:] = 0.0
                for j in range(min(outputs, sizes[t])):
                    across = 0.0  # (LᵀR)_jo
                    for i in range(j, outputs):
                        across += lower[i, j] * upper[i, o]
                    for k in range(n):
                        gradient[k] += across * xi[j, k]
                    for i in range(j, outputs):
                        along = lower[i, j] * across
                        for k in range(n):
                            gradient[k] += along * q[i, k]
                gradient *= eigenvalues / sizes[t]
                _move(own[o], gradient, transition[t], kick[t], starts, columns, old)


@numba.njit(cache=True, nogil=True)
def _bartlett(counter, words, key0, key1, degrees, lower):
    """L (C, C), lower triangular, of LLᵀ = GᵀG with G (degrees, C) standard normal; columns from `degrees` on are 0."""
    z = np.empty(1)
    lower[:] = 0.0
    for j in range(min(degrees, lower.shape[0])):
        lower[j, j] = np.sqrt(chi_square(counter, words, key0, key1, degrees - j))
    for i in range(lower.shape[0]):
        for j in range(min(degrees, i)):
            normals(counter, words, key0, key1, z)
            lower[i, j] = z[0]


@numba.njit(cache=True, nogil=True)
def _orthonormal(rows, upper):
    """Rows in place, orthonormal or 0 where they depend on those before; upper (C, C): what they were made of."""
    upper[:] = 0.0
    for o in range(rows.shape[0]):
        whole = np.sqrt(np.sum(rows[o] ** 2))
        for _ in range(2):  # once more for what rounding has left
            for i in range(o):
                shared = np.sum(rows[i] * rows[o])
                upper[i, o] += shared
                rows[o] -= shared * rows[i]
        left = np.sqrt(np.sum(rows[o] ** 2))
        if left > 1e-12 * whole:
            upper[o, o] = left
            rows[o] /= left
        else:
            rows[o] = 0.0


@numba.njit(cache=True, nogil=True)
def _without(rows, q):
    """Takes the orthonormal q out of the rows, in place."""
    for o in range(rows.shape[0]):
        for i in range(q.shape[0]):
            rows[o] -= np.sum(q[i] * rows[o]) * q[i]
