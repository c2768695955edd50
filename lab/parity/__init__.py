"""The proof that ofa/ answers as ModelScope's own pipeline does.

`python -m lab.parity` compares live, with the reference environment of requirements-modelscope.txt; the
goldens that it writes for the small folders are checked by tests/parity without that environment.
"""
