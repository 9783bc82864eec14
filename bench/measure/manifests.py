"""Lines 9 and 11: manifests that grow, and instructions, which do not vary with load."""

import math
import re
import statistics
import subprocess
import time

from . import peers
from .lab import Failed
from .result import Line, View
from .starting import contestants, stop_signals, views

SIZES = (10, 100, 1_000, 10_000, 100_000)
NULL = "null program"
# What is counted goes to a file before each exec, which would drop it, and before each fork,
# which would count it twice. The daemon runs as it is.
CALLGRIND = [
    "valgrind", "--tool=callgrind", "--quiet", "--trace-children=yes", "--trace-children-skip=*/daemon-stamp",
    *(f"--dump-before={name}" for name in ("execve", "fork", "_Fork", "vfork", "posix_spawn")),
]  # fmt: skip


def growth(points):
    """The exponent by which time grows with size, from a thousand routes on: least squares
    of the logarithms."""
    pairs = [(math.log(size), math.log(value)) for size, value in points if size >= 1_000]
    return statistics.linear_regression(*zip(*pairs, strict=True)).slope if len(pairs) > 1 else None


def scaling(lab):
    sizes = SIZES[:-1] if lab.quick else SIZES
    line = Line(
        "9", "parse, judge and render a manifest", "ms", floor=NULL,
        work="the others judge nothing; PyYAML and awk only parse and print",
    )  # fmt: skip
    files = {}
    for size in sizes:
        files[size] = lab.directory / f"routes-{size}.yaml"
        lab.write_manifest(files[size], [f"host-{number}.zone-{number % 97}.example" for number in range(size)])
    # Only the rendering is measured here.
    (lab.directory / "path").mkdir()
    (lab.directory / "path/openssl").symlink_to("/bin/true")
    wrapper = lab.here / "wrapper.py"
    renderers = {
        peers.OURS: lambda file: [lab.init, "render", "--manifest", file],
        "Python + PyYAML": lambda file: ["/usr/bin/python3", wrapper, file, "/dev/null", "ca.pem", "ca-key.pem"],
        "sh + awk": lambda file: ["/bin/sh", lab.here / "wrapper.sh", file, lab.directory / "awk.yaml", "-", "-", "true"],
    }  # fmt: skip

    def timed(command):
        begin = time.monotonic_ns()
        done = subprocess.run(
            list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={"PATH": str(lab.directory / "path") + ":/usr/bin:/bin"},
        )  # fmt: skip
        took = (time.monotonic_ns() - begin) / 1e6
        if done.returncode != 0:
            raise Failed(f"it ended with {done.returncode}")
        return took

    for turn in range(lab.rounds(5, 3)):
        line.add(NULL, timed([lab.probe, "null"]))
        for name, command in renderers.items():
            for size in sizes:
                # It takes seconds: once will do.
                if turn > 0 and name.startswith("Python") and size >= 10_000:
                    continue
                row = rendering(name, size)
                if row not in line.failures:
                    try:
                        line.add(row, timed(command(files[size])))
                    except Failed as failure:
                        line.fail(row, failure)
    others = [name for name in renderers if name != peers.OURS]
    line.arrange([rendering(name, size) for name in renderers for size in sizes])
    line.views = [
        View(f"{size:,} routes", ours=rendering(peers.OURS, size), others={name: rendering(name, size) for name in others})
        for size in sizes
    ]
    for name in renderers:
        known = [(size, rendering(name, size)) for size in sizes if rendering(name, size) in line.samples]
        exponent = growth([(size, line.median(row)) for size, row in known])
        if exponent is not None:
            line.note(f"{name}: time grows with the power {exponent:.2f} of the routes, from 1,000 on.")
    return line


def rendering(name, size):
    return f"{name}, {size:,} routes"


def instructions(lab, here):
    """Of a whole start until the daemon is executed, and of the stop that ends the count: the
    init's, its helpers' and its scripts', not the daemon's."""
    line = Line(
        "11", "instructions of a start and its stop, by callgrind", "thousand", floor="null init",
        work="of all processes but the daemon", views=views(),
    )  # fmt: skip
    stop = stop_signals(here)

    def count(name, start):
        directory = lab.fresh_directory()
        with start(under=[*CALLGRIND, f"--callgrind-out-file={directory}/out.%p"]) as started:
            try:
                lab.ear.hear("exec", 30)
            except Failed:
                raise Failed("under callgrind it starts no daemon within 30 s") from None
            started.signal(stop(name))
            try:
                started.ended(10)
            except Failed:
                raise Failed("under callgrind it does not stop within 10 s") from None
        parts = [(file.name.split(".")[1] == "1", total(file)) for file in directory.glob("out.*")]
        first = sum(count for is_first, count in parts if is_first)
        rest = sum(count for is_first, count in parts if not is_first)
        if not first:
            raise Failed("callgrind told nothing of its PID 1")
        if name.startswith(peers.OURS):
            line.add(f"{name}: its PID 1", first / 1e3)
            line.add(f"{name}: its helpers", rest / 1e3)
        line.add(name, (first + rest) / 1e3)

    whom = contestants(lab, here, "daemon-stamp")
    for name, start in whom:
        alone = name.split(" + ")[0]
        if alone in line.failures:
            line.fail(name, f"as {alone} alone")
        # The scripts are the same ones behind everybody, and its own part takes long.
        elif not name.startswith("supervisor + "):
            try:
                count(name, start)
            except Failed as failure:
                line.fail(name, failure)
    line.arrange([name for name, _ in whom])
    line.note(
        "One round: the count does not vary with load. A forked process's count begins with its parent's where callgrind "
        "does not see the fork by name, as in our static program: ours, the helpers' part, is an upper bound."
    )
    return line


def total(file):
    """The instructions that one of callgrind's files tells of; none if its process went on as
    a program that is not counted."""
    found = re.search(r"^totals: (\d+)$", file.read_text(), re.MULTILINE)
    return int(found.group(1)) if found else 0
