"""The algorithm: `sgd.SGD`, its methods, schedules, averages, samplings, and the batches of a run.

May import: common. A new linear method goes into `methods`, one that is not linear in the gradient into `rules`, a
new schedule into `schedules`, each with its text form registered there; a new way to draw batches into `samplers`.
"""
