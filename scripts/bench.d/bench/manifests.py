"""Lines 9 and 11: manifests that grow, and instructions, which do not vary with load."""

import math
import os
import signal
import statistics
import subprocess
import time

from . import peers
from .lab import Failed
from .result import Line

SIZES = (10, 100, 1_000, 10_000, 100_000)


def growth(points):
    """The exponent by which time grows with size, from a thousand routes on: least squares
    of the logarithms."""
    pairs = [(math.log(size), math.log(value)) for size, value in points if size >= 1_000]
    return statistics.linear_regression(*zip(*pairs, strict=True)).slope if len(pairs) > 1 else None


def scaling(lab):
    sizes = SIZES[:-1] if lab.quick else SIZES
    line = Line("9", "parse, judge and render a manifest", "ms", work="the others judge nothing; PyYAML and awk only parse and print")
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
    for name, command in renderers.items():
        points = []
        for size in sizes:
            slow = name.startswith("Python") and size >= 10_000
            times = []
            for _ in range(1 if slow else lab.rounds(7, 3)):
                begin = time.monotonic_ns()
                done = subprocess.run(
                    list(map(str, command(files[size]))), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                    env={"PATH": str(lab.directory / "path") + ":/usr/bin:/bin"},
                )  # fmt: skip
                if done.returncode != 0:
                    raise Failed(f"{name} ended with {done.returncode} on {size} routes")
                times.append((time.monotonic_ns() - begin) / 1e6)
            line.samples[f"{name}, {size:,} routes"] = times
            points.append((size, statistics.median(times)))
        exponent = growth(points)
        if exponent is not None:
            line.note(f"{name}: time grows with the power {exponent:.2f} of the routes, from 1,000 on.")
    return line


def instructions(lab):
    """Of a whole start, the CA's process included, until the daemon is executed; and the stop
    that ends the count."""
    line = Line("11", "instructions of a start and its stop, by callgrind", "million")
    for own_ca in (True, False):
        directory = lab.fresh_directory()
        out = directory / "callgrind.%p"
        argv = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--quiet"]
        lab.ear.forget()
        process = subprocess.Popen(
            [*argv, *map(str, peers.ours(lab, directory, "daemon-stamp", own_ca))],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            lab.ear.hear("exec", 60)
            os.kill(process.pid, signal.SIGTERM)
            process.wait(timeout=60)
        finally:
            process.kill()
            process.wait()
        init = other = 0
        for file in directory.glob("callgrind.*"):
            total = next(text for text in file.read_text().splitlines() if text.startswith(("totals:", "summary:")))
            count = int(total.split()[1])
            if file.suffix == f".{process.pid}":
                init = count
            else:
                other += count
        kind = "CA made" if own_ca else "CA given"
        line.add(f"{peers.OURS}, {kind}: PID 1", init / 1e6)
        line.add(f"{peers.OURS}, {kind}: the CA's process", other / 1e6)
    return line
