"""Windows: what a thread reads ahead, in which buffers, and copies to devices."""

import sys
import threading
import types

import numpy as np
import pytest
from sources import BATCH, LABELS, ROWS, Sliced, X, order_as_defined, plan, small_windows

import portnet
from portnet.backend import Backend
from portnet.data.sources.dataset import source_dataset
from portnet.data.sources.windows import Windows

small_windows = small_windows
pytestmark = pytest.mark.usefixtures("small_windows")


def dataset(x=None, y=None, w=None, backend=None):
    return source_dataset(
        Sliced(X) if x is None else x,
        LABELS if y is None else y,
        w,
        backend=backend or portnet.get_backend(),
        loss=portnet.SoftmaxCrossEntropy(),
        inputs=5,
        outputs=3,
        classes=None,
    )


def windows(data, epochs=range(1), first=0, shuffle=True, **options):
    return Windows(data, data.plan(BATCH, shuffle), 3, epochs, first, **options)


def rows_of(window):
    """Return what steps take of a window: X, y, weights in their order."""
    taken = [a if a is None else portnet.to_numpy(a)[window.order] for a in window.dataset.arrays]
    return taken


def test_windows_are_the_rows_of_the_epochs_in_order(xp):
    weight = np.arange(ROWS) % 3 + 0.5
    data = dataset(w=weight, backend=portnet.get_backend())
    row_bytes = (4 if xp.float_name == "float32" else 8) * 7
    found = windows(data, range(4, 6), weight=2.0)
    assert found.plan == plan(row_bytes=row_bytes)
    for epoch in (4, 5):
        expected = order_as_defined(found.plan, 3, epoch)
        for window in found.of_epoch(epoch, 0, []):
            at = expected[window.first : window.first + len(window.order)]
            x, y, w = rows_of(window)
            np.testing.assert_array_equal(x, X[at].astype(xp.float_name))
            np.testing.assert_array_equal(y, LABELS[at])
            np.testing.assert_array_equal(w, (weight[at] / 2).astype(xp.float_name))
    found.close()


def test_arrays_stay_the_same_from_window_to_window():
    found = windows(dataset(), range(3))
    seen = {
        tuple(map(id, window.dataset.arrays))
        for e in range(3)
        for window in found.of_epoch(e, 0, [])
    }
    found.close()
    assert len(seen) == 1


def test_an_epoch_begins_at_any_row_and_a_window_can_be_asked_for_again():
    whole = windows(dataset())
    expected = [rows_of(w) for w in whole.of_epoch(0, 0, [])]
    whole.close()
    size = whole.plan.window
    for number in (1, 3):
        found = windows(dataset(), first=number * size + BATCH)
        for _ in range(2):
            window = next(found.of_epoch(0, number * size + BATCH, []))
            assert window.first == number * size
            np.testing.assert_array_equal(rows_of(window)[0], expected[number][0])
        found.close()


def test_only_two_windows_are_read_ahead_and_closing_ends_the_thread():
    x = Sliced(X)
    found = windows(dataset(x), range(100))
    x.slices.clear()
    next(found.of_epoch(0, 0, []))
    thread = found._thread
    for _ in range(200):
        if sum(b - a for a, b in x.slices) >= 2 * found.plan.window:
            break
        threading.Event().wait(0.01)
    threading.Event().wait(0.05)
    assert sum(b - a for a, b in x.slices) == 2 * found.plan.window
    found.close()
    assert not thread.is_alive()
    found.close()  # again


def test_a_signal_ends_the_wait():
    go_on = threading.Event()

    class Waits(Sliced):
        def __getitem__(self, rows):
            if go_on is not None and threading.current_thread() is not threading.main_thread():
                go_on.wait()
            return super().__getitem__(rows)

    found = windows(dataset(Waits(X)))
    assert list(found.of_epoch(0, 0, [2])) == []
    go_on.set()
    assert len(list(found.of_epoch(0, 0, []))) == found.plan.windows
    found.close()


def test_the_error_of_the_thread_is_raised_each_time_one_asks():
    x = X.copy()
    x[1] = np.nan
    found = windows(dataset(Sliced(x[::-1])), shuffle=False)
    for _ in range(2):
        with pytest.raises(portnet.DataError, match="X contains NaN at row 3019, column 0"):
            list(found.of_epoch(0, 0, []))
    found.close()


class OnDevice(np.ndarray):
    """An array on a device: it is written from the host by `set` only, as CuPy's are."""

    calls = None

    def set(self, host):
        OnDevice.calls.append("set")
        assert isinstance(host, np.ndarray)
        self.view(np.ndarray)[...] = host


def test_copies_to_a_gpu_are_from_pinned_memory_and_waited_for(monkeypatch):
    calls = OnDevice.calls = []
    stream = types.SimpleNamespace(synchronize=lambda: calls.append("synchronize"))

    def pinned(shape, dtype):
        calls.append("pinned")
        return np.empty(shape, dtype)

    cuda = types.SimpleNamespace(get_current_stream=lambda: stream)
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(cuda=cuda))
    monkeypatch.setitem(sys.modules, "cupyx", types.SimpleNamespace(empty_pinned=pinned))

    def asarray(host, dtype, device, copy):
        assert copy
        return np.array(host, dtype).view(OnDevice)

    xp = types.SimpleNamespace(asarray=asarray, float32=np.float32, __name__="fake")
    gpu = Backend("cupy", "float32", None, xp)
    host = gpu.window((4, 2), np.float32)
    host[...] = 1
    device = gpu.upload(host, None)
    host[...] = 2
    assert (device == 1).all()
    assert gpu.upload(host[:3], device) is device
    np.testing.assert_array_equal(np.asarray(device)[:, 0], [2, 2, 2, 1])
    assert calls == ["pinned", "set", "synchronize"]


def test_upload_writes_where_arrays_can_be_written_and_never_shares_memory(other_xp):
    backend = portnet.get_backend()
    host = backend.window((4, 2), np.float32)
    host[...] = 1
    device = backend.upload(host, None)
    host[...] = 2
    assert (portnet.to_numpy(device) == 1).all()
    again = backend.upload(host[:4], device)
    assert (again is device) == backend._library.writable
    host[...] = 3
    assert (portnet.to_numpy(again) == 2).all()
