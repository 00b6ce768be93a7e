"""Sources of h5py, Zarr, dask and pyarrow: the same fit from each, damaged chunks, to_npy."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from fits import assert_same_run
from sources import BATCH, LABELS, ROWS, Sliced, X, mapped, small_windows

import portnet
from portnet.data.checks import DataError, is_source
from portnet.data.sources import order
from portnet.data.sources.reading import reader_of

small_windows = small_windows
CHUNK = 64
NAMES = np.array(["ant", "bee", "cat"])


def fit(x, y, **options):
    net = portnet.mlp([5, 8, 3])
    trainer = portnet.Trainer(net, "softmax_cross_entropy", batch_size=BATCH, seed=3)
    return trainer.fit(x, y, **{"epochs": 2} | options)


def hdf5(folder, text=False):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    file = h5py.File(folder / "data.h5", "w")
    x = file.create_dataset("X", data=X, chunks=(CHUNK, 5), compression="gzip", fletcher32=True)
    if text:
        return x, file.create_dataset("names", data=NAMES[LABELS].astype(object))
    return x, file.create_dataset("y", data=LABELS, chunks=(CHUNK,))


def zarr_arrays(folder):
    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    return tuple(
        zarr.create_array(store=str(folder / name), data=a, chunks=(CHUNK, *a.shape[1:]))
        for name, a in (("X", X), ("y", LABELS))
    )


def dask_arrays(folder):
    dask = pytest.importorskip("dask.array", reason="dask is not installed")
    return tuple(dask.from_array(a, chunks=(CHUNK, *a.shape[1:])) for a in (X, LABELS))


def table(y=LABELS, x=X):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    return pa.table({**{f"x{i}": x[:, i] for i in range(5)}, "y": y})


def parquet_files(folder, y=LABELS):
    whole = table(y)
    from pyarrow import parquet

    for i, (start, stop) in enumerate(((0, 1024), (1024, ROWS))):
        part = whole.slice(start, stop - start)
        parquet.write_table(part, folder / f"part-{i}.parquet", row_group_size=CHUNK)
    return portnet.data.parquet(folder / "part-*.parquet", target="y")


def arrow_file(folder):
    whole = table()
    import pyarrow as pa

    with (
        pa.OSFile(str(folder / "a.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, whole.schema) as to,
    ):
        for batch in whole.to_batches(max_chunksize=CHUNK):
            to.write_batch(batch)
    return portnet.data.parquet(folder / "a.arrow", "y")


KINDS = [hdf5, zarr_arrays, dask_arrays, parquet_files, arrow_file]


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("source", KINDS)
def test_every_source_gives_the_same_fit(source, tmp_path):
    x, y = source(tmp_path)
    assert is_source(x)
    assert is_source(y)
    expected = fit(Sliced(X, chunks=(CHUNK, 5)), LABELS, validation=0.2, metrics=["accuracy"])
    found = fit(x, y, validation=0.2, metrics=["accuracy"])
    assert_same_run(found, expected)
    np.testing.assert_allclose(found.predict_proba(x), found.predict_proba(X), rtol=1e-5)
    assert found.evaluate(x, y)["loss"] == pytest.approx(found.evaluate(X, LABELS)["loss"])


@pytest.mark.parametrize("source", KINDS)
def test_small_sources_are_read_as_a_whole(source, tmp_path):
    x, y = source(tmp_path)
    found = fit(x, y, validation=0.2)
    assert_same_run(found, fit(X, LABELS, validation=0.2))
    np.testing.assert_array_equal(found.predict_class(x), found.predict_class(X))


@pytest.mark.parametrize("source", KINDS)
def test_readers_return_the_rows_and_know_the_chunks(source, tmp_path):
    x, y = (reader_of(a, "a") for a in source(tmp_path))
    assert (x.chunk, y.chunk) == (CHUNK, CHUNK)
    for start, stop in ((0, 1), (60, 70), (1000, 1100), (ROWS - 1, ROWS)):
        np.testing.assert_array_equal(x.read(start, stop), X[start:stop])
        np.testing.assert_array_equal(y.read(start, stop), LABELS[start:stop])


@pytest.mark.usefixtures("small_windows")
def test_text_labels_of_hdf5_and_parquet(tmp_path):
    for x, y in (hdf5(tmp_path, text=True), parquet_files(tmp_path, NAMES[LABELS])):
        run = fit(x, y)
        assert run.classes.tolist() == NAMES.tolist()
        assert_same_run(run, fit(Sliced(X, chunks=(CHUNK, 5)), NAMES[LABELS]))


@pytest.mark.usefixtures("small_windows")
def test_a_damaged_chunk_is_named(tmp_path):
    x, y = hdf5(tmp_path)
    import h5py

    at = x.id.get_chunk_info(40).byte_offset
    x.file.close()
    with open(tmp_path / "data.h5", "r+b") as file:
        file.seek(at + 20)
        file.write(b"damaged!")
    x, y = (h5py.File(tmp_path / "data.h5", "r")[name] for name in ("X", "y"))
    with pytest.raises(
        DataError, match=r"X: rows \d+ to \d+ of the h5py Dataset \(chunk 40\) cann"
    ):
        fit(x, y)


def test_a_dataset_of_a_closed_file_is_refused(tmp_path):
    x, y = hdf5(tmp_path)
    x.file.close()
    with pytest.raises(
        DataError, match=r"^the h5py Dataset cannot be read: .*: is its file open\?$"
    ):
        fit(x, y)
    with pytest.raises(DataError, match="is its file open"):
        fit(X, LABELS).predict(x)


def test_dask_of_unknown_shape_is_refused(tmp_path):
    x, _ = dask_arrays(tmp_path)
    with pytest.raises(DataError, match=r"X: its shape is unknown.*compute_chunk_sizes"):
        fit(x[x[:, 0] > 0], LABELS)


@pytest.mark.parametrize("source", KINDS)
def test_estimators_take_every_source(source, tmp_path, request):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    x, y = source(tmp_path)

    def fitted(x, y):
        net = portnet.MLPClassifier((8,), max_iter=5, tol=1.0, n_iter_no_change=1, random_state=0)
        return net.fit(x, y)

    small = fitted(x, y)
    np.testing.assert_array_equal(small.coefs_[0], fitted(X, LABELS).coefs_[0])
    request.getfixturevalue("small_windows")
    found = fitted(x, y)
    expected = fitted(Sliced(X, chunks=(CHUNK, 5)), LABELS)
    np.testing.assert_array_equal(found.coefs_[0], expected.coefs_[0])
    np.testing.assert_array_equal(found.predict(x), found.predict(X))
    assert found.score(x, y) == found.score(X, LABELS)


def test_importing_portnet_imports_nothing_of_sources():
    code = "import sys, portnet; print([m for m in sys.modules if 'portnet.data.sources' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


# Parquet --------------------------------------------------------------------------------------------


def write(path, columns):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    parquet.write_table(pa.table(columns), path, row_group_size=2)


@pytest.mark.parametrize(
    ("second", "options", "message"),
    [
        ({"a": [1.0], "y": [0]}, {}, "two.parquet has no column 'b'; it has a, y"),
        ({"a": [1.0], "b": ["x"], "y": [0]}, {}, "column 'b' of .*two.parquet is string, but numb"),
        ({"a": [1.0], "b": [1.0]}, {}, "two.parquet has no column 'y'"),
        ({"a": [1.0], "b": [1.0], "y": ["x"]}, {}, "column 'y' is int64 in .*one.* and string in"),
        ({"a": [1.0], "b": [1.0], "y": [0]}, {"columns": ["c"]}, "one.parquet has no column 'c'"),
        ({"a": [1.0], "b": [1.0], "y": [0]}, {"target": "z"}, "one.parquet has no column 'z'"),
        ({"a": [1.0], "b": [1.0], "y": [0]}, {"columns": []}, "no column besides 'y'"),
    ],
)
def test_parquet_files_with_other_columns_are_refused(tmp_path, second, options, message):
    write(tmp_path / "one.parquet", {"a": [1.0, 2.0], "b": [3.0, 4.0], "y": [0, 1]})
    write(tmp_path / "two.parquet", second)
    with pytest.raises(DataError, match=message):
        portnet.data.parquet(
            [tmp_path / "one.parquet", tmp_path / "two.parquet"], **{"target": "y"} | options
        )


def test_missing_values_name_column_file_and_row(tmp_path):
    write(tmp_path / "a.parquet", {"a": [1.0, 2.0, 3.0, None], "y": [0, 1, None, 1]})
    x, y = portnet.data.parquet(tmp_path, target="y")
    for source, name, row in ((x, "a", 3), (y, "y", 2)):
        message = f"column {name!r} of .*a.parquet has no value in row {row} of the file: fill it"
        with pytest.raises(DataError, match=message):
            source[:]


def test_parquet_dtypes_hold_the_values(tmp_path):
    write(
        tmp_path / "a.parquet", {"a": np.float32([1, 2]), "b": np.int8([3, 4]), "y": [True, False]}
    )
    x, y = portnet.data.parquet(tmp_path / "a.parquet", "y")
    assert (x.dtype, y.dtype, x.shape, y.shape) == (np.float32, np.bool_, (2, 2), (2,))
    np.testing.assert_array_equal(x[:], [[1, 3], [2, 4]])
    write(tmp_path / "b.parquet", {"a": [1, 2**40]})
    x = portnet.data.parquet(tmp_path / "b.parquet")
    assert x.dtype == np.float64
    np.testing.assert_array_equal(x[1:], [[2**40]])


@pytest.fixture
def large_groups(monkeypatch):
    """Let groups of rows be too large to be decoded as a whole: parts of 10 rows are read."""
    from portnet.data.sources import parquet as sources

    monkeypatch.setattr(sources, "WHOLE", 0)
    monkeypatch.setattr(sources, "SLICE", 10 * 20)
    monkeypatch.setattr(sources, "AT_ONCE", 100 * 20)


def large_groups_of(folder, columns=None):
    """Write files of 300 and of other rows in groups of 200, and return X and y."""
    columns = {**{f"x{i}": X[:, i] for i in range(5)}, "y": LABELS} | (columns or {})
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    whole = pa.table(columns)
    parquet.write_table(whole.slice(0, 300), folder / "0.parquet", row_group_size=200)
    parquet.write_table(whole.slice(300), folder / "1.parquet", row_group_size=200)
    return portnet.data.parquet(folder, target="y")


@pytest.mark.usefixtures("large_groups", "small_windows")
@pytest.mark.parametrize("kind", ["Parquet", "Arrow"])
def test_large_groups_give_the_rows_and_the_fit_of_others(tmp_path, kind):
    x, y = large_groups_of(tmp_path) if kind == "Parquet" else arrow_file(tmp_path)
    assert x.is_large
    for start, stop in ((0, 1), (190, 210), (290, 720), (ROWS - 1, ROWS), (5, 5), (0, ROWS)):
        np.testing.assert_array_equal(x[start:stop], X[start:stop])
        np.testing.assert_array_equal(y[start:stop], LABELS[start:stop])
    pieces = [(250, 450), (10, 20), (ROWS - 30, ROWS), (0, 3)]
    rows = np.concatenate([np.arange(*p) for p in pieces])
    np.testing.assert_array_equal(reader_of(x, "X").read_all(pieces), X[rows])
    np.testing.assert_array_equal(reader_of(y, "y").read_all(pieces), LABELS[rows])
    weight = np.arange(ROWS) % 3
    expected = fit(Sliced(X, x.chunks), LABELS, validation=0.2, sample_weight=weight)
    found = fit(x, y, validation=0.2, sample_weight=weight)
    for a, b in zip(*(portnet.tree.leaves(r.params) for r in (found, expected)), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(found.predict_class(x), found.predict_class(X))
    assert found.evaluate(x, y)["loss"] == pytest.approx(found.evaluate(X, LABELS)["loss"])


@pytest.mark.usefixtures("large_groups", "small_windows")
def test_a_window_decodes_each_large_group_once(tmp_path, monkeypatch):
    x, y = large_groups_of(tmp_path)
    decoded = []
    read = type(x._files[0]).columns

    def counted(file, group, names, whole=False):
        if threading.current_thread().name == "portnet windows" and names[0] != "y":
            decoded.append((file.path, group))
        return read(file, group, names, whole)

    monkeypatch.setattr(type(x._files[0]), "columns", counted)
    trainer = portnet.Trainer(portnet.mlp([5, 3]), "softmax_cross_entropy", batch_size=BATCH)
    trainer.fit(x, y, epochs=1)
    windows = -(-ROWS // trainer_window(x))
    assert len(x._groups) < len(decoded) <= windows * len(x._groups)


def trainer_window(x):
    return order.plan_of(ROWS, 24, BATCH, x.chunks[0], "blocks").window


@pytest.mark.usefixtures("large_groups", "small_windows")
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "X contains NaN at row 2900, column 3"),
        (None, r"column 'x3' of .*1.parquet has no value in row 2600 of the file: fill it"),
        (1e300, r"too large for float32 at row 2900, column 3"),
    ],
)
def test_bad_values_in_large_groups_name_their_row(tmp_path, value, message):
    column = X[:, 3].astype(float).tolist()
    column[2_900] = value
    x, y = large_groups_of(tmp_path, {"x3": column})
    run = fit(X, LABELS)
    for call in (lambda: fit(x, y), lambda: run.predict(x), lambda: run.evaluate(x, y)):
        with pytest.raises(DataError, match=message):
            call()


@pytest.mark.usefixtures("large_groups", "small_windows")
def test_text_labels_in_large_groups(tmp_path):
    x, y = large_groups_of(tmp_path, {"y": NAMES[LABELS]})
    found = fit(x, y)
    assert found.classes.tolist() == NAMES.tolist()
    assert_same_run(found, fit(Sliced(X, x.chunks), NAMES[LABELS]))


def test_a_parquet_source_says_what_it_is(tmp_path):
    write(
        tmp_path / "a.parquet", {f"x{i}": np.float32([1, 2, 3]) for i in range(7)} | {"y": [0] * 3}
    )
    x, y = portnet.data.parquet(tmp_path / "a.parquet", "y")
    path = tmp_path / "a.parquet"
    text = (
        f"<3 rows of float32, columns x0, x1, x2, x3, x4, ... (7), in 2 groups of rows of {path}>"
    )
    assert repr(x) == text
    assert repr(y) == f"<3 rows of int64, column y, in 2 groups of rows of {path}>"


def test_what_is_no_parquet_file_is_refused(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    (tmp_path / "a.parquet").write_text("a,b\n1,2\n")
    for given in (tmp_path / "a.parquet", tmp_path, [tmp_path / "a.parquet"]):
        with pytest.raises(DataError, match=r"a\.parquet cannot be read"):
            portnet.data.parquet(given, "y")
    with pytest.raises(DataError, match="no file is called"):
        portnet.data.parquet(tmp_path / "b*.parquet")
    assert not hasattr(portnet.data, "feather")


# to_npy ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [*KINDS, lambda folder: (X, LABELS)])
def test_to_npy_writes_what_was_read(source, tmp_path):
    x, y = source(tmp_path)
    found = portnet.data.to_npy(x, tmp_path / "to.npy")
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, X)
    np.testing.assert_array_equal(np.load(tmp_path / "to.npy"), X)
    cast = portnet.data.to_npy(y, tmp_path / "y.npy", dtype="int8")
    assert cast.dtype == np.int8
    np.testing.assert_array_equal(cast, LABELS)


def test_to_npy_of_text(tmp_path):
    _, y = hdf5(tmp_path, text=True)
    with pytest.raises(DataError, match="dtype object cannot be read in parts"):
        portnet.data.to_npy(y, tmp_path / "y.npy")
    found = portnet.data.to_npy(y, tmp_path / "y.npy", dtype="U3")
    np.testing.assert_array_equal(found, NAMES[LABELS])


def test_to_npy_leaves_the_old_file_where_it_fails(tmp_path):
    path = tmp_path / "a.npy"
    old = portnet.data.to_npy(np.ones(3), path)

    class Fails(Sliced):
        def __getitem__(self, rows):
            if rows.start:
                raise OSError("gone")
            return super().__getitem__(rows)

    wide = np.ones((40_000, 4))
    with pytest.raises(DataError, match=r"source: rows 16384 to 32767 of the Fails cannot be read"):
        portnet.data.to_npy(Fails(wide), path)
    with pytest.raises(DataError, match=r"rows 0 to 16383 .* cannot be written as float32"):
        portnet.data.to_npy(1e300 * wide, path, dtype="float32")
    with pytest.raises(DataError, match="give another path"):
        portnet.data.to_npy(old, path)
    with pytest.raises(OSError, match="make its folder first"):
        portnet.data.to_npy(wide, tmp_path / "no" / "a.npy")
    assert os.listdir(tmp_path) == ["a.npy"]
    np.testing.assert_array_equal(np.load(path), np.ones(3))
    assert Path(path).stat().st_size == 128 + 24


def test_a_part_of_a_map_can_be_written_over_another_file(tmp_path):
    part = mapped(tmp_path, X)[10:20]
    np.testing.assert_array_equal(portnet.data.to_npy(part, tmp_path / "part.npy"), X[10:20])


def test_tables_in_memory_are_no_files():
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    table = pa.table({"a": [1.0, 2.0], "y": [0, 1]})
    with pytest.raises(portnet.DataError, match="expected paths of files, got a Table: give the"):
        portnet.data.parquet(table, target="y")


def test_functions_of_the_package_are_listed():
    assert {"parquet", "to_npy"} <= set(dir(portnet.data))


@pytest.mark.parametrize(
    ("columns", "what"), [(["x0", "x0"], "'x0' twice"), (["x0", "y"], "target")]
)
def test_columns_of_parquet_are_each_given_once(tmp_path, columns, what):
    parquet_files(tmp_path)
    with pytest.raises(DataError, match=rf"parquet: columns: .*{what}"):
        portnet.data.parquet(tmp_path / "part-*.parquet", "y", columns=columns)
