"""What generating functions say without simulating: stability, laws, optima, schedules.

May import: common, algorithm, problem, recurrence. A new result is a module here, of functions from a problem and an
algorithm to a frozen answer; where symbols are needed it belongs to `sgdsim.symbolic`. Losses are those of squares: of
a quadratic model of another loss, those above its `loss_offset`.
"""

from sgdsim.common.rooms import modules_of

__getattr__, __dir__ = modules_of(__name__, __path__)
