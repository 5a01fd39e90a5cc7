"""A sentence embedding as a team would serve it with FastAPI and ONNX Runtime: the peer of `make bench-model`.

    BUNDLE=folder PORT=9000 python serve_texts.py

The graph is written with the operators that ONNX Runtime's own optimiser makes of an exported BERT (one attention with
the three products in one, layer norm with the sum before it, GELU with its bias), so nothing is left to fuse. One
process and one thread on its one core, uvloop and httptools, answers by orjson straight from numpy. It proves the
bundle's golden examples before it listens.
"""

import json
import os
import struct
from pathlib import Path
from typing import Annotated

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import onnx
import onnxruntime
import orjson
import uvicorn
from fastapi import FastAPI, Response
from onnx import TensorProto, helper, numpy_helper
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer

BUNDLE = Path(os.environ["BUNDLE"])
DESCRIPTION = json.loads((BUNDLE / "model.json").read_text())
BERT = DESCRIPTION["bert"]


def tensors():
    """The weights of the bundle by name, in single precision."""
    raw = (BUNDLE / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    kinds = {"F32": "<f4", "I64": "<i8"}
    return {
        name: np.frombuffer(data[slice(*about["data_offsets"])], dtype=kinds[about["dtype"]]).reshape(about["shape"])
        for name, about in header.items()
        if name != "__metadata__"
    }


class Graph:
    """Nodes and weights as they are added."""

    def __init__(self):
        self.known, self.nodes, self.weights, self.count = tensors(), [], [], 0

    def constant(self, values):
        self.count += 1
        name = f"w{self.count}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def weight(self, name, transposed=False):
        values = self.known[name].astype(np.float32)
        return self.constant(values.T if transposed else values)

    def add(self, operator, inputs, own=True, **attributes):
        self.count += 1
        name = f"x{self.count}"
        domain = "com.microsoft" if own else ""
        self.nodes.append(helper.make_node(operator, inputs, [name], domain=domain, **attributes))
        return name

    def norm(self, name, x, skip, bias):
        affine = [self.weight(f"{name}.weight"), self.weight(f"{name}.bias")]
        return self.add("SkipLayerNormalization", [x, skip, *affine, bias], epsilon=BERT["layer_norm_epsilon"])

    def layer(self, name, x, mask):
        parts = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
        weights = self.constant(np.concatenate([self.known[f"{part}.weight"].T for part in parts], axis=1).astype(np.float32))
        biases = self.constant(np.concatenate([self.known[f"{part}.bias"] for part in parts]).astype(np.float32))
        attended = self.add("Attention", [x, weights, biases, mask], num_heads=BERT["heads"])
        out = f"{name}.attention.output"
        dense = self.add("MatMul", [attended, self.weight(f"{out}.dense.weight", True)], own=False)
        x = self.norm(f"{out}.LayerNorm", dense, x, self.weight(f"{out}.dense.bias"))
        middle = self.add("MatMul", [x, self.weight(f"{name}.intermediate.dense.weight", True)], own=False)
        middle = self.add("BiasGelu", [middle, self.weight(f"{name}.intermediate.dense.bias")])
        dense = self.add("MatMul", [middle, self.weight(f"{name}.output.dense.weight", True)], own=False)
        return self.norm(f"{name}.output.LayerNorm", dense, x, self.weight(f"{name}.output.dense.bias"))

    def model(self):
        """Token numbers [n, s], their positions [1, s], mask [n, s] and shares [n, 1, s] to vectors [n, 1, hidden]."""
        words = self.add("Gather", [self.weight("embeddings.word_embeddings.weight"), "ids"], own=False)
        known = self.known["embeddings.position_embeddings.weight"] + self.known["embeddings.token_type_embeddings.weight"][0]
        places = self.add("Gather", [self.constant(known.astype(np.float32)), "positions"], own=False)
        summed = self.add("Add", [words, places], own=False)
        affine = [self.weight(f"embeddings.LayerNorm.{part}") for part in ("weight", "bias")]
        x = self.add("LayerNormalization", [summed, *affine], own=False, epsilon=BERT["layer_norm_epsilon"])
        for layer in range(BERT["layers"]):
            x = self.layer(f"encoder.layer.{layer}", x, "mask")
        pooled = self.add("MatMul", ["shares", x], own=False)
        inputs = [
            helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "s"]),
            helper.make_tensor_value_info("positions", TensorProto.INT64, [1, "s"]),
            helper.make_tensor_value_info("mask", TensorProto.INT32, ["n", "s"]),
            helper.make_tensor_value_info("shares", TensorProto.FLOAT, ["n", 1, "s"]),
        ]
        outputs = [helper.make_tensor_value_info(pooled, TensorProto.FLOAT, ["n", 1, BERT["hidden"]])]
        graph = helper.make_graph(self.nodes, DESCRIPTION["name"], inputs, outputs, self.weights)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(Graph().model(), options, providers=["CPUExecutionProvider"])
tokenizer = Tokenizer.from_file(str(BUNDLE / "tokenizer.json"))
tokenizer.no_padding()
tokenizer.enable_truncation(BERT["truncate_at_tokens"])


def embed(texts):
    """Vectors of length 1, [n, hidden]."""
    tokens = [encoded.ids for encoded in tokenizer.encode_batch(texts)]
    longest = max(map(len, tokens))
    ids = np.zeros((len(tokens), longest), dtype=np.int64)
    mask = np.zeros((len(tokens), longest), dtype=np.int32)
    for row, (place, its) in enumerate(zip(ids, tokens)):
        place[: len(its)], mask[row, : len(its)] = its, 1
    shares = (mask / mask.sum(axis=1, keepdims=True)).astype(np.float32)[:, None, :]
    feeds = {"ids": ids, "positions": np.arange(longest)[None, :], "mask": mask, "shares": shares}
    vectors = session.run(None, feeds)[0][:, 0, :]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if BERT["normalize"] else vectors


class Text(BaseModel):
    """One text."""

    model_config = ConfigDict(extra="forbid")
    text: Annotated[str, Field(max_length=DESCRIPTION["features"][0]["length"][1])]


class Batch(BaseModel):
    """Several texts at once."""

    instances: Annotated[list[Text], Field(max_length=4096)]


golden = DESCRIPTION["golden"]
got = embed([example["input"]["text"] for example in golden["examples"]])
worst = float(np.abs(got - np.array([example["prediction"] for example in golden["examples"]])).max())
assert worst <= golden["tolerance"], f"not the same model: off by {worst}"

NAMES = {"model": DESCRIPTION["name"], "version": DESCRIPTION["version"]}
app = FastAPI()


def answer(content):
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


@app.get("/ready")
async def ready():
    return {}


@app.post("/v1/predict")
async def one(given: Text):
    return answer({"prediction": np.ascontiguousarray(embed([given.text])[0]), **NAMES})


@app.post("/v1/predict/batch")
async def many(batch: Batch):
    return answer({"predictions": np.ascontiguousarray(embed([given.text for given in batch.instances])), **NAMES})


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["PORT"]), log_level="warning", access_log=False, loop="uvloop", http="httptools")
