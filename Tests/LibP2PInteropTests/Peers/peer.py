"""A py-libp2p host that serves and tries the test protocols, by the words of p2p-peer on its command line."""

import argparse
import contextlib
import hashlib
import logging
import sys

import multiaddr
import trio
from libp2p import generate_new_ed25519_identity, new_host
from libp2p.crypto.x25519 import create_new_key_pair
from libp2p.discovery.events.peerDiscovery import peerDiscovery
from libp2p.discovery.mdns.mdns import MDNSDiscovery
from libp2p.host.ping import PingService
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.relay.circuit_v2.config import RelayConfig, RelayRole
from libp2p.relay.circuit_v2.protocol import PROTOCOL_ID as HOP, CircuitV2Protocol
from libp2p.relay.circuit_v2.transport import CircuitV2Transport
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE, Transport as NoiseTransport
from libp2p.security.tls.transport import PROTOCOL_ID as TLS, TLSTransport
from libp2p.stream_muxer.exceptions import MuxedStreamEOF
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.tools.anyio_service import background_trio_service

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


class Relays:
    """Circuit v2, as far as the command line wants it: a relay, a client of one, or neither."""

    def __init__(self, host, words):
        self.host, self.words = host, words
        self.is_wanted = words.relay or words.reserve or "/p2p-circuit" in words.dial
        self.protocol = CircuitV2Protocol(host, allow_hop=words.relay)
        roles = RelayRole.HOP if words.relay else RelayRole.STOP | RelayRole.CLIENT
        self.transport = CircuitV2Transport(host, self.protocol, RelayConfig(roles=roles))

    async def start(self, stack, nursery):
        if not self.is_wanted:
            return
        await stack.enter_async_context(background_trio_service(self.protocol))
        await self.protocol.event_started.wait()
        if self.words.reserve:
            relay = info_from_p2p_addr(multiaddr.Multiaddr(self.words.reserve))
            await self.host.connect(relay)
            stream = await self.host.new_stream(relay.peer_id, [HOP])
            if not await self.transport.reserve(stream, relay.peer_id, nursery):
                raise AssertionError("the relay grants no reservation")


class Table:
    """A Kademlia DHT that serves, if the command line wants one."""

    def __init__(self, host, words):
        self.host = host
        self.dht = KadDHT(host, DHTMode.SERVER) if words.dht else None

    async def start(self, stack):
        if self.dht:
            await stack.enter_async_context(background_trio_service(self.dht))

    async def add(self, peer):
        if self.dht and not await self.dht.routing_table.add_peer(peer):
            raise AssertionError("the peer gets no place in the table")

    async def find_peer(self, text):
        found = await self.dht.find_peer(ID.from_string(text))
        for address in found.addrs if found else []:
            print("found", address)

    async def provide(self, cid):
        if not await self.dht.provide(cid):
            raise AssertionError("nobody was told of the provider")

    async def find_providers(self, cid):
        for provider in await self.dht.find_providers(cid):
            print("provider", provider.peer_id)


async def discover(host, service, stack):
    """Announces the host by mDNS and prints who else is there."""

    def found(info):
        print("discovered", info.peer_id, *info.addrs, flush=True)

    peerDiscovery.register_peer_discovered_handler(found)
    # Both block: the one for sockets, the other for its probes.
    discovery = await trio.to_thread.run_sync(
        lambda: MDNSDiscovery(host.get_network(), host=host, service_type=f"{service}.local.")
    )
    await trio.to_thread.run_sync(discovery.broadcaster.register)
    stack.callback(discovery.zeroconf.close)


async def dial(host, relays, table, address):
    address = multiaddr.Multiaddr(address)
    if "/p2p-circuit" in str(address):
        await relays.transport.dial(address)
        return ID.from_string(address.get_peer_id())
    info = info_from_p2p_addr(address)
    await host.connect(info)
    await table.add(info)
    return info.peer_id


async def operate(host, table, peer, words):
    for word in words.op.split(","):
        name, _, argument = word.partition("=")
        match name:
            case "ping":
                print("rtt", await PingService(host).ping(peer, 3))
            case "streams":
                await streams(host, peer, words.streams)
            case "findpeer":
                await table.find_peer(argument)
            case "provide":
                await table.provide(argument)
            case "findproviders":
                await table.find_providers(argument)
            case _:
                operation = {"echo": echo, "sink": sink, "source": source, "reset": reset}[name]
                await operation(host, peer, words.bytes)
        print(name, "ok", flush=True)


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
    relays, table = Relays(host, words), Table(host, words)
    async with host.run(listen_addrs=listen), trio.open_nursery() as nursery, contextlib.AsyncExitStack() as stack:
        nursery.start_soon(host.get_peerstore().start_cleanup_task, 60)
        await relays.start(stack, nursery)
        await table.start(stack)
        if words.mdns:
            await discover(host, words.mdns, stack)
        for address in host.get_addrs():
            print(address)
        print("ready", host.get_id(), flush=True)
        if words.dial:
            with trio.fail_after(words.seconds):
                peer = await dial(host, relays, table, words.dial)
                print("connected", flush=True)
                await operate(host, table, peer, words)
            print("done", flush=True)
        if not words.dial or words.stay:
            await trio.sleep_forever()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("-listen", default="/ip4/127.0.0.1/tcp/0")
    parser.add_argument("-security", default="noise,tls")
    parser.add_argument("-psk", default="", help="32 bytes in hexadecimal")
    parser.add_argument("-dial", default="")
    parser.add_argument("-op", default="ping", help="several with commas between them; findpeer=ID, provide=CID, …")
    parser.add_argument("-stay", action="store_true", help="goes on serving when the operations are done")
    parser.add_argument("-relay", action="store_true", help="serves as relay")
    parser.add_argument("-reserve", default="", help="a relay to hold a reservation with")
    parser.add_argument("-dht", action="store_true", help="serves a DHT")
    parser.add_argument("-mdns", default="", help="a service to announce and to look for")
    parser.add_argument("-bytes", type=int, default=1 << 20)
    parser.add_argument("-streams", type=int, default=1)
    parser.add_argument("-seconds", type=float, default=60)
    parser.add_argument("-log", default="ERROR")
    words = parser.parse_args()
    logging.basicConfig(level=words.log, stream=sys.stderr)
    trio.run(main, words)
