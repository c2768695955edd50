"""Measures this service beside ModelScope's pipeline: `make bench`, or `python -m lab.bench --help`.

Imports nothing here, since bench.reference runs with the Python of ModelScope's own environment.
"""
