"""portnet's classifier where scikit-learn's would stand: columns, a pipeline, a grid search.

442 people with diabetes, ten measures of each, one of them a category (`pip install ".[sklearn]"`
brings the data). Who is in the third whose illness went on fastest, a year later? Each column is
treated in its own way; early stopping watches people of whom the training has seen nothing, and the
pipeline treats them in the same way; a grid search in two processes chooses the network.
"""

import warnings

import common
import numpy as np

from portnet import plots


def main():
    options = common.parser(__doc__)
    options.add_argument("--epochs", type=common.at_least(1), default=200)
    args = common.begin(options)
    data = common.scikit_learn_data(options, "load_diabetes", scaled=False)

    from sklearn import config_context
    from sklearn.compose import ColumnTransformer
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.inspection import permutation_importance
    from sklearn.model_selection import GridSearchCV, train_test_split
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    from portnet import MLPClassifier  # was: from sklearn.neural_network import MLPClassifier

    warnings.simplefilter("ignore", ConvergenceWarning)
    names = list(data.feature_names)
    X = data.data
    y = np.where(data.target > np.quantile(data.target, 2 / 3), "fast", "slow")
    X, X_test, y, y_test = train_test_split(X, y, random_state=0, stratify=y)
    X, X_val, y, y_val = train_test_split(X, y, random_state=0, stratify=y, test_size=0.25)

    category = [names.index("sex")]
    numbers = [i for i in range(len(names)) if i not in category]
    columns = ColumnTransformer(
        [("category", OneHotEncoder(drop="if_binary"), category), ("n", StandardScaler(), numbers)]
    )
    net = MLPClassifier(
        early_stopping=True,
        max_iter=args.epochs,
        n_iter_no_change=30,
        class_weight="balanced",
        random_state=0,
        backend=args.backend,  # a parameter, because other processes do not know set_backend
    )
    grid = {"net__alpha": [1e-4, 1.0, 10.0], "net__hidden_layer_sizes": [(), (16,), (16, 16)]}
    with config_context(enable_metadata_routing=True):  # X_val gets through to the network
        net.set_fit_request(X_val=True, y_val=True)
        pipeline = Pipeline([("columns", columns), ("net", net)], transform_input=["X_val"])
        search = GridSearchCV(pipeline, grid, cv=3, scoring="balanced_accuracy", n_jobs=2)
        search.fit(X, y, X_val=X_val, y_val=y_val)

    best = search.best_estimator_[-1]
    print("best of the grid:", {k.removeprefix("net__"): v for k, v in search.best_params_.items()})
    print(f"balanced accuracy in cross-validation {search.best_score_:.3f}")
    print(f"epochs {best.n_iter_}, best validation score {best.best_validation_score_:.3f}")
    print(f"balanced accuracy on {len(y_test)} others {search.score(X_test, y_test):.3f}")
    chances = search.predict_proba(X_test[:3])[:, list(search.classes_).index("fast")]
    print(f"chance of the first three to be fast: {', '.join(f'{p:.2f}' for p in chances)}")
    found = permutation_importance(search, X_test, y_test, n_repeats=20, random_state=0)
    order = np.argsort(-found.importances_mean)[:3]
    told = ", ".join(f"{names[i]} {found.importances_mean[i]:.3f}" for i in order)
    print(f"what is lost when a column is shuffled: {told}")
    title = "Diabetes: the network that the grid search chose"
    common.picture(
        args.out / "sklearn_pipeline.png",
        lambda ax: plots.history(best, title=title, ax=ax),
        lambda ax: plots.history(best, "score", ax=ax),
    )


if __name__ == "__main__":
    main()
