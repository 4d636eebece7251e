"""The algorithm: `sgd.SGD`, its methods, schedules, averages, samplings, and the batches of a run.

May import: common. A new linear method goes into `methods` and a new schedule into `schedules`, each with its text form
registered there; a new way to draw batches into `sampling`.
"""
