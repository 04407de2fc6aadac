"""A variable over many records as an xarray variable that reads when it is looked at."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray
from xarray.backends import BackendArray
from xarray.core import indexing

from geartrain.store.collection import Variable


def lazy(variable: Variable) -> xarray.Variable:
    """The xarray variable; nothing is read yet, and what was read whole is kept, as xarray does with files."""
    data = indexing.LazilyIndexedArray(_Records(variable))
    return xarray.Variable(variable.dims, indexing.MemoryCachedArray(data), dict(variable.attrs))


class _Records(BackendArray):
    def __init__(self, variable: Variable) -> None:
        self.variable = variable
        self.shape = variable.shape
        self.dtype = variable.dtype

    def __getitem__(self, key: Any) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._take)

    def _take(self, key: tuple[Any, ...]) -> np.ndarray:
        where = [np.atleast_1d(np.arange(n)[k]) for n, k in zip(self.shape, key, strict=True)]
        single = tuple(0 if isinstance(k, (int, np.integer)) else slice(None) for k in key)
        return self.variable.take(where)[single]
