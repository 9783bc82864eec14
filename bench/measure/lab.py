"""The bed on which everything is measured: files on a file system in memory, as /run is,
one address, programs started as PID 1 of namespaces of their own."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PATIENCE = 30.0
ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": "/root"}


class Failed(Exception):
    """A measurement that brought no figure; its words go into the table."""


def now():
    return time.monotonic_ns()


class Ear:
    """Hears the instruments' daemons, which tell what they measure by datagrams."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(PATIENCE)
        self.port = self.socket.getsockname()[1]

    def forget(self):
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.socket.recv(256)
        self.socket.settimeout(PATIENCE)

    def hear(self, word, within=PATIENCE):
        """The numbers after the next message that begins with this word."""
        end = time.monotonic() + within
        while time.monotonic() < end:
            self.socket.settimeout(max(0.001, end - time.monotonic()))
            try:
                first, *numbers = self.socket.recv(256).decode().split()
            except TimeoutError:
                break
            if first == word:
                return [int(number) for number in numbers]
        raise Failed(f'no "{word}" within {within:.0f} s')


class Lab:
    """What is common to all measurements."""

    def __init__(self, root, init, probe, daemon, daemon_name, quick):
        self.root, self.init, self.probe = Path(root).resolve(), Path(init).resolve(), Path(probe).resolve()
        self.daemon, self.daemon_name, self.quick = Path(daemon).resolve(), daemon_name, quick
        self.here = Path(__file__).resolve().parent.parent
        # Programs lie on a disk, where a cold start finds them; what is written, in memory.
        self.programs = self.root / "target/bench/programs"
        shutil.rmtree(self.programs, ignore_errors=True)
        self.programs.mkdir(parents=True)
        for name in ("daemon-stamp", "daemon-plain", "daemon-events", "daemon-small"):
            shutil.copy(self.probe, self.programs / name)
        shutil.copy(self.daemon, self.programs / "pipelock")
        self.directory = Path(tempfile.mkdtemp(prefix="sidecar-bench-", dir="/dev/shm"))
        self.directory.chmod(0o755)
        self.ear = Ear()
        self.port = self.ear.port
        self.number = 0
        self.manifest = self.directory / "manifest.yaml"
        self.write_manifest(self.manifest, ["a.example", "*.b.example", "c.example"])
        self.prepared = self.directory / "prepared"
        self.prepared.mkdir()
        self.prepare()

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def rounds(self, full, quick):
        return quick if self.quick else full

    def write_manifest(self, path, hosts):
        routes = "".join(f'      - host: "{host}"\n' for host in hosts)
        path.write_text(
            "version: 1\nslug: bench\nbottle:\n  egress:\n    routes:\n"
            f'{routes}pipelock:\n  listen: "{self.address}"\n'
        )

    def prepare(self):
        """What somebody has made beforehand for those who cannot make it themselves."""
        cert, key = self.prepared / "ca.pem", self.prepared / "ca-key.pem"
        files = ["--cert", str(cert), "--key", str(key)]
        subprocess.run([self.init, "ca", *files], check=True, stdout=subprocess.DEVNULL)
        # Our daemon is nobody; the others' is root, and may read everything.
        shutil.chown(key, 65534, 65534)
        config = subprocess.run(
            [self.init, "render", "--manifest", self.manifest, *files], check=True, capture_output=True
        )
        (self.prepared / "pipelock.yaml").write_bytes(config.stdout)

    @contextlib.contextmanager
    def another_port(self):
        """In the block daemons listen elsewhere, beside one that runs; ours reads its own in
        the manifest, and the instruments' daemons are not heard there."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        try:
            yield
        finally:
            self.port = self.ear.port

    def fresh_directory(self):
        self.number += 1
        directory = self.directory / f"run-{self.number}"
        directory.mkdir()
        return directory

    def daemon_command(self, program, config):
        """How a daemon is started, whoever starts it."""
        return [str(self.programs / program), "run", "--config", str(config), "--listen", self.address]

    def start(self, argv, environment=None, under=(), **streams):
        """Starts it, under another program if one is given."""
        self.ear.forget()
        return Started(self, [*under, *argv], environment or {}, **streams)

    def awaiting(self, canary=False):
        """Begins to ask for the daemon's health; `.when()` is when it was first good. With
        the canary, `.moments()` are that and when the canary was refused."""
        command = [self.probe, "await", "127.0.0.1", str(self.port)]
        return Awaiting([*command, "canary"] if canary else command)

    def close(self):
        shutil.rmtree(self.directory, ignore_errors=True)


class Awaiting:
    def __init__(self, command):
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def moments(self):
        output, _ = self.process.communicate(timeout=2 * PATIENCE + 5)
        told = [int(line) for line in output.split()]
        if self.process.returncode != 0:
            raise Failed("the canary was not refused" if told else "no health answered 200")
        return told

    def when(self):
        return self.moments()[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


class Started:
    """A program that is PID 1 of its own namespaces; all of it ends with the block."""

    def __init__(self, lab, argv, environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        report, write = os.pipe()
        self.process = subprocess.Popen(
            [lab.probe, "launch", str(write), *map(str, argv)],
            pass_fds=[write],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=ENVIRONMENT | environment,
            cwd="/",
        )
        os.close(write)
        self.report = os.fdopen(report)
        told = dict(self.report.readline().split()[:2] for _ in range(2))
        if set(told) != {"exec", "pid"}:
            raise Failed(f"{argv[0]} could not be started")
        self.pid, self.executed = int(told["pid"]), int(told["exec"])

    def signal(self, number):
        os.kill(self.pid, number)

    def ended(self, within=PATIENCE):
        """When its PID 1 ended, and its code."""
        try:
            self.process.wait(timeout=within)
        except subprocess.TimeoutExpired:
            raise Failed(f"still there after {within:.0f} s") from None
        word, at, code = (self.report.readline().split() or ["", 0, 0])[:3]
        if word != "ended":
            raise Failed("its end was not told")
        return int(at), int(code)

    def everybody(self):
        """PID 1 and everything below it, as this namespace numbers them."""
        found, rest = [], [self.pid]
        while rest:
            pid = rest.pop()
            found.append(pid)
            with contextlib.suppress(OSError):
                for task in os.listdir(f"/proc/{pid}/task"):
                    children = Path(f"/proc/{pid}/task/{task}/children").read_text()
                    rest += map(int, children.split())
        return found

    def daemon(self, program):
        """The process that runs this program."""
        for pid in self.everybody():
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/exe") == str(program):
                    return pid
        raise Failed("its daemon was not found")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGKILL)
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.report.close()
