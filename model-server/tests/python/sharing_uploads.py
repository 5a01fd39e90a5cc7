"""Uploads over one connection of HTTP/2, as httpx sends them: those for which there is no room read a clear answer,
though they are still sending, and the connection goes on.

Takes the address of a server that has room for one body of this size and a half."""

import asyncio
import sys

import httpx

SIZE = 2_000_000
PIECE = 50_000
ADDRESS = f"http://{sys.argv[1]}"


def pieces():
    """A body that is no row."""
    return [b" " * PIECE] * (SIZE // PIECE)


async def upload(client, before_the_last):
    async def body():
        *most, last = pieces()
        for piece in most:
            yield piece
            await asyncio.sleep(0)
        await before_the_last()
        yield last

    headers = {"content-type": "application/json", "content-length": str(SIZE)}
    return await client.post(f"{ADDRESS}/v1/predict", content=body(), headers=headers)


async def metric(client, name):
    lines = (await client.get(f"{ADDRESS}/metrics")).text.splitlines()
    return int(next(line.split()[-1] for line in lines if line.startswith(name + " ")))


async def until(client, name, value):
    while await metric(client, name) != value:
        await asyncio.sleep(0.005)


async def main():
    one_connection = httpx.Limits(max_connections=1)
    async with httpx.AsyncClient(http1=False, http2=True, timeout=30, limits=one_connection) as client:
        goes_on = asyncio.Event()
        first = asyncio.create_task(upload(client, goes_on.wait))
        await until(client, "model_server_body_bytes", SIZE)
        for _ in range(3):
            refused = await upload(client, lambda: asyncio.sleep(0))
            assert refused.http_version == "HTTP/2", refused.http_version
            assert refused.status_code == 503, refused.text
            assert refused.headers["x-pointsman-shed"] == "1", refused.headers
            assert refused.json()["code"] == "server_full", refused.text
        assert await metric(client, "model_server_body_bytes") == SIZE, "what is thrown away takes no room"
        goes_on.set()
        assert (await first).status_code == 422
        await until(client, "model_server_body_bytes", 0)
        assert (await upload(client, goes_on.wait)).status_code == 422, "there is room again"


asyncio.run(main())
