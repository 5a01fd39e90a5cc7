"""Writes tests/data/drift.json: how scipy and the plain formula measure drift, which the server has to agree with.

pip install numpy scipy; python3 model-server/tests/python/drift_reference.py
"""

import json
import pathlib

import numpy as np
from scipy import stats

LEAST_SHARE = 1e-4


def case(name, chance, trained, seen):
    """One reference, one sample, and what is to be found."""
    trained = trained(chance, 8000)
    values = np.round(seen(chance, 1500), 3).astype(np.float32)
    edges = np.unique(np.round(np.quantile(trained, np.linspace(0, 1, 11)), 2))
    inner = edges[1:-1].astype(np.float32)
    reference_bins = np.searchsorted(inner, trained, side="right")
    bins = np.searchsorted(inner, values, side="right")
    count = lambda bins: np.bincount(bins, minlength=len(edges) - 1)
    reference, counts = count(reference_bins), count(bins)
    share = lambda counts: np.maximum(counts / counts.sum(), LEAST_SHARE)
    p, q = share(counts), share(reference)
    return {
        "name": name,
        "edges": edges.tolist(),
        "trained": reference.tolist(),
        "values": [float(value) for value in values],
        "counts": counts.tolist(),
        "psi": float(((p - q) * np.log(p / q)).sum()),
        "ks": float(stats.ks_2samp(bins, reference_bins).statistic),
        "ks_without_bins": float(stats.ks_2samp(values, trained).statistic),
    }


def main():
    chance = np.random.default_rng(7)
    normal = lambda chance, count: chance.normal(10, 3, count)
    cases = [
        case("same", chance, normal, normal),
        case("shifted", chance, normal, lambda chance, count: chance.normal(12, 3, count)),
        case("wider", chance, normal, lambda chance, count: chance.normal(10, 6, count)),
        case("elsewhere", chance, normal, lambda chance, count: chance.normal(40, 1, count)),
        case("whole numbers", chance, lambda c, n: c.poisson(3, n).astype(float), lambda c, n: c.poisson(4, n).astype(float)),
    ]
    file = pathlib.Path(__file__).parent.parent / "data" / "drift.json"
    file.write_text(json.dumps({"cases": cases}) + "\n")


if __name__ == "__main__":
    main()
