"""Line 12: what traffic costs through pipelock, with and without us, and through other proxies
that are told to let the same host through and no other."""

import contextlib
import ctypes
import multiprocessing
import os
import os
import random
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from . import peers
from .lab import Failed, now
from .result import Line
from .starting import each_round

HOST, OTHER = "upstream.bench", "other.bench"
SIZES = {"100 KiB": 100 << 10, "1 MiB": 1 << 20, "4 MiB": 4 << 20, "20 MiB": 20 << 20}
DIRECT, ALONE = "no proxy", "pipelock alone"
PASSED, OPENED = "passed through", "intercepted"
# In a whole run and in a quick one. What pipelock scans takes it seconds, 4 MiB on a busy machine two
# minutes: more rounds of that would be half the bench.
ROUNDS = {PASSED: dict.fromkeys(SIZES, (21, 3)), OPENED: {"100 KiB": (7, 2), "1 MiB": (3, 1), "4 MiB": (1, 0), "20 MiB": (3, 1)}}
PATIENCE = 180
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
SQUID = f"bench{os.getpid()}"
CERTGEN = Path("/usr/lib/squid/security_file_certgen")


def in_its_own_network(measured, *arguments):
    """What this brings, from a process that has a loopback of its own, and the files that name
    and vouch for the upstream in place of the machine's: nobody else's traffic meets ours."""
    ours, theirs = multiprocessing.Pipe(duplex=False)

    def work():
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(0x40000000 | 0x00020000) != 0:  # CLONE_NEWNET, CLONE_NEWNS
            raise OSError(ctypes.get_errno(), "unshare")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        theirs.send(measured(*arguments))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise SystemExit("cannot measure line 12: its process ended, see above") from None
    finally:
        process.join()


class Upstream:
    """Says over TLS as many bytes as it is asked for: words, as scanners are made for."""

    def __init__(self, directory):
        self.cert, self.key = directory / "upstream.pem", directory / "upstream-key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
             "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST},DNS:{OTHER}", "-keyout", self.key, "-out", self.cert],
            check=True, capture_output=True,
        )  # fmt: skip
        dice = random.Random(1)
        words = ["".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=dice.randint(2, 9))) for _ in range(500)]
        text = b""
        while len(text) < 1 << 20:
            text += (" ".join(dice.choices(words, k=12)) + "\n").encode()
        self.text = text[: 1 << 20] * (max(SIZES.values()) >> 20)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        self.process = multiprocessing.get_context("fork").Process(target=self.serve, daemon=True)

    def serve(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.answer, args=(context, connection), daemon=True).start()

    def answer(self, context, connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as speaker:
            asked = b""
            while b"\r\n\r\n" not in asked:
                asked += (more := speaker.recv(4096))
                if not more:
                    return
            size = int(re.match(rb"GET /(\d+) ", asked).group(1))
            head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
            speaker.sendall(head.encode())
            speaker.sendall(memoryview(self.text)[:size])

    def __enter__(self):
        self.process.start()
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.join()
        self.listener.close()


class Refused(Failed):
    """Somebody's 403: the proxy's word, not a fault."""


def until_blank(connection):
    said = b""
    while b"\r\n\r\n" not in said:
        said += (more := connection.recv(1 << 16))
        if not more:
            raise Failed(f"it closed the connection: {said[:80]!r}")
    return said.split(b"\r\n\r\n", 1)


def through(proxy, upstream, context, size, host=HOST):
    """Milliseconds from connecting to the first byte of the answer, and to its last; each time a
    connection of its own, as pipelock wants it."""
    buffer = memoryview(bytearray(1 << 18))
    begin = now()
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(socket.create_connection(("127.0.0.1", proxy or upstream.port), timeout=PATIENCE))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if proxy:
            connection.sendall(f"CONNECT {host}:{upstream.port} HTTP/1.1\r\nHost: {host}:{upstream.port}\r\n\r\n".encode())
            status = until_blank(connection)[0].split(b" ", 2)[1]
            if status != b"200":
                raise Refused(f"CONNECT {host} was answered with {status.decode()}")
        speaker = stack.enter_context(context.wrap_socket(connection, server_hostname=host))
        issuer = dict(entry[0] for entry in speaker.getpeercert()["issuer"])["commonName"]
        speaker.sendall(f"GET /{size} HTTP/1.1\r\nHost: {host}:{upstream.port}\r\nConnection: close\r\n\r\n".encode())
        head, body = until_blank(speaker)
        first = now()
        status = head.split(b" ", 2)[1]
        got, start = len(body), body[:200]
        while got < size:
            count = speaker.recv_into(buffer)
            if not count:
                break
            start = start or bytes(buffer[: min(count, 200)])
            got += count
        last = now()
    if status == b"403":
        raise Refused(f"refused with 403: {start.decode(errors='replace').strip()}")
    if status != b"200" or got != size:
        raise Failed(f"answered with {status.decode()}, {got:,} of {size:,} bytes")
    return (first - begin) / 1e6, (last - begin) / 1e6, issuer


def our_manifest(lab, mode):
    """The same rules for pipelock alone and under us."""
    passthrough = f"[{HOST}]" if mode == PASSED else "[]"
    return (
        f"version: 1\nslug: bench\nbottle:\n  egress:\n    routes:\n      - host: {HOST}\n"
        f"network: {{internal_cidr: 127.0.0.0/8}}\n"
        f"pipelock:\n  listen: {lab.address}\n  passthrough: {passthrough}\n  requests_per_minute: 1000000\n"
    )


def ours(lab, directory, mode, upstream):
    manifest, place = directory / "manifest.yaml", lab.prepared
    manifest.write_text(our_manifest(lab, mode))
    return [
        lab.init, "run", "--manifest", manifest, "--daemon", lab.programs / "pipelock",
        "--run-dir", directory / "run", "--cert", place / "ca.pem", "--key", place / "ca-key.pem",
    ]  # fmt: skip


def alone(lab, directory, mode, upstream):
    manifest, config, place = directory / "manifest.yaml", directory / "pipelock.yaml", lab.prepared
    manifest.write_text(our_manifest(lab, mode))
    files = ["--cert", place / "ca.pem", "--key", place / "ca-key.pem"]
    made = subprocess.run([lab.init, "render", "--manifest", manifest, *files], check=True, capture_output=True)
    config.write_bytes(made.stdout)
    return lab.daemon_command("pipelock", config)


def squid(lab, directory, mode, upstream):
    """As its package sets it up: it gives up root."""
    config, port, options = directory / "squid.conf", f"http_port {lab.address}", ""
    if mode == OPENED:
        files = f"tls-cert={shutil.copy(lab.prepared / 'ca.pem', directory)} "
        files += f"tls-key={shutil.copy(lab.prepared / 'ca-key.pem', directory)}"
        port += f" ssl-bump generate-host-certificates=on {files}"
        subprocess.run([CERTGEN, "-c", "-s", directory / "leaves", "-M", "4MB"], check=True, capture_output=True)
        options = (
            f"sslcrtd_program {CERTGEN} -s {directory / 'leaves'} -M 4MB\ntls_outgoing_options cafile={upstream.cert}\n"
            "acl hello at_step SslBump1\nssl_bump peek hello\nssl_bump bump all\n"
        )
    config.write_text(
        f"{port}\n{options}acl allowed dstdomain {HOST}\nhttp_access allow allowed\nhttp_access deny all\n"
        f"cache deny all\naccess_log none\ncache_log {directory / 'cache.log'}\ncache_store_log none\n"
        f"pid_filename none\ncoredump_dir {directory}\nmax_filedescriptors 4096\n"
        "visible_hostname bench\nnetdb_filename none\n"
    )
    for path in (directory, *directory.rglob("*")):
        shutil.chown(path, "proxy", "proxy")
    # It would meet another one's memory by the usual name, and leaves its own there.
    return ["squid", "-N", "-n", SQUID, "-f", config]


def mitmproxy(lab, directory, mode, upstream):
    (directory / "mitmproxy-ca.pem").write_text(
        (lab.prepared / "ca-key.pem").read_text() + (lab.prepared / "ca.pem").read_text()
    )
    rules = directory / "rules.py"
    rules.write_text(
        "from mitmproxy import http\n\n\ndef http_connect(flow):\n"
        f"    if flow.request.host != {HOST!r}:\n        flow.response = http.Response.make(403)\n"
    )
    port = ["--listen-host", "127.0.0.1", "--listen-port", lab.port]
    how = ["--ignore-hosts", ".*"] if mode == PASSED else ["--set", f"ssl_verify_upstream_trusted_ca={upstream.cert}"]
    return ["mitmdump", "--quiet", *port, "--set", f"confdir={directory}", "--scripts", rules, *how]


def smokescreen(lab, directory, mode, upstream):
    rules, config = directory / "rules.yaml", directory / "config.yaml"
    rules.write_text(
        "version: v1\nservices: []\ndefault:\n  name: default\n  project: bench\n  action: enforce\n"
        f"  allowed_domains: [{HOST}]\n"
    )
    config.write_text("allow_missing_role: true\n")
    port = ["--listen-ip", "127.0.0.1", "--listen-port", lab.port]
    return ["smokescreen", "--config-file", config, *port, "--egress-acl-file", rules, "--allow-range", "127.0.0.0/8"]


def version_of(*command):
    found = subprocess.run(command, capture_output=True, text=True)
    return re.search(r"\d+(\.\d+)+", found.stdout + found.stderr).group()


# A name, its program, what tells its version, how it is started, and what it can do.
CONTESTANTS = [
    (DIRECT, None, None, None, (PASSED, OPENED)),
    (ALONE, None, None, alone, (PASSED, OPENED)),
    ("mitmproxy", "mitmdump", "--version", mitmproxy, (PASSED, OPENED)),
    ("Squid", "squid", "-v", squid, (PASSED, OPENED)),
    ("smokescreen", "smokescreen", "--version", smokescreen, (PASSED,)),
    (peers.OURS, None, None, ours, (PASSED, OPENED)),
]


def started(stack, lab, upstream, context, mode, name, argv_of):
    """The port of one that answers, lets nobody through to another host, and does what this mode is."""
    if argv_of is None:
        return None
    directory = lab.fresh_directory()
    with lab.another_port():
        port, argv = lab.port, argv_of(lab, directory, mode, upstream)
        log = stack.enter_context((directory / "log").open("wb"))
        running = stack.enter_context(lab.start(argv, {"HOME": str(directory)}, stdout=log, stderr=log))
    end = time.monotonic() + 30
    while True:
        try:
            issuer = through(port, upstream, context, 1000)[2]
            break
        except (OSError, Failed) as failure:
            if time.monotonic() > end or running.process.poll() is not None:
                said = (directory / "log").read_text(errors="replace")[-500:]
                raise Failed(f"it lets nothing through: {failure}; {said}") from None
            time.sleep(0.02)
    if (issuer == HOST) != (mode == PASSED):
        raise Failed(f"not {mode}: the certificate is by {issuer}")
    try:
        through(port, upstream, context, 1000, OTHER)
    except (Failed, OSError):
        return port
    raise Failed(f"it lets everybody through to {OTHER}")


def measure(lab):
    return in_its_own_network(inside, lab)


def inside(lab):
    lab.directory = Path(tempfile.mkdtemp(dir=lab.directory))
    lab.directory.chmod(0o755)
    hosts = lab.directory / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {HOST} {OTHER}\n")
    lines, letters = [], iter("abcdefghijklmnop")
    with Upstream(lab.directory) as upstream:
        for file, instead in ((hosts, "/etc/hosts"), (upstream.cert, BUNDLE)):
            file.chmod(0o644)
            subprocess.run(["mount", "--bind", file, instead], check=True)
        context = ssl.create_default_context(cafile=str(upstream.cert))
        context.load_verify_locations(lab.prepared / "ca.pem")
        for mode in (PASSED, OPENED):
            lines += one_mode(lab, upstream, context, mode, letters)
    return lines


def one_mode(lab, upstream, context, mode, letters):
    lines = {}
    for size in SIZES:
        for what, short, unit in (("from connecting to the first byte", "first byte", "ms"), ("up to the last byte", "all", "MB/s")):
            number = f"12{next(letters)}".replace("12a", "12")
            line = Line(number, f"{size}, {mode}: {what}", unit, floor=DIRECT, more_is_better=unit == "MB/s")
            line.work = f"{lab.daemon_name}, https from the loopback, a connection for each"
            line.short, line.section = f"{size}: {short}", mode.split()[0]
            lines[size, unit] = line
    top = next(iter(lines.values()))
    versions, missing = [], []
    with contextlib.ExitStack() as stack:
        ports = {}
        for name, program, version, argv_of, modes in CONTESTANTS:
            if program and not shutil.which(program):
                missing.append(name)
                continue
            if mode not in modes:
                top.note(f"{name} intercepts nothing.")
                continue
            try:
                ports[name] = started(stack, lab, upstream, context, mode, name, argv_of)
            except Failed as failure:
                for line in lines.values():
                    line.fail(name, failure)
            if program:
                versions.append(f"{name} {version_of(program, version)}")
        for size, count in SIZES.items():
            first, whole = lines[size, "ms"], lines[size, "MB/s"]

            def ask(name, port, count=count, whole=whole):
                begun, ended, _ = through(port, upstream, context, count)
                whole.add(name, count / ended / 1e3)
                return begun

            each_round(first, lab.rounds(*ROUNDS[mode][size]), list(ports.items()), ask, slow_from=PATIENCE)
            for name, why in first.failures.items():
                whole.fail(name, why)
                if name in ports:
                    top.note(f"{size}, {name}: {why}.")
            whole.arrange(list(ports))
    for left in Path("/dev/shm").glob(f"{SQUID}-*"):
        left.unlink()
    if versions:
        top.note(f"{', '.join(versions)}.")
    if missing:
        top.note(f"NOT MEASURED, because they are not here: {', '.join(missing)}.")
    return lines.values()
