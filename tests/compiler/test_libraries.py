"""Arrays of JAX, torch and array-api-strict in compiled functions."""

import array_api_strict
import numpy as np
import pytest
from checking import (
    Calls,
    CustomError,
    a,
    assert_close,
    copies,
    data,
    is_strict,
    one_warning,
    reads_if,
    same_error,
    start,
)

import portnet
from portnet import rng, tree
from portnet.backend import ShapeError, namespace
from portnet.losses import LOSSES


def model_step(x, w):
    xp = namespace(x, w)
    h = xp.tanh(xp.matmul(x, w))
    return {"w": w - 0.1 * xp.matmul(xp.matrix_transpose(x), h), "h": h}, xp.sum(h), (x, None)


def test_jax_arrays_equal_the_numpy_results(jax):
    x, w = a(4, 3) / 10, a(3, 3) / 10
    expected = model_step(x, w)
    compiled = portnet.compile(model_step, donate=(1,))
    for _ in range(3):
        out, total, (same, none) = compiled(jax.numpy.asarray(x), jax.numpy.asarray(w))
        assert isinstance(out["w"], jax.Array)
        assert none is None
        np.testing.assert_allclose(out["w"], expected[0]["w"], rtol=1e-12)
        np.testing.assert_allclose(out["h"], expected[0]["h"], rtol=1e-12)
        np.testing.assert_allclose(total, expected[1], rtol=1e-12)
        np.testing.assert_array_equal(same, x)


def test_jax_function_is_traced_at_most_twice(jax):
    counted = Calls(lambda x, k: x * k if isinstance(k, int) else x / k)
    compiled = portnet.compile(counted)
    x = jax.numpy.arange(3.0)
    for _ in range(4):
        np.testing.assert_allclose(compiled(x, 2), x * 2)
    assert counted.count <= 2
    np.testing.assert_allclose(compiled(x, 2.0), x / 2.0)


def test_jax_function_that_reads_a_value_runs_eagerly_with_one_warning(jax):
    compiled = portnet.compile(reads_if)
    x = jax.numpy.arange(1.0, 4.0)
    with one_warning(here=reads_if):
        for _ in range(3):
            np.testing.assert_allclose(compiled(x), x * 3.0)
    np.testing.assert_allclose(compiled(-x), -x)


def test_jax_errors_raised_in_fn_propagate(jax):
    def fn(x):
        raise CustomError("mine")

    with pytest.raises(CustomError, match=r"^mine$"):
        portnet.compile(fn)(jax.numpy.arange(3.0))
    net = portnet.mlp([3, 2])
    params = tree.map(jax.numpy.asarray, portnet.init(net))
    with pytest.raises(ShapeError, match=r"expected x of shape"):
        portnet.compile(net.forward)(params, jax.numpy.ones((2, 5)))


def test_jax_training_steps_equal_numpy_steps(jax):
    net, optimizer = portnet.mlp([3, 6, 4], "gelu", dropout=0.2), portnet.Adam(1e-2)
    step = portnet.make_step(net, LOSSES["softmax_cross_entropy"](), optimizer)
    x, y, w = data("softmax_cross_entropy", 6)
    compiled = portnet.compile(step, donate=(0, 1))
    eager = start(net, optimizer)
    replayed = tree.map(jax.numpy.asarray, copies(eager))
    batch = [jax.numpy.asarray(v) for v in (x, y, w)]
    for i in range(10):
        key = [np.array([[k]], "int32") for k in (rng.key(0, i).salt, 0)]
        *eager, _ = step(*eager, x, y, w, rng.Key(*key))
        *replayed, _ = compiled(*replayed, *batch, rng.Key(*map(jax.numpy.asarray, key)))
    assert_close(tree.map(np.asarray, replayed), eager, rtol=1e-9)


def test_torch_tensors_run_eagerly_without_gradients(torch):
    counted = Calls(model_step)
    compiled = portnet.compile(counted, donate=(1,))
    x, w = torch.tensor(a(4, 3) / 10), torch.tensor(a(3, 3) / 10)
    expected = model_step(x, w)
    for _ in range(3):
        out, total, (same, none) = compiled(x.clone(), w.clone())
        assert isinstance(out["w"], torch.Tensor)
        assert torch.equal(out["w"], expected[0]["w"])
        assert torch.equal(total, expected[1])
        assert torch.equal(same, x)
        assert none is None
    assert not out["w"].requires_grad
    assert portnet.compile(lambda x: x * float(x[0]))(torch.ones(2)).tolist() == [1.0, 1.0]


def test_array_api_strict_arrays_equal_eager_calls():
    x, w = (array_api_strict.asarray(v) for v in (a(4, 3) / 10, a(3, 3) / 10))
    compiled = portnet.compile(model_step)
    for _ in range(2):
        out, total, (same, none) = compiled(x, w)
        expected = model_step(x, w)
        assert is_strict(out["w"])
        np.testing.assert_array_equal(np.asarray(out["w"]), np.asarray(expected[0]["w"]))
        np.testing.assert_array_equal(np.asarray(total), np.asarray(expected[1]))
        np.testing.assert_array_equal(np.asarray(same), np.asarray(x))
        assert none is None


def test_one_compiled_function_works_on_several_libraries(other_xp):
    compiled = portnet.compile(model_step)
    x, w = a(4, 3) / 10, a(3, 3) / 10
    expected = model_step(x, w)
    for _ in range(2):
        replayed = compiled(other_xp.asarray(x), other_xp.asarray(w))
        other_xp.assert_close(replayed[0]["w"], expected[0]["w"])
        assert_close(compiled(x, w)[0], expected[0])


def test_mixed_libraries_raise_the_eager_error(torch):
    compiled = portnet.compile(model_step)
    same_error(model_step, compiled, a(4, 3), torch.ones(3, 3))
