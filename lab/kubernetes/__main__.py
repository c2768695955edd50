"""Check the base and every overlay; `make lint` runs it. Exit status 1 with a line for each problem.

python -m lab.kubernetes [FOLDER …]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lab.kubernetes.manifests import check, folders


def main(arguments: Sequence[str]) -> int:
    chosen = [Path(name) for name in arguments] or folders()
    wrong = [line for folder in chosen for line in check(folder)]
    print("\n".join(wrong) or f"Kubernetes manifests: {len(chosen)} folders checked")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
