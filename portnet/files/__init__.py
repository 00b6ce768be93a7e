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
- "portnet": a description, JSON. "kind" is "network", "run", "estimator" or "table". "made" says
  when ("time"), and with which versions of "portnet", "python" and "numpy".

Objects with keys of their own are the description and, in it, "made", "run", "checkpoint", "data"
and "options", and the checksum of an array: an object of "shape", "dtype" and "crc32". Any other
value is JSON, with an object of one of these keys for what JSON does not have, dicts among it:

=================================================  ==============================================
JSON                                               stands for
=================================================  ==============================================
null, true, 3, 0.5, "text", [1, 2]                 the same in Python
{"float": "nan"}                                   nan, inf, -inf
{"tuple": [...]}, {"dict": {...}}                  a tuple, a dict with text as its keys
{"items": [[key, value], ...]}                     a dict with other keys
{"tensor": "layers.0.W"}                           an array; with "scalar": true, a NumPy scalar
{"text": {"tensor": "feature_names"}}              a long list of text: the bytes (U8) are UTF-8,
                                                   with a NUL after each text; with "tuple": true,
                                                   a tuple
{"object": "Dense", "fields": {...}}               an object of portnet's own: the class, called
                                                   with these arguments
{"function": "accuracy"}                           a function of portnet's own
{"custom": "Snake", "fields": {...}}               an object of somebody else's; fields null: as it
                                                   is given
=================================================  ==============================================

Each tensor is named at least once. Fields of a run may share a tensor: "_best" names those of
"params" where they are the same. Within a field, no tensor is named twice.

A network has "model", an object, and "params", the pytree of its parameters: for a Chain a tuple or
list with those of each layer, for a Residual those of its layer; {"dict": {"W", "b"}} for a Dense
and {"dict": {"gamma", "beta"}}, each (1, n), for a LayerNorm; {"tuple": []} for other layers.

A run has "backend" and "dtype", on which it was trained, and "run", an object of:

- "trainer", a dict: "model", "loss", "optimizer", "batch_size", "seed", "shuffle", "compile".
- "params" as above; "inputs" and "outputs", the widths of the network.
- "history", a dict with a float64 array (epochs,) for each metric; "metrics", a dict of functions.
- "classes" and "feature_names", lists of text or null. "_one_dimensional" says whether targets were
  (rows,), and predictions are.
- "epoch", the number of epochs; "stopped", why training ended early, or "".
- "_monitors", a dict of "early_stopping" and "plateau": the best value, its epoch, the epochs
  since. "_scale" multiplies the updates.
- Where the state was saved: "state", the optimizer's; "step", the steps made in the next epoch, and
  "_progress", what they have added up; "_best", the parameters of the best epoch, and "_last",
  those after the last step if "params" are the best ones; else null.

An estimator has "class"; "parameters", a dict of those of scikit-learn; and "fitted", a dict of:

- "coefs_", a list of arrays (n_in, n_out), and "intercepts_", of arrays (n_out,);
  "n_features_in_", "n_outputs_"; "n_layers_", one more than there are coefs_; "out_activation_",
  "softmax", "logistic", "identity", "exp" or "loss.mean", a method of the loss in "parameters".
  Between the layers are norm, activation and dropout of "parameters"; "layer_params", if there are
  any other than a name of an activation, is a tuple of their parameters, in order.
  Where parameters were set after the fit, the estimator has "fitted_with", a dict of those that the
  fit had: they are what is between the layers, or "n_networks" that are there.
- "labels", of a classifier only, a dict: "classes", an array or, for text, a dict of "names" and
  "dtype", "U" or "O", or "U9" if 9 is more than the longest name has; "kind", scikit-learn's type
  of target; "sparse", whether y was. For "multiclass-multioutput", "classes" is a list of these,
  and the outputs of the network are those of each, side by side.
- "feature_names_in_", a list of text, if there are names.
- What the fit has left: "n_iter_", "t_", "loss_", "best_loss_", "best_validation_score_",
  "loss_curve_", "validation_scores_", "_no_improvement_count"; "curves", a dict of the curves of
  metrics; not all after every fit.
- Where the state was saved: "optimizer"; "class_counts", the rows of each class so far;
  "generator", the state of NumPy's RandomState, and "seed", with which it began; "resumable", a
  dict of what a fit needs to go on: "first", whether the last one began with a new network;
  "state", that of the generator at its begin, if the seed does not say it; "rows", of the training
  data; "best", whether the parameters are those of the best epoch, and "last", those of the last
  epoch if they are others.

An estimator of a subclass has its name as "class", and "base", the name of portnet's class. Of the
attributes, "inherited" are parameters of the base that are none of the subclass, and "own" others;
an estimator of portnet's own class has "own", too, if a user has set such. "requests", if any are
set, is a dict of those of scikit-learn's metadata routing, a dict for each method.

A table has "estimator", which has the keys of an estimator and is no value either, and "table", a
dict of:

- "target", the name of the column that is predicted; "columns", a list of the names of the others,
  and "kinds", a letter for each: "n" number, "t" text, "d" date (days since 1970-01-01, UTC).
- "preparation", a dict: "sparse", whether the features are; "numbers", a dict of "median" (for
  missing values), "mean", "var" and "scale" of each column of numbers and dates, float64, and
  "rows", of how many; "texts", a dict of "categories", the texts of all columns, sorted within
  each, and "counts", how many each column has. The features are the numbers, (x - mean) / scale,
  then a column of 0 and 1 for each text; a missing text is "".
- "shift" and "scale": the prediction of a regressor is shift + scale * that of its network.

A checkpoint is a run or an estimator with its state, with two more keys. "checkpoint" is an object
of what a resumed fit must have in common: "data", an object with the checksum of each array, which
is the CRC-32 of its bytes (integers as int64), and "options", an object in which arrays of several
numbers are checksums, too; for a run "start", the epoch in which the fit began, and the names of
its "metrics", a list. Where others are kept beside it, it also has the "name" of the file that is
the newest of them and, with early stopping, the "best_epoch" so far.

"progress" is null for a run; for an estimator, a dict: "first" and
"generator", states of the generator before the fit and after the last epoch; "order" of the rows
in that; "best", the parameters of the best score, and "best_score"; "losses" and "scores" of the
epochs, and "curves" of metrics. If the best score is that of an earlier epoch, its parameters are
those of the estimator: "best" is null, and "last" has those after the last epoch.

A reader refuses what it does not know, before it makes anything: headers above 1 MiB; more than
10,000 tensors; a description above 512 KiB, of more than 30,000 values, nested deeper than 200, or
with a key twice; shapes that are not those of the architecture; another checksum; a newer format
version. Files of older format versions stay readable.
"""

from collections.abc import Mapping
from os import PathLike
from typing import Any

from .._typing import Device
from .errors import CheckpointError, ModelFileError, ResumeMismatchError

__all__ = ["CheckpointError", "ModelFileError", "ResumeMismatchError", "load", "save"]


def save(thing: object, path: str | PathLike[str], *, state: bool = False) -> None:
    """Write a run, a fitted estimator, a table's model, or a network and its parameters to a file.

    The file is written whole or not at all: another one of that name stays until it is complete. A
    symbolic link stays, too: the file that it points to is written.

    Parameters
    ----------
    thing : Run, MLPClassifier, MLPRegressor, TableModel, or (model, params)
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
    ModelFileError
        for what `portnet.load` would refuse, such as parameters that are NaN or infinite or have
        other shapes than the model's, or more names than a file holds.

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
        called with the fields that were saved. A subclass of an estimator is named, too: its class
        is called with its parameters, and gets its attributes.
    allow_nonfinite : bool
        Whether parameters may be NaN or infinite. `portnet.save` does not write those.

    Returns
    -------
    Run, estimator, TableModel, or (model, params)
        Where scikit-learn is not installed, an estimator is a predictor: predict, predict_proba,
        classes_. A `portnet.tables.TableModel` predicts from data frames, and needs pandas and
        scikit-learn.

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
