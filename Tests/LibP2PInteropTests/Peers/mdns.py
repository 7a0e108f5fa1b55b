"""Announces an address of a peer by python-zeroconf, and prints what others of the service announce; no host of libp2p."""

import secrets
import socket
import sys
import time

from zeroconf import ServiceBrowser, ServiceInfo, Zeroconf


class Listener:
    def add_service(self, zeroconf, kind, name):
        info = zeroconf.get_service_info(kind, name, timeout=5000)
        # The strings of the TXT record, each behind its length: several begin with the same key.
        text, strings = info.text if info else b"", []
        while text:
            strings.append(text[1 : 1 + text[0]].decode())
            text = text[1 + text[0] :]
        print("added", name, *strings, flush=True)

    update_service = add_service

    def remove_service(self, zeroconf, kind, name):
        print("removed", name, flush=True)


def main(service, interface, address):
    kind, instance = f"{service}.local.", secrets.token_hex(16)
    text = f"dnsaddr={address}".encode()
    info = ServiceInfo(
        kind,
        f"{instance}.{kind}",
        port=4001,
        properties=bytes([len(text)]) + text,
        server=f"{instance}.local.",
        addresses=[socket.inet_aton(interface)],
    )
    zeroconf = Zeroconf(interfaces=[interface])
    zeroconf.register_service(info, strict=False)
    ServiceBrowser(zeroconf, kind, Listener())
    print("ready", flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main(*sys.argv[1:])
