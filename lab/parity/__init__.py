"""Compare ofa/ with ModelScope's own pipeline.

`python -m lab.parity` compares live, with the environment of requirements-modelscope.txt; tests/parity checks
the goldens it writes for the small folders without that environment.
"""
