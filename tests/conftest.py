"""Settings of the whole test run."""

from __future__ import annotations

import os

# Workers that each start several threads wait for one another far longer than they compute. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
