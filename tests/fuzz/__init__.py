"""Command lines and files that nobody would write by hand, and what sgdsim must do with them: `make fuzz`.

`command_lines` makes them, `outcome` judges what came of one, `files` damages each kind of file that sgdsim reads,
`inputs` writes the undamaged ones, `workers` runs all of it in processes that may hang or die. Everything follows from
a seed; `--replay` runs one failure again.
"""
