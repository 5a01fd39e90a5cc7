"""Writes tests/data/drift.json: what scipy and numpy find in the pooled rows of several endpoints of two versions, which the
edge has to find in the sketches that it adds up.

pip install numpy scipy; python3 proxy/tests/python/drift_reference.py
"""

import json
import pathlib

import numpy as np
from scipy import stats

LEAST_SHARE = 1e-4
ENDPOINTS = 3


def case(name, stable, canary, rows=(900, 600)):
    """Rows of two versions over three endpoints each, and how far apart they are."""
    draw = lambda distribution, count: np.round(distribution(count), 4).astype(np.float32)
    stable, canary = draw(stable, rows[0]), draw(canary, rows[1])
    inner = np.unique(np.quantile(stable, np.linspace(0, 1, 11))[1:-1])
    count = lambda values: np.bincount(np.searchsorted(inner, values, side="right"), minlength=len(inner) + 1)
    share = lambda counts: np.maximum(counts / counts.sum(), LEAST_SHARE)
    p, q = share(count(canary)), share(count(stable))
    split = lambda values: [[round(float(value), 4) for value in part] for part in np.array_split(values, ENDPOINTS)]
    return {
        "name": name,
        "stable": split(stable),
        "canary": split(canary),
        "psi": float(((p - q) * np.log(p / q)).sum()),
        "ks": float(stats.ks_2samp(canary, stable).statistic),
    }


def main():
    chance = np.random.default_rng(11)
    cases = [
        case("same", lambda n: chance.normal(30, 8, n), lambda n: chance.normal(30, 8, n)),
        case("a little off", lambda n: chance.normal(30, 8, n), lambda n: chance.normal(32, 8, n)),
        case("shifted", lambda n: chance.normal(30, 8, n), lambda n: chance.normal(36, 8, n)),
        case("wider", lambda n: chance.normal(30, 8, n), lambda n: chance.normal(30, 16, n)),
        case("around zero", lambda n: chance.normal(0, 1, n), lambda n: chance.normal(0.5, 1, n)),
        case("long tail", lambda n: chance.lognormal(3, 1, n), lambda n: chance.lognormal(3.6, 1, n)),
        case("narrow and far", lambda n: chance.normal(1000, 2, n), lambda n: chance.normal(1002, 2, n)),
    ]
    file = pathlib.Path(__file__).parent.parent / "data" / "drift.json"
    file.write_text(json.dumps({"cases": cases}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
