"""The theory in symbols: derived (sympy), proved (z3), printed.

May import: common, problem, recurrence, theory. A new derivation or claim is a module here; nothing numeric needs this
room.
"""

from sgdsim.common.rooms import modules_of

__getattr__, __dir__ = modules_of(__name__, __path__)
