"""Cells followed: one (`simulation`) or many (`sweeps`), and their labelled result (`results`).

Of a sweep, `request` checks what is asked and `assembly` puts the result together.

May import: common, algorithm, problem, observables, recurrence, regimes. A new executor goes into `executors`, a
new grid axis into `grids`, a new variable of the result into `results`.
"""
