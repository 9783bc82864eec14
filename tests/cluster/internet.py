"""The small internet of the cluster's tests: on every address of this network namespace, a page on
ports 80 and 8080, the same over TLS on 443, an echo on UDP 53 and 9999 and TCP 53.

Usage: internet.py DIRECTORY, where the CA of its certificate is (ca.pem, ca.key). Each
answer is the server's own address, and the host and the authorization that it was asked with; each is told
on standard output.
"""

import http.server
import socket
import ssl
import subprocess
import sys
import threading

directory = sys.argv[1]


class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        here = self.connection.getsockname()
        body = f"internet {here[0]}:{here[1]} {self.headers['Host']} {self.headers['Authorization']}\n".encode()
        if self.path == "/stream":
            # A stream that ends when its reader does.
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))
                    self.wfile.flush()
                    threading.Event().wait(0.2)
            except OSError:
                return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        print(self.client_address, *arguments, flush=True)


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True
    request_queue_size = 256

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        socketserver_bind(self)


def socketserver_bind(server):
    # http.server's own looks its address up by name, and there is no resolver.
    server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.socket.bind(server.server_address)
    server.server_address = server.socket.getsockname()
    server.server_name, server.server_port = "internet", server.server_address[1]


def serve(port, context=None):
    server = Server(("::", port), Page)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def echo_udp(address, port):
    """On one address, so that an answer comes from where the question went."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind((address, port))

    def run():
        while True:
            data, sender = listener.recvfrom(2048)
            print("udp", address, port, sender, flush=True)
            listener.sendto(b"internet " + data, sender)

    threading.Thread(target=run, daemon=True).start()


def openssl(*arguments):
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=directory)


openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=internet.test",
        "-addext", "subjectAltName=DNS:internet.test,DNS:*.internet.test,DNS:other.test",
        "-keyout", "internet.key", "-out", "internet.csr")
openssl("x509", "-req", "-in", "internet.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
        "-CAcreateserial", "-copy_extensions", "copy", "-days", "2", "-out", "internet.pem")
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(f"{directory}/internet.pem", f"{directory}/internet.key")
for port in (53, 80, 8080):
    serve(port)
serve(443, context)
for address in ("198.51.100.10", "169.254.169.254", "10.10.0.2"):
    for port in (53, 9999):
        echo_udp(address, port)
print("ready", flush=True)
threading.Event().wait()
