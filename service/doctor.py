"""``python -m service.doctor``: the doctor's command under its first name."""

import sys

from doctor.__main__ import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
