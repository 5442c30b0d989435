"""`python -m assets.recipes NAME`, from the repository's root."""

import sys

from .run import main

if __name__ == "__main__":
    sys.exit(main())
