"""Line 14: a bundle of eight daemons, each in its order, under us and under what people would use."""

import contextlib
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from . import peers
from .lab import Failed, now
from .result import Line
from .running import number, processor_time, switches
from .starting import each_round

# Each small daemon and what it is after: two chains that meet, of six daemons at their longest.
SMALL = {
    "one": ["pipelock"],
    "two": ["pipelock"],
    "three": ["one"],
    "four": ["one"],
    "five": ["two", "three"],
    "six": ["five"],
    "seven": ["four", "six"],
}
# Killed one after the other: with one before it and three behind it, with none behind it, with two.
KILLED = ("three", "seven", "five")
HTTP = f"{peers.OURS}, each asked over HTTP"
SHELL = "shell script"
S6, S6_RC = "s6", "s6-rc"
IDLE_SECONDS = 30


class Bundle:
    """Eight daemons with a port each and a directory in which somebody's files are."""

    def __init__(self, lab):
        self.lab, self.directory = lab, lab.fresh_directory()
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(1 + len(SMALL))]
            for free in sockets:
                free.bind(("127.0.0.1", 0))
            numbers = [free.getsockname()[1] for free in sockets]
        self.ports = dict(zip(["pipelock", *SMALL], numbers, strict=True))
        self.small = lab.programs / "daemon-small"

    def command(self, name, descriptor=None):
        """How it is started by those who find configuration and CA lying there."""
        if name == "pipelock":
            config = str(self.lab.prepared / "pipelock.yaml")
            listen = f"127.0.0.1:{self.ports[name]}"
            return [str(self.lab.programs / "pipelock"), "run", "--config", config, "--listen", listen]
        return [str(self.small), name, str(self.ports[name]), *([] if descriptor is None else [str(descriptor)])]

    def in_order(self):
        """Every daemon, and what has to be ready before it."""
        return {"pipelock": []} | SMALL

    def ours(self, ready):
        manifest = self.directory / "manifest.yaml"
        text = (
            "version: 1\nslug: bench\nbottle:\n  egress:\n    routes:\n      - host: a.example\n"
            f"pipelock:\n  listen: 127.0.0.1:{self.ports['pipelock']}\ndaemons:\n"
        )
        for name, after in SMALL.items():
            port = self.ports[name]
            text += (
                f"  {name}:\n    exec: [{self.small}, {name}, \"{port}\"]\n    listen: [{port}]\n"
                f"    after: [{', '.join(after)}]\n    ready: {ready.format(port=port)}\n    proxy: false\n"
            )
        manifest.write_text(text)
        place = self.lab.prepared
        return [
            self.lab.init, "run", "--manifest", manifest, "--daemon", self.lab.programs / "pipelock",
            "--run-dir", self.directory / "run", "--cert", place / "ca.pem", "--key", place / "ca-key.pem",
        ]  # fmt: skip

    def waiting_for(self, after):
        """What a script does until those are there: it connects to their ports."""
        return "".join(
            f"until (exec 3<>/dev/tcp/127.0.0.1/{self.ports[name]}) 2>/dev/null; do sleep 0.01; done\n" for name in after
        )

    def shell(self):
        """A loop for each daemon, which waits for those before it and starts it whenever it ends."""
        script = "#!/bin/bash\n"
        for name, after in self.in_order().items():
            script += f"(\n{self.waiting_for(after)}while :; do {shlex.join(self.command(name))}; done\n) &\n"
        peers.executable(self.directory / "bundle", script + "wait\n")
        return [self.directory / "bundle"]

    def pebble(self):
        """Its own `after` waits a second for each and not until it is ready, so that scripts wait."""
        layers = self.directory / "layers"
        layers.mkdir()
        text = "services:\n"
        for name, after in self.in_order().items():
            script = self.directory / f"start-{name}"
            peers.executable(script, f"#!/bin/bash\n{self.waiting_for(after)}exec {shlex.join(self.command(name))}\n")
            text += f"  {name}:\n    override: replace\n    startup: enabled\n    command: {script}\n"
        (layers / "001-bundle.yaml").write_text(text)
        return ["pebble", "run", "--verbose"]

    def s6_service(self, directory, name, before=""):
        """A service that says on descriptor 3 that it is ready: pipelock by a check of its health."""
        directory.mkdir(parents=True)
        (directory / "notification-fd").write_text("3\n")
        command = shlex.join(self.command(name, descriptor=3))
        if name == "pipelock":
            (directory / "data").mkdir()
            asked = shlex.join([str(self.lab.probe), "await-all", str(self.ports[name])])
            peers.executable(directory / "data/check", f"#!/bin/sh\nexec {asked} >/dev/null\n")
            command = f"s6-notifyoncheck -d -s 1 -n 0 -T 0 -t 0 {command}"
        peers.executable(directory / "run", f"#!/bin/sh\n{before}exec {command}\n")

    def s6(self):
        """Its supervisor alone: each daemon's script waits for the readiness of those before it."""
        services = self.directory / "services"
        for name, after in self.in_order().items():
            others = " ".join(f"{services}/{other}" for other in after)
            self.s6_service(services / name, name, f"s6-svwait -U {others}\n" if after else "")
        return ["s6-svscan", services]

    def s6_rc(self):
        """Its database is compiled beforehand; the supervisor is PID 1, as s6-linux-init has it."""
        source, compiled, live, scan = (self.directory / part for part in ("source", "compiled", "live", "scan"))
        for name, after in self.in_order().items():
            self.s6_service(source / name, name)
            (source / name / "type").write_text("longrun\n")
            (source / name / "dependencies.d").mkdir()
            for other in after:
                (source / name / "dependencies.d" / other).touch()
        (source / "all").mkdir()
        (source / "all/type").write_text("bundle\n")
        (source / "all/contents.d").mkdir()
        for name in self.in_order():
            (source / "all/contents.d" / name).touch()
        subprocess.run(["s6-rc-compile", compiled, source], check=True, capture_output=True)
        scan.mkdir()
        os.mkfifo(self.directory / "scanning")
        peers.executable(
            self.directory / "init",
            f"#!/bin/sh\ncd {self.directory}\n"
            f"(read -r _ <scanning; s6-rc-init -c {compiled} -l {live} {scan} && s6-rc -l {live} -u change all) &\n"
            f"exec s6-svscan -d 3 {scan} 3>scanning\n",
        )
        return [self.directory / "init"]


CONTESTANTS = {
    SHELL: ("bash", lambda bundle: bundle.shell()),
    S6: ("s6-svscan", lambda bundle: bundle.s6()),
    S6_RC: ("s6-rc", lambda bundle: bundle.s6_rc()),
    "pebble": ("pebble", lambda bundle: bundle.pebble()),
    HTTP: (None, lambda bundle: bundle.ours('{{http: "{port}/health"}}')),
    peers.OURS: (None, lambda bundle: bundle.ours("notify")),
}


def missing():
    """Whom this machine does not have."""
    return [name for name, (program, _) in CONTESTANTS.items() if program and shutil.which(program) is None]


class Running:
    """A bundle under somebody, as PID 1 of namespaces of its own."""

    def __init__(self, lab, argv_of):
        self.lab, self.bundle = lab, Bundle(lab)
        argv = argv_of(self.bundle)
        environment = {"PEBBLE": str(self.bundle.directory)}
        self.log = (self.bundle.directory / "log").open("wb")
        self.started = lab.start(argv, environment, stdout=self.log, stderr=self.log)

    def when_all_answer(self):
        command = [self.lab.probe, "await-all", *map(str, self.bundle.ports.values())]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed("not all of its daemons answered within 30 s")
        return int(done.stdout)

    def processes(self):
        """The eight daemons by their names, and everybody else."""
        daemons, rest = {}, []
        for pid in self.started.everybody():
            try:
                program = os.readlink(f"/proc/{pid}/exe")
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if program == str(self.lab.programs / "pipelock"):
                daemons["pipelock"] = pid
            elif program == str(self.bundle.small):
                daemons[words[1].decode()] = pid
            else:
                rest.append(pid)
        if set(daemons) != set(self.bundle.ports):
            raise Failed(f"of its daemons only {', '.join(daemons) or 'none'} are there")
        return daemons, rest

    def kill(self, name):
        """From SIGKILL of that one until its next answer."""
        pid = self.processes()[0][name]
        end = os.pidfd_open(pid)
        begin = now()
        os.kill(pid, signal.SIGKILL)
        select.select([end], [], [], 10)
        os.close(end)
        command = [self.lab.probe, "await-all", str(self.bundle.ports[name])]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed(f"{name} was killed and did not answer again within 30 s")
        again = int(done.stdout)
        daemons, _ = self.processes()
        if daemons[name] == pid:
            raise Failed("it was not killed")
        return (again - begin) / 1e6

    def __enter__(self):
        self.started.__enter__()
        return self

    def __exit__(self, *details):
        self.started.__exit__(*details)
        self.log.close()


def measure(lab):
    work = f"{lab.daemon_name} and seven small daemons, two chains that meet; configuration and CA lie there"

    def line(letter, title, short, unit):
        return Line(f"14{letter}", title, unit, rival=S6, work=work, short=short, section="bundle")

    start = line("", "a bundle of eight daemons, exec of the init to the last one's first 200", "exec to all answering", "ms")
    again = line("b", "one of the eight killed to its next 200", "one killed to its next 200", "ms")
    resident = line("c", "resident memory of the init and its helpers, eight daemons idle", "resident memory", "KiB")
    private = line("d", "of it private: written to, and in no file", "of it private", "KiB")
    wakes = line("e", "wake-ups of the init and its helpers in a minute, eight daemons idle", "wake-ups, idle", "a minute")
    processor = line("f", "processor time of them in a minute, idle", "processor time, idle", "ms a minute")
    lines = [start, again, resident, private, wakes, processor]
    absent = missing()
    for one in lines:
        for name in absent:
            one.fail(name, "it is not here")
    whom = [(name, argv_of) for name, (_, argv_of) in CONTESTANTS.items() if name not in absent]

    def start_and_kill(name, argv_of):
        with Running(lab, argv_of) as running:
            took = (running.when_all_answer() - running.started.executed) / 1e6
            # s6 waits a second before it starts anything again that has not lived for one.
            time.sleep(1.5)
            for killed in KILLED:
                again.add(name, running.kill(killed))
                time.sleep(0.2)
            return took

    each_round(start, lab.rounds(5, 2), whom, start_and_kill, slow_from=12)
    again.arrange([name for name, _ in whom])
    idle(lab, whom, lines[2:])
    start.note("Rounds alternate. Whoever else is on the machine delays all of them: read the ratios.")
    resident.note("One round, all of them beside one another: what is counted does not vary with load.")
    wakes.note(
        f"Counted for {IDLE_SECONDS} s, voluntary switches of context. Ours asks pipelock every 5 s whether it still "
        f"answers, in the row of that name the seven as well, and watches the manifest; the others ask "
        f"nobody, and notice no daemon that is deaf."
    )
    return lines


def idle(lab, whom, lines):
    resident, private, wakes, processor = lines
    with contextlib.ExitStack() as stack:
        at_rest = {}
        for name, argv_of in whom:
            if any(name in line.failures for line in lines):
                continue
            running = stack.enter_context(Running(lab, argv_of))
            try:
                running.when_all_answer()
                at_rest[name] = running
            except Failed as failure:
                for line in lines:
                    line.fail(name, failure)
        time.sleep(3)
        inits = {name: running.processes()[1] for name, running in at_rest.items()}
        for name, pids in inits.items():
            rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
            resident.add(name, sum(number(text, "Rss") for text in rollups))
            private.add(name, sum(number(text, "Private_Dirty") for text in rollups))
        before = {name: (switches(pids), processor_time(pids)) for name, pids in inits.items()}
        time.sleep(IDLE_SECONDS)
        for name, pids in inits.items():
            woken, ran = before[name]
            wakes.add(name, (switches(pids) - woken) * 60 / IDLE_SECONDS)
            processor.add(name, (processor_time(pids) - ran) / 1e6 * 60 / IDLE_SECONDS)
