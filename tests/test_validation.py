"""Bad arguments of Trainer, optimizers, schedules and fit: error types and messages.

Bad data (NaN, shapes, libraries) are in data/test_checks.py.
"""

import re

import numpy as np
import pytest

import portnet
from portnet import DataError, ShapeError

X = np.arange(24.0).reshape(8, 3) / 10
LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1])
WORDS = np.array(["a", "b", "c", "a", "b", "c", "a", "b"])
VALUES = X[:, 0] * 2
NET = portnet.mlp([3, 4, 3])


def fit(y=LABELS, x=X, loss="softmax_cross_entropy", trainer=(), outputs=3, **options):
    net = portnet.mlp([3, 4, outputs])
    return portnet.Trainer(net, loss, **dict(trainer)).fit(x, y, **({"epochs": 1} | options))


def optimize(optimizer):
    return fit(trainer={"optimizer": optimizer})


def one_column(mean, target, weight=None):
    return mean[:, :1]


def scale(mean, target, weight=None):
    return 0.0


def loss(mean, target, weight=None):
    return 0.0


def custom_metric(mean, target, weight=None):
    return 0.0


class ForwardWithoutKey:
    def init(self, rng, n_in):
        return (), n_in

    def forward(self, params, x):
        return x, None

    def backward(self, params, cache, dy):
        return (), dy


class BackwardWithoutPair(ForwardWithoutKey):
    def forward(self, params, x, key=None):
        return x, None

    def backward(self, params, cache, dy):
        return dy


class UpdatesOnly:
    def init(self, params):
        return ()

    def update(self, grads, state, params):
        return portnet.tree.map(lambda g: -0.1 * g, grads)


# The call, the type of its error, and the start of its message.
CASES = {
    # Trainer
    "loss misspelt": (
        lambda: portnet.Trainer(NET, "cross_entropy"),
        ValueError,
        "unknown loss 'cross_entropy': did you mean 'softmax_cross_entropy'?",
    ),
    "optimizer misspelt": (
        lambda: portnet.Trainer(NET, "huber", "rmsprob"),
        ValueError,
        "unknown optimizer 'rmsprob': did you mean 'rmsprop'?",
    ),
    "optimizer as a number": (
        lambda: portnet.Trainer(NET, "huber", 0.01),
        TypeError,
        "expected an optimizer with init, update, got 0.01",
    ),
    "optimizer as a class": (
        lambda: portnet.Trainer(NET, "huber", portnet.RMSProp),
        TypeError,
        "expected an optimizer with init, update, got <class 'portnet.optimizers.RMSProp'>: write it",
    ),
    "model as sizes": (
        lambda: portnet.Trainer((3, 4, 3), "huber"),
        TypeError,
        "expected a model with init, forward, backward, got (3, 4, 3)",
    ),
    "an option of other libraries for Trainer": (
        lambda: portnet.Trainer(NET, "huber", validation_split=0.1),
        TypeError,
        "Trainer: unknown option 'validation_split': write fit(X, y, validation=0.1)",
    ),
    "NumPy sizes as separate arguments": (
        lambda: portnet.mlp(np.int64(4), 8, 2),
        TypeError,
        "mlp: expected a list of sizes, inputs first and outputs last, such as mlp([4, 8, 2]), got",
    ),
    "Dense with outputs and NumPy inputs": (
        lambda: portnet.Dense(8, np.int64(4)),
        TypeError,
        "Dense(8, 4): the inputs come from the data, so write Dense(4)",
    ),
    "a layer whose forward has no key": (
        lambda: portnet.Chain([portnet.Dense(3), ForwardWithoutKey()]),
        TypeError,
        "forward of layers[1] ForwardWithoutKey is called with (params, x, key), got one that takes (params, "
        "x): write def forward(self, params, x, key=None), and return y, cache",
    ),
    "a residual layer whose forward has no key": (
        lambda: portnet.Residual(ForwardWithoutKey()),
        TypeError,
        "forward of ForwardWithoutKey is called with (params, x, key), got one that takes (params, x): write",
    ),
    "a model whose forward has no key": (
        lambda: portnet.Trainer(ForwardWithoutKey(), "huber"),
        TypeError,
        "forward of ForwardWithoutKey is called with (params, x, key), got one that takes (params, x): write",
    ),
    "a model whose backward returns no pair": (
        lambda: portnet.Trainer(BackwardWithoutPair(), "squared_error").fit(X, X),
        TypeError,
        "BackwardWithoutPair: expected backward to return dparams, dx, got a ndarray of shape (8, 3)",
    ),
    "an optimizer that returns updates only": (
        lambda: fit(trainer={"optimizer": UpdatesOnly()}),
        TypeError,
        "UpdatesOnly: expected update to return updates, state, got 3 values",
    ),
    "batch size of 0": (
        lambda: portnet.Trainer(NET, "huber", batch_size=0),
        ValueError,
        "batch_size: expected an integer of at least 1, got 0",
    ),
    "batch size of 1.5": (
        lambda: portnet.Trainer(NET, "huber", batch_size=1.5),
        ValueError,
        "batch_size: expected an integer of at least 1, got 1.5",
    ),
    "seed of None": (
        lambda: portnet.Trainer(NET, "huber", seed=None),
        ValueError,
        "seed: expected an integer of at least 0, got None",
    ),
    "shuffle as a number": (
        lambda: portnet.Trainer(NET, "huber", shuffle=1),
        ValueError,
        "shuffle: expected True, 'full' or False, got 1",
    ),
    "parameters of another network": (
        lambda: fit(trainer={"params": portnet.init(portnet.mlp([3, 5, 3]))}),
        DataError,
        "params[0]['W']: expected shape (3, 4), got (3, 5)",
    ),
    # optimizers, transforms
    "learning rate of 0": (
        lambda: portnet.RMSProp(0),
        ValueError,
        "RMSProp: expected a finite lr > 0, or a function of t, got 0",
    ),
    "learning rate that is negative": (
        lambda: portnet.AdamW(-1e-3),
        ValueError,
        "AdamW: expected a finite lr > 0, or a function of t, got -0.001",
    ),
    "learning rate that is NaN": (
        lambda: portnet.Nesterov(np.nan),
        ValueError,
        "Nesterov: expected a finite lr > 0, or a function of t, got nan",
    ),
    "schedule without ()": (
        lambda: portnet.SGD(portnet.CosineDecay),
        ValueError,
        "SGD: expected a finite lr > 0, or a function of t, got <class 'portnet.schedules.CosineDecay'>",
    ),
    "beta of 1": (
        lambda: portnet.RMSProp(beta=1.0),
        ValueError,
        "RMSProp: expected 0 <= beta < 1, got 1.0",
    ),
    "beta as text": (
        lambda: portnet.Nesterov(beta="0.9"),
        ValueError,
        "Nesterov: expected 0 <= beta < 1, got '0.9'",
    ),
    "decay that is negative": (
        lambda: portnet.AdamW(decay=-0.1),
        ValueError,
        "AdamW: expected a finite decay >= 0, got -0.1",
    ),
    "decay of an unknown parameter": (
        lambda: optimize(portnet.chain(portnet.WeightDecay(0.1, only="weights"), portnet.SGD())),
        ValueError,
        "WeightDecay: no parameter is named 'weights'; there are [0]['W'], [0]['b'], [2]['W']",
    ),
    "clipping limit of 0": (
        lambda: portnet.ClipNorm(0.0),
        ValueError,
        "ClipNorm: expected a finite limit > 0, got 0.0",
    ),
    "empty chain": (
        lambda: portnet.chain(),
        ValueError,
        "chain: expected at least one optimizer, got nothing",
    ),
    "chain of a list": (
        lambda: portnet.chain([portnet.ClipNorm(1.0), portnet.SGD()]),
        TypeError,
        "expected part 1 of a chain with init, update, got [ClipNorm(limit=1.0), SGD(lr=0.1)]",
    ),
    "chain with L-BFGS": (
        lambda: portnet.chain(portnet.ClipNorm(1.0), portnet.LBFGS()),
        TypeError,
        "expected part 2 of a chain with init, update, got LBFGS(memory=10",
    ),
    "chain of two optimizers": (
        lambda: portnet.chain(portnet.SGD(), portnet.Adam()),
        ValueError,
        "chain: expected one optimizer, got 2 in (SGD(lr=0.1), Adam(",
    ),
    "chain of chains with two optimizers": (
        lambda: portnet.chain(portnet.chain(portnet.SGD()), portnet.Adam()),
        ValueError,
        "chain: expected one optimizer, got 2 in (Chained(",
    ),
    "decay after the optimizer": (
        lambda: portnet.chain(portnet.SGD(), portnet.WeightDecay(0.1)),
        ValueError,
        "chain: expected WeightDecay before the optimizer: after it, parameters",
    ),
    "learning rate too large for a float": (
        lambda: portnet.Adam(10**400),
        ValueError,
        "Adam: expected a finite lr > 0, or a function of t, got 1000",
    ),
    "only as a number": (
        lambda: portnet.AdamW(only=1),
        TypeError,
        "AdamW: expected only as a name of parameters, such as 'W', got 1",
    ),
    "chain that ends without an optimizer": (
        lambda: optimize(portnet.chain(portnet.ClipNorm(1.0))),
        TypeError,
        "expected an optimizer, got Chained(parts=(ClipNorm(limit=1.0),)), which changes gradients",
    ),
    "transform alone": (
        lambda: optimize(portnet.WeightDecay(0.1)),
        TypeError,
        "expected an optimizer, got WeightDecay(decay=0.1, only=None), which changes gradients but",
    ),
    "memory of 0 for L-BFGS": (
        lambda: portnet.LBFGS(memory=0),
        ValueError,
        "LBFGS: memory: expected an integer of at least 1, got 0",
    ),
    "tolerance for L-BFGS that is negative": (
        lambda: portnet.LBFGS(gtol=-1),
        ValueError,
        "LBFGS: expected a finite gtol >= 0, got -1",
    ),
    "L-BFGS with dropout": (
        lambda: portnet.Trainer(portnet.mlp([3, 4, 3], dropout=0.5), "huber", "lbfgs").fit(X, X),
        ValueError,
        "LBFGS needs a loss that is the same in every evaluation, but this model draws at random",
    ),
    "L-BFGS with reduce_on_plateau": (
        lambda: fit(trainer={"optimizer": "lbfgs"}, reduce_on_plateau=True),
        ValueError,
        "reduce_on_plateau: LBFGS finds the length of its steps by itself",
    ),
    # schedules
    "step decay of every 0 steps": (
        lambda: portnet.StepDecay(0.1, every=0),
        ValueError,
        "StepDecay: expected a finite every > 0, got 0",
    ),
    "factor above 1": (
        lambda: portnet.ExponentialDecay(0.1, 10, factor=1.5),
        ValueError,
        "ExponentialDecay: expected 0 < factor <= 1, got 1.5",
    ),
    "inverse decay of power 0": (
        lambda: portnet.InverseDecay(0.1, 10, power=0),
        ValueError,
        "InverseDecay: expected a finite power > 0, got 0",
    ),
    "warm-up as long as the decay": (
        lambda: portnet.CosineDecay(0.1, steps=100, warmup=100),
        ValueError,
        "CosineDecay: expected 0 <= warmup < steps, got 100",
    ),
    "end above the learning rate": (
        lambda: portnet.CosineDecay(0.1, steps=100, end=0.2),
        ValueError,
        "CosineDecay: expected 0 <= end <= lr, got 0.2",
    ),
    "constant schedule of NaN": (
        lambda: portnet.Constant(np.nan),
        ValueError,
        "Constant: expected a finite lr > 0, got nan",
    ),
    "schedule that returns text": (
        lambda: optimize(portnet.SGD(str)),
        ValueError,
        "SGD: expected a finite lr > 0, or a function of t, got <class 'str'>",
    ),
    "schedule that returns None": (
        lambda: optimize(portnet.SGD(lambda t: None)),
        ShapeError,
        "learning rate <function <lambda>",
    ),
    "schedule that returns two numbers": (
        lambda: optimize(portnet.SGD(lambda t: np.ones(2, np.float32))),
        ShapeError,
        "learning rate <function <lambda>",
    ),
    # fit: epochs, monitoring and options
    "epochs of -1": (
        lambda: fit(epochs=-1),
        ValueError,
        "epochs: expected an integer of at least 0, got -1",
    ),
    "epochs of 2.5": (
        lambda: fit(epochs=2.5),
        ValueError,
        "epochs: expected an integer of at least 0, got 2.5",
    ),
    "an unknown option of fit": (
        lambda: fit(epoch=3),
        TypeError,
        "fit: unknown option 'epoch': did you mean 'epochs'?",
    ),
    "an unknown option of epochs": (
        lambda: portnet.Trainer(NET, "huber").epochs(X, X, epoch=3),
        TypeError,
        "epochs: unknown option 'epoch': did you mean 'epochs'?",
    ),
    "an option of other libraries for fit": (
        lambda: fit(validation_split=0.2),
        TypeError,
        "fit: unknown option 'validation_split': write validation=0.1",
    ),
    "dtype as an option of fit": (
        lambda: fit(dtype=np.float64),
        TypeError,
        'fit: unknown option \'dtype\': write portnet.set_backend("numpy", dtype="float64")',
    ),
    "epochs by position": (
        lambda: portnet.Trainer(NET, "huber").fit(X, X, 10),
        TypeError,
        "fit: expected X, y and options by name, got 10 as a third argument: write fit(X, y, "
        "epochs=10)",
    ),
    "epochs by position in a resumed fit": (
        lambda: fit().fit(X, LABELS, 10),
        TypeError,
        "fit: expected X, y and options by name, got 10 as a third argument: write fit(X, y, "
        "epochs=10)",
    ),
    "lr as an option of Trainer": (
        lambda: portnet.Trainer(NET, "huber", lr=0.1),
        TypeError,
        "Trainer: unknown option 'lr': write optimizer=portnet.Adam(1e-3)",
    ),
    "dtype as an option of Trainer": (
        lambda: portnet.Trainer(NET, "huber", dtype=np.float64),
        TypeError,
        'Trainer: unknown option \'dtype\': write portnet.set_backend("numpy", dtype="float64")',
    ),
    "epochs as an option of Trainer": (
        lambda: portnet.Trainer(NET, "huber", epochs=3),
        TypeError,
        "Trainer: unknown option 'epochs': write fit(X, y, epochs=10)",
    ),
    "a NumPy dtype for use_backend": (
        lambda: portnet.use_backend("numpy", dtype=np.float64).__enter__(),
        ValueError,
        "unknown dtype <class 'numpy.float64'>: did you mean 'float64'?",
    ),
    "a method of Run on Trainer": (
        lambda: portnet.Trainer(NET, "huber").predict,
        AttributeError,
        "'Trainer' object has no attribute 'predict': predict is the run's. run = trainer.fit(X, "
        "y); run.predict",
    ),
    "an unknown method of Trainer": (
        lambda: portnet.Trainer(NET, "huber").predictions,
        AttributeError,
        "'Trainer' object has no attribute 'predictions'",
    ),
    "a loss by its name in other libraries": (
        lambda: portnet.Trainer(NET, "mse"),
        ValueError,
        "unknown loss 'mse': did you mean 'squared_error'?",
    ),
    "a metric by its name in other libraries": (
        lambda: fit(metrics=["acc"]),
        ValueError,
        "unknown metric 'acc': did you mean 'accuracy'?",
    ),
    "a metric by its abbreviation": (
        lambda: fit(metrics=["MSE"]),
        ValueError,
        "unknown metric 'MSE': did you mean 'mean_squared_error'?",
    ),
    "a loss by the name of the torch class": (
        lambda: portnet.Trainer(NET, "MSELoss"),
        ValueError,
        "unknown loss 'MSELoss': did you mean 'squared_error'?",
    ),
    "a loss in other case by its name in other libraries": (
        lambda: portnet.Trainer(NET, "Categorical_CrossEntropy"),
        ValueError,
        "unknown loss 'Categorical_CrossEntropy': did you mean 'softmax_cross_entropy'?",
    ),
    "early stopping as a number": (
        lambda: fit(early_stopping=5),
        TypeError,
        "early_stopping: expected True or a portnet.EarlyStopping, got 5",
    ),
    "early stopping as a class": (
        lambda: fit(early_stopping=portnet.EarlyStopping),
        TypeError,
        "early_stopping: expected True or a portnet.EarlyStopping, got <class",
    ),
    "patience of 0": (
        lambda: portnet.EarlyStopping(patience=0),
        ValueError,
        "EarlyStopping: patience: expected an integer of at least 1, got 0",
    ),
    "patience as the first argument": (
        lambda: portnet.EarlyStopping(5),
        TypeError,
        "EarlyStopping: expected monitor as a name, got 5",
    ),
    "min_change that is negative": (
        lambda: portnet.EarlyStopping(min_change=-1),
        ValueError,
        "EarlyStopping: expected a finite min_change >= 0, got -1",
    ),
    "unknown mode": (
        lambda: portnet.EarlyStopping(mode="maximum"),
        ValueError,
        "unknown mode 'maximum'",
    ),
    "restore as text": (
        lambda: portnet.EarlyStopping(restore="best"),
        TypeError,
        "EarlyStopping: restore is True or False, got 'best'",
    ),
    "monitor of a metric that is not computed": (
        lambda: fit(early_stopping=portnet.EarlyStopping("validation_loss")),
        ValueError,
        "EarlyStopping: 'validation_loss' needs validation rows: give fit validation=0.1, or "
        "validation=(X, y)",
    ),
    "monitor misspelt": (
        lambda: fit(validation=0.5, early_stopping=portnet.EarlyStopping("val_loss")),
        ValueError,
        "unknown metric to monitor 'val_loss': did you mean 'validation_loss'?",
    ),
    "monitor of a custom metric without a mode": (
        lambda: fit(metrics=[custom_metric], early_stopping=portnet.EarlyStopping("custom_metric")),
        ValueError,
        'EarlyStopping: is a larger custom_metric better, or a smaller one? Say mode="max" or mode="min"',
    ),
    "plateau with a factor of 1": (
        lambda: portnet.ReduceOnPlateau(factor=1),
        ValueError,
        "ReduceOnPlateau: expected 0 < factor < 1, got 1",
    ),
    "ReduceOnPlateau as early_stopping": (
        lambda: fit(early_stopping=portnet.ReduceOnPlateau()),
        TypeError,
        "early_stopping: expected True or a portnet.EarlyStopping, got ReduceOnPlateau(",
    ),
    "callbacks that are not callable": (
        lambda: fit(callbacks=["print"]),
        TypeError,
        "callbacks: expected functions of a report, got 'print'",
    ),
    "callbacks as a number": (
        lambda: fit(callbacks=3),
        TypeError,
        "callbacks: expected functions of a report, got 3",
    ),
    "callback that returns a number": (
        lambda: fit(callbacks=lambda report: 0.5),
        TypeError,
        "callback <lambda>: expected True to stop, or False or None, got 0.5",
    ),
    "progress as text": (
        lambda: fit(progress="bar"),
        TypeError,
        "progress: expected True or False, got 'bar'",
    ),
    "verbose as text": (
        lambda: fit(verbose="yes"),
        TypeError,
        "verbose: expected True or False, got 'yes'",
    ),
    "metrics as a number": (
        lambda: fit(metrics=5),
        TypeError,
        "metrics: expected names or functions, got 5",
    ),
    "metric that returns a column": (
        lambda: fit(metrics=[one_column]),
        TypeError,
        "metric 'one_column': expected one number, got array([",
    ),
    "metric with two arguments only": (
        lambda: fit(metrics=[lambda mean, target: 0.0]),
        TypeError,
        "a metric is called with (mean, target, weight), got one that takes (mean, target): write "
        "def metric(mean, target, weight=None), and return a number",
    ),
    "metric with a reserved name": (
        lambda: fit(metrics=[scale]),
        ValueError,
        "metrics: expected functions with distinct names, none of them 'loss', 'scale' or 'validation",
    ),
    "log loss of a regression": (
        lambda: fit(VALUES, loss="squared_error", outputs=1, metrics=["log_loss"]),
        ValueError,
        "metric 'log_loss' needs probabilities, which SquaredError does not give",
    ),
    "accuracy of a regression": (
        lambda: fit(VALUES, loss="squared_error", outputs=1, metrics=["accuracy"]),
        ValueError,
        "metric 'accuracy' compares classes, but y contains numbers: use 'r2'",
    ),
    "loss that returns no gradient": (
        lambda: fit(VALUES, loss=lambda p, t, w=None: np.float32(0), outputs=1),
        TypeError,
        "the loss <function",
    ),
    "loss that returns a column": (
        lambda: fit(VALUES, loss=lambda p, t, w=None: (p, p), outputs=1),
        TypeError,
        "the loss <function",
    ),
    "resume from parameters": (
        lambda: fit(resume=portnet.init(NET)),
        TypeError,
        "resume: expected a run that fit returned, or the path of a checkpoint, got ({'W': ",
    ),
    "resume with given parameters": (
        lambda: fit(resume=fit(), trainer={"params": portnet.init(NET)}),
        ValueError,
        "resume: expected a trainer without params: the run has the parameters",
    ),
    "resume with another optimizer": (
        lambda: fit(resume=fit(), trainer={"optimizer": "sgd"}),
        ValueError,
        "resume: the run was trained with Adam, whose state does not fit SGD. To start anew from its",
    ),
    # fit: validation, metrics
    "validation fraction of 1": (
        lambda: fit(validation=1.0),
        ValueError,
        "validation: expected a fraction between 0 and 1, got 1.0",
    ),
    "validation fraction of True": (
        lambda: fit(validation=True),
        ValueError,
        "validation: expected a fraction between 0 and 1, got True",
    ),
    "validation fraction of no rows": (
        lambda: fit(validation=0.01),
        DataError,
        "validation=0.01 of 8 rows leaves no row to validate on: give more rows, or another fraction",
    ),
    "validation fraction of all rows": (
        lambda: fit(validation=0.99),
        DataError,
        "validation=0.99 of 8 rows leaves no row to train on",
    ),
    "validation fraction of rows with weight 0": (
        lambda: fit(validation=0.5, sample_weight=np.eye(8)[0]),
        DataError,
        "validation=0.5: all 4 rows to ",
    ),
    "validation without y": (
        lambda: fit(validation=X),
        ValueError,
        "validation: expected (X, y) or (X, y, sample_weight), or a fraction of the rows",
    ),
    "validation with another number of columns": (
        lambda: fit(validation=(X[:, :2], LABELS)),
        DataError,
        "validation X: expected 3 features, got 2",
    ),
    "validation with another number of labels": (
        lambda: fit(validation=(X, LABELS[:5])),
        DataError,
        "validation y: expected 8 rows, as many as in X, got shape (5,)",
    ),
    "metric misspelt": (
        lambda: fit(metrics=["balanced_acuracy"]),
        ValueError,
        "unknown metric 'balanced_acuracy': did you mean 'balanced_accuracy'?",
    ),
    "regression metric of labels": (
        lambda: fit(metrics=["mean_squared_error"]),
        ValueError,
        "metric 'mean_squared_error' compares numbers, but y contains labels: use 'accuracy'",
    ),
    "class metric of a multilabel target": (
        lambda: fit(np.eye(3)[LABELS], loss="sigmoid_cross_entropy", metrics=["balanced_accuracy"]),
        ValueError,
        "metric 'balanced_accuracy' compares one class per row, but this network has 3 labels per row",
    ),
    # fit: labels and weights
    "fewer text labels than outputs": (
        lambda: fit(np.where(LABELS == 0, "no", "yes")),
        DataError,
        "y: expected 3 classes, as the network has 3 outputs, got 2 classes: 'no', 'yes'",
    ),
    "more text labels than a binary loss has": (
        lambda: fit(WORDS, loss="sigmoid_cross_entropy", outputs=1),
        DataError,
        "y: expected 2 classes, as the network has 1 output, got 3 classes: 'a', 'b', 'c'",
    ),
    "text labels for a multilabel loss": (
        lambda: fit(WORDS, loss="sigmoid_cross_entropy"),
        DataError,
        "y: expected a column of 0 and 1 for each label, as the network has 3 outputs, got 3 classes",
    ),
    "text labels for a regression loss": (
        lambda: fit(WORDS, loss="squared_error", outputs=1),
        DataError,
        "y: expected numbers, got text such as 'a'",
    ),
    "text, numbers and None as labels": (
        lambda: fit(["a", 1, "c", None] * 2),
        DataError,
        "Input y contains None.",
    ),
    "text and numbers in a list of labels": (
        lambda: fit(["a", 1, 2.0, "a"] * 2),
        DataError,
        "Mix of label input types (number and string) in y: give labels of one type",
    ),
    "text and numbers in an object array of labels": (
        lambda: fit(np.array(["a", 1, 2.0, "a"] * 2, dtype=object)),
        DataError,
        "Mix of label input types (number and string) in y: give labels of one type",
    ),
    "bytes as labels": (
        lambda: fit(WORDS.astype(bytes)),
        DataError,
        "y: expected labels of one type, got bytes: decode them, label.decode()",
    ),
    "two columns of text labels": (
        lambda: fit(np.c_[WORDS, WORDS]),
        DataError,
        "y: expected labels of shape (rows,), got (8, 2)",
    ),
    "an unknown text label in the validation set": (
        lambda: fit(WORDS, validation=(X, np.where(WORDS == "c", "d", WORDS))),
        DataError,
        "validation y: expected labels among 'a', 'b', 'c', got 'd' at row 2",
    ),
    "integer labels after text labels": (
        lambda: fit(WORDS).evaluate(X, LABELS),
        DataError,
        "y: expected labels such as 'a', as in training, got numbers",
    ),
    "text labels after integer labels": (
        lambda: fit().evaluate(X, WORDS),
        DataError,
        "y: expected integer labels from 0 to 2, got text such as 'a'",
    ),
    "class weight of an unknown class": (
        lambda: fit(WORDS, class_weight={"a": 1, "d": 2}),
        ValueError,
        "class_weight: expected classes among 'a', 'b', 'c', got 'd'",
    ),
    "class weight by number for text labels": (
        lambda: fit(WORDS, class_weight={0: 1}),
        ValueError,
        "class_weight: expected classes among 'a', 'b', 'c', got 0",
    ),
    "class weight that is negative": (
        lambda: fit(class_weight={0: -1}),
        ValueError,
        "class_weight: expected a finite weight >= 0 for 0, got -1",
    ),
    "class weight as text": (
        lambda: fit(class_weight={1: "2"}),
        ValueError,
        "class_weight: expected a finite weight >= 0 for 1, got '2'",
    ),
    "class weight as a list": (
        lambda: fit(class_weight=[1, 2, 3]),
        ValueError,
        "class_weight: expected a dict of class: weight, or 'balanced', got [1, 2, 3]",
    ),
    "class weight misspelt": (
        lambda: fit(class_weight="balance"),
        ValueError,
        "class_weight: expected a dict of class: weight, or 'balanced', got 'balance'",
    ),
    "class weights of 0": (
        lambda: fit(class_weight=dict.fromkeys(range(3), 0)),
        DataError,
        "class_weight: expected at least one weight above 0, got only zeros",
    ),
    "class weight of a regression": (
        lambda: fit(VALUES, loss="huber", outputs=1, class_weight="balanced"),
        ValueError,
        "class_weight needs one label per row and a cross-entropy loss; got targets of shape (8, 1) and",
    ),
    "class weight of a multilabel target": (
        lambda: fit(np.eye(3)[LABELS], loss="sigmoid_cross_entropy", class_weight="balanced"),
        ValueError,
        "class_weight needs one label per row and a cross-entropy loss; got targets of shape (8, 3) and",
    ),
    "class weight that is complex": (
        lambda: fit(class_weight={1: 1j}),
        ValueError,
        "class_weight: expected a finite weight >= 0 for 1, got 1j",
    ),
    "sample weights whose sum overflows": (
        lambda: fit(sample_weight=np.full(8, 1e38)),
        DataError,
        "sample_weight: the sum of the weights is too large for float32: scale them down",
    ),
    "products of sample and class weights that overflow": (
        lambda: fit(sample_weight=np.full(8, 1e30), class_weight={0: 1e10}),
        DataError,
        "class_weight contains infinity or a value too large for float32 at row 0",
    ),
    "labels with None": (
        lambda: fit([0, 1, None, 0, 1, 2, 0, 1]),
        DataError,
        "y contains NaN at row 2",
    ),
    "sample weight of another length": (
        lambda: fit(sample_weight=np.ones(3)),
        DataError,
        "sample_weight: expected shape (8,), one weight per row, got (3,)",
    ),
    "sample weight that is negative": (
        lambda: fit(sample_weight=-np.ones(8)),
        DataError,
        "sample_weight: expected weights of at least 0 (each multiplies the loss of its row), got -1 at row 0",
    ),
    "a class as a callback": (
        lambda: fit(callbacks=[dict]),
        TypeError,
        "callbacks: expected functions of a report, got <class 'dict'>",
    ),
    "class weight of True": (
        lambda: fit(class_weight={1: True}),
        ValueError,
        "class_weight: expected a finite weight >= 0 for 1, got True",
    ),
    "class weight that is infinite": (
        lambda: fit(class_weight={1: np.inf}),
        ValueError,
        "class_weight: expected a finite weight >= 0 for 1, got inf",
    ),
    "plateau with min_scale=2": (
        lambda: portnet.ReduceOnPlateau(min_scale=2),
        ValueError,
        "ReduceOnPlateau: expected 0 <= min_scale < 1, got 2",
    ),
    "resume from a chain with another optimizer": (
        lambda: fit(
            resume=fit(trainer={"optimizer": portnet.chain(portnet.ClipNorm(1.0), portnet.Adam())}),
            trainer={"optimizer": portnet.chain(portnet.ClipNorm(1.0), portnet.SGD())},
        ),
        ValueError,
        "resume: the run was trained with chain(ClipNorm, Adam), whose state does not fit "
        "chain(ClipNorm, SGD)",
    ),
    "log loss of a multilabel target": (
        lambda: fit(np.eye(3)[LABELS], loss="sigmoid_cross_entropy", metrics=["log_loss"]),
        ValueError,
        "metric 'log_loss' compares one class per row, but this network has 3 labels per row",
    ),
    "metric named loss": (
        lambda: fit(metrics=[loss]),
        ValueError,
        "metrics: expected functions with distinct names, none of them 'loss', 'scale' or 'validation_...', got 'loss'",
    ),
    **{
        f"{name} for labels": (
            lambda name=name: fit(metrics=[name]),
            ValueError,
            f"metric {name!r} compares numbers, but y contains labels: use 'accuracy'",
        )
        for name in ("label_accuracy", "mean_absolute_error", "mean_squared_error", "r2")
    },
    "evaluating a regression metric of labels": (
        lambda: fit().evaluate(X, LABELS, metrics=["r2"]),
        ValueError,
        "metric 'r2' compares numbers, but y contains labels: use 'accuracy'",
    ),
    "validation of four arrays": (
        lambda: fit(validation=(X, LABELS, np.ones(8), 0)),
        ValueError,
        "validation: expected (X, y) or (X, y, sample_weight), or a fraction of the rows",
    ),
    "monitor of a training metric with a validation set": (
        lambda: fit(
            validation=0.5, metrics=["accuracy"], early_stopping=portnet.EarlyStopping("accuracy")
        ),
        ValueError,
        "unknown metric to monitor 'accuracy': did you mean 'validation_accuracy'?",
    ),
    # runs
    "best without monitoring": (
        lambda: fit().best,
        ValueError,
        "best: no epoch was monitored; fit with early_stopping=portnet.EarlyStopping()",
    ),
    "moving to an unknown backend": (
        lambda: fit().to("cuda"),
        ValueError,
        "unknown backend 'cuda'",
    ),
    "moving to an unknown device": (
        lambda: fit().to("numpy", device="gpu"),
        ValueError,
        "unknown device 'gpu' for numpy: NumPy's only device is 'cpu'",
    ),
    "moving to an unknown dtype": (
        lambda: fit().to("numpy", dtype="float16"),
        ValueError,
        "unknown dtype 'float16'",
    ),
    "resuming with another number of features": (
        lambda: fit().fit(X[:, :2], LABELS),
        DataError,
        "X: expected 3 features, got 2",
    ),
    "resuming with resume given twice": (
        lambda: fit().fit(X, LABELS, resume=None),
        TypeError,
        "run.fit goes on with this run and takes no resume: to go on from a file, give "
        "Trainer.fit(..., resume=path)",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_argument_raises_its_error_and_message(case):
    call, error, message = CASES[case]
    with pytest.raises(error, match="^" + re.escape(message)) as caught:
        call()
    assert type(caught.value) is error


def test_updates_of_another_structure_raise_and_name_the_optimizer():
    net = portnet.Chain([portnet.Dense(3), portnet.Tanh()])  # the updates look like a pair
    trainer = portnet.Trainer(net, "squared_error", UpdatesOnly(), compile=False)
    with pytest.raises(ValueError, match="pytrees differ at the top") as caught:
        trainer.fit(X, X)
    (note,) = caught.value.__notes__
    assert note.startswith("these are the updates of UpdatesOnly: update(grads, state, params)")


def test_there_are_at_least_40_cases():
    assert len(CASES) >= 40


def test_bad_input_changes_neither_run_nor_arrays():
    """After every error, the run and the arrays are unchanged."""
    run = fit(WORDS, validation=0.25, early_stopping=True)
    x, y, params = X.copy(), WORDS.copy(), [p.copy() for p in portnet.tree.leaves(run.params)]
    history = run.history
    for options in (
        {"class_weight": {"d": 1}},
        {"validation": 0.01},
        {"callbacks": [3]},
        {"early_stopping": portnet.EarlyStopping("accuracy")},
    ):
        with pytest.raises((ValueError, TypeError)):
            run.fit(x, y, **options)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, WORDS)
    for a, b in zip(params, portnet.tree.leaves(run.params), strict=True):
        np.testing.assert_array_equal(a, b)
    assert run.history == history
