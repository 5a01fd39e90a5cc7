"""Exports a sentence-transformers model (BERT, mean pooling) as a bundle that model-server serves.

    python3 sentence_bert.py MODEL_FOLDER BUNDLE_FOLDER --name minilm --version v1 [--training TEXTS.txt]

MODEL_FOLDER is what sentence-transformers saves: config.json, model.safetensors, tokenizer.json, vocab.txt,
1_Pooling. Needs numpy, and nothing else: `Reference` calculates the golden predictions in double precision, with a
tokenizer of its own. TEXTS.txt, one text a line, says how long texts were in training; without it the golden texts do.
"""

import argparse
import json
import math
import re
import struct
import unicodedata
from pathlib import Path

import numpy as np

from bundle import golden, reference, write

LONGEST_TEXT = 8192
GOLDEN_TOLERANCE = 1e-4
GOLDEN_TEXTS = [
    "A courier rides through the rain.",
    "The order was late by half an hour.",
    "hello",
    "Naïve façades, Ångström and 東京: 3.14 € (50 %) isn't \"enough\"…",
    "The quick brown fox jumps over the lazy dog, and then it does so again, because one jump proves nothing at all. " * 3,
]


class Reference:
    """The model in double precision, straight from its definition (Devlin et al., 2018; Reimers and Gurevych, 2019)."""

    def __init__(self, folder):
        folder = Path(folder)
        self.config = json.loads((folder / "config.json").read_text())
        self.weights = read_safetensors(folder / "model.safetensors")
        self.vocabulary = {token: number for number, token in enumerate((folder / "vocab.txt").read_text().splitlines())}
        self.longest = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
        pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
        if [key for key, used in pooling.items() if used is True] != ["pooling_mode_mean_tokens"]:
            raise ValueError("only mean pooling can be exported")
        if self.config["hidden_act"] != "gelu" or self.config.get("position_embedding_type", "absolute") != "absolute":
            raise ValueError("only GELU with absolute positions can be exported")
        self.normalize = any(module["type"].endswith("Normalize") for module in json.loads((folder / "modules.json").read_text()))

    def tokens(self, text):
        parts = re.split(r"(\[(?:PAD|UNK|CLS|SEP|MASK)\])", text)
        pieces = [piece for part in parts for piece in self.pieces_of(part)][: self.longest - 2]
        return [self.vocabulary[piece] for piece in ["[CLS]", *pieces, "[SEP]"]]

    def pieces_of(self, part):
        """A special token stays whole; any other text is cut into words, and those into pieces."""
        if part in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"):
            return [part]
        return [piece for word in words(part) for piece in self.pieces(word)]

    def pieces(self, word):
        """The longest piece that is known, then the longest of the rest."""
        if len(word) > 100:
            return ["[UNK]"]
        found, start = [], 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = word[start:end] if start == 0 else "##" + word[start:end]
                if piece in self.vocabulary:
                    break
            else:
                return ["[UNK]"]
            found.append(piece)
            start = end
        return found

    def embed(self, text):
        tokens = self.tokens(text)
        x = self.weight("embeddings.word_embeddings")[tokens] + self.weight("embeddings.position_embeddings")[: len(tokens)]
        x = self.norm("embeddings.LayerNorm", x + self.weight("embeddings.token_type_embeddings")[0])
        for layer in range(self.config["num_hidden_layers"]):
            x = self.layer(f"encoder.layer.{layer}", x)
        vector = x.mean(axis=0)
        return vector / np.linalg.norm(vector) if self.normalize else vector

    def layer(self, name, x):
        heads = self.config["num_attention_heads"]
        split = lambda part: self.linear(f"{name}.attention.self.{part}", x).reshape(len(x), heads, -1).transpose(1, 0, 2)  # noqa: E731
        queries, keys, values = split("query"), split("key"), split("value")
        scores = queries @ keys.transpose(0, 2, 1) / math.sqrt(queries.shape[-1])
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        attended = (shares @ values).transpose(1, 0, 2).reshape(len(x), -1)
        x = self.norm(f"{name}.attention.output.LayerNorm", x + self.linear(f"{name}.attention.output.dense", attended))
        middle = self.linear(f"{name}.intermediate.dense", x)
        middle = middle * 0.5 * (1.0 + erf(middle / math.sqrt(2.0)))
        return self.norm(f"{name}.output.LayerNorm", x + self.linear(f"{name}.output.dense", middle))

    def linear(self, name, x):
        return x @ self.weight(name).T + self.weights[f"{name}.bias"]

    def norm(self, name, x):
        centred = x - x.mean(axis=-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + self.config["layer_norm_eps"])
        return centred / spread * self.weight(name) + self.weights[f"{name}.bias"]

    def weight(self, name):
        return self.weights[f"{name}.weight"]

    def described(self):
        config = self.config
        return {
            "vocabulary": config["vocab_size"],
            "positions": config["max_position_embeddings"],
            "token_types": config["type_vocab_size"],
            "layers": config["num_hidden_layers"],
            "hidden": config["hidden_size"],
            "heads": config["num_attention_heads"],
            "intermediate": config["intermediate_size"],
            "activation": config["hidden_act"],
            "layer_norm_epsilon": config["layer_norm_eps"],
            "pooling": "mean",
            "normalize": self.normalize,
            "truncate_at_tokens": self.longest,
        }


GRID = np.arange(-6_500, 6_501) / 1_000
ERF = np.array([math.erf(x) for x in GRID])
SLOPE = 2.0 / math.sqrt(math.pi) * np.exp(-GRID * GRID)


def erf(x):
    """Between the grid's points by the cubic that has their values and slopes (Hermite): within 1e-13."""
    x = np.clip(x, -6.4, 6.4)
    at = np.floor((x + 6.5) * 1_000).astype(np.int64)
    t, h = (x - GRID[at]) * 1_000, 1.0 / 1_000
    start = (1 + 2 * t) * (1 - t) ** 2 * ERF[at] + t * (1 - t) ** 2 * h * SLOPE[at]
    return start + t * t * (3 - 2 * t) * ERF[at + 1] + t * t * (t - 1) * h * SLOPE[at + 1]


def read_safetensors(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, about in header.items():
        start, end = (8 + length + offset for offset in about["data_offsets"])
        kind = {"F32": "<f4", "I64": "<i8"}[about["dtype"]]
        tensors[name] = np.frombuffer(data[start:end], dtype=kind).reshape(about["shape"]).astype(np.float64)
    return tensors


def words(text):
    """Lower case, no accents, no control characters; split at spaces, punctuation and Chinese characters."""
    cleaned = "".join(" " if spaced(c) else c for c in text if not dropped(c))
    cleaned = "".join(f" {c} " if chinese(c) else c for c in cleaned)
    plain = "".join(c for c in unicodedata.normalize("NFD", cleaned) if unicodedata.category(c) != "Mn").lower()
    return "".join(f" {c} " if punctuation(c) else c for c in plain).split()


def dropped(c):
    return c in "\0\ufffd" or (c not in "\t\n\r" and unicodedata.category(c).startswith("C"))


def spaced(c):
    return c in " \t\n\r" or unicodedata.category(c) == "Zs"


def punctuation(c):
    return (c.isascii() and c.isprintable() and not c.isalnum() and c != " ") or unicodedata.category(c).startswith("P")


def chinese(c):
    ranges = [(0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)]
    return any(low <= ord(c) <= high for low, high in ranges)


def export(source, folder, *, name, version, description="", training=None):
    """Writes the bundle; gives MODEL_SHA256."""
    source = Path(source)
    model = Reference(source)
    known = [{"text": text} for text in GOLDEN_TEXTS]
    vectors = np.array([np.round(model.embed(text), 8) for text in GOLDEN_TEXTS])
    reach = 1.0 if model.normalize else 1e4
    described = {
        "name": name,
        "version": version,
        "description": description,
        "architecture": "bert",
        "features": [{"name": "text", "type": "text", "length": [0, LONGEST_TEXT]}],
        "output": {"name": "embedding", "unit": "1", "range": [-reach, reach], "size": model.config["hidden_size"]},
        "bert": model.described(),
        "reference": reference([{"name": "text", "type": "text"}], [{"text": text} for text in training or GOLDEN_TEXTS], vectors),
        "golden": golden(known, vectors, GOLDEN_TOLERANCE),
    }
    files = {file: (source / file).read_bytes() for file in ("model.safetensors", "tokenizer.json")}
    return write(folder, described, files)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("source")
    arguments.add_argument("folder")
    arguments.add_argument("--name", required=True)
    arguments.add_argument("--version", required=True)
    arguments.add_argument("--description", default="")
    arguments.add_argument("--training", type=Path)
    given = arguments.parse_args()
    training = given.training.read_text().splitlines() if given.training else None
    digest = export(given.source, given.folder, name=given.name, version=given.version, description=given.description, training=training)
    print(f"MODEL_SHA256={digest}")


if __name__ == "__main__":
    main()
