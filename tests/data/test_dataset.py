"""Dataset: length, order, batches, sparse rows."""

import numpy as np
import pytest

import portnet
from portnet.data.dataset import Dataset

X = np.arange(20.0).reshape(10, 2)
Y = np.arange(10.0)[:, None]
W = np.linspace(1, 2, 10)
ORDER = np.array([3, 1, 4, 9, 5])


def dataset(xp, order=None):
    backend = portnet.backend.backend_of(xp.asarray(X))
    return Dataset(backend, xp.asarray(X), xp.asarray(Y), xp.asarray(W), order)


@pytest.mark.parametrize("order", [None, ORDER], ids=["as it is", "ordered"])
@pytest.mark.parametrize("size", [1, 3, 10, 99])
def test_batches_are_the_rows_in_order(xp, order, size):
    rows = np.arange(10) if order is None else order
    data = dataset(xp, order)
    assert len(data) == len(rows)
    batches = list(data.batches(size))
    assert [b[0].shape[0] for b in batches[:-1]] == [size] * (len(batches) - 1)
    for k, expected in enumerate((X, Y, W)):
        found = np.concatenate([portnet.to_numpy(batch[k]) for batch in batches])
        np.testing.assert_allclose(found, expected[rows], rtol=1e-6)


def test_batches_without_targets_and_weights_have_none():
    data = Dataset(portnet.get_backend(), X)
    assert [(y, w) for _, y, w in data.batches(4)] == [(None, None)] * 3


def test_head_and_with_arrays(xp):
    data = dataset(xp, ORDER)
    head = data.head(3)
    assert [a.shape[0] for a in head.arrays] == [3, 3, 3]
    assert [a.shape[0] for a in data.head(1000).arrays] == [10, 10, 10]
    other = data.with_arrays((data.X, data.y, None))
    assert other.weight is None
    assert other.order is ORDER


def test_csr_rows_stay_sparse_on_numpy_and_become_dense_elsewhere(torch):
    sparse = pytest.importorskip("scipy.sparse", reason="SciPy is not installed")
    matrix = sparse.csr_matrix(X)
    here = Dataset(portnet.get_backend(), matrix, Y, order=ORDER)
    assert here.is_csr
    assert here.is_sparse
    (x, y, _), _ = here.batches(3)
    assert sparse.issparse(x)
    np.testing.assert_array_equal(x.toarray(), X[ORDER[:3]])
    np.testing.assert_array_equal(y, Y[ORDER[:3]])
    with portnet.use_backend("torch") as backend:
        there = Dataset(backend, matrix, order=ORDER)
        assert there.is_csr
        assert not there.is_sparse
        x, _, _ = next(there.batches(3))
        assert isinstance(x, torch.Tensor)
        np.testing.assert_array_equal(x.numpy(), X[ORDER[:3]])
