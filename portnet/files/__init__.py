"""Files: networks, runs and estimators in files that cannot run code.

A file is a safetensors file (https://huggingface.co/docs/safetensors): 8 bytes, the length of the
header as a little-endian integer; the header, JSON in UTF-8, padded with spaces to a multiple of 8;
then the bytes of the tensors, little-endian, row by row, without gaps. The header has for each
tensor its name, dtype, shape and place. Any program that reads safetensors reads the parameters.
Parameters are named by their place in the pytree: of the first layer of a `Chain` ``layers.0.W``
(n_in, n_out) and ``layers.0.b`` (1, n_out); ``optimizer.m.0.W`` is a part of the optimizer's state,
``history.loss`` a list of the history; an estimator has ``coefs_.0`` and ``intercepts_.0``.

``__metadata__`` in the header has, all as text:

- "format": "portnet", and "format_version": "1".
- "crc32": eight hexadecimal digits, the CRC-32 of the whole file with these eight digits as zeros.
- "portnet": a description, JSON. "kind" is "network", "run" or "estimator"; "made" says when, and
  with which versions.

  - A network has "model" and "params".
  - A run has "backend" and "dtype", and "run": "trainer" (model, loss, optimizer, batch_size, seed,
    shuffle, compile), "params", "history", "classes", "feature_names", "inputs", "outputs",
    "metrics", "epoch", "stopped"; "_monitors", "_scale", "_one_dimensional", and, if it was saved
    with its state, "state", "step", "_progress", "_last" and "_best". A checkpoint has
    "checkpoint", too: what the data and the options of the fit were.
  - An estimator has "class", "parameters" and "fitted": its attributes.

Values in a description are JSON, with objects of one key for all else: {"tensor": "layers.0.W"},
{"object": "Dense", "fields": {"n_out": 8, ...}}; `portnet.files.encoding` has the table.

A reader refuses what it does not know, before it makes anything: headers above 1 MiB, more than
10,000 tensors, shapes that are not those of the architecture, another checksum, a newer format
version. Files of older format versions stay readable.
"""

from collections.abc import Mapping
from os import PathLike
from typing import Any

from .._typing import Device
from .errors import CheckpointError, ModelFileError, ResumeMismatchError

__all__ = ["CheckpointError", "ModelFileError", "ResumeMismatchError", "load", "save"]


def save(thing: object, path: str | PathLike[str], *, state: bool = False) -> None:
    """Write a run, a fitted estimator, or a network with its parameters to a file.

    The file is written whole or not at all: another one of that name stays until it is complete. A
    symbolic link stays, too: the file that it points to is written.

    Parameters
    ----------
    thing : Run, MLPClassifier, MLPRegressor, or (model, params)
    path : str or path
    state : bool
        Whether to write the optimizer's state, too, and what else continuing exactly needs: with
        Adam, that makes the file three times as large.

    Raises
    ------
    CheckpointError
        where the file cannot be written; an older file of that name is as it was.
    TypeError
        for what cannot be written.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> import portnet
    >>> net = portnet.mlp([2, 3, 1])
    >>> params = portnet.init(net, like=np.zeros(1))
    >>> path = os.path.join(tempfile.mkdtemp(), "net.safetensors")
    >>> portnet.save((net, params), path)
    >>> again, loaded = portnet.load(path)
    >>> again == net, bool((loaded[0]["W"] == params[0]["W"]).all())
    (True, True)
    """
    from .models import save

    save(thing, path, state=state)


def load(
    path: str | PathLike[str],
    *,
    backend: str | None = None,
    device: Device = None,
    custom: Mapping[str, Any] | None = None,
    allow_nonfinite: bool = False,
) -> Any:
    """Return what `portnet.save` wrote, on the current backend; nothing in the file is run.

    Parameters
    ----------
    path : str or path
        A regular file; its name does not matter.
    backend, device : optional
        Where the arrays go, as in `portnet.set_backend`: bit for bit the same.
    custom : dict of name: class, function or object, optional
        What the file names that is not portnet's own: ``custom={"Snake": Snake}``. A class is
        called with the fields that were saved.
    allow_nonfinite : bool
        Whether parameters may be NaN or infinite.

    Returns
    -------
    Run, estimator, or (model, params)
        Where scikit-learn is not installed, an estimator is a predictor: predict, predict_proba,
        classes_.

    Raises
    ------
    ModelFileError
        for a file that is damaged, or no model of portnet's: a pickle, say.
    FileNotFoundError

    Examples
    --------
    >>> import os, tempfile
    >>> import portnet
    >>> path = os.path.join(tempfile.mkdtemp(), "run.safetensors")
    >>> X, y = [[0.0], [1.0], [2.0]], [1.0, 3.0, 5.0]
    >>> trainer = portnet.Trainer(portnet.mlp([1, 1]), "squared_error", portnet.SGD(0.1))
    >>> run = trainer.fit(X, y, epochs=100)
    >>> run.save(path)
    >>> again = portnet.load(path)
    >>> again.epoch, bool((again.predict(X) == run.predict(X)).all())
    (100, True)
    """
    from .models import load

    return load(
        path, backend=backend, device=device, custom=custom, allow_nonfinite=allow_nonfinite
    )
