"""`python -m eventq` is the command `eventq`."""

from __future__ import annotations

import sys

from eventq.cli import main

if __name__ == "__main__":
    sys.exit(main())
