"""For users of scikit-learn: MLPClassifier and MLPRegressor in the place of scikit-learn's own.

Run it with ``python examples/tutorials/scikit_learn_users.py``, after
``pip install ".[sklearn,plot]" pandas``. It writes PNG files and model files into the current
folder. Editors that know cells (``# %%``) run it cell by cell.
"""

# %% [markdown]
# # portnet for users of scikit-learn
#
# `portnet.MLPClassifier` and `portnet.MLPRegressor` take the place of scikit-learn's networks. You
# change one import line; pipelines, cross-validation and searches stay as they are.

# %%
import numpy as np
from sklearn import neural_network
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import portnet
from portnet import MLPClassifier, MLPRegressor  # was: from sklearn.neural_network import ...
from portnet.tables import TableModel

# %% [markdown]
# ## A pipeline, and cross-validation
#
# 569 tumour samples, benign or malignant, with 30 measures each. Networks want inputs of about the
# same size, so that a scaler comes first.

# %%
X, y = load_breast_cancer(return_X_y=True)
model = make_pipeline(
    StandardScaler(), MLPClassifier(hidden_layer_sizes=(32,), max_iter=1000, random_state=0)
)
scores = cross_val_score(model, X, y, cv=5)
print("portnet     ", scores.round(4), f"mean {scores.mean():.4f}")

# %% [markdown]
# The same with scikit-learn's own class. From the same `random_state`, `adam` and `sgd` make
# scikit-learn's steps up to rounding, so the scores agree:

# %%
other = neural_network.MLPClassifier(hidden_layer_sizes=(32,), max_iter=1000, random_state=0)
scores = cross_val_score(make_pipeline(StandardScaler(), other), X, y, cv=5)
print("scikit-learn", scores.round(4), f"mean {scores.mean():.4f}")

# %% [markdown]
# A grid search finds the parameters by the usual names.

# %%
grid = {"mlpclassifier__alpha": [1e-4, 1.0], "mlpclassifier__hidden_layer_sizes": [(8,), (32,)]}
search = GridSearchCV(model, grid, cv=3).fit(X, y)
print(search.best_params_, f"{search.best_score_:.4f}")

# %% [markdown]
# ## Early stopping, on validation data of your own
#
# `early_stopping=True` sets a tenth of the training data aside, as in scikit-learn. With portnet
# you can give the validation data, too: `X_val` and `y_val`. `class_weight="balanced"` is another
# addition: it gives each class the same weight in all.

# %%
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
X_train, X_val, y_train, y_val = train_test_split(X_train, y_train, random_state=0)
scaler = StandardScaler().fit(X_train)
X_train, X_val, X_test = (scaler.transform(part) for part in (X_train, X_val, X_test))

net = MLPClassifier(
    hidden_layer_sizes=(32,),
    learning_rate_init=0.01,
    early_stopping=True,
    class_weight="balanced",
    random_state=0,
)
net.fit(X_train, y_train, X_val=X_val, y_val=y_val)
print(f"stopped after {net.n_iter_} epochs, best validation score {net.best_validation_score_:.4f}")
print(f"test accuracy {net.score(X_test, y_test):.4f}")

scores = {"validation accuracy": net.validation_scores_}
ax = portnet.plots.curves(scores, ylabel="accuracy", title="Early stopping")
ax.figure.savefig("early_stopping.png", dpi=120)

# %% [markdown]
# ## Regression
#
# `MLPRegressor` works in the same way. The target should be scaled, too.

# %%
X_d, y_d = load_diabetes(return_X_y=True)
y_d = (y_d - y_d.mean()) / y_d.std()
regressor = make_pipeline(
    StandardScaler(),
    MLPRegressor(hidden_layer_sizes=(16,), alpha=10.0, max_iter=1000, random_state=0),
)
scores = cross_val_score(regressor, X_d, y_d, cv=5)
print("R^2:", scores.round(3), f"mean {scores.mean():.3f}")

# %% [markdown]
# ## Saving without pickle
#
# Opening a pickle can run any code. `portnet.save` writes a fitted estimator into a safetensors
# file, which holds numbers and names only. `portnet.load` opens it, also where scikit-learn is not
# installed, and the predictions are the same.

# %%
portnet.save(net, "tumours.safetensors")
again = portnet.load("tumours.safetensors")
print(type(again).__name__, np.array_equal(again.predict_proba(X_test), net.predict_proba(X_test)))

# %% [markdown]
# A file has one estimator, not a pipeline. Where scaling should be in the file as well, take
# `portnet.tables.TableModel`. It prepares the columns of a data frame with scikit-learn's
# transformers (missing values, scaling, text), and keeps all of this in the file. `portnet train`
# makes the same from the command line.

# %%
frame = load_breast_cancer(as_frame=True).frame
train, test = train_test_split(frame, random_state=0)
table = TableModel.fit(
    train, "target", MLPClassifier(hidden_layer_sizes=(32,), max_iter=1000, random_state=0)
)
portnet.save(table, "table.safetensors")
again = portnet.load("table.safetensors")
print(f"test accuracy {(again.predict(test) == test['target']).mean():.4f}")

# %% [markdown]
# ## On a GPU
#
# `MLPClassifier(backend="cupy")` trains NumPy data on an NVIDIA GPU. A fitted estimator moves with
# `to`, which returns a copy. Where there is no GPU, this is an error that says what is missing.
# Nothing falls back silently. The [tutorial for GPUs](gpu_users.html) has more.

# %%
try:
    on_gpu = net.to("cupy")
    print("on the GPU:", type(on_gpu.coefs_[0]).__module__)
    print(on_gpu.to("numpy").score(X_test, y_test) == net.score(X_test, y_test))
except portnet.BackendUnavailableError as error:
    print(f"No GPU here: {str(error).partition(':')[0]}")

# %% [markdown]
# ## What differs
#
# - Rows of weight 0 are ignored.
# - A fit that fails leaves the estimator as it was.
# - The loss is computed from the raw outputs, without clipping probabilities. Where data are not
#   scaled, training may therefore stop in another epoch.
#
# The docstring of [`portnet.MLPClassifier`](../portnet.html#MLPClassifier) lists all differences.
