"""Dataset: checked features, targets and weights, and the order of the rows."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from .._typing import Array, Host
from ..backend import Backend

__all__ = ["Batch", "Dataset"]

Batch = tuple[Any, Array, Array | None]  # x (rows, features), y, weight (rows,)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Features X (rows, features), targets y and weights (rows,), all on one backend.

    Parameters
    ----------
    backend : Backend
        Where the arrays are.
    X : array, or SciPy CSR matrix on the host
        A CSR matrix stays sparse on the host's backend; on others, each batch becomes dense.
    y, weight : array, optional
    order : array of int on the host (rows,), optional
        The indices of the rows to use, in order; by default all rows.
    """

    backend: Backend
    X: Any
    y: Any = None  # an Array where there are targets
    weight: Array | None = None
    order: Host | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self.X.shape[0] if self.order is None else len(self.order))

    @cached_property
    def index(self) -> Array | None:
        """The order on the backend; copied once."""
        if self.order is None or self.backend.is_host:
            return self.order
        return self.backend.row_numbers(self.order, self.X.shape[0])

    @property
    def is_csr(self) -> bool:
        """Whether X is a CSR matrix."""
        return hasattr(self.X, "toarray")

    @property
    def is_sparse(self) -> bool:
        """Whether batches are sparse."""
        return self.is_csr and self.backend.is_host

    @property
    def arrays(self) -> Batch:
        """X, y and weight of all rows; `order` is not applied."""
        return self.X, self.y, self.weight

    def head(self, count: int) -> "Dataset":
        """Return the first `count` rows of X; `order` is not applied."""
        count = min(count, int(self.X.shape[0]))
        return self.with_arrays(a if a is None else a[:count, ...] for a in self.arrays)

    def with_arrays(self, arrays: Iterable[Any]) -> "Dataset":
        """Return a dataset with other X, y, weight."""
        X, y, weight = arrays
        return replace(self, X=X, y=y, weight=weight)

    def batches(self, size: int) -> Iterator[Batch]:
        """Yield x, y, weight of `size` rows each, the last batch of the rest."""
        index = self.index
        for start in range(0, len(self), size):
            part = slice(start, min(start + size, len(self)))
            x = self.dense_or_sparse(part) if self.is_csr else self._part(self.X, index, part)
            yield x, self._part(self.y, index, part), self._part(self.weight, index, part)

    def dense_or_sparse(self, part: slice) -> Any:
        """Return rows of a CSR matrix: sparse on the host's backend, dense elsewhere."""
        rows = self.X[part] if self.order is None else self.X[self.order[part]]
        if self.is_sparse:
            return rows
        return self.backend.asarray(rows.toarray(), self.backend.dtype)

    def _part(self, a: Array | None, index: Array | None, part: slice) -> Any:
        if a is None or index is None:
            return a if a is None else a[part, ...]
        return self.backend.xp.take(a, index[part], axis=0)
