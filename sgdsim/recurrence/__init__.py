"""The spectral-diagonal system: one step, plain and of any linear method, its adjoint, and its contour at late times;
and the averaged regime at late times, by a contour of its own (`exact`).

Regimes and theory both stand on it. May import: common, algorithm, problem. A new way to follow the
system is a module here; its compiled loops see numba and NumPy only.
"""
