"""Cells followed: one (`simulation`) or many (`sweeps`), and their labelled result (`results`).

Of a sweep, `request` checks what is asked, `chunks` cut the work and `executors` have it done, and `assembly` puts the
result together.

May import: common, algorithm, problem, observables, recurrence, regimes. A new executor is a generator in a
module of its own, as Dask's in `clusters`, and a line in `executors`; a new grid axis goes into `grids`, a new variable
of the result into `results`.
"""
