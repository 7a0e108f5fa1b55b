"""Announces an address of a peer by python-zeroconf, and prints what others of the service announce; no host of libp2p."""

import secrets
import socket
import sys
import time

from zeroconf import DNSOutgoing, DNSQuestion, RecordUpdateListener, ServiceInfo, Zeroconf
from zeroconf.const import _CLASS_IN, _FLAGS_QR_QUERY, _TYPE_PTR, _TYPE_TXT


class Listener(RecordUpdateListener):
    """Its ServiceBrowser looks for nothing that does not begin with an underscore; so this does, at the records themselves."""

    def __init__(self, own):
        self.own = own

    def async_update_records(self, zeroconf, now, records):
        for record in (update.new for update in records):
            if record.type == _TYPE_TXT and record.ttl > 0 and record.name != self.own:
                # Strings, each behind its length: several begin with the same key.
                text, strings = record.text, []
                while text:
                    strings.append(text[1 : 1 + text[0]].decode())
                    text = text[1 + text[0] :]
                print("added", record.name, *strings, flush=True)
            elif record.type == _TYPE_PTR and record.ttl == 0:
                print("removed", record.alias, flush=True)


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
    question = DNSQuestion(kind, _TYPE_PTR, _CLASS_IN)
    zeroconf.add_listener(Listener(info.name), question)
    print("ready", flush=True)
    while True:
        query = DNSOutgoing(_FLAGS_QR_QUERY)
        query.add_question(question)
        zeroconf.send(query)
        time.sleep(2)


if __name__ == "__main__":
    main(*sys.argv[1:])
