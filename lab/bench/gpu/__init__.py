"""Check a GPU in at most eight minutes: `make gpu-check`, or `python -m lab.bench.gpu --help`."""
