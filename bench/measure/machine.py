"""Line 10: in a machine, on the smolmachines kernel, against a bare shell as init."""

import json
import os
import shutil
import subprocess

from . import peers
from .lab import Failed
from .result import Line, View

PARTS = {
    "kernel_to_init": ("10", "in a machine: kernel entry to PID 1, by the kernel's clock"),
    "init_to_ready": ("10b", "in a machine: PID 1 to ready"),
    "stop_to_end": ("10c", "in a machine: ready and asked to stop, to its end"),
}
BARE = "busybox sh"
READY = {BARE: "bench: ready", peers.OURS: "sidecar-init: ready:"}
# MiB; below the first the kernel alone does not start, and the last is what is allowed.
LEAST, MOST, STEP = 24, 80, 4


def bundle(lab):
    """Our image, and the same with a shell in our place: configuration and CA in it."""
    made = lab.root / "target/bench/bundle"
    environment = os.environ | {"PIPELOCK_BIN": str(lab.daemon)}
    subprocess.run([lab.root / "image/build", "--output", made], check=True, env=environment, stderr=subprocess.DEVNULL)
    bare = lab.root / "target/bench/bare"
    shutil.rmtree(bare, ignore_errors=True)
    bare.mkdir(parents=True)
    tree = lab.fresh_directory() / "root"
    subprocess.run([lab.root / "image/stage", tree, lab.init, lab.daemon], check=True)
    for path in (tree, tree / "etc"):
        path.chmod(0o755)
    (tree / "bin").mkdir()
    (tree / "etc/bench").mkdir()
    shutil.copy("/bin/busybox", tree / "bin/busybox")
    shutil.copy(lab.here / "bare-init", tree / "sbin/bare-init")
    (tree / "sbin/bare-init").chmod(0o755)
    files = ["--cert", "/etc/bench/ca.pem", "--key", "/etc/bench/ca-key.pem"]
    for name in ("ca.pem", "ca-key.pem"):
        shutil.copy(lab.prepared / name, tree / "etc/bench" / name)
    config = subprocess.run([lab.init, "render", "--manifest", lab.manifest, *files], check=True, capture_output=True)
    (tree / "etc/bench/pipelock.yaml").write_bytes(config.stdout)
    environment["PATH"] += ":/usr/sbin"
    subprocess.run(
        ["mkfs.erofs", "--quiet", "-x-1", "--all-root", bare / "root.erofs", tree],
        check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    shutil.copy(made / "kernel", bare / "kernel")
    return {peers.OURS: made, BARE: bare}


def boot(lab, name, directory, memory=None):
    program = lab.root / "target/debug/examples/boot_times"
    command = [program, directory, READY[name]]
    if name == BARE:
        command += ["--init", "/sbin/bare-init"]
    else:
        shared = lab.directory / "shared"
        shared.mkdir(exist_ok=True)
        lab_listen, everywhere = lab.address, "0.0.0.0:8888"
        (shared / "manifest.yaml").write_text(lab.manifest.read_text().replace(lab_listen, everywhere))
        command += ["--manifest", shared]
    if memory is not None:
        command += ["--memory", str(memory)]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(done.stderr.strip().splitlines()[0] if done.stderr.strip() else "the machine did not start")
    told = json.loads(done.stdout)
    if not told["refuses"] or not told["ends_well"]:
        raise Failed(f"it does not serve or end as it should: {told}")
    return told


def times(lab, bundles):
    views = [View(others={BARE: BARE})]
    lines = {part: Line(number, title, "ms", rival=BARE, views=views) for part, (number, title) in PARTS.items()}
    accelerators = set()
    for _ in range(lab.rounds(4, 2)):
        for name, directory in bundles.items():
            try:
                told = boot(lab, name, directory)
            except Failed as failure:
                lines["init_to_ready"].fail(name, failure)
                continue
            accelerators.add(told["accelerator"])
            for part, line in lines.items():
                if told[part] is not None:
                    line.add(name, told[part])
    how = {"kvm": "by the processor (KVM)", "tcg": "by emulation (TCG), each instruction translated"}
    lines["kernel_to_init"].note(
        f"QEMU runs the guest {' and '.join(how[name] for name in sorted(accelerators))}, one processor, 256 MiB."
    )
    return list(lines.values())


def least_memory(lab, bundles):
    """The smallest guest memory that boots, serves and refuses, by bisection."""
    line = Line("10d", f"least guest memory that boots and serves, {lab.daemon_name}", "MiB", rival=BARE, views=[View(others={BARE: BARE})])
    for name, directory in bundles.items():

        def serves(mib, name=name, directory=directory):
            try:
                boot(lab, name, directory, mib)
            except Failed:
                return False
            return True

        low, high = LEAST, MOST
        if not serves(high):
            line.fail(name, f"not even in {high} MiB")
            continue
        while high - low > STEP:
            middle = (low + high) // 2 // STEP * STEP
            if serves(middle):
                high = middle
            else:
                low = middle
        line.add(name, high)
    line.budget("guest memory for the whole bundle", peers.OURS, MOST)
    return line
