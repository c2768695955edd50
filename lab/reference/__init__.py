"""ModelScope's own pipeline in its own environment: what lab.parity and lab.bench compare with.

Imports nothing here: lab.reference.child runs with ModelScope's Python.
"""
