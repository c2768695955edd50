"""``python -m service.doctor`` is an alias of ``python -m doctor``."""

import sys

from doctor.__main__ import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
