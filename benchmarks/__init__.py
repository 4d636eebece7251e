"""Speed, as ratios to a plain version measured in the same run: `python -m benchmarks [name …] [--json]`."""
