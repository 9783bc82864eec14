"""What is asked for approvals: it takes a question and says that somebody will look at it."""

import http.server
import sys


class Supervise(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200 if self.path == "/health" else 404, b"well\n")

    def do_POST(self):
        question = self.rfile.read(int(self.headers["Content-Length"]))
        print("asked:", question.decode(errors="replace"), flush=True)
        self.answer(202, b"somebody will look at it\n")

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, *_):
        pass


http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Supervise).serve_forever()
