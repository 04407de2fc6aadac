"""``python -m geartrain.cli``."""

import sys

from geartrain.cli import main

sys.exit(main())
