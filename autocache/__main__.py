"""`python -m autocache` is the `autocache` command."""

from __future__ import annotations

import sys

from autocache.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
