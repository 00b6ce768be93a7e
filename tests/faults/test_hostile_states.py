"""Orders, steps and positions of generators in a file that would make machine code read elsewhere.

Each is an error before a step is made.
"""

import json

import numpy as np
import pytest

import portnet
from portnet import ModelFileError
from portnet.files.container import open_container, pack
from portnet.files.models import describe

DRAW = np.random.default_rng(0)
X = DRAW.standard_normal((200, 4))
Y = (X[:, 0] > 0).astype(int)


def changed(path, change):
    """Write a file anew, with another description or other arrays, and a right checksum."""
    with open_container(path) as container:
        described, arrays = describe(container), container.read()
    change(described, arrays)
    with open(path, "wb") as file:
        for part in pack(arrays, {"format_version": "1", "portnet": json.dumps(described)}):
            file.write(part)


def estimator(**options):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    options = {"random_state": 0, "max_iter": 3, "batch_size": 20} | options
    return portnet.MLPClassifier((8,), **options)


ORDERS = {
    "far away": lambda order: np.full_like(order, 10**9),
    "behind the last row": lambda order: np.where(order == 7, 200, order),
    "negative": lambda order: np.where(order == 7, -1, order),
    "a row twice": lambda order: np.where(order == 7, 8, order),
    "fewer rows": lambda order: order[:5],
    "no integers": lambda order: order.astype(np.float64),
    "a matrix": lambda order: order.reshape(2, 100),
}


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("name", ORDERS)
def test_orders_that_are_none_of_the_rows_are_refused(name, tmp_path):
    path = tmp_path / "net"
    estimator().fit(X, Y, checkpoint=path)

    def change(described, arrays):
        arrays["progress.order"] = ORDERS[name](arrays["progress.order"])

    changed(path, change)
    with pytest.raises(ModelFileError, match="expected an order of the 200 rows, each of them on"):
        estimator(max_iter=9).fit(X, Y, resume=path)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("name", ["order", "generator"])
def test_a_position_without_order_or_generator_is_refused(name, tmp_path):
    path = tmp_path / "net"
    estimator().fit(X, Y, checkpoint=path)

    def change(described, arrays):
        described["progress"]["dict"][name] = None
        described["other"] = (
            {"tensor": "progress.order"},
            {"tensor": "progress.generator.state.key"},
        )

    changed(path, change)
    with pytest.raises(ModelFileError, match="expected an order of the 200 rows"):
        estimator(max_iter=9).fit(X, Y, resume=path)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("position", [10**9, -(10**9), -1, 625, 10**30, 1.0, True, None])
@pytest.mark.parametrize("name", ["first", "generator"])
def test_positions_outside_of_a_generator_are_refused_by_resume(name, position, tmp_path):
    path = tmp_path / "net"
    estimator().fit(X, Y, checkpoint=path)

    def change(described, arrays):
        described["progress"]["dict"][name]["dict"]["state"]["dict"]["pos"] = position

    changed(path, change)
    with pytest.raises(ModelFileError, match=r"random generator: .*position of 0 to 624"):
        estimator(max_iter=9).fit(X, Y, resume=path)


@pytest.mark.parametrize("position", [10**9, -1, 625])
def test_positions_outside_of_a_generator_are_refused_by_load(position, tmp_path):
    path = tmp_path / "net"
    portnet.save(estimator().partial_fit(X, Y, classes=[0, 1]), path, state=True)

    def change(described, arrays):
        described["fitted"]["dict"]["generator"]["dict"]["state"]["dict"]["pos"] = position

    changed(path, change)
    with pytest.raises(ModelFileError, match=r"random generator: .*position of 0 to 624"):
        portnet.load(path)


@pytest.mark.parametrize("kind", ["MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"])
def test_generators_of_every_kind_are_loaded_as_they_were(kind, tmp_path):
    path = tmp_path / "net"
    rng = np.random.RandomState(getattr(np.random, kind)(3))
    first = estimator(random_state=rng).partial_fit(X, Y, classes=[0, 1])
    portnet.save(first, path, state=True)
    again = portnet.load(path)._random_state
    np.testing.assert_array_equal(again.permutation(50), rng.permutation(50))
    if kind == "Philox":
        changed(path, lambda d, a: d["fitted"]["dict"]["generator"]["dict"].update(buffer_pos=-9))
        with pytest.raises(ModelFileError, match="position of 0 to 4, got -9"):
            portnet.load(path)


@pytest.mark.parametrize("step", [-5, 10, 10**5, 10**30])
@pytest.mark.parametrize("by", ["checkpoint", "load"])
def test_steps_that_are_not_in_the_epoch_are_refused(by, step, tmp_path):
    path = tmp_path / "run"
    trainer = portnet.Trainer(portnet.mlp([4, 8, 2]), "softmax_cross_entropy", batch_size=20)
    trainer.fit(X, Y, epochs=2, checkpoint=path)

    def change(described, arrays):
        described["run"]["step"] = step
        plan = "200 rows, batch_size=20, seed=0, shuffle=True"
        described["run"]["_progress"]["fields"]["plan"] = plan

    changed(path, change)

    def go_on():
        if by == "load":
            return portnet.load(path).fit(X, Y, epochs=2)
        return trainer.fit(X, Y, epochs=5, resume=path)

    with pytest.raises(ModelFileError, match="step"):
        go_on()


def test_steps_of_an_epoch_of_another_plan_are_refused(tmp_path):
    path = tmp_path / "run"
    trainer = portnet.Trainer(portnet.mlp([4, 8, 2]), "softmax_cross_entropy", batch_size=20)
    trainer.fit(X, Y, epochs=2, checkpoint=path)
    changed(path, lambda described, arrays: described["run"].update(step=3))
    with pytest.raises(ModelFileError, match="but this one has 10 steps: the file is damaged"):
        trainer.fit(X, Y, epochs=5, resume=path)


@pytest.mark.parametrize("shape", [(1, 8), (4, 1), (8, 4), (32,)])
def test_an_optimizers_state_of_other_shapes_is_refused(shape, tmp_path):
    path = tmp_path / "net"
    trainer = portnet.Trainer(portnet.mlp([4, 8, 1]), "squared_error", "adam", batch_size=20)
    trainer.fit(X, X[:, :1], epochs=2, checkpoint=path, progress=False)

    def change(described, arrays):
        (name,) = [n for n in arrays if n.startswith("optimizer.m") and arrays[n].shape == (4, 8)]
        arrays[name] = np.ones(shape, arrays[name].dtype)

    changed(path, change)
    with pytest.raises(ModelFileError, match="the optimizer's state does not fit"):
        trainer.fit(X, X[:, :1], epochs=4, resume=path, progress=False)
