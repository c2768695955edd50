"""What ten minutes on a borrowed GPU settle: `make gpu-check`, or `python -m bench.gpu --help`."""
