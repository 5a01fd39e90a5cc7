"""Writes ../data/bert: a BERT with two small layers of chance weights, as a bundle, and what its definition says of
some texts. It says nothing about language; it holds the server's engine to the definition without a large file.

    python3 tiny_bert.py FOLDER

Needs numpy.
"""

import json
import random
import string
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent.parent / "export"))

from bundle import safetensors  # noqa: E402
from sentence_bert import Reference, export  # noqa: E402

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = [*SPECIAL, *string.ascii_lowercase, *("##" + letter for letter in string.ascii_lowercase), "the", "courier", "rain", "ride", "##s", ".", ","]
VOCABULARY = list(dict.fromkeys(VOCABULARY))
HIDDEN, MIDDLE, HEADS, LAYERS, POSITIONS, LONGEST = 24, 40, 3, 2, 32, 30
TEXTS = ["", "the courier rides", "The rain, the rain.", "a", "Zürich? courier courier courier", "the rain " * 40, "x" * 120]


def weights(chance):
    draw = lambda *shape: np.array([chance.gauss(0.0, 0.4) for _ in range(int(np.prod(shape)))], dtype=np.float32).reshape(shape)  # noqa: E731
    tensors = {
        "embeddings.word_embeddings.weight": draw(len(VOCABULARY), HIDDEN),
        "embeddings.position_embeddings.weight": draw(POSITIONS, HIDDEN),
        "embeddings.token_type_embeddings.weight": draw(2, HIDDEN),
    }

    def linear(name, outputs, inputs):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = draw(outputs, inputs), draw(outputs)

    def norm(name):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = draw(HIDDEN) + np.float32(1.0), draw(HIDDEN)

    norm("embeddings.LayerNorm")
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            linear(f"{at}.attention.self.{part}", HIDDEN, HIDDEN)
        linear(f"{at}.attention.output.dense", HIDDEN, HIDDEN)
        norm(f"{at}.attention.output.LayerNorm")
        linear(f"{at}.intermediate.dense", MIDDLE, HIDDEN)
        linear(f"{at}.output.dense", HIDDEN, MIDDLE)
        norm(f"{at}.output.LayerNorm")
    linear("pooler.dense", HIDDEN, HIDDEN)
    return tensors


def tokenizer():
    special = [{"id": number, "special": True, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
               for number, token in enumerate(SPECIAL)]
    end = lambda token: {"SpecialToken": {"id": token, "type_id": 0}}  # noqa: E731
    known = {token: {"id": token, "ids": [SPECIAL.index(token)], "tokens": [token]} for token in ("[CLS]", "[SEP]")}
    single = [end("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, end("[SEP]")]
    return {
        "version": "1.0",
        # Both are what files of sentence-transformers say, and both must be of no account.
        "truncation": {"max_length": 8, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": special,
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": known},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
                  "vocab": {token: number for number, token in enumerate(VOCABULARY)}},
    }


def write_source(folder):
    config = {"vocab_size": len(VOCABULARY), "max_position_embeddings": POSITIONS, "type_vocab_size": 2, "num_hidden_layers": LAYERS,
              "hidden_size": HIDDEN, "num_attention_heads": HEADS, "intermediate_size": MIDDLE, "hidden_act": "gelu", "layer_norm_eps": 1e-12}
    (folder / "1_Pooling").mkdir()
    for name, content in {
        "config.json": config,
        "sentence_bert_config.json": {"max_seq_length": LONGEST},
        "1_Pooling/config.json": {"pooling_mode_mean_tokens": True},
        "modules.json": [{"type": "sentence_transformers.models.Normalize"}],
        "tokenizer.json": tokenizer(),
    }.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    (folder / "model.safetensors").write_bytes(safetensors(weights(random.Random(3))))


def main():
    target = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as source:
        write_source(Path(source))
        export(source, target, name="tiny", version="v1", training=TEXTS)
        model = Reference(source)
        expected = {"texts": TEXTS, "tokens": [len(model.tokens(text)) for text in TEXTS],
                    "vectors": [np.round(model.embed(text), 8).tolist() for text in TEXTS]}
    (target / "expected.json").write_text(json.dumps(expected, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
