"""A small egress for machines that are too slow for mitmproxy: it passes tunnels on to pipelock
unopened, and gives plain requests to one host a token."""

import os
import socket
import socketserver
import sys
import threading

PIPELOCK = ("127.0.0.1", 8888)


def carry(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Egress(socketserver.BaseRequestHandler):
    def handle(self):
        head = b""
        while b"\r\n\r\n" not in head:
            data = self.request.recv(65536)
            if not data:
                return
            head += data
        line, _, rest = head.partition(b"\r\n")
        # Where it goes, and not what its Host header says.
        if line.split(b"://")[-1].split(b"/")[0].split(b":")[0] == os.environ["INJECT_FOR"].encode():
            with open(os.environ["CREDENTIALS_DIRECTORY"] + "/token", "rb") as file:
                rest = b"Authorization: Bearer " + file.read().strip() + b"\r\n" + rest
        if not line.startswith(b"CONNECT "):
            # One request a connection, so that none passes unread behind the first.
            rest = b"Connection: close\r\n" + rest
        try:
            upstream = socket.create_connection(PIPELOCK)
        except OSError:
            self.request.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        with upstream:
            upstream.sendall(line + b"\r\n" + rest)
            threading.Thread(target=carry, args=(self.request, upstream), daemon=True).start()
            carry(upstream, self.request)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


Server(("0.0.0.0", int(sys.argv[1])), Egress).serve_forever()
