"""Make the golden files of a format version, once; they then stay as they are.

    python tests/files/golden/make.py

Each release that changes the format adds files of its own: all of them must keep loading.
"""

import json
import warnings
from pathlib import Path

import numpy as np

import portnet
from portnet.files.models import VERSION
from portnet.tables import TableModel

HERE = Path(__file__).parent
X = np.linspace(-1.0, 1.0, 60).reshape(20, 3)
Y = np.array(["ant", "bee"])[(X[:, 0] + X[:, 1] ** 2 > 0.2).astype(int)]
FRAME = {
    "size": [*X[:, 0].tolist()[:-1], None],
    "colour": ["red", "blue", None, "red"] * 5,
    "seen": [f"2024-01-{day:02}" for day in range(1, 21)],
    "kind": Y.tolist(),
}


def main():
    warnings.simplefilter("ignore")
    net = portnet.Residual(portnet.mlp([3, 4, 3], "gelu", norm="layer"))
    params = portnet.init(net, 3, seed=1, like=np.zeros(1, "float32"))
    rate = portnet.CosineDecay(0.05, steps=40, warmup=3)
    optimizer = portnet.chain(portnet.ClipNorm(1.0), portnet.AdamW(rate, only="W"))
    model = portnet.mlp([3, 5, 2], "leaky_relu", dropout=0.1)
    trainer = portnet.Trainer(model, "softmax_cross_entropy", optimizer, batch_size=8)
    options = {"validation": 0.25, "metrics": ["accuracy"], "early_stopping": True}
    run = trainer.fit(
        X, Y, epochs=4, checkpoint=HERE / f"checkpoint-v{VERSION}.safetensors", **options
    )
    estimator = portnet.MLPClassifier((4,), random_state=0, max_iter=5).fit(X, Y)
    table = TableModel.fit(FRAME, "kind", portnet.MLPClassifier((4,), random_state=0, max_iter=5))
    portnet.save(table, HERE / f"table-v{VERSION}.safetensors")
    portnet.save((net, params), HERE / f"network-v{VERSION}.safetensors")
    portnet.save(run, HERE / f"run-v{VERSION}.safetensors")
    portnet.save(estimator, HERE / f"estimator-v{VERSION}.safetensors", state=True)
    expected = {
        "network": net.forward(params, X.astype("float32"))[0].tolist(),
        "run": run.predict_proba(X).tolist(),
        "history": run.history.to_dict(),
        "estimator": estimator.predict_proba(X).tolist(),
        "table": table.predict_proba(FRAME).tolist(),
    }
    (HERE / f"expected-v{VERSION}.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main()
