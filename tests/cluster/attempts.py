"""Tries each of the attempts in its argument, a JSON list of [name, kind, address, port], all at
once, and prints what came of each as a JSON object: "answered: …" or why not. Without an argument
it tries what it reads, one in a line and one after the other, and prints of each a line.

Kinds: tcp (connects), udp (sends, waits for an answer), dns (a query, over UDP), dns-tcp, icmp (an
echo, by an unprivileged socket). A socket that cannot be had at all is "NOT TRIED: …".
"""

import json
import socket
import struct
import sys
import threading

PATIENCE = 2.0
# A query for internet.test, A.
QUERY = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x08internet\x04test\x00\x00\x01\x00\x01"


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def resolved(address, port):
    """Link-local addresses have their interface in them."""
    return socket.getaddrinfo(address, port, flags=socket.AI_NUMERICHOST)[0][4]


def attempt(kind, address, port):
    if kind in ("tcp", "dns-tcp"):
        with socket.socket(family(address), socket.SOCK_STREAM) as it:
            it.settimeout(PATIENCE)
            it.connect(resolved(address, port))
            if kind == "dns-tcp":
                it.sendall(struct.pack(">H", len(QUERY)) + QUERY)
                if not it.recv(512):
                    return "connected"
            return "answered: connected"
    if kind == "icmp":
        v6 = family(address) == socket.AF_INET6
        try:
            it = socket.socket(family(address), socket.SOCK_DGRAM,
                               socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP)
        except PermissionError as error:
            return f"NOT TRIED: {error}"
        with it:
            it.settimeout(PATIENCE)
            it.sendto(struct.pack(">BBHHH", 128 if v6 else 8, 0, 0, 0, 1) + b"sidecar", resolved(address, 0))
            return f"answered: {len(it.recv(512))} bytes"
    with socket.socket(family(address), socket.SOCK_DGRAM) as it:
        it.settimeout(PATIENCE)
        it.connect(resolved(address, port))
        it.send(QUERY if kind == "dns" else b"hello")
        return f"answered: {len(it.recv(2048))} bytes"


def outcome(kind, address, port):
    try:
        return attempt(kind, address, port)
    except OSError as error:
        return f"{type(error).__name__}: {error}"


def main():
    if len(sys.argv) == 1:
        for line in sys.stdin:
            print(outcome(*json.loads(line)[1:]), flush=True)
        return
    results = {}

    def run(name, kind, address, port):
        results[name] = outcome(kind, address, port)

    threads = [threading.Thread(target=run, args=each) for each in json.loads(sys.argv[1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(results))


main()
