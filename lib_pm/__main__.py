"""`python -m lib_pm`."""

import sys

from lib_pm.cli import main

if __name__ == "__main__":
    sys.exit(main())
