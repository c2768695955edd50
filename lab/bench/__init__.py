"""Measure this service and ModelScope's pipeline: `make bench`, or `python -m lab.bench --help`."""
