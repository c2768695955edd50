"""Accuracy and calibration on labelled data: ``python -m evaluation``. Nothing imports this package.

* :mod:`evaluation.formats`      readers of published benchmarks and of own lists
* :mod:`evaluation.examples`     labelled examples, in one form
* :mod:`evaluation.conditions`   what the model is shown: picture, premise, both or neither
* :mod:`evaluation.judging`      asks the model, resumably
* :mod:`evaluation.results`      which pairs count; verdicts and figures of a run
* :mod:`evaluation.figures`      accuracy, calibration, risk against coverage
* :mod:`evaluation.report`       the report as Markdown
* :mod:`evaluation.plots`        its plots
* :mod:`evaluation.comparison`   two runs on the same data
* :mod:`evaluation.calibration`  temperature and thresholds, fitted and checked

Figures and plots need requirements-evaluation.txt.
"""
