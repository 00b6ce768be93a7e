"""Reading sources: slices are checked, errors name the place, files that change are noticed."""

import os
import re

import numpy as np
import pytest
from sources import BATCH, LABELS, ROWS, Sliced, X, mapped, small_windows

import portnet
from portnet import tree
from portnet.data.checks import DataError, is_source
from portnet.data.sources import reading
from portnet.data.sources.reading import reader_of

small_windows = small_windows


def fit(x, y=LABELS, net=None, loss="softmax_cross_entropy", epochs=2, **options):
    net = portnet.mlp([5, 8, 3]) if net is None else net
    return portnet.Trainer(net, loss, batch_size=BATCH).fit(x, y, epochs=epochs, **options)


def with_value(a, row, value, column=None):
    a = a.copy()
    a[row if column is None else (row, column)] = value
    return a


class Changed(Sliced):
    """A source whose slices are what a function makes of them."""

    def __init__(self, a, change):
        super().__init__(a)
        self.change = change

    def __getitem__(self, rows):
        return self.change(rows, super().__getitem__(rows))


def is_late(rows):
    return rows.start <= 2_900 < rows.stop


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "u1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_maps_are_read_as_they_are(tmp_path, mode, dtype, order):
    a = np.arange(700).reshape(100, 7).astype(dtype)
    np.save(tmp_path / "a.npy", np.asarray(a, order=order))
    whole = np.load(tmp_path / "a.npy", mmap_mode=mode)
    for found, expected in ((whole, a), (whole[10:90], a[10:90]), (whole[:, 2:5], a[:, 2:5])):
        assert is_source(found)
        reader = reader_of(found, "X")
        np.testing.assert_array_equal(reader.read(3, 60), expected[3:60])
        np.testing.assert_array_equal(reader[5:10], expected[5:10])
        rows = np.array([1, 5, 6, 50])
        np.testing.assert_array_equal(reader.take(rows), expected[rows])
        into = np.zeros((4, expected.shape[1]), expected.dtype)
        if reader.read_into(3, 7, into):
            np.testing.assert_array_equal(into, expected[3:7])
        in_file = mode != "c" and order == "C" and found.shape[1] == 7
        assert (reader._file is not None) == in_file


@pytest.mark.parametrize("apart", [0, 40, 1 << 20])  # bytes: each row, both ways, blocks
@pytest.mark.parametrize("part", [1, 64, 1000, 1 << 20])  # bytes of a block
def test_single_rows_are_those_of_the_array(tmp_path, monkeypatch, apart, part):
    monkeypatch.setattr(reading, "APART", apart)
    monkeypatch.setattr(reading, "PART", part)
    draw = np.random.default_rng(0)
    for shape in ((5000, 3), (5000,), (5000, 2, 2)):
        a = draw.standard_normal(shape).astype("f4")
        reader = reader_of(mapped(tmp_path, a, f"a{len(shape)}")[100:], "X")
        assert reader._file is not None
        for rows in ([0], [4899], [0, 4899], range(4900), range(0, 4900, 7), [5, 6, 7, 3000, 3001]):
            np.testing.assert_array_equal(reader.take(np.array(rows)), a[100:][[*rows]])
        rows = np.sort(draw.choice(4900, 2500, replace=False))
        np.testing.assert_array_equal(reader.take(rows), a[100:][rows])


@pytest.mark.parametrize("apart", [0, 1 << 20])
def test_a_file_that_shrinks_while_rows_are_taken_is_an_error(tmp_path, monkeypatch, apart):
    """Whoever touched a page of the map would be ended by SIGBUS."""
    monkeypatch.setattr(reading, "APART", apart)
    reader = reader_of(mapped(tmp_path, np.ones((100_000, 5), "f4")), "X")

    def shrinking(read):
        def call(*given):
            os.truncate(tmp_path / "a.npy", 400_000)
            return read(*given)

        return call

    for name in ("_bytes_at", "_read_at"):
        monkeypatch.setattr(reading, name, shrinking(getattr(reading, name)))
    message = r"X: rows 19993 to \d+ of the file .*a\.npy: the file became shorter, from \d+ to 400"
    with pytest.raises(DataError, match=message):
        reader.take(np.arange(0, 100_000, 3))


@pytest.mark.skipif(not hasattr(os, "pread"), reason="the system has no pread: it is always so")
def test_single_rows_are_read_without_pread(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "APART", 0)
    a = np.random.default_rng(0).standard_normal((3000, 3))
    reader, rows = reader_of(mapped(tmp_path, a), "X"), np.arange(0, 3000, 11)
    for name in ("pread", "preadv"):
        monkeypatch.delattr(os, name)
    np.testing.assert_array_equal(reader.take(rows), a[rows])


def test_an_error_of_the_system_while_rows_are_taken_names_them(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "APART", 0)
    reader = reader_of(mapped(tmp_path, np.ones((3000, 3))), "X")

    def failing(read):
        def call(number, given, at, lock):
            if at == 2345 * 24 + 128:
                raise OSError(5, "Input/output error")
            return read(number, given, at, lock)

        return call

    for name in ("_bytes_at", "_read_at"):
        monkeypatch.setattr(reading, name, failing(getattr(reading, name)))
    with pytest.raises(
        DataError, match=r"X: rows 2345 to 2345 of the file .* cannot be read: .*Inp"
    ):
        reader.take(np.arange(0, 3000, 5))


def test_what_is_written_into_a_map_is_read(tmp_path):
    writable = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.float32, (50, 3))
    writable[...] = 7
    assert (reader_of(writable, "X").read(0, 50) == 7).all()
    copied = np.load(tmp_path / "a.npy", mmap_mode="c")
    copied[3] = 1  # in memory only
    assert (reader_of(copied, "X").read(3, 4) == 1).all()


def test_a_map_whose_file_was_replaced_is_read_through_the_map(tmp_path):
    a = mapped(tmp_path, np.ones((50, 3), "float32"))
    os.rename(tmp_path / "a.npy", tmp_path / "b.npy")
    np.save(tmp_path / "a.npy", np.zeros((50, 3), "float32"))
    assert (reader_of(a, "X").read(0, 50) == 1).all()
    os.remove(tmp_path / "a.npy")
    assert (reader_of(a, "X").read(0, 50) == 1).all()


def test_anonymous_maps_are_read(tmp_path):
    with open(tmp_path / "raw", "w+b") as file:
        a = np.memmap(file, np.float32, "w+", shape=(20, 3))
    a[...] = 2
    assert (reader_of(a, "X").read(0, 20) == 2).all()


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("kind", ["map", "sliced"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_in_a_late_block_names_its_row_and_leaves_parameters_as_they_were(
    tmp_path, kind, value
):
    broken = with_value(X, 2_900, value, 3)
    x = mapped(tmp_path, broken) if kind == "map" else Sliced(broken)
    before = fit(X, epochs=1)
    kept = [p.copy() for p in portnet.tree.leaves(before.params)]
    what = "NaN" if np.isnan(value) else "infinity or a value too large for float32"
    with pytest.raises(DataError, match=f"^X contains {what} at row 2900, column 3$") as caught:
        before.fit(x, LABELS, epochs=2)
    for p, q, r in zip(
        kept,
        portnet.tree.leaves(before.params),
        portnet.tree.leaves(caught.value.run.params),
        strict=True,
    ):
        np.testing.assert_array_equal(p, q)
        np.testing.assert_array_equal(p, r)
    with pytest.raises(DataError, match="at row 2900, column 3"):
        before.predict(x)
    with pytest.raises(DataError, match="at row 2900, column 3"):
        before.evaluate(x, LABELS)
    with pytest.raises(DataError, match=r"validation X contains .* at row 2900, column 3"):
        fit(X, validation=(x, LABELS))


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("shuffle", [True, False, "full"])
def test_a_file_that_shrinks_is_an_error_that_names_it(tmp_path, shuffle):
    x, y = mapped(tmp_path, X), mapped(tmp_path, LABELS, "y")
    trainer = portnet.Trainer(
        portnet.mlp([5, 8, 3]), "softmax_cross_entropy", batch_size=BATCH, shuffle=shuffle
    )

    def shrink(report):
        os.truncate(tmp_path / "a.npy", 30_000)

    message = (
        r"X: rows (\d+) to (\d+) of the file .*a\.npy: the file became shorter, from \d+ to 300"
    )
    with pytest.raises(DataError, match=message) as caught:
        trainer.fit(x, y, epochs=3, callbacks=[shrink])
    first, last = map(int, re.search(message, str(caught.value)).groups())
    assert first == (30_000 - 128) // 20  # rows of 20 bytes after the header
    assert first <= last < ROWS


@pytest.mark.usefixtures("small_windows")
def test_a_file_that_shrank_before_the_fit_is_an_error(tmp_path):
    x, y = mapped(tmp_path, X), mapped(tmp_path, LABELS, "y")
    run = fit(X)
    os.truncate(tmp_path / "a.npy", 30_000)
    message = (
        r"X: rows 1493 to 3020 of the file .*a\.npy: the file became shorter, from 60548 to 300"
    )
    with pytest.raises(DataError, match=message):
        fit(x, y)
    with pytest.raises(DataError, match=message):
        run.predict(x)
    with pytest.raises(DataError, match=r"X: rows 1393 to 1899 of"):
        fit(x[100:2000], y[100:2000])


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows, a: a[:-1] if is_late(rows) else a, r"X: rows \d+ to \d+ of the Changed: expected shape \((\d+), 5\), got \(\d+, 5\)$"),
        (lambda rows, a: np.vstack([a, a]) if is_late(rows) else a, r"expected shape \(\d+, 5\), got"),
        (lambda rows, a: a[:, :4] if is_late(rows) else a, r"expected shape \(\d+, 5\), got \(\d+, 4\)"),
        (lambda rows, a: a[0] if is_late(rows) else a, r"expected shape \(\d+, 5\), got \(5,\)"),
        (lambda rows, a: a.astype("float64") if is_late(rows) else a, "expected dtype float32, got float64"),
        (lambda rows, a: a.astype(str) if is_late(rows) else a, "text"),
    ],
    ids=["short", "long", "narrow", "a row", "dtype", "text"],
)  # fmt: skip
def test_wrong_slices_in_a_late_block_name_their_rows(change, message):
    with pytest.raises(DataError, match=message):
        fit(Changed(X, change))


@pytest.mark.usefixtures("small_windows")
def test_a_source_that_became_shorter_says_so():
    x = Sliced(X)

    def shrink(report):
        x.a = x.a[:2000]

    with pytest.raises(DataError, match=r"expected shape .* it has 2000 rows now"):
        fit(x, callbacks=[shrink])


BAD = {
    "unseen label": (lambda: fit(Sliced(X), Sliced(with_value(LABELS, 2_900, 3))), "y: expected labels from 0 to 2 .*, got 3 at row 2900"),
    "negative label": (lambda: fit(Sliced(X), Sliced(with_value(LABELS, 2_900, -1))), "got -1 at row 2900"),
    "half a label": (lambda: fit(Sliced(X), Sliced(with_value(LABELS.astype(float), 2_900, 0.5))), r"probabilities of shape \(3021, 3\); got 0.5 at row 2900"),
    "wide y": (lambda: fit(Sliced(X), Sliced(np.zeros((ROWS, 2)))), r"labels of shape \(3021,\), or .*\(3021, 3\), one column .*, got \(3021, 2\)"),
    "NaN label": (lambda: fit(Sliced(X), Sliced(with_value(LABELS.astype(float), 2_900, np.nan))), "y contains NaN at row 2900"),
    "bad probabilities": (lambda: fit(Sliced(X), Sliced(with_value(np.eye(3)[LABELS], 2_900, 0.1, 0))), "sum to 1, got .* at row 2900"),
    "too many classes": (lambda: fit(Sliced(X), Sliced(with_value(np.array(list("abc"))[LABELS], 2_900, "d"))), "y: expected 3 classes, as the network has 3 outputs, got 4 classes"),
    "negative weight": (lambda: fit(Sliced(X), sample_weight=Sliced(with_value(np.ones(ROWS), 2_900, -1))), "sample_weight: .* got -1 at row 2900"),
    "NaN weight": (lambda: fit(Sliced(X), sample_weight=with_value(np.ones(ROWS), 2_900, np.nan)), "sample_weight contains NaN at row 2900"),
    "no weight": (lambda: fit(Sliced(X), sample_weight=np.zeros(ROWS)), "sample_weight: expected at least one weight above 0"),
    "two weights a row": (lambda: fit(Sliced(X), sample_weight=np.ones((ROWS, 2))), r"sample_weight: expected shape"),
    "y is one number": (lambda: fit(Sliced(X), np.float64(1.0)), r"y: expected 3021 rows, as many as in X, got shape \(\)"),
    "short y": (lambda: fit(Sliced(X), LABELS[:-1]), r"y: expected 3021 rows, as many as in X, got shape \(3020,\)"),
    "no y": (lambda: fit(Sliced(X), None), "y: expected targets, got None"),
    "text": (lambda: fit(Sliced(X.astype(str))), "X: expected real numbers, got a Sliced of dtype <U32"),
    "complex": (lambda: fit(Sliced(X.astype(complex))), "X: expected real numbers, got a Sliced of dtype complex128"),
    "objects": (lambda: fit(Sliced(X.astype(object))), "X: expected real numbers"),
    "records": (lambda: fit(Sliced(np.zeros((ROWS, 5), [("a", "f4")]))), "X: expected real numbers"),
    "one axis": (lambda: fit(Sliced(X[:, 0])), r"X: expected shape \(rows, features\), got \(3021,\)"),
    "three axes": (lambda: fit(Sliced(X[..., None])), r"got \(3021, 5, 1\)"),
    "no rows": (lambda: fit(Sliced(X[:0]), LABELS[:0]), r"X: expected .*got .*\(0, 5\)"),
    "width": (lambda: fit(Sliced(X), net=portnet.mlp([4, 3])), "X: expected 4 features, got 5"),
    "too large": (lambda: fit(Sliced(with_value(X.astype(float), 2_900, 1e300, 0))), "X: a value of 1e.300 is too large for float32 at row 2900, column 0: scale"),
    "y too large": (lambda: fit(Sliced(X), Sliced(with_value(LABELS.astype(float), 2_900, 1e300)), portnet.mlp([5, 1]), "squared_error"), "y: a value of 1e.300 is too large for float32 at row 2900: scale"),
    "predict width": (lambda: fit(X).predict(Sliced(X[:, :4])), "X: expected 5 features, got 4"),
    "unseen label in evaluate": (lambda: fit(X, np.array(list("abc"))[LABELS]).evaluate(Sliced(X), Sliced(with_value(np.array(list("abc"))[LABELS], 2_900, "d"))), "y: expected labels among 'a', 'b', 'c', got 'd' at row 2900"),
    "class weights of numbers": (lambda: fit(Sliced(X), X[:, 0], portnet.mlp([5, 1]), "squared_error", class_weight="balanced"), "class_weight needs one label per row"),
}  # fmt: skip


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("case", BAD)
def test_bad_data_are_refused_with_the_place(case):
    call, message = BAD[case]
    error = ValueError if "class weights" in case else DataError
    with pytest.raises(error, match=message):
        call()


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("every", [1, "5 steps"])
def test_another_order_of_the_same_rows_does_not_go_on(every, tmp_path):
    """A file with chunks is taken in other blocks than one without."""

    def killed(report):
        if report.epoch == 2:
            raise KeyError("killed")

    path = tmp_path / "checkpoint"
    with pytest.raises(KeyError, match="killed"):
        fit(Sliced(X), epochs=3, checkpoint=path, every=every, callbacks=[killed])
    other = Sliced(X, chunks=(48, 5))
    with pytest.raises(portnet.ResumeMismatchError, match=r"order: .*blocks of 16 rows.* now"):
        fit(other, epochs=3, checkpoint=path, resume=True, every=every)
    gone_on = fit(Sliced(X), epochs=3, checkpoint=path, resume=True, every=every)
    whole = fit(Sliced(X), epochs=3)
    for a, b in zip(tree.leaves(gone_on.params), tree.leaves(whole.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_damaged_part_of_a_small_source_is_named():
    def change(rows, found):
        if rows.start <= 2_900 < rows.stop:
            raise OSError("damaged")
        return found

    source = Changed(X, change)
    source.chunks = (1_000, 5)
    with pytest.raises(DataError, match=r"rows 2000 to 2999 .*\(chunk 2\).*damaged"):
        fit(source)
