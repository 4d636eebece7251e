"""What every room needs and knows nothing of SGD: checks of input, specs as text, values as JSON, tables, statistics
over replicates, devices, interruption, whole files.

May import: no other room. Add a helper here once two rooms need it, as a module named after its one concern.
"""
