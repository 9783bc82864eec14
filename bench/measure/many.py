"""Lines 13 and 15: what PID 1 costs while many tunnels are open, and what many sidecars cost."""

import contextlib
import multiprocessing
import resource
import selectors
import socket
import time
from pathlib import Path

from . import peers
from .lab import Failed, now
from .result import Line
from .running import number, processor_time, switches

# pipelock 2.3.0 takes 1,024 at most.
TUNNELS = (1, 100, 1_000, 10_000)
SIDECARS = 100
HELD_SECONDS = 20
# Each round over all tunnels sends one of these through each of them and waits for its echo.
MESSAGE = b"x" * 512
DAEMON = "pipelock itself"


def echo(listener):
    """Sends back what comes, to however many. A process of its own: so many descriptors has each."""
    with selectors.DefaultSelector() as ready:
        ready.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fileobj is listener:
                    ready.register(listener.accept()[0], selectors.EVENT_READ)
                    continue
                try:
                    said = key.fileobj.recv(4096)
                    key.fileobj.sendall(said)
                except OSError:
                    said = b""
                if not said:
                    ready.unregister(key.fileobj)
                    key.fileobj.close()


@contextlib.contextmanager
def upstream():
    """Its port, while the block lasts."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        process = multiprocessing.get_context("fork").Process(target=echo, args=(listener,), daemon=True)
        process.start()
        try:
            yield listener.getsockname()[1]
        finally:
            process.kill()
            process.join()


class Full(Exception):
    """The proxy takes no more tunnels; its words."""


def open_tunnel(proxy, port):
    connection = socket.create_connection(("127.0.0.1", proxy), timeout=30)
    connection.sendall(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += (more := connection.recv(4096))
        if not more:
            break
    if answer.startswith(b"HTTP/1.1 503"):
        connection.close()
        raise Full(answer.split(b"\r\n\r\n", 1)[1].decode(errors="replace").strip() or "503")
    if not answer.startswith(b"HTTP/1.1 200"):
        connection.close()
        raise Failed(f"a tunnel was refused: {answer[:80]!r}")
    return connection


def pass_through(tunnels):
    """Sends through each tunnel and waits for what comes back, a hundred at a time."""
    for first in range(0, len(tunnels), 100):
        some = tunnels[first : first + 100]
        for tunnel in some:
            tunnel.sendall(MESSAGE)
        for tunnel in some:
            left = len(MESSAGE)
            while left:
                got = tunnel.recv(left)
                if not got:
                    raise Failed("a tunnel was closed")
                left -= len(got)


def use(tunnels, until):
    """Again and again, with a pause: as much is asked of a fast machine as of a slow one."""
    while time.monotonic() < until:
        pass_through(tunnels)
        time.sleep(0.2)


def ours(lab, manifest, directory):
    place = lab.prepared
    return [
        lab.init, "run", "--manifest", manifest, "--daemon", lab.programs / "pipelock",
        "--run-dir", directory / "run", "--cert", place / "ca.pem", "--key", place / "ca-key.pem",
    ]  # fmt: skip


def tunnels(lab):
    """Line 13: open and in use, and PID 1 beside them."""
    work = f"{lab.daemon_name}, each tunnel in use: 512 bytes to and fro, five rounds a second at most"
    processor = Line("13", "processor time of PID 1 in a minute, by open tunnels", "ms", work=work)
    wakes = Line("13b", "wake-ups of PID 1 in a minute, by open tunnels", "a minute", work=work)
    daemon = Line("13c", "processor time of pipelock in that minute", "s", work=work)
    memory = Line("13d", "resident memory of PID 1", "KiB", work=work)
    processor.short, wakes.short = "processor time of PID 1", "wake-ups of PID 1"
    daemon.short, memory.short = "processor time of pipelock", "resident memory of PID 1"
    lines = [processor, wakes, daemon, memory]
    for line in lines:
        line.section = "tunnels"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # pipelock has two descriptors to a tunnel, and others besides.
    most = min(max(TUNNELS), hard // 2 - 500)
    manifest = lab.directory / "tunnels.yaml"
    manifest.write_text(
        "version: 1\nslug: bench\nbottle:\n  egress:\n    routes:\n      - host: 127.0.0.1\n"
        "network: {internal_cidr: 127.0.0.0/8}\n"
        f"pipelock:\n  listen: {lab.address}\n  passthrough: [127.0.0.1]\n  requests_per_minute: 1000000\n"
        "  max_tunnel_seconds: 3600\n  idle_timeout_seconds: 600\n"
    )
    directory = lab.fresh_directory()
    try:
        with (
            contextlib.ExitStack() as stack,
            upstream() as port,
            (directory / "log").open("wb") as log,
            lab.start(ours(lab, manifest, directory), stdout=log, stderr=log) as started,
        ):
            with lab.awaiting() as awaiting:
                awaiting.when()
            proxy = started.daemon(lab.programs / "pipelock")
            inits = [pid for pid in started.everybody() if pid != proxy]
            opened = []
            for count in (0, *(min(count, most) for count in TUNNELS)):
                name = f"{count:,} tunnel{'' if count == 1 else 's'}"
                try:
                    while len(opened) < count:
                        opened.append(stack.enter_context(open_tunnel(lab.port, port)))
                    # pipelock logs a tunnel when the first bytes pass; that is over then.
                    pass_through(opened)
                    time.sleep(2)
                    before = processor_time(inits), switches(inits), processor_time([proxy])
                    began = now()
                    use(opened, time.monotonic() + HELD_SECONDS)
                    minutes = (now() - began) / 6e10
                    processor.add(name, (processor_time(inits) - before[0]) / 1e6 / minutes)
                    wakes.add(name, (switches(inits) - before[1]) / minutes)
                    daemon.add(name, (processor_time([proxy]) - before[2]) / 1e9 / minutes)
                    rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in inits]
                    memory.add(name, sum(number(text, "Rss") for text in rollups))
                    if count == most < max(TUNNELS):
                        processor.note(f"No more than {most:,} tunnels: a process has at most {hard:,} descriptors here.")
                except Full as full:
                    processor.note(f"{len(opened):,} tunnels are the most: the next one was refused, {full}.")
                    break
                except (Failed, OSError) as failure:
                    for line in lines:
                        line.fail(name, failure)
                    break
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return lines


def sidecars(lab):
    """Line 15: a hundred on one machine, each PID 1 of namespaces of its own."""
    work = f"{SIDECARS} of them, idle, each with {lab.daemon_name}"
    shared = Line("15", f"memory of {SIDECARS}: what they share counted once", "MiB", work=work)
    processor = Line("15b", f"processor time of {SIDECARS} in a minute, idle", "ms", work=work)
    wakes = Line("15c", f"wake-ups of {SIDECARS} in a minute, idle", "a minute", work=work)
    shared.short, processor.short, wakes.short = "memory", "processor time, idle", "wake-ups, idle"
    lines = [shared, processor, wakes]
    for line in lines:
        line.section = "many"
        line.apart = (f"{DAEMON}, under {peers.OURS}", f"{DAEMON}, under tini")
    tini = next((peer for peer in peers.PEERS if peer.name == "tini"), None)
    kinds = [(peers.OURS, None)]
    if tini and tini.describe() is not None:
        kinds.append(("tini", tini))
    for kind, peer in kinds:
        try:
            one_kind(lab, kind, peer, lines)
        except Failed as failure:
            for line in lines:
                line.fail(kind, failure)
    return lines


def one_kind(lab, kind, peer, lines):
    shared, processor, wakes = lines
    with contextlib.ExitStack() as stack:
        inits, daemons = [], []
        for _ in range(SIDECARS):
            directory = lab.fresh_directory()
            with lab.another_port():
                if peer is None:
                    manifest = directory / "manifest.yaml"
                    lab.write_manifest(manifest, ["a.example", "*.b.example", "c.example"])
                    argv = ours(lab, manifest, directory)
                else:
                    argv = peer.argv(lab, directory, lab.daemon_command("pipelock", lab.prepared / "pipelock.yaml"))
                started = stack.enter_context(lab.start(argv))
                with lab.awaiting() as awaiting:
                    awaiting.when()
            daemon = started.daemon(lab.programs / "pipelock")
            daemons.append(daemon)
            inits += [pid for pid in started.everybody() if pid != daemon]
        # What follows a start, and the questions of the others, have had their time.
        time.sleep(5)
        both = {kind: inits, f"{DAEMON}, under {kind}": daemons}
        for name, pids in both.items():
            rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
            shared.add(name, sum(number(text, "Pss") for text in rollups) / 1024)
        before = {name: (processor_time(pids), switches(pids)) for name, pids in both.items()}
        time.sleep(HELD_SECONDS)
        for name, pids in both.items():
            ran, woken = before[name]
            processor.add(name, (processor_time(pids) - ran) / 1e6 * 60 / HELD_SECONDS)
            wakes.add(name, (switches(pids) - woken) * 60 / HELD_SECONDS)
