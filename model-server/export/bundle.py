"""Writes a model bundle: `model.json`, `model.safetensors` and whatever else the architecture needs.

What a feature, an output and a reference are stands in ../notebook/README.md. Needs numpy, and nothing else.
"""

import hashlib
import json
import struct
from pathlib import Path

import numpy as np

REFERENCE_BINS = 10
KINDS = {"float32": "F32", "float64": "F64", "uint32": "U32"}


def encode(features, rows):
    """The columns that a model sees, in single precision as the server has them: a number as it is, a boolean as 0
    or 1, a category as one 1 among zeros. A model to be exported is trained on these, in this order."""
    columns = []
    for feature in features:
        values = [row[feature["name"]] for row in rows]
        if feature["type"] == "categorical":
            columns += [[float(value == category) for value in values] for category in feature["categories"]]
        else:
            columns.append([float(value) for value in values])
    return np.array(columns).T.astype(np.float32)


def histogram(values):
    """Edges at the deciles of the training values, equal ones merged; the counts between them."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    picks = [ordered[(len(ordered) - 1) * step // REFERENCE_BINS] for step in range(REFERENCE_BINS + 1)]
    edges = sorted({float(pick) for pick in picks})
    if len(edges) == 1:
        edges.append(float(np.nextafter(edges[0], np.inf)))
    counts, _ = np.histogram(ordered, bins=edges)
    return {"edges": edges, "counts": [int(count) for count in counts]}


def reference(features, rows, predictions):
    """How inputs and predictions were distributed in training; of texts, how long they were. Vectors have none."""
    found = {}
    for feature in features:
        values = [row[feature["name"]] for row in rows]
        if feature["type"] == "numeric":
            found[feature["name"]] = histogram(values)
        elif feature["type"] == "text":
            found[feature["name"]] = histogram([len(value) for value in values])
        else:
            kinds = feature.get("categories", [False, True])
            found[feature["name"]] = {"counts": [values.count(kind) for kind in kinds]}
    described = {"rows": len(rows), "features": found}
    if np.ndim(predictions) == 1:
        described["prediction"] = histogram(predictions)
    return described


def golden(rows, predictions, tolerance):
    """Rows whose predictions the server must give before it is ready."""
    known = [np.asarray(prediction, dtype=np.float64).tolist() for prediction in predictions]
    examples = [{"input": row, "prediction": value} for row, value in zip(rows, known, strict=True)]
    return {"tolerance": tolerance, "examples": examples}


def safetensors(tensors):
    """The safetensors format: length of the header, header as JSON, then the numbers, little-endian."""
    header, data = {}, []
    end = 0
    for name, values in tensors.items():
        raw = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<")).tobytes()
        header[name] = {"dtype": KINDS[values.dtype.name], "shape": list(values.shape), "data_offsets": [end, end + len(raw)]}
        end += len(raw)
        data.append(raw)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + b"".join(data)


def write(folder, described, files):
    """Writes `model.json` with the digests of the other files beside it; gives its own digest, `MODEL_SHA256`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    text = (json.dumps({"format": 1, **described, "digests": digests}, indent=1) + "\n").encode()
    (folder / "model.json").write_bytes(text)
    return hashlib.sha256(text).hexdigest()
