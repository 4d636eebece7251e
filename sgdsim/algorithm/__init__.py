"""The algorithm: `sgd.SGD`, its methods, schedules, averages, samplings, and the batches of a run.

May import: common. A new linear method or schedule is a module of its own, listed in `methods` or `schedules`: see
`schedule_free` and `piecewise_linear`, and `maps` for what a method is. A new way to draw batches goes into `sampling`.
"""
