"""One module a question: runs and theory put together, each with a frozen result.

May import: common, algorithm, datasets, networks, problem, observables, recurrence, regimes, theory, runs. A new
question is a module here, its picture one in `sgdsim.plot`, its command one in `sgdsim.cli`; studies import neither.
"""

from sgdsim.common.rooms import modules_of

__getattr__, __dir__ = modules_of(__name__, __path__)
