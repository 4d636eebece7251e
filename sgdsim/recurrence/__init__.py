"""The spectral-diagonal system: one step, plain and of any linear method, its adjoint, its contour at late times and a
long spectrum as a short one; and the averaged regime at any time, by a contour of its own (`exact`).

Regimes and theory both stand on it. May import: common, algorithm, problem. A new way to follow the system is a module
here; its compiled loops see numba and NumPy only. For one more method the exact average needs a `Form` in `pairs`.
"""
