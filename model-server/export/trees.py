"""Exports gradient-boosted trees of scikit-learn or XGBoost as a bundle that model-server serves.

    from trees import export
    export(model, folder="bundle", name="delivery-time", version="v3", features=FEATURES, output=OUTPUT, rows=training_rows)

`features` and `output` are those of `model.json`; `rows` are the training rows as clients send them. The model must
have been trained on `bundle.encode(features, rows)`: those columns, in that order, in single precision.

Taken are GradientBoosting and HistGradientBoosting of scikit-learn and XGBoost's gbtree, each for regression and for
two classes (the prediction is then the chance of the second). Whatever cannot be carried over exactly is refused:
categorical splits, several classes, several outputs, dart, an initial estimator that is no constant.
"""

import json
import math

import numpy as np

from bundle import encode, golden, reference, safetensors, write

GOLDEN_EXAMPLES = 16


def export(model, *, folder, name, version, features, output, rows, description="", tolerance=None):
    """Writes the bundle after comparing it, on every row, with what the library predicts; gives MODEL_SHA256."""
    forest = read(model)
    columns = encode(features, rows)
    wanted = predicted(model, columns)
    spread = max(1.0, float(np.abs(wanted).max()))
    off = float(np.abs(forest.predict(columns) - wanted).max())
    if off > 1e-5 * spread:
        raise ValueError(f"the exported trees are off by {off}; this is a fault of the exporter, please report it")
    described = {
        "name": name,
        "version": version,
        "description": description,
        "architecture": "gradient_boosted_trees",
        "features": features,
        "output": output,
        "gradient_boosted_trees": forest.described(),
        "reference": reference(features, rows, wanted),
        "golden": golden(rows[:GOLDEN_EXAMPLES], wanted[:GOLDEN_EXAMPLES], tolerance or 1e-5 * spread),
    }
    return write(folder, described, {"model.safetensors": safetensors(forest.tensors())})


def predicted(model, columns):
    """What the library predicts: a value, or the chance of the second class."""
    if hasattr(model, "predict_proba"):
        return np.asarray(model.predict_proba(columns)[:, 1], dtype=np.float64)
    return np.asarray(model.predict(columns), dtype=np.float64)


class Forest:
    """Trees as the bundle holds them: nodes one behind the other, `value <= threshold` goes left, a leaf has 0 below."""

    def __init__(self, start, link):
        self.start, self.link = float(start), link
        self.roots, self.column, self.threshold, self.left, self.right, self.value = [], [], [], [], [], []

    def add(self, column, threshold, left, right, value, is_leaf):
        """One tree, its positions counted from its own root, which comes first."""
        root = len(self.column)
        self.roots.append(root)
        for node in range(len(value)):
            leaf = bool(is_leaf[node])
            self.column.append(0 if leaf else int(column[node]))
            self.threshold.append(0.0 if leaf else float(threshold[node]))
            self.left.append(0 if leaf else root + int(left[node]))
            self.right.append(0 if leaf else root + int(right[node]))
            self.value.append(float(value[node]) if leaf else 0.0)

    def described(self):
        return {"trees": len(self.roots), "nodes": len(self.column), "start": self.start, "link": self.link}

    def tensors(self):
        return {
            "trees.root": np.array(self.roots, dtype=np.uint32),
            "nodes.column": np.array(self.column, dtype=np.uint32),
            "nodes.threshold": np.array(self.threshold, dtype=np.float32),
            "nodes.left": np.array(self.left, dtype=np.uint32),
            "nodes.right": np.array(self.right, dtype=np.uint32),
            "nodes.value": np.array(self.value, dtype=np.float64),
        }

    def predict(self, columns):
        """The same trees walked in Python: what the export is compared with the library by."""
        tensors = self.tensors()
        rows = np.arange(len(columns))
        total = np.full(len(columns), self.start)
        for root in self.roots:
            at = np.full(len(columns), root)
            while True:
                inner = tensors["nodes.left"][at] != 0
                if not inner.any():
                    break
                goes_left = columns[rows, tensors["nodes.column"][at]] <= tensors["nodes.threshold"][at]
                below = np.where(goes_left, tensors["nodes.left"][at], tensors["nodes.right"][at])
                at = np.where(inner, below, at)
            total += tensors["nodes.value"][at]
        if self.link == "logistic":
            return 1.0 / (1.0 + np.exp(-total))
        return np.exp(total) if self.link == "exponential" else total


def at_most(thresholds):
    """The largest single-precision numbers that are not above: `x <= t` keeps its meaning for every such x."""
    exact = np.asarray(thresholds, dtype=np.float64)
    near = exact.astype(np.float32)
    return np.where(near.astype(np.float64) > exact, np.nextafter(near, np.float32(-np.inf)), near)


def below(thresholds):
    """The largest single-precision numbers below: `x < t` becomes `x <= below(t)`."""
    return np.nextafter(np.asarray(thresholds, dtype=np.float32), np.float32(-np.inf))


def read(model):
    """The trees of a model of either library."""
    kind = type(model).__name__
    readers = {
        "GradientBoostingRegressor": gradient_boosting,
        "GradientBoostingClassifier": gradient_boosting,
        "HistGradientBoostingRegressor": hist_gradient_boosting,
        "HistGradientBoostingClassifier": hist_gradient_boosting,
        "XGBRegressor": xgboost,
        "XGBClassifier": xgboost,
    }
    if kind not in readers:
        raise ValueError(f"{kind} cannot be exported; {', '.join(readers)} can")
    return readers[kind](model)


def refuse(problem):
    raise ValueError(f"this model cannot be exported: {problem}")


def gradient_boosting(model):
    classifier = hasattr(model, "predict_proba")
    if model.estimators_.shape[1] != 1:
        refuse("it has more than two classes")
    if classifier and model.loss != "log_loss":
        refuse(f"its loss is {model.loss}, not log_loss")
    probe = np.zeros((2, model.n_features_in_), dtype=np.float32)
    probe[1] = 1.0
    start = np.asarray(model._raw_predict_init(probe)).ravel()
    if start[0] != start[1] or not (isinstance(model.init, str) or "Dummy" in type(model.init_).__name__):
        refuse("its initial estimator is no constant")
    forest = Forest(start[0], "logistic" if classifier else "identity")
    for stage in model.estimators_[:, 0]:
        tree = stage.tree_
        value = model.learning_rate * tree.value[:, 0, 0]
        forest.add(tree.feature, at_most(tree.threshold), tree.children_left, tree.children_right, value, tree.children_left < 0)
    return forest


def hist_gradient_boosting(model):
    links = {"squared_error": "identity", "absolute_error": "identity", "quantile": "identity", "poisson": "exponential",
             "gamma": "exponential", "log_loss": "logistic"}
    if model.loss not in links or model.n_trees_per_iteration_ != 1:
        refuse(f"its loss is {model.loss} with {model.n_trees_per_iteration_} trees in each round")
    forest = Forest(np.asarray(model._baseline_prediction).ravel()[0], links[model.loss])
    for (tree,) in model._predictors:
        nodes = tree.nodes
        if (nodes["is_categorical"] != 0).any():
            refuse("it splits categories; train it on the columns of `encode`, without categorical_features")
        forest.add(nodes["feature_idx"], at_most(nodes["num_threshold"]), nodes["left"], nodes["right"], nodes["value"], nodes["is_leaf"])
    return forest


def xgboost(model):
    learner = json.loads(bytes(model.get_booster().save_raw("json")))["learner"]
    objective = learner["objective"]["name"]
    identity = ("reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror", "reg:quantileerror")
    logistic = ("binary:logistic", "reg:logistic")
    exponential = ("count:poisson", "reg:gamma", "reg:tweedie")
    links = {**dict.fromkeys(identity, "identity"), **dict.fromkeys(logistic, "logistic"), **dict.fromkeys(exponential, "exponential")}
    booster = learner["gradient_booster"]
    if objective not in links or booster["name"] != "gbtree":
        refuse(f"its objective is {objective}, its booster {booster['name']}")
    scores = json.loads(learner["learner_model_param"]["base_score"])
    scores = scores if isinstance(scores, list) else [scores]
    if len(scores) != 1:
        refuse("it has several outputs")
    to_margin = {"identity": float, "logistic": lambda p: math.log(p / (1.0 - p)), "exponential": math.log}
    forest = Forest(to_margin[links[objective]](scores[0]), links[objective])
    parallel = int(booster["model"]["gbtree_model_param"]["num_parallel_tree"])
    best = getattr(model, "best_iteration", None) if learner["attributes"].get("best_iteration") else None
    trees = booster["model"]["trees"]
    for tree in trees if best is None else trees[: (best + 1) * parallel]:
        if any(tree["split_type"]):
            refuse("it splits categories; train it on the columns of `encode`, without enable_categorical")
        left = np.array(tree["left_children"])
        # XGBoost keeps a leaf's value where an inner node has its threshold.
        conditions = np.array(tree["split_conditions"], dtype=np.float32)
        forest.add(tree["split_indices"], below(conditions), left, tree["right_children"], conditions, left < 0)
    return forest
