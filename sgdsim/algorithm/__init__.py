"""The algorithm: `sgd.SGD`, its methods, schedules, averages, samplings, and the batches of a run.

May import: common. A new linear method or schedule is a module of its own, listed in `methods` or `schedules`: see
`schedule_free` and `piecewise_linear`, and `maps` for what a method is. One that is not linear in the gradient goes
into `rules`, a new way to draw batches into `samplers`, each with its text form registered there.
"""
