"""Records on disk: plain files, written whole or not at all, readable without geartrain.

A record is a folder with ``run.json``, ``metrics.jsonl`` and ``arrays.npz`` (see `record`). Many records read back as
one labelled tree that loads numbers only where they are looked at (`collection`), and go to Parquet and Zarr.
"""

from __future__ import annotations

from geartrain.store.arrays import LabelledArray
from geartrain.store.atomic import DiskFullError, write_file, write_folder
from geartrain.store.locks import Locks
from geartrain.store.record import FORMAT, Header, pack_record, read_header, read_metrics

__all__ = [
    "FORMAT",
    "DiskFullError",
    "Header",
    "LabelledArray",
    "Locks",
    "pack_record",
    "read_header",
    "read_metrics",
    "write_file",
    "write_folder",
]
