"""What ten minutes on a borrowed GPU settle: `make gpu-check`, or `python -m lab.bench.gpu --help`."""
