"""The server behind the whole chain: over TLS where leaf.pem is in its directory. It prints its
port, and then each request: the host, the path, and what authorization it came with. `/events`
is a stream without an end."""

import http.server
import json
import os
import ssl
import sys
import time

directory, address, port = sys.argv[1:]


class Upstream(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def do_GET(self):
        authorization = self.headers.get("Authorization")
        print(json.dumps([self.headers["Host"].split(":")[0], self.path, authorization]), flush=True)
        self.send_response(200)
        if self.path == "/events":
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b"data: still here\n\n")
                    time.sleep(0.1)
            except OSError:
                return
        self.send_header("Content-Length", "9")
        self.end_headers()
        self.wfile.write(b"the page\n")

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer((address, int(port)), Upstream)
if os.path.exists(directory + "/leaf.pem"):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory + "/leaf.pem", directory + "/leaf.key")
    # Each handshake by its own thread: a client that never begins one holds nobody up.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print(json.dumps(server.server_port), flush=True)
server.serve_forever()
