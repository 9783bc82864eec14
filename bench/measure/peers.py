"""What people use instead: how each is told to run one command, and what it can do."""

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable


@dataclass
class Peer:
    name: str
    # The program, or its path; None where it is the instrument's own.
    program: str | None
    # (lab, directory of its own, command) to what is executed.
    argv: Callable
    # Starts a daemon again that ended.
    restarts: bool = False
    version: list[str] = field(default_factory=list)
    # What asks it to stop everything.
    stop: str = "SIGTERM"
    environment: Callable = lambda directory: {}

    def describe(self):
        """Its version, or None where it is not here."""
        if self.program is None:
            return ""
        if shutil.which(self.program) is None:
            return None
        if self.version[0] == "environment":
            return os.environ.get(self.version[1], "?")
        if self.version[0] == "dpkg":
            command = ["dpkg-query", "-W", "-f=${Version}", self.version[1]]
        else:
            command = [self.program, *self.version]
        done = subprocess.run(command, capture_output=True, text=True)
        found = re.search(r"\d[\w.+~-]*", done.stdout + done.stderr)
        return found.group() if found else "?"


def executable(path, text):
    path.write_text(text)
    path.chmod(0o755)


def run_file(directory, command):
    service = directory / "services" / "daemon"
    service.mkdir(parents=True)
    executable(service / "run", f"#!/bin/sh\nexec {shlex.join(command)}\n")
    # runsvdir waits a second before it looks into a directory that was just changed.
    os.utime(service.parent, (0, 0))
    return str(service.parent)


def supervisord(lab, directory, command):
    file = directory / "supervisord.conf"
    file.write_text(
        f"""[supervisord]
nodaemon=true
user=root
logfile=/dev/null
logfile_maxbytes=0
pidfile={directory}/supervisord.pid
[program:daemon]
command={shlex.join(command)}
stdout_logfile=/dev/stdout
stdout_logfile_maxbytes=0
stderr_logfile=/dev/stderr
stderr_logfile_maxbytes=0
"""
    )
    return ["supervisord", "-c", str(file)]


def pebble(lab, directory, command):
    layers = directory / "layers"
    layers.mkdir()
    (layers / "001-daemon.yaml").write_text(
        f"""services:
  daemon:
    override: replace
    startup: enabled
    command: {shlex.join(command)}
"""
    )
    return ["pebble", "run", "--verbose"]


def horust(lab, directory, command):
    services = directory / "services"
    services.mkdir()
    (services / "daemon.toml").write_text(
        f"""command = '''{shlex.join(command)}'''
stdout = "STDOUT"
[restart]
strategy = "always"
"""
    )
    return ["horust", "--services-path", str(services)]


PEERS = [
    Peer("null init", None, lambda lab, d, c: [lab.probe, "null-init", *c]),
    Peer("tini", "tini", lambda lab, d, c: ["tini", "--", *c], version=["--version"]),
    Peer("dumb-init", "dumb-init", lambda lab, d, c: ["dumb-init", *c], version=["--version"]),
    Peer("catatonit", "catatonit", lambda lab, d, c: ["catatonit", "--", *c], version=["--version"]),
    Peer(
        "s6", "s6-svscan", lambda lab, d, c: ["s6-svscan", run_file(d, c)],
        restarts=True, version=["dpkg", "s6"],
    ),
    Peer(
        "runit", "runsvdir", lambda lab, d, c: ["runsvdir", run_file(d, c)],
        restarts=True, version=["dpkg", "runit"], stop="SIGHUP",
    ),
    Peer("supervisor", "supervisord", supervisord, restarts=True, version=["--version"]),
    Peer(
        "pebble", "pebble", pebble, restarts=True, version=["version", "--client"],
        environment=lambda directory: {"PEBBLE": str(directory)},
    ),
    # It does not tell its version.
    Peer("horust", "horust", horust, restarts=True, version=["environment", "HORUST_VERSION"]),
]
OURS = "sidecar-init"


def ours(lab, directory, daemon, own_ca=True):
    """Our own command line: everything else is in the manifest. Without a CA of its own it
    finds the one that was prepared, as the others do."""
    place = directory if own_ca else lab.prepared
    return [
        lab.init, "run", "--manifest", lab.manifest, "--daemon", lab.programs / daemon,
        "--run-dir", directory / "run", "--cert", place / "ca.pem", "--key", place / "ca-key.pem",
    ]  # fmt: skip


def with_shell(lab, directory, daemon, language="sh"):
    """The command that first does by a script what our init does itself."""
    script = lab.here / f"wrapper.{language}"
    files = [lab.manifest, directory / "pipelock.yaml", directory / "ca.pem", directory / "ca-key.pem"]
    interpreter = {"sh": "/bin/sh", "py": "/usr/bin/python3"}[language]
    return [
        interpreter, str(script), *map(str, files),
        *lab.daemon_command(daemon, directory / "pipelock.yaml"),
    ]  # fmt: skip


def with_loop(command):
    """For those that do not start a daemon again: what people write around it."""
    return ["/bin/sh", "-c", f"while :; do {shlex.join(command)}; done"]


def find():
    """The peers that are here with their versions, and the names of the missing."""
    here, missing = [], []
    for peer in PEERS:
        version = peer.describe()
        if version is None:
            missing.append(peer.name)
        else:
            here.append((peer, version))
    return here, missing


def library_files(pid):
    """Every file that a process has mapped: its program and what that needs."""
    files = set()
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        fields = line.split(None, 5)
        if len(fields) == 6 and fields[5].startswith("/"):
            files.add(fields[5])
    return files
