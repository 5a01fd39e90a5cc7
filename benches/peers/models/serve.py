"""The delivery-time model as a team would serve it with FastAPI: the peers of `make bench-model`.

    ENGINE=sklearn-mlp|sklearn-gbr|onnx BUNDLE=folder PORT=9000 python serve.py

Each engine in its best configuration here: one process on its one core, uvloop and httptools, answers by orjson,
predictions in the event loop (a thread per request only costs), one thread for products. `sklearn-mlp` and `onnx`
calculate with the very weights of the bundle, and prove it on its golden examples before they listen; `sklearn-gbr`
is trained on the same orders, as scikit-learn users most often do for tables.
"""

import json
import os
import random
import struct
import sys
from pathlib import Path
from typing import Annotated, Literal

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel, ConfigDict, Field, create_model

NOTEBOOK = Path(__file__).resolve().parents[3] / "model-server" / "notebook"
sys.path.insert(0, str(NOTEBOOK))
from delivery_time import data_set, encode  # noqa: E402

BUNDLE = Path(os.environ["BUNDLE"])
DESCRIPTION = json.loads((BUNDLE / "model.json").read_text())
SCALER = {name: np.array(values) for name, values in DESCRIPTION["mlp"]["scaler"].items()}


def tensors():
    """The weights of the bundle by name."""
    raw = (BUNDLE / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    return {
        name: np.frombuffer(data[slice(*entry["data_offsets"])], dtype="<f4").reshape(entry["shape"])
        for name, entry in header.items()
    }


def layers():
    """(weight as [in, out], bias), the scaler folded into the first."""
    found, folded = tensors(), []
    for position in range(len(DESCRIPTION["mlp"]["hidden"]) + 1):
        weight = found[f"layers.{position}.weight"].T.astype(np.float64)
        bias = found[f"layers.{position}.bias"].astype(np.float64)
        if position == 0:
            weight = weight / SCALER["scale"][:, None]
            bias = bias - SCALER["mean"] @ weight
        folded.append((weight.astype(np.float32), bias.astype(np.float32)))
    return folded


def sklearn_mlp():
    from sklearn.neural_network import MLPRegressor

    hidden = DESCRIPTION["mlp"]["hidden"]
    model = MLPRegressor(hidden_layer_sizes=hidden, activation="relu")
    model.coefs_ = [weight for weight, _ in layers()]
    model.intercepts_ = [bias for _, bias in layers()]
    model.n_layers_, model.n_outputs_, model.out_activation_ = len(hidden) + 2, 1, "identity"
    model.n_features_in_ = model.coefs_[0].shape[0]
    return model.predict


def sklearn_gbr():
    from sklearn.ensemble import GradientBoostingRegressor

    orders, minutes = data_set(8_000, 11)
    model = GradientBoostingRegressor(n_estimators=100, max_depth=3, random_state=1).fit(encode(orders), minutes)
    return model.predict


def onnx():
    import onnx as graph
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights, value = [], [], "x"
    stack = layers()
    for position, (weight, bias) in enumerate(stack):
        weights += [numpy_helper.from_array(weight, f"w{position}"), numpy_helper.from_array(bias, f"b{position}")]
        nodes.append(helper.make_node("Gemm", [value, f"w{position}", f"b{position}"], [f"g{position}"]))
        value = f"g{position}"
        if position + 1 < len(stack):
            nodes.append(helper.make_node("Relu", [value], [f"r{position}"]))
            value = f"r{position}"
    wide = stack[0][0].shape[0]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", wide])]
    outputs = [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["n", 1])]
    made = helper.make_graph(nodes, "delivery-time", inputs, outputs, weights)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    graph.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})[0][:, 0]


ENGINES = {"sklearn-mlp": sklearn_mlp, "sklearn-gbr": sklearn_gbr, "onnx": onnx}


def field(feature):
    """What pydantic is told of a feature."""
    kind = feature["type"]
    if kind == "categorical":
        return (Literal[tuple(feature["categories"])], ...)
    if kind == "boolean":
        return (bool, ...)
    low, high = feature["range"]
    return (Annotated[float, Field(ge=low, le=high)], ...)


Order = create_model(
    "Order", __config__=ConfigDict(extra="forbid"), **{f["name"]: field(f) for f in DESCRIPTION["features"]}
)


class Batch(BaseModel):
    """Several orders at once."""

    instances: Annotated[list[Order], Field(max_length=4096)]


# Where each feature stands among the columns, and each category within its own.
PLACES, WIDE = [], 0
for described in DESCRIPTION["features"]:
    categories = described.get("categories")
    PLACES.append((described["name"], WIDE, categories and {name: at for at, name in enumerate(categories)}))
    WIDE += len(categories) if categories else 1


def columns(orders):
    """The rows as numbers, one 1 among zeros for a category."""
    rows = np.zeros((len(orders), WIDE), dtype=np.float32)
    for row, order in zip(rows, orders):
        for name, at, categories in PLACES:
            value = getattr(order, name)
            if categories is None:
                row[at] = value
            else:
                row[at + categories[value]] = 1.0
    return rows


predict = ENGINES[os.environ["ENGINE"]]()
golden = DESCRIPTION["golden"]
if os.environ["ENGINE"] != "sklearn-gbr":
    got = predict(columns([Order(**example["input"]) for example in golden["examples"]]))
    wanted = [example["prediction"] for example in golden["examples"]]
    worst = float(np.abs(got - wanted).max())
    assert worst <= golden["tolerance"], f"not the same model: off by {worst}"

import orjson  # noqa: E402

NAMES = {"model": DESCRIPTION["name"], "version": DESCRIPTION["version"]}
app = FastAPI()


def answer(content):
    return Response(orjson.dumps(content), media_type="application/json")


@app.get("/ready")
async def ready():
    return {}


@app.post("/v1/predict")
async def one(order: Order):
    return answer({"prediction": float(predict(columns([order]))[0]), **NAMES})


@app.post("/v1/predict/batch")
async def many(batch: Batch):
    return answer({"predictions": predict(columns(batch.instances)).astype(float).tolist(), **NAMES})


if __name__ == "__main__":
    random.seed(1)
    uvicorn.run(app, port=int(os.environ["PORT"]), log_level="warning", access_log=False, loop="uvloop", http="httptools")
