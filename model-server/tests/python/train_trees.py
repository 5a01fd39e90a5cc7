"""Trains delivery-time trees with scikit-learn and XGBoost, and writes each as a bundle with the library's own
predictions for the rows of ../data/predictions_v1.json beside it.

    python3 train_trees.py FOLDER [--small]     --small: what ../data/trees holds

Needs numpy, scikit-learn and xgboost (or xgboost-cpu).
"""

import json
import sys
from pathlib import Path

import numpy as np
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingRegressor
from xgboost import XGBClassifier, XGBRegressor

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent.parent / "export"), str(HERE.parent.parent / "notebook")]

from bundle import encode  # noqa: E402
from delivery_time import EXPECTED_ROWS, EXPECTED_SEED, FEATURES, data_set  # noqa: E402
from trees import export, predicted  # noqa: E402

MINUTES = {"name": "delivery_minutes", "unit": "min", "range": [-60.0, 480.0]}
CHANCE = {"name": "late", "unit": "1", "range": [0.0, 1.0]}


def models(small):
    """Name to model, target and output."""
    trees = 24 if small else 300
    depth = 3 if small else 6
    minutes = lambda y: y  # noqa: E731
    late = lambda y: y > 60.0  # noqa: E731
    wanted = {
        "scikit-learn": (GradientBoostingRegressor(n_estimators=trees, max_depth=depth, random_state=1), minutes, MINUTES),
        "xgboost": (XGBRegressor(n_estimators=trees, max_depth=depth, random_state=1, n_jobs=1), minutes, MINUTES),
        "late": (XGBClassifier(n_estimators=trees, max_depth=depth, random_state=1, n_jobs=1), late, CHANCE),
    }
    if not small:
        wanted["hist"] = (HistGradientBoostingRegressor(max_iter=trees, random_state=1), minutes, MINUTES)
    return wanted


def main():
    folder, small = Path(sys.argv[1]), "--small" in sys.argv
    rows, y = data_set(1_500 if small else 6_000, 5)
    unseen, _ = data_set(EXPECTED_ROWS, EXPECTED_SEED)
    for name, (model, target, output) in models(small).items():
        model.fit(encode(FEATURES, rows), target(y))
        export(model, folder=folder / name, name=f"delivery-time-{name}", version="v1", features=FEATURES, output=output, rows=rows)
        found = predicted(model, encode(FEATURES, unseen))
        (folder / name / "expected.json").write_text(json.dumps(np.round(found, 9).tolist(), separators=(",", ":")) + "\n")
        print(f"{name}: {len(found)} predictions from {found.min():.3f} to {found.max():.3f}")


if __name__ == "__main__":
    main()
