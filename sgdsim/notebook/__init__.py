"""For notebooks: tables as pandas frames, and sliders.

May import: common, algorithm, problem, theory, symbolic, studies, plot. A new table goes into `tables`,
a new set of sliders into a module of its own.
"""
