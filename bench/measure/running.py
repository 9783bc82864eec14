"""Lines 4, 6, 7 and 8: orphans, memory and wake-ups, sizes, the log."""

import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path

from . import peers
from .lab import Failed
from .result import Line, View
from .starting import contestants, each_round

ORPHANS = 10_000


def simply(whom):
    """Those without what is written around them: here it makes no difference."""
    return [(name, start) for name, start in whom if " + " not in name and "given" not in name]


def orphans(lab, here):
    line = Line(
        "4", "10,000 orphans, 1,000 at a time, from their death to the last one reaped", "ms", floor="null init",
        work="the orphans of a process beside the daemon's, whom nobody confines: a sandbox slows their own end",
    )  # fmt: skip

    def measure(_, start):
        with start() as started:
            lab.ear.hear("exec")
            # Whatever follows a start has had its time.
            time.sleep(0.3)
            told = subprocess.run([lab.probe, "orphans", str(started.pid)], capture_output=True, text=True, timeout=120)
            if told.returncode != 0:
                raise Failed(told.stderr.strip() or "nobody made the orphans")
            reaped, nanoseconds = map(int, told.stdout.split())
            if reaped != ORPHANS:
                raise Failed(f"only {reaped} of {ORPHANS} were reaped, a batch within 3 s")
            # What this init left for later would still be here.
            left = [pid for pid in started.everybody() if "\nState:\tZ" in status(pid)]
            if left:
                raise Failed(f"{len(left)} zombies are left")
            return nanoseconds / 1e6

    each_round(line, lab.rounds(5, 2), simply(contestants(lab, here, "daemon-stamp")), measure)
    # By less two runs of the same one differ; tests/quick/budgets.rs counts what each orphan costs.
    line.budget("10,000 orphans, times tini", peers.OURS, 1.1, times="tini")
    return line


def status(pid):
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""


def number(text, name):
    found = re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE)
    return int(found.group(1)) if found else 0


def switches(pids):
    """Times these processes, all their threads, have slept and been woken."""
    total = 0
    for pid in pids:
        for task in os.listdir(f"/proc/{pid}/task"):
            total += number(Path(f"/proc/{pid}/task/{task}/status").read_text(), "voluntary_ctxt_switches")
    return total


def idle_for_a_while(lab, names, here, seconds, lines):
    """Starts these together, and looks at them when they have come to rest."""
    resident, private, threads, wakes = lines
    with contextlib.ExitStack() as stack:
        idle = {}
        for name in names:
            with contextlib.nullcontext() if name == peers.OURS else lab.another_port():
                start = dict(contestants(lab, here, "pipelock"))[name]
                started = stack.enter_context(start())
                with lab.awaiting() as awaiting:
                    awaiting.when()
            daemon = started.daemon(lab.programs / "pipelock")
            idle[name] = [pid for pid in started.everybody() if pid != daemon]
        time.sleep(3)
        for name, inits in idle.items():
            rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in inits]
            resident.add(name, sum(number(text, "Rss") for text in rollups))
            private.add(name, sum(number(text, "Private_Dirty") for text in rollups))
            threads.add(name, sum(number(status(pid), "Threads") for pid in inits))
        before = {name: switches(inits) for name, inits in idle.items()}
        time.sleep(seconds)
        for name, inits in idle.items():
            wakes.add(name, (switches(inits) - before[name]) * 60 / seconds)


def at_rest(lab, here):
    resident = Line("6", "resident memory of the init and its helpers, idle", "KiB", floor="null init")
    private = Line("6b", "of it private: written to, and in no file", "KiB", floor="null init")
    threads = Line("6c", "processes and threads of it", "threads", floor="null init")
    wakes = Line("6d", "wake-ups in a minute, idle", "a minute", floor="null init")
    whom = simply(contestants(lab, here, "pipelock"))
    # The others idle beside one another, each on a port of its own; ours alone and longer,
    # because the budget is ours.
    idle_for_a_while(lab, [name for name, _ in whom if name != peers.OURS], here, 15, (resident, private, threads, wakes))
    idle_for_a_while(lab, [peers.OURS], here, 20, (resident, private, threads, wakes))
    resident.note("One round: what is counted does not vary with load.")
    # Two processes, each with the pages of one program of 2 MiB.
    resident.budget("resident memory", peers.OURS, 2 * 2304)
    private.budget("private memory", peers.OURS, 300)
    # 30 looks at the manifest, which wake PID 1, the process that looks, and PID 1 again; 12 probes
    # of at most four wake-ups each.
    wakes.budget("wake-ups a minute, probes and looks at the manifest", peers.OURS, 30 * 3 + 12 * 4)
    return [resident, private, threads, wakes]


def sizes(lab, here, image):
    line = Line("7", "the program and every file it maps while it runs", "KiB", floor="null init")
    for name, start in simply(contestants(lab, here, "daemon-stamp")):
        with start() as started:
            lab.ear.hear("exec")
            time.sleep(0.1)
            stamp = str(lab.programs / "daemon-stamp")
            files = set()
            for pid in started.everybody():
                try:
                    files |= peers.library_files(pid)
                except OSError:
                    continue
            line.add(name, sum(Path(file).stat().st_size for file in files if file != stamp and Path(file).exists()) / 1024)
    for arch, limit in (("x86_64", 2048), ("aarch64", 2048)):
        binary = lab.root / f"target/{arch}-unknown-linux-musl/release/sidecar-init"
        if binary.exists():
            line.add(f"{peers.OURS}, {arch}", binary.stat().st_size / 1024)
            line.budget(f"binary, {arch}", f"{peers.OURS}, {arch}", limit)
        else:
            line.note(f"NOT MEASURED: the binary for {arch} is not built")
    if image and image.exists():
        line.note(
            f"The whole image (init, {lab.daemon_name}, public roots) is {image.stat().st_size // 1024} KiB of erofs, "
            f"the daemon in it {lab.daemon.stat().st_size // 1024} KiB."
        )
    return line


def processor_time(pids):
    """Nanoseconds that all their threads have run."""
    total = 0
    for pid in pids:
        for task in os.listdir(f"/proc/{pid}/task"):
            total += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
    return total


def log_relay(lab, here, kind):
    words = {"plain": "plain lines of 100 bytes", "events": "JSON events of 240 bytes, each counted"}[kind]
    line = Line(
        "8" if kind == "plain" else "8b", f"64 MiB of log to a reader, {words}", "MB/s",
        floor="null init", more_is_better=True, work="null init and most others let the daemon inherit the reader",
        views=[View(others={"cat": "cat"})],
    )  # fmt: skip
    daemon = f"daemon-{kind}"
    whom = simply(contestants(lab, here, daemon))
    command = lab.daemon_command(daemon, lab.prepared / "pipelock.yaml")

    def cat(**more):
        text = '"$@" | cat'
        return lab.start([lab.probe, "null-init", "/bin/sh", "-c", text, "sh", *command], **more)

    whom.insert(1, ("cat", cat))
    lost = {}
    spent = Line(
        "8c", "processor time of whoever carries 64 MiB of JSON events, each counted", "ms", rival="cat",
        work="what the wall says of a relay is its writer's and its reader's as well", views=[View(others={"cat": "cat"})],
    )  # fmt: skip

    def carriers(name, started):
        """Whose time is that of carrying: everybody but the daemon, where somebody carries at all."""
        programs = {pid: os.path.basename(os.readlink(f"/proc/{pid}/exe")) for pid in started.everybody()}
        if name == "cat":
            return [pid for pid, program in programs.items() if program == "cat"]
        return [pid for pid, program in programs.items() if program != daemon] if name == peers.OURS else []

    def measure(name, start):
        sink = subprocess.Popen([lab.probe, "sink"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            with start(stdout=sink.stdin) as started:
                sink.stdin.close()
                lab.ear.hear("exec", 60)
                before = {pid: processor_time([pid]) for pid in carriers(name, started)}
                lab.ear.hear("written", 60)
                # cat may not have begun when the daemon did.
                if carrying := carriers(name, started):
                    spent.add(name, sum(processor_time([pid]) - before.get(pid, 0) for pid in carrying) / 1e6)
                started.signal(signal.SIGTERM)
                try:
                    started.ended(2)
                except Failed:
                    pass
            sink.wait(timeout=10)
            count, nanoseconds = map(int, sink.stderr.read().split())
        finally:
            sink.kill()
            sink.wait()
        if count < 64 << 20:
            lost[name] = max(lost.get(name, 0), (64 << 20) - count)
        return min(count, 64 << 20) / 1e6 / (nanoseconds / 1e9)

    each_round(line, lab.rounds(3, 1), whom, measure, slow_from=1.5)
    for name, bytes_lost in lost.items():
        line.note(f"{name} lost {bytes_lost} bytes in its worst round.")
    return [line, spent] if kind == "events" else [line]
