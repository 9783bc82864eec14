"""A gate for git: clones of one repository, and pushes to branches below `agent/` of it, by
git's own http-backend. Everything is in the directory that the init gives it."""

import http.server
import os
import subprocess
import sys

PORT = int(sys.argv[1])
ROOT = os.environ["RUNTIME_DIRECTORY"] + "/repositories"
REPOSITORY = "/work.git/"
SERVICES = ("git-upload-pack", "git-receive-pack")


def git(*words, **more):
    return subprocess.run(["git", *words], check=True, capture_output=True, **more).stdout


def make_repository():
    place = ROOT + REPOSITORY
    git("init", "--quiet", "--bare", "--initial-branch=main", place)
    git("-C", place, "config", "http.receivepack", "true")
    tree = git("-C", place, "mktree", input=b"").strip().decode()
    who = ["-c", "user.name=gate", "-c", "user.email=gate@localhost"]
    commit = git(*who, "-C", place, "commit-tree", tree, "-m", "the first").strip().decode()
    git("-C", place, "update-ref", "refs/heads/main", commit)


def pushed(body):
    """The references that a push wants to change (gitprotocol-pack)."""
    while body[:4] not in (b"", b"0000"):
        size = int(body[:4], 16)
        yield body[4:size].split(b"\0")[0].split()[2].decode()
        body = body[size:]


class Gate(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def chunks(self):
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def do_POST(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(self.chunks())
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.serve(body)

    def do_GET(self):
        self.serve(b"")

    def serve(self, body):
        path, _, query = self.path.partition("?")
        service = path.rpartition("/")[2]
        if service == "health":
            return self.answer(200, b"")
        if service == "refs":
            service = query.removeprefix("service=")
        if not path.startswith(REPOSITORY) or service not in SERVICES or ".." in path:
            return self.answer(404, b"not through this gate\n")
        if path.endswith("git-receive-pack"):
            kept = [ref for ref in pushed(body) if not ref.startswith("refs/heads/agent/")]
            if kept:
                return self.answer(403, f"only below agent/: {kept[0]}\n".encode())
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ["HOME"],
            "GIT_PROJECT_ROOT": ROOT,
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "REMOTE_USER": "agent",
            "REMOTE_ADDR": self.client_address[0],
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        said = git("http-backend", input=body, env=environment)
        head, _, body = said.partition(b"\r\n\r\n")
        headers = [line.decode().split(": ", 1) for line in head.split(b"\r\n")]
        status = [value for name, value in headers if name == "Status"]
        self.answer(int(status[0].split()[0]) if status else 200, body, headers)

    def answer(self, status, body, headers=()):
        self.send_response(status)
        for name, value in headers:
            if name != "Status":
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


make_repository()
http.server.ThreadingHTTPServer(("0.0.0.0", PORT), Gate).serve_forever()
