"""Speaks to a running model server with Triton's own clients, over HTTP and gRPC.

python3 triton_clients.py ADDRESS EXPECTED.json: the rows and predictions of EXPECTED have to come back.
"""

import json
import sys

import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

TOLERANCE = 1e-4


def refused(ask, *words):
    """The status with which something is refused, whose message has to hold some words."""
    try:
        ask()
    except InferenceServerException as problem:
        for word in words:
            assert word in problem.message(), (word, problem.message())
        return problem.status()
    raise AssertionError(f"not refused: {words}")


def columns_of(expected, rows):
    """Each feature as an array of the shape [n, 1], and the known predictions."""
    known = expected["rows"][:rows]
    by_name = dict(zip(expected["columns"], zip(*known)))
    predictions = np.array(by_name.pop("prediction"))
    arrays = {}
    for name, values in by_name.items():
        kind = np.object_ if isinstance(values[0], str) else np.bool_ if isinstance(values[0], bool) else np.float32
        arrays[name] = np.array(values, dtype=kind).reshape(-1, 1)
    return arrays, predictions


def inputs_of(client, arrays, change=lambda name, values: values, **how):
    """The arrays as a client sends them."""
    inputs = []
    for name, values in arrays.items():
        values = change(name, values)
        sent = client.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
        sent.set_data_from_numpy(values, **how)
        inputs.append(sent)
    return inputs


def check_metadata(server, model, platform="candle"):
    assert server["name"] == "model-server", server
    assert "binary_tensor_data" in server["extensions"], server
    assert model["name"] == "delivery-time" and list(model["versions"]) == ["v1"], model
    assert model["platform"] == platform, model
    shapes = {tensor["name"]: (tensor["datatype"], [int(size) for size in tensor["shape"]]) for tensor in model["inputs"]}
    assert shapes["distance_km"] == ("FP32", [-1, 1]), shapes
    assert shapes["weather"] == ("BYTES", [-1, 1]), shapes
    assert shapes["priority"] == ("BOOL", [-1, 1]), shapes
    (output,) = model["outputs"]
    assert output["name"] == "delivery_minutes" and output["datatype"] == "FP32", output


def check_result(result, known, rows):
    found = result.as_numpy("delivery_minutes")
    assert found.dtype == np.float32 and found.shape == (rows, 1), (found.dtype, found.shape)
    worst = float(np.abs(found[:, 0] - known).max())
    assert worst <= TOLERANCE, worst


def over_http(address, expected):
    client = tritonclient.http.InferenceServerClient(address)
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("delivery-time") and client.is_model_ready("delivery-time", "v1")
    check_metadata(client.get_server_metadata(), client.get_model_metadata("delivery-time"))
    for rows in (1, 64):
        arrays, known = columns_of(expected, rows)
        for binary in (True, False):
            wanted = [tritonclient.http.InferRequestedOutput("delivery_minutes", binary_data=binary)]
            for outputs in (None, wanted):
                inputs = inputs_of(tritonclient.http, arrays, binary_data=binary)
                result = client.infer("delivery-time", inputs, outputs=outputs, request_id="seven", timeout=10_000_000)
                check_result(result, known, rows)
                assert result.get_response()["id"] == "seven", result.get_response()
                assert result.get_response()["model_version"] == "v1"
    check_kinds(tritonclient.http, client, expected)
    check_refusals(tritonclient.http, client, expected, {"no model": "404", "bad": "400", "invalid": "422"})
    assert not client.is_model_ready("delivery-time", "v7")
    assert not client.is_model_ready("other")


def over_grpc(address, expected):
    client = tritonclient.grpc.InferenceServerClient(address)
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("delivery-time", "v1")
    check_metadata(client.get_server_metadata(as_json=True), client.get_model_metadata("delivery-time", as_json=True))
    for rows in (1, 64):
        arrays, known = columns_of(expected, rows)
        outputs = [tritonclient.grpc.InferRequestedOutput("delivery_minutes")]
        inputs = inputs_of(tritonclient.grpc, arrays)
        result = client.infer("delivery-time", inputs, "v1", outputs, "seven", client_timeout=10)
        check_result(result, known, rows)
        assert result.get_response().id == "seven"
        assert result.get_response().model_version == "v1"
    check_kinds(tritonclient.grpc, client, expected)
    not_found, bad = "StatusCode.NOT_FOUND", "StatusCode.INVALID_ARGUMENT"
    check_refusals(tritonclient.grpc, client, expected, {"no model": not_found, "bad": bad, "invalid": bad})
    assert refused(lambda: client.get_model_metadata("other"), "`other`") == not_found
    assert refused(lambda: client.get_inference_statistics(), "no such call") == "StatusCode.UNIMPLEMENTED"
    client.close()


def check_kinds(module, client, expected):
    """Numbers may come in other types, and as a plain list."""
    arrays, known = columns_of(expected, 8)
    as_doubles = lambda name, values: values.astype(np.float64) if values.dtype == np.float32 else values
    flat = lambda name, values: values.reshape(-1)
    for change in (as_doubles, flat):
        check_result(client.infer("delivery-time", inputs_of(module, arrays, change)), known, 8)
    whole = dict(arrays, item_count=np.trunc(arrays["item_count"]))
    known = client.infer("delivery-time", inputs_of(module, whole)).as_numpy("delivery_minutes")[:, 0]
    for kind in (np.int8, np.int32, np.int64, np.uint16, np.uint64):
        as_integers = lambda name, values: values.astype(kind) if name == "item_count" else values
        check_result(client.infer("delivery-time", inputs_of(module, whole, as_integers)), known, 8)


def check_refusals(module, client, expected, statuses):
    arrays, _ = columns_of(expected, 2)

    def infer(change=lambda name, values: values, model="delivery-time", without=None):
        kept = {name: values for name, values in arrays.items() if name != without}
        return lambda: client.infer(model, inputs_of(module, kept, change))

    def only(wanted, make):
        return lambda name, values: make(values) if name == wanted else values

    assert refused(infer(model="other"), "`other`", "delivery-time") == statuses["no model"]
    assert refused(infer(without="hour"), "`hour` is missing") == statuses["bad"]
    square = only("hour", lambda values: np.zeros((2, 2), np.float32))
    assert refused(infer(square), "`hour` has the shape [2, 2]") == statuses["bad"]
    longer = only("hour", lambda values: np.zeros((3, 1), np.float32))
    assert refused(infer(longer), "rows") == statuses["bad"]
    far = only("distance_km", lambda values: values + 1000)
    assert refused(infer(far), "distance_km", "less than or equal to 15") == statuses["invalid"]
    unheard = only("weather", lambda values: np.array([["hail"], ["rain"]], np.object_))
    assert refused(infer(unheard), "weather", "'clear'") == statuses["invalid"]
    nan = only("traffic", lambda values: values * np.float32("nan"))
    assert refused(infer(nan), "traffic", "finite") == statuses["invalid"]
    texts = only("traffic", lambda values: np.array([["a"], ["b"]], np.object_))
    assert refused(infer(texts), "traffic", "valid number") == statuses["invalid"]


def main(address, expected):
    with open(expected) as file:
        expected = json.load(file)
    over_http(address, expected)
    over_grpc(address, expected)


if __name__ == "__main__":
    main(*sys.argv[1:])
