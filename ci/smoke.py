"""Train a small network with an installed portnet, from anywhere but its checkout."""

import numpy as np

import portnet

X = np.random.default_rng(0).standard_normal((200, 3))
y = (X.sum(axis=1) > 0).astype(int)
trainer = portnet.Trainer(portnet.mlp([3, 16, 2]), "softmax_cross_entropy", portnet.Adam(0.01), 32)
run = trainer.fit(X, y, epochs=20, metrics=["accuracy"])
assert run.history["accuracy"][-1] > 0.9, run.history["accuracy"]
print(f"{portnet.__file__}: accuracy {run.history['accuracy'][-1]:.3f}")
