"""A py-libp2p host that serves and tries the test protocols, by the words of p2p-peer on its command line."""

import argparse
import hashlib
import logging
import sys

import multiaddr
import trio
from libp2p import generate_new_ed25519_identity, new_host
from libp2p.crypto.x25519 import create_new_key_pair
from libp2p.host.ping import PingService
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE, Transport as NoiseTransport
from libp2p.security.tls.transport import PROTOCOL_ID as TLS, TLSTransport
from libp2p.stream_muxer.exceptions import MuxedStreamEOF
from libp2p.network.stream.exceptions import StreamEOF

ECHO, SINK, DISCARD, SOURCE, RESET = (f"/test/{name}/1.0.0" for name in ("echo", "sink", "discard", "source", "reset"))
BLOCK = 64 * 1024


async def read(stream):
    """The next bytes; none at the end."""
    try:
        return await stream.read(BLOCK)
    except (StreamEOF, MuxedStreamEOF):
        return b""


async def serve_echo(stream):
    while data := await read(stream):
        await stream.write(data)
    await stream.close_write()


async def serve_count(stream, with_hash):
    digest, count = hashlib.sha256(), 0
    while data := await read(stream):
        digest.update(data)
        count += len(data)
    await stream.write(f"{count} {digest.hexdigest()}\n".encode() if with_hash else f"{count}\n".encode())
    await stream.close_write()


async def serve_source(stream):
    line = b""
    while not line.endswith(b"\n"):
        line += await stream.read(1)
    left = int(line)
    while left > 0:
        piece = min(left, BLOCK)
        await stream.write(bytes(piece))
        left -= piece
    await stream.close_write()


def serve_all(host):
    async def sink(stream):
        await serve_count(stream, True)

    async def discard(stream):
        await serve_count(stream, False)

    async def reset(stream):
        await stream.reset()

    for name, handler in {ECHO: serve_echo, SINK: sink, DISCARD: discard, SOURCE: serve_source, RESET: reset}.items():
        host.set_stream_handler(name, handler)


async def echo(host, peer, size):
    stream = await host.new_stream(peer, [ECHO])
    sent, received = hashlib.sha256(), hashlib.sha256()

    async def send():
        left, number = size, 0
        while left > 0:
            piece = (hashlib.sha256(str(number).encode()).digest() * (BLOCK // 32))[:left]
            sent.update(piece)
            await stream.write(piece)
            left -= len(piece)
            number += 1
        await stream.close_write()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while data := await read(stream):
            received.update(data)
    if sent.digest() != received.digest():
        raise AssertionError("the echo differs")


async def sink(host, peer, size):
    stream = await host.new_stream(peer, [SINK])
    digest, left, block = hashlib.sha256(), size, bytes(range(256)) * (BLOCK // 256)
    while left > 0:
        piece = block[:left]
        digest.update(piece)
        await stream.write(piece)
        left -= len(piece)
    await stream.close_write()
    answer = b""
    while data := await read(stream):
        answer += data
    if answer != f"{size} {digest.hexdigest()}\n".encode():
        raise AssertionError(f"the peer says {answer!r}")


async def source(host, peer, size):
    stream = await host.new_stream(peer, [SOURCE])
    await stream.write(f"{size}\n".encode())
    received = 0
    while data := await read(stream):
        if data.count(0) != len(data):
            raise AssertionError("a byte that is not zero")
        received += len(data)
    if received != size:
        raise AssertionError(f"{received} of {size} bytes came")


async def reset(host, peer, size):
    try:
        # The reset may overtake the answer of the negotiation.
        stream = await host.new_stream(peer, [RESET])
        while data := await stream.read(1):
            raise AssertionError(f"{data!r} came before the reset")
    except AssertionError:
        raise
    except Exception:
        return
    raise AssertionError("the stream ended without a reset")


async def streams(host, peer, count):
    opened = [await host.new_stream(peer, [ECHO]) for _ in range(count)]
    for number, stream in enumerate(opened):
        await stream.write(f"stream {number}\n".encode())
    for number, stream in enumerate(opened):
        expected, answer = f"stream {number}\n".encode(), b""
        while len(answer) < len(expected):
            answer += await stream.read(len(expected) - len(answer))
        if answer != expected:
            raise AssertionError(f"stream {number} answers {answer!r}")
    for stream in opened:
        await stream.close()


async def main(words):
    key = generate_new_ed25519_identity()
    protocols = {
        "noise": (NOISE, lambda: NoiseTransport(key, noise_privkey=create_new_key_pair().private_key)),
        "tls": (TLS, lambda: TLSTransport(key)),
    }
    security = dict((protocols[name][0], protocols[name][1]()) for name in words.security.split(","))
    listen = [multiaddr.Multiaddr(text) for text in words.listen.split(",")]
    is_websocket = "/ws" in words.listen
    host = new_host(
        key_pair=key, sec_opt=security, listen_addrs=listen, psk=words.psk or None, enable_websocket=is_websocket
    )
    serve_all(host)
    async with host.run(listen_addrs=listen), trio.open_nursery() as nursery:
        nursery.start_soon(host.get_peerstore().start_cleanup_task, 60)
        for address in host.get_addrs():
            print(address)
        print("ready", host.get_id(), flush=True)
        if not words.dial:
            await trio.sleep_forever()
        info = info_from_p2p_addr(multiaddr.Multiaddr(words.dial))
        with trio.fail_after(words.seconds):
            await host.connect(info)
            peer = info.peer_id
            print("connected", flush=True)
            for name in words.op.split(","):
                if name == "ping":
                    print("rtt", await PingService(host).ping(peer, 3))
                elif name == "streams":
                    await streams(host, peer, words.streams)
                else:
                    operation = {"echo": echo, "sink": sink, "source": source, "reset": reset}[name]
                    await operation(host, peer, words.bytes)
                print(name, "ok", flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("-listen", default="/ip4/127.0.0.1/tcp/0")
    parser.add_argument("-security", default="noise,tls")
    parser.add_argument("-psk", default="", help="32 bytes in hexadecimal")
    parser.add_argument("-dial", default="")
    parser.add_argument("-op", default="ping", help="several with commas between them")
    parser.add_argument("-bytes", type=int, default=1 << 20)
    parser.add_argument("-streams", type=int, default=1)
    parser.add_argument("-seconds", type=float, default=60)
    parser.add_argument("-log", default="ERROR")
    words = parser.parse_args()
    logging.basicConfig(level=words.log, stream=sys.stderr)
    trio.run(main, words)
