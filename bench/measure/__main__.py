"""scripts/bench: everybody on the same work in the same run."""

import argparse
import os
import sys
import time
from pathlib import Path

from . import bundle, machine, manifests, many, peers, report, running, starting, traffic
from .lab import Lab


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench")
    parser.add_argument("--root", required=True)
    parser.add_argument("--init", required=True)
    parser.add_argument("--probe", required=True)
    parser.add_argument("--daemon", required=True)
    parser.add_argument("--daemon-name", required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--lines")
    parser.add_argument("--document")
    return parser.parse_args()


# What is worth measuring with pipelock alone, unless it is asked for.
NEED_PIPELOCK = {"12", "13", "14", "15"}


def measure(lab, here, wanted, real):
    """The lines one by one; each says what it found as soon as it is known."""
    bundles = None

    def vm(what):
        nonlocal bundles
        bundles = bundles or machine.bundle(lab)
        return what(lab, bundles)

    plan = {
        "1": lambda: [starting.exec_to_exec(lab, here, cold=False), starting.exec_to_exec(lab, here, cold=True)],
        "2": lambda: starting.exec_to_ready(lab, here),
        "3": lambda: [starting.killed_to_ready(lab, here)],
        "4": lambda: [running.orphans(lab, here)],
        "5": lambda: [starting.stop_to_end(lab, here, daemon) for daemon in ("daemon-stamp", "pipelock")],
        "6": lambda: running.at_rest(lab, here),
        "7": lambda: [running.sizes(lab, here, lab.root / "target/bench/bundle/root.erofs")],
        "8": lambda: [line for kind in ("plain", "events") for line in running.log_relay(lab, here, kind)],
        "9": lambda: [manifests.scaling(lab)],
        "10": lambda: [*vm(machine.times), *([] if lab.quick else [vm(machine.least_memory)])],
        "11": lambda: [manifests.instructions(lab, here)],
        "12": lambda: traffic.measure(lab),
        "13": lambda: many.tunnels(lab),
        "14": lambda: bundle.measure(lab),
        "15": lambda: many.sidecars(lab),
    }
    unknown = set(wanted or []) - set(plan)
    if unknown:
        sys.exit(f"cannot measure line {', '.join(sorted(unknown))} (there are {', '.join(plan)})")
    # The machine first: it makes the image whose size is told.
    order = sorted(plan, key=lambda number: (number != "10", int(number)))
    lines = []
    for number in order:
        if number not in wanted if wanted else not real and number in NEED_PIPELOCK:
            continue
        began = time.monotonic()
        for line in plan[number]():
            lines.append(line)
            print(report.details(line), flush=True)
        print(f"-- line {number}: {time.monotonic() - began:.0f} s\n", flush=True)
    return sorted(lines, key=lambda line: report.place(line.number))


def main():
    options = arguments()
    here, missing = peers.find()
    missing += [name for name in bundle.missing() if name not in missing]
    real = "stand-in" not in options.daemon_name
    lab = Lab(options.root, options.init, options.probe, options.daemon, options.daemon_name, options.quick)
    try:
        versions = {peer.name: version for peer, version in here}
        described = report.describe_machine(versions, lab)
        print(report.in_words(described, missing), flush=True)
        wanted = options.lines.split(",") if options.lines else None
        lines = measure(lab, here, wanted, real)
    finally:
        lab.close()
    suffix, directory = "-pipelock" if real else "", lab.root / "target/bench"
    report.write_json(lines, described, missing, directory, suffix)
    written, pictures = report.write_report(lines, described, missing, directory, suffix)
    print(report.summary(lines))
    for told in report.sections(lines).values():
        print(report.section(told))
    print(f"{written}: every figure and picture of this run")
    if options.document:
        document = Path(options.document)
        report.renew_document(document, lines, described, missing, pictures, real, wanted is None or set(wanted) >= report.TOLD_OF[real])
        print(f"{document}: what it tells of such a run is this one's")


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit("cannot measure: PID and mount namespaces of everybody's own need root")
    main()
