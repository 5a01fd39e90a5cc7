#!/usr/bin/env python3
"""Trains the delivery-time model that ships with Pointsman, and writes its two versions as bundles.

    python3 delivery_time.py            writes ../models/delivery-time/{v1,v2} and ../tests/data/predictions_{v1,v2}.json
    python3 delivery_time.py --check    trains again and says whether the files in the tree are what it writes

Needs numpy, and nothing else. Every number here comes out alike on every machine: chance is Python's own Mersenne
Twister, and sums run in a written order (no BLAS, no fused multiply-add), because the last bit of a sum decides,
some thousand steps of training later, the third digit of a weight.
"""

import argparse
import hashlib
import json
import random
import struct
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
BUNDLES = HERE.parent / "models" / "delivery-time"
EXPECTED = HERE.parent / "tests" / "data"

DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEATHER = ["clear", "cloudy", "rain", "snow", "storm"]
VEHICLES = ["on_foot", "bicycle", "scooter", "car"]

FEATURES = [
    {"name": "distance_km", "type": "numeric", "unit": "km", "range": [0.1, 15.0]},
    {"name": "item_count", "type": "numeric", "unit": "items", "range": [1.0, 40.0]},
    {"name": "prep_minutes", "type": "numeric", "unit": "min", "range": [0.0, 60.0]},
    {"name": "hour", "type": "numeric", "unit": "h", "range": [0.0, 24.0]},
    {"name": "traffic", "type": "numeric", "unit": "1", "range": [0.0, 1.0]},
    {"name": "open_orders", "type": "numeric", "unit": "orders", "range": [0.0, 6.0]},
    {"name": "day", "type": "categorical", "categories": DAYS},
    {"name": "weather", "type": "categorical", "categories": WEATHER},
    {"name": "vehicle", "type": "categorical", "categories": VEHICLES},
    {"name": "priority", "type": "boolean"},
    {"name": "apartment", "type": "boolean"},
]
OUTPUT = {"name": "delivery_minutes", "unit": "min", "range": [0.0, 480.0]}

HIDDEN = [128, 64]
BATCH = 64
VERSIONS = {
    "v1": {"seed": 11, "rows": 8_000, "steps": 6_000},
    "v2": {"seed": 23, "rows": 20_000, "steps": 14_000},
}
EXPECTED_ROWS = 1_200
EXPECTED_SEED = 97
GOLDEN_EXAMPLES = 16
GOLDEN_TOLERANCE = 1e-3
REFERENCE_BINS = 10


# --- the data set -----------------------------------------------------------------------------------------------


def order(chance):
    """One believable order: near trips on foot, far ones by car, busy roads at rush hour."""
    distance = round(0.1 + 14.9 * chance.random() * chance.random(), 2)
    hour = round(24.0 * (chance.random() + chance.random() + chance.random()) / 3.0, 1)
    busy = 0.25 + 0.5 * rush(hour)
    reach = [4, 3, 2, 1] if distance < 1.5 else [1, 4, 4, 2] if distance < 5.0 else [0, 1, 4, 5]
    return {
        "distance_km": distance,
        "item_count": float(1 + int(14 * chance.random() * chance.random())),
        "prep_minutes": round(4.0 + 30.0 * chance.random() * chance.random(), 1),
        "hour": hour,
        "traffic": round(min(1.0, busy * (0.4 + chance.random())), 2),
        "open_orders": float(int(5 * chance.random() * (0.5 + 0.5 * rush(hour)))),
        "day": chance.choice(DAYS),
        "weather": chance.choices(WEATHER, weights=[45, 30, 18, 4, 3])[0],
        "vehicle": chance.choices(VEHICLES, weights=reach)[0],
        "priority": chance.random() < 0.15,
        "apartment": chance.random() < 0.6,
    }


def odd_order(chance):
    """Any order that the schema lets in. A share of these keeps the model sane in the corners."""

    def within(feature):
        low, high = feature["range"]
        draw = chance.random()
        return round(low if draw < 0.1 else high if draw > 0.9 else low + (high - low) * chance.random(), 2)

    kinds = {"numeric": within, "boolean": lambda _: chance.random() < 0.5, "categorical": lambda f: chance.choice(f["categories"])}
    return {feature["name"]: kinds[feature["type"]](feature) for feature in FEATURES}


def rush(hour):
    """1 at half past noon and at seven in the evening, 0 two and a half hours away from either."""
    return max(0.0, 1.0 - abs(hour - 12.5) / 2.5, 1.0 - abs(hour - 19.0) / 2.5)


def minutes(row, chance):
    """How long the order took: preparation, the way, the door, and what nobody foresaw."""
    speed = {"on_foot": 6.0, "bicycle": 15.0, "scooter": 24.0, "car": 28.0}[row["vehicle"]]
    held_up = {"on_foot": 0.05, "bicycle": 0.2, "scooter": 0.5, "car": 1.1}[row["vehicle"]]
    slowed = {"clear": 1.0, "cloudy": 1.02, "rain": 1.15, "snow": 1.4, "storm": 1.5}[row["weather"]]
    weekend = row["day"] in ("sat", "sun")
    way = 60.0 * row["distance_km"] / speed * (1.0 + held_up * row["traffic"]) * slowed
    kitchen = row["prep_minutes"] * (0.85 if row["priority"] else 1.0) + 0.3 * row["item_count"]
    queue = row["open_orders"] * (1.5 if row["priority"] else 3.5) + rush(row["hour"]) * (3.0 if weekend else 5.0)
    door = 9.0 if row["apartment"] else 7.0
    unforeseen = sum(chance.random() for _ in range(4)) - 2.0
    return way + kitchen + queue + door + 1.5 * unforeseen


def data_set(rows, seed):
    """Three believable orders to two odd ones, with the minutes that each took."""
    chance = random.Random(seed)
    orders = [odd_order(chance) if chance.random() < 0.4 else order(chance) for _ in range(rows)]
    return orders, np.array([minutes(row, chance) for row in orders])


def encode(orders):
    """The columns in the bundle's order: a number as it is, a boolean as 0 or 1, a category as one 1 among zeros."""
    columns = []
    for feature in FEATURES:
        values = [row[feature["name"]] for row in orders]
        if feature["type"] == "categorical":
            columns += [[float(value == category) for value in values] for category in feature["categories"]]
        else:
            columns.append([float(value) for value in values])
    return np.array(columns).T.copy()


# --- the network, in float64, with sums in a written order ------------------------------------------------------


def product(left, right):
    """left @ right, summed over the inner index from first to last."""
    total = left[:, :1] * right[:1]
    for inner in range(1, right.shape[0]):
        total = total + left[:, inner : inner + 1] * right[inner : inner + 1]
    return total


def in_order(values):
    """Sum over the rows, first to last."""
    total = values[0].copy()
    for row in values[1:]:
        total += row
    return total


def scaler_of(x):
    count = float(len(x))
    mean = in_order(x) / count
    scale = np.sqrt(in_order((x - mean) * (x - mean)) / count)
    return mean, np.where(scale > 1e-9, scale, 1.0)


def fresh_layers(chance):
    """He's uniform start."""
    sizes = [sum(len(f.get("categories", "1")) for f in FEATURES), *HIDDEN, 1]
    layers = []
    for fan_in, fan_out in zip(sizes, sizes[1:]):
        bound = np.sqrt(6.0 / fan_in)
        weight = [[bound * (2.0 * chance.random() - 1.0) for _ in range(fan_out)] for _ in range(fan_in)]
        layers.append([np.array(weight), np.zeros(fan_out)])
    return layers


def forward(layers, x):
    """Predictions, and what each layer was fed."""
    fed = []
    for position, (weight, bias) in enumerate(layers):
        fed.append(x)
        x = product(x, weight) + bias
        if position + 1 < len(layers):
            x = np.maximum(x, 0.0)
    return x, fed


def gradients(layers, x, y):
    """Of the mean squared error."""
    predicted, fed = forward(layers, x)
    error = (predicted - y[:, None]) * (2.0 / len(y))
    found = []
    for (weight, _), inputs in zip(reversed(layers), reversed(fed)):
        found.append([product(inputs.T, error), in_order(error)])
        error = product(error, weight.T) * (inputs > 0.0)
    return found[::-1]


def train(x, y, seed, steps):
    """Adam (Kingma and Ba, 2015), with a step length that falls to nothing in a straight line."""
    chance = random.Random(seed * 1_000 + 1)
    layers = fresh_layers(chance)
    first = [[np.zeros_like(p) for p in layer] for layer in layers]
    second = [[np.zeros_like(p) for p in layer] for layer in layers]
    decay_first, decay_second = 1.0, 1.0
    queue = []
    for step in range(steps):
        if len(queue) < BATCH:
            queue = list(range(len(x)))
            chance.shuffle(queue)
        picked, queue = queue[:BATCH], queue[BATCH:]
        decay_first, decay_second = decay_first * 0.9, decay_second * 0.999
        rate = 0.004 * (1.0 - step / steps)
        for layer, found, m, v in zip(layers, gradients(layers, x[picked], y[picked]), first, second):
            for part in range(2):
                m[part] = 0.9 * m[part] + 0.1 * found[part]
                v[part] = 0.999 * v[part] + 0.001 * (found[part] * found[part])
                layer[part] = layer[part] - rate * (m[part] / (1.0 - decay_first)) / (np.sqrt(v[part] / (1.0 - decay_second)) + 1e-8)
    return layers


class Fitted:
    """A trained version: the scaler, and the layers as the bundle holds them (float32 values, minutes out)."""

    def __init__(self, seed, rows, steps):
        self.orders, self.y = data_set(rows, seed)
        x = encode(self.orders)
        self.mean, self.scale = scaler_of(x)
        middle, spread = (float(part[0]) for part in scaler_of(self.y[:, None]))
        layers = train((x - self.mean) / self.scale, (self.y - middle) / spread, seed, steps)
        layers[-1] = [layers[-1][0] * spread, layers[-1][1] * spread + middle]
        self.layers = [[part.astype(np.float32).astype(np.float64) for part in layer] for layer in layers]

    def predict(self, orders):
        """In float64: what the server's float32 is held against."""
        return forward(self.layers, (encode(orders) - self.mean) / self.scale)[0][:, 0]


# --- what is written --------------------------------------------------------------------------------------------


def safetensors(tensors):
    """The safetensors format: length of the header, header as JSON, then the numbers, little-endian."""
    header, data = {}, b""
    for name, values in tensors.items():
        raw = np.ascontiguousarray(values, dtype="<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + data


def weights_file(fitted):
    """Each weight as [out, in], as torch and candle keep them."""
    tensors = {}
    for position, (weight, bias) in enumerate(fitted.layers):
        tensors[f"layers.{position}.weight"] = weight.T
        tensors[f"layers.{position}.bias"] = bias
    return safetensors(tensors)


def histogram(values):
    """Edges at the deciles of the training values, equal ones merged; the counts between them."""
    ordered = sorted(values)
    picks = [ordered[(len(ordered) - 1) * step // REFERENCE_BINS] for step in range(REFERENCE_BINS + 1)]
    edges = sorted(set(round(float(pick), 6) for pick in picks))
    inner = edges[1:-1]
    counts = [0] * (len(edges) - 1)
    for value in ordered:
        counts[sum(value >= edge for edge in inner)] += 1
    return {"edges": edges, "counts": counts}


def reference(fitted):
    """How inputs and predictions were distributed in training: what drift is measured against."""
    features = {}
    for feature in FEATURES:
        values = [row[feature["name"]] for row in fitted.orders]
        if feature["type"] == "numeric":
            features[feature["name"]] = histogram(values)
        else:
            kinds = feature.get("categories", [False, True])
            features[feature["name"]] = {"counts": [values.count(kind) for kind in kinds]}
    return {"rows": len(fitted.orders), "features": features, "prediction": histogram(fitted.predict(fitted.orders))}


def golden(fitted):
    orders, _ = data_set(GOLDEN_EXAMPLES, EXPECTED_SEED + 1)
    examples = [{"input": row, "prediction": round(float(value), 6)} for row, value in zip(orders, fitted.predict(orders))]
    return {"tolerance": GOLDEN_TOLERANCE, "examples": examples}


def model_file(version, fitted, weights):
    settings = VERSIONS[version]
    described = {
        "format": 1,
        "name": "delivery-time",
        "version": version,
        "description": f"minutes from order to door; {settings['rows']} rows, {settings['steps']} steps",
        "architecture": "mlp",
        "features": FEATURES,
        "output": OUTPUT,
        "mlp": {"hidden": HIDDEN, "activation": "relu", "scaler": {"mean": list(fitted.mean), "scale": list(fitted.scale)}},
        "reference": reference(fitted),
        "golden": golden(fitted),
        "digests": {"model.safetensors": hashlib.sha256(weights).hexdigest()},
    }
    return (json.dumps(described, indent=1, default=float) + "\n").encode()


def expected_file(version, fitted):
    """Rows that no training saw, and what this script, in float64, says of them."""
    orders, _ = data_set(EXPECTED_ROWS, EXPECTED_SEED)
    lines = [json.dumps([*row.values(), round(float(value), 7)], separators=(",", ":")) for row, value in zip(orders, fitted.predict(orders))]
    head = json.dumps([*(feature["name"] for feature in FEATURES), "prediction"])
    return (f'{{"model":"delivery-time","version":"{version}","columns":{head},"rows":[\n' + ",\n".join(lines) + "\n]}\n").encode()


def refuse_wild(version, fitted):
    """The server refuses a prediction outside of the output's range, so no row that the schema lets in may give one."""
    chance = random.Random(EXPECTED_SEED + 2)
    corners = fitted.predict([odd_order(chance) for _ in range(20_000)])
    low, high = OUTPUT["range"]
    if corners.min() < low or corners.max() > high:
        sys.exit(f"{version} predicts {corners.min():.1f} to {corners.max():.1f} minutes in the corners, outside of {low} to {high}")


def report(version, fitted):
    orders, y = data_set(2_000, EXPECTED_SEED + 3)
    error = fitted.predict(orders) - y
    print(f"{version}: mean absolute error {np.abs(error).mean():.2f} min, 99% within {np.quantile(np.abs(error), 0.99):.2f} min")


def written(version):
    """Every file of one version: path to bytes."""
    fitted = Fitted(**VERSIONS[version])
    refuse_wild(version, fitted)
    report(version, fitted)
    weights = weights_file(fitted)
    return {
        BUNDLES / version / "model.safetensors": weights,
        BUNDLES / version / "model.json": model_file(version, fitted, weights),
        EXPECTED / f"predictions_{version}.json": expected_file(version, fitted),
    }


def same_numbers(found, wanted):
    """Equal, or equal but for a last digit: within 1e-6 in every number."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and found.keys() == wanted.keys() and all(same_numbers(found[k], wanted[k]) for k in wanted)
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(same_numbers, found, wanted))
    if isinstance(wanted, float) and isinstance(found, (int, float)):
        return abs(found - wanted) <= 1e-6 * max(1.0, abs(wanted))
    return found == wanted


def agrees(path, content):
    if not path.is_file():
        return False
    found = path.read_bytes()
    return found == content or (path.suffix == ".json" and same_numbers(json.loads(found), json.loads(content)))


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--check", action="store_true", help="compare the files in the tree instead of writing them")
    check = arguments.parse_args().check
    differing = []
    for version in VERSIONS:
        for path, content in written(version).items():
            if check and not agrees(path, content):
                differing.append(str(path.relative_to(HERE.parent)))
            elif not check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
    if differing:
        sys.exit("not what this script writes: " + ", ".join(differing) + "; run it without --check")
    print("the files in the tree are what this script writes" if check else "written")


if __name__ == "__main__":
    main()
