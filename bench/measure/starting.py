"""Lines 1, 2, 3 and 5: how fast things start, come back and end."""

import os
import random
import select
import signal
import socket
import time
from pathlib import Path

from . import peers
from .lab import PATIENCE, Failed, now
from .result import Line, View

GIVEN = f"{peers.OURS}, CA given"
SHELL = "{} + sh + openssl"
# As a client does that waits for its word: of the same starts.
FIRST_ASKED = f"{peers.OURS}: first asked once ready"


def contestants(lab, here, daemon, restarting=False):
    """Who is measured: a name, and a function that starts it in a fresh directory."""

    def prepared(peer):
        command = lab.daemon_command(daemon, lab.prepared / "pipelock.yaml")
        if restarting and not peer.restarts:
            command = peers.with_loop(command)

        def start(**more):
            directory = lab.fresh_directory()
            return lab.start(peer.argv(lab, directory, command), peer.environment(directory), **more)

        return start

    def wrapped(peer, language):
        def start(**more):
            directory = lab.fresh_directory()
            command = peers.with_shell(lab, directory, daemon, language)
            return lab.start(peer.argv(lab, directory, command), peer.environment(directory), **more)

        return start

    def ours(own_ca):
        def start(environment=None, **more):
            directory = lab.fresh_directory()
            return lab.start(peers.ours(lab, directory, daemon, own_ca), environment, **more)

        return start

    result = [(peer.name + (" + sh loop" if restarting and not peer.restarts else ""), prepared(peer)) for peer, _ in here]
    if restarting:
        return [*result, (peers.OURS, ours(True))]
    result.append((GIVEN, ours(False)))
    for peer, _ in here:
        if peer.program is not None:
            result.append((SHELL.format(peer.name), wrapped(peer, "sh")))
            if peer.name == "tini":
                result.append(("tini + Python + openssl", wrapped(peer, "py")))
    return [*result, (peers.OURS, ours(True))]


def views(*more):
    """How such a line stands in the table of all: like is beside like."""
    return [
        *more,
        View("config and CA made", peers=SHELL, others={"tini + Python": "tini + Python + openssl"}),
        View("config and CA given", ours=GIVEN),
    ]


def stop_signals(here):
    """By the name of a contestant, in whatever it is wrapped."""
    numbers = {peer.name: getattr(signal, peer.stop) for peer, _ in here}
    return lambda name: numbers.get(name.split(" + ")[0], signal.SIGTERM)


def each_round(line, count, whom, measure, turn=0, slow_from=4.0):
    """Everybody once a round, so that a busy moment meets all alike, and each round in
    another order (the same in every run), so that nobody always follows the same one."""
    slow = set()
    for number in range(turn, turn + count):
        order = list(whom)
        random.Random(number).shuffle(order)
        for name, start in order:
            # Whoever cannot do it is not asked again, and whoever takes so many seconds only once more.
            if name in line.failures or (name in slow and len(line.samples[name]) > 1):
                continue
            began = time.monotonic()
            try:
                line.add(name, measure(name, start))
            except Failed as failure:
                line.fail(name, failure)
            if time.monotonic() - began > slow_from and name in line.samples:
                slow.add(name)
    line.arrange([name for name, _ in whom])


def exec_to_exec(lab, here, cold):
    line = Line(
        "1b" if cold else "1",
        "exec of the init to exec of the daemon" + (", nothing in the page cache" if cold else ""),
        "ms", floor="null init", work="prepared: config and CA lie there; the others make both", views=views(),
    )  # fmt: skip

    if cold:
        # What was just copied there can be dropped only once it is written.
        os.sync()

    def measure(_, start):
        if cold:
            Path("/proc/sys/vm/drop_caches").write_text("3")
        with start() as started:
            (at,) = lab.ear.hear("exec")
            return (at - started.executed) / 1e6

    count = lab.rounds(3, 1) if cold else lab.rounds(10, 5)
    each_round(line, count, contestants(lab, here, "daemon-stamp"), measure, slow_from=0.9)
    if not cold:
        line.budget("exec to exec, times tini, sh and openssl", peers.OURS, 0.25, times=SHELL.format("tini"))
    return line


class Notified:
    """Where the init says READY=1 (sd_notify)."""

    def __init__(self, lab):
        self.path = lab.fresh_directory() / "notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.socket.settimeout(30)

    def when_ready(self):
        try:
            while b"READY=1" not in self.socket.recv(4096):
                pass
        except TimeoutError:
            raise Failed("it never said READY=1") from None
        return now()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


def when_canary_is_refused(lab):
    """Asked once: it was said that it would be."""
    with socket.create_connection(("127.0.0.1", lab.port), timeout=PATIENCE) as connection:
        connection.sendall(b"CONNECT canary.invalid:443 HTTP/1.1\r\nHost: canary.invalid:443\r\n\r\n")
        if not connection.recv(64).startswith(b"HTTP/1.1 403"):
            raise Failed("it said that it is ready, and did not refuse the canary")
    return now()


def exec_to_ready(lab, here):
    """Two moments of one start as the instrument sees them from outside, the same for all.
    What our init itself calls ready is measured in other starts, where nobody else asks the
    daemon anything: each one's first questions would spare the other's the daemon's own
    first time."""
    served = Line(
        "2", f"exec of the init to the first 200 of /health, {lab.daemon_name}", "ms", floor="alone", views=views()
    )
    refused = Line(
        "2b", f"exec of the init to the canary refused, {lab.daemon_name}", "ms", floor="alone",
        work="seen from outside; ready: what our init says by READY=1, with nobody else asking",
        views=views(
            View("ours by its own word", ours=f"{peers.OURS}: ready", peers=SHELL),
            View("first asked once it said so", ours=FIRST_ASKED),
        ),
    )  # fmt: skip
    alone = ("alone", lambda: lab.start(lab.daemon_command("pipelock", lab.prepared / "pipelock.yaml")))
    whom = [alone, *contestants(lab, here, "pipelock")]
    whom += [(f"{name}: ready", start) for name, start in whom if name.startswith(peers.OURS)]

    def from_outside(name, start):
        with lab.awaiting(canary=True) as awaiting, start() as started:
            first, second = ((at - started.executed) / 1e6 for at in awaiting.moments())
        served.add(name, first)
        return second

    def by_its_word(name, start):
        with Notified(lab) as notified:
            with start(environment={"NOTIFY_SOCKET": str(notified.path)}) as started:
                ready = notified.when_ready()
                if name.startswith(f"{peers.OURS}: "):
                    refused.add(FIRST_ASKED, (when_canary_is_refused(lab) - started.executed) / 1e6)
                return (ready - started.executed) / 1e6

    def measure(name, start):
        return (by_its_word if ": " in name else from_outside)(name, start)

    each_round(refused, lab.rounds(8, 4), whom, measure, slow_from=0.9)
    served.arrange([name for name, _ in whom])
    served.failures = {name: why for name, why in refused.failures.items() if ": " not in name}
    refused.budget("exec to ready, times pipelock alone", f"{peers.OURS}: ready", 1.05, times=refused.floor)
    return [served, refused]


def killed_to_ready(lab, here):
    floor = "its own death and start"
    line = Line(
        "3", f"daemon killed to its next 200, {lab.daemon_name}", "ms", floor=floor,
        work="killed by -9 after 1.2 s of life", views=[View(loop=" + sh loop")],
    )  # fmt: skip
    program = lab.programs / "pipelock"
    whom = contestants(lab, here, "pipelock", restarting=True)
    null_init = next(start for name, start in contestants(lab, here, "pipelock") if name == "null init")

    def own_start():
        with lab.awaiting() as awaiting:
            with lab.start(lab.daemon_command("pipelock", lab.prepared / "pipelock.yaml")) as started:
                return (awaiting.when() - started.executed) / 1e6

    def kill_daemon_of(started):
        """When the daemon was killed, and a descriptor that tells its end."""
        with lab.awaiting() as awaiting:
            awaiting.when()
        time.sleep(1.2)
        daemon = started.daemon(program)
        end = os.pidfd_open(daemon)
        begin = now()
        os.kill(daemon, signal.SIGKILL)
        return begin, end

    def own_death():
        """Until its parent is told: the kernel takes it down first, and its port is taken
        until then, whoever wants to start another."""
        with null_init() as started:
            begin, end = kill_daemon_of(started)
            select.select([end], [], [], PATIENCE)
            ended = now()
            os.close(end)
            return (ended - begin) / 1e6

    def kill_and_wait(_, start):
        with start() as started:
            begin, end = kill_daemon_of(started)
            os.close(end)
            with lab.awaiting() as awaiting:
                return (awaiting.when() - begin) / 1e6

    for turn in range(lab.rounds(4, 2)):
        death, start = own_death(), own_start()
        for name, value in (("its own death", death), ("its own start", start), (floor, death + start)):
            line.add(name, value)
        # Whoever waits a second before it starts anything again is asked only twice.
        asked = [entry for entry in whom if len(line.samples.get(entry[0], [])) < 2 or line.median(entry[0]) < 500]
        each_round(line, 1, asked, kill_and_wait, turn)
    line.arrange([name for name, _ in whom])
    line.budget("daemon killed to ready again, beyond its own death and start", peers.OURS, 10.0, beyond=floor)
    if peers.OURS in line.samples:
        line.note(
            f"Beyond its own start alone, {peers.OURS} takes {line.beyond(peers.OURS, 'its own start'):.1f} ms: until the "
            f"kernel has taken down the killed daemon, no init learns of it, and no other daemon gets its port."
        )
    return line


def stop_to_end(lab, here, daemon):
    named = lab.daemon_name if daemon == "pipelock" else "a daemon that ends at once"
    line = Line("5" if daemon != "pipelock" else "5b", f"stop to the end of PID 1, {named}", "ms", floor="null init")
    stop = stop_signals(here)
    whom = [entry for entry in contestants(lab, here, daemon) if " + " not in entry[0] and "given" not in entry[0]]

    def measure(name, start):
        with start() as started:
            if daemon == "pipelock":
                with lab.awaiting() as awaiting:
                    awaiting.when()
            else:
                lab.ear.hear("exec")
            # Whatever follows a start has had its time.
            time.sleep(0.3)
            begin = now()
            started.signal(stop(name))
            return (started.ended()[0] - begin) / 1e6

    each_round(line, lab.rounds(4, 2), whom, measure, slow_from=0.9)
    return line
