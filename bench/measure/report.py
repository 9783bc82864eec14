"""What a run leaves behind: JSON for programs, a report with every figure and picture, and the
tables and pictures of docs/benchmarks.md."""

import json
import os
import platform
import re
import shutil
import statistics
import subprocess
from datetime import date
from pathlib import Path

from . import peers
from .result import spread

# The lines that docs/benchmarks.md tells of a run with pipelock; of one with the stand-in, all others.
WITH_PIPELOCK = {"1", "2", "3", "5", "6", "10"}
TOLD_OF = {True: WITH_PIPELOCK, False: {"4", "7", "8", "9", "11"}}
# What it shows besides: line, and the picture's name there.
SHOWN = {"2b": "ready.svg", "3": "recovery.svg", "6": "memory.svg"}


def number(value):
    """Three significant figures, and no more than that."""
    if value >= 100:
        return f"{value:,.0f}"
    if 0 < value < 0.1:
        return f"{value:.2g}"
    return f"{value:.3g}" if value >= 10 or value == int(value) else f"{value:.2f}"


def describe_machine(versions, lab):
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text()).group(1))
    system = re.search(r'PRETTY_NAME="(.*)"', Path("/etc/os-release").read_text())
    commit = subprocess.run(
        ["git", "-C", lab.root, "describe", "--always", "--dirty"], capture_output=True, text=True
    ).stdout.strip()
    return {
        "date": date.today().isoformat(),
        "commit": commit,
        "daemon": lab.daemon_name,
        "processor": processor.group(1) if processor else platform.machine(),
        "processors": os.cpu_count(),
        "memory_mib": memory // 1024,
        "kernel": platform.release(),
        "system": system.group(1) if system else "?",
        "load_before": os.getloadavg()[0],
        "versions": versions,
    }


def in_words(machine, missing):
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    text = (
        f"Measured {machine['date']} at {machine['commit']}, with {machine['daemon']}: {machine['processor']}, "
        f"{machine['processors']} processors, {machine['memory_mib']} MiB, Linux {machine['kernel']}, "
        f"{machine['system']}; load before {machine['load_before']:.1f}. {versions}.\n"
    )
    if missing:
        text += f"\nNOT MEASURED, because they are not here: {', '.join(missing)}.\n"
    return text


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join("---" if n == 0 else "--:" for n in range(len(header))) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def verdicts(line):
    """The budgets of a line, each with what was measured."""
    return "; ".join(
        f"{verdict.what}: {number(verdict.measured)} of {number(verdict.allowed)} {verdict.unit}, "
        + ("held" if verdict.held else "**missed**")
        for verdict in line.budgets
    )


def told_failure(line, name):
    """What stands where a figure would."""
    if name not in line.failures:
        return ""
    return "refused" if line.failures[name].startswith("refused") else "failed"


def section(lines):
    """The table of lines that only its contestants are in: one row each, a column for each line,
    what is read first before what depends on the machine."""

    def cell(line, name):
        if name not in line.samples:
            return told_failure(line, name)
        alone = name == peers.OURS or name in line.apart or peers.OURS not in line.samples
        times = None if alone else line.ratio(name, peers.OURS)
        return ("" if times is None else f"{number(times)} × · ") + number(line.median(name))

    names = dict.fromkeys(name for line in lines for name in [*line.samples, *line.failures])
    ordered = [*(name for name in (peers.OURS,) if name in names), *(name for name in names if name != peers.OURS)]
    header = ["", *(f"{line.short}, {line.unit}" for line in lines)]
    notes = "".join(f"\n{note}\n" for line in lines for note in line.notes)
    return table(header, [[name, *(cell(line, name) for line in lines)] for name in ordered]) + notes


def summary(lines):
    """One table: every line, ours, every peer, the floor, who is in one line alone, the budgets."""
    lines = [line for line in lines if not line.section]
    names = [peer.name for peer in peers.PEERS if peer.program is not None]
    rows = [
        # What a line is held to is said once, in its first row.
        [*row, verdicts(line) if view is line.views[0] else ""]
        for line in lines
        for view in line.views
        if (row := view_row(line, view, names))
    ]
    return table(["line", "floor", peers.OURS, *names, "others", "ours / floor", "budget"], rows)


def view_row(line, view, names):
    if view.ours not in line.samples:
        return None

    def cell(*candidates):
        for name in candidates:
            if name in line.samples:
                return number(line.median(name))
        return "failed" if any(name in line.failures for name in candidates) else ""

    base = view.floor or line.base
    times = line.ratio(view.ours, base) if base in line.samples else None
    ratio = "" if times is None else f"{number(times)} ×"
    if ratio and line.rival:
        ratio += f" {line.rival}"
    others = "; ".join(f"{short} {cell(name)}" for short, name in view.others.items() if cell(name))
    title = line.title + (f": {view.work}" if view.work else "")
    columns = [cell(wanted := view.peers.format(name), wanted + view.loop) for name in names]
    floor = "" if line.rival else cell(base)
    return [f"{line.number}. {title}, {line.unit}", floor, number(line.median(view.ours)), *columns, others, ratio]


def details(line):
    rows = []
    for row in line.rows(peers.OURS):
        rows.append(
            [
                row["name"], number(row["median"]), f"{number(row['low'])} – {number(row['high'])}", str(row["count"]),
                f"{number(row['to_base'])} ×" if row["to_base"] is not None else "",
                f"{number(row['ours_to_it'])} ×" if row["ours_to_it"] is not None else "",
            ]  # fmt: skip
        )
    rows += [[name, "failed", why, "", "", ""] for name, why in line.failures.items()]
    text = f"**{line.number}. {line.title}**, {line.unit}" + (f" ({line.work})" if line.work else "") + "\n\n"
    text += table(["", "median", "quartiles", "rounds", f"/ {line.base or 'floor'}", "ours / it"], rows)
    return text + "".join(f"\n{note}\n" for note in line.notes)


OURS_COLOUR, FLOOR_COLOUR = "#3b82c4", "#d9963b"


def draw(lines, directory):
    """A picture for each line that compares; text stays text, and any background will do."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {
            "svg.fonttype": "none", "svg.hashsalt": "sidecar-init", "font.size": 9, "text.color": "#777777",
            "axes.edgecolor": "#999999", "axes.labelcolor": "#777777", "xtick.color": "#777777",
            "ytick.color": "#777777", "axes.spines.top": False, "axes.spines.right": False,
        }  # fmt: skip
    )
    from matplotlib import pyplot

    directory.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for line in lines:
        names = list(line.samples)
        if len(names) < 2:
            continue
        if line.number == "9":
            figure = draw_growth(line, pyplot)
        else:
            figure = draw_bars(line, names, pyplot)
        name = f"{line.number}.svg"
        figure.savefig(directory / name, bbox_inches="tight", transparent=True, metadata={"Date": None})
        pyplot.close(figure)
        # One line's end is as good as another's, but trailing blanks are noise in a diff.
        text = (directory / name).read_text()
        (directory / name).write_text("\n".join(text_line.rstrip() for text_line in text.splitlines()) + "\n")
        drawn[line.number] = name
    return drawn


def draw_bars(line, names, pyplot):
    """A bar each on a linear axis. One that would make all others too short to be compared is cut
    off, and says how long it is."""
    figure, axes = pyplot.subplots(figsize=(7.5, 0.6 + 0.24 * len(names)))
    middles, lows, highs = zip(*(spread(line.samples[name]) for name in names), strict=True)
    usual = 8 * statistics.median(middles)
    inside = [high for high in highs if high <= usual] or list(highs)
    limit = max(inside) * 1.05
    colours = [OURS_COLOUR if name.startswith(peers.OURS) else FLOOR_COLOUR if name == line.floor else "#b0b7bf" for name in names]
    shown = [min(middle, limit) for middle in middles]
    errors = [
        [0 if middle > limit else middle - low for middle, low in zip(middles, lows, strict=True)],
        [0 if middle > limit else min(high, limit) - middle for middle, high in zip(middles, highs, strict=True)],
    ]
    axes.barh(names, shown, color=colours, xerr=errors, error_kw={"ecolor": "#777777", "elinewidth": 1})
    for row, (middle, high) in enumerate(zip(middles, highs, strict=True)):
        text = f" {number(middle)}" + (" …" if middle > limit else "")
        axes.text(min(high, limit), row, text, va="center", color="#777777")
    axes.set_xlim(0, limit * 1.12 or 1)
    axes.invert_yaxis()
    axes.set_xlabel(f"{line.unit}: median and quartiles" + (", more is better" if line.more_is_better else ""))
    axes.set_title(line.title, loc="left", fontsize=9, color="#777777")
    return figure


def draw_growth(line, pyplot):
    figure, axes = pyplot.subplots(figsize=(7.5, 3))
    series = {}
    for name in line.samples:
        # The floor has no size.
        if name == line.floor:
            continue
        who, size = name.rsplit(", ", 1)
        series.setdefault(who, []).append((int(size.split()[0].replace(",", "")), line.median(name)))
    for who, points in series.items():
        colour = OURS_COLOUR if who == peers.OURS else None
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=who, color=colour)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("routes")
    axes.set_ylabel("ms")
    axes.legend(frameon=False, labelcolor="#777777")
    axes.set_title(line.title, loc="left", fontsize=9, color="#777777")
    return figure


def write_json(lines, machine, missing, directory, suffix):
    directory.mkdir(parents=True, exist_ok=True)
    for line in lines:
        path = directory / f"line-{line.number}{suffix}.json"
        path.write_text(json.dumps({"machine": machine} | line.as_json(peers.OURS), indent=1) + "\n")
    path = directory / f"machine{suffix}.json"
    path.write_text(json.dumps(machine | {"missing": missing}, indent=1) + "\n")


def write_report(lines, machine, missing, directory, suffix):
    """Every figure and every picture of this run, beside its JSON."""
    pictures = directory / f"report{suffix}"
    drawn = draw(lines, pictures)
    parts = [f"# Report\n\n{in_words(machine, missing)}", summary(lines)]
    parts += [section(told) for told in sections(lines).values()]
    for line in lines:
        parts.append(details(line))
        if line.number in drawn:
            parts.append(f"![{line.title}]({pictures.name}/{drawn[line.number]})\n")
    report = directory / f"report{suffix}.md"
    report.write_text("\n".join(parts))
    return report, pictures


def replace_block(document, name, replaced):
    """What stands between the markers of that name becomes what `replaced` makes of it; the
    rest is somebody's prose."""
    begin, end = f"<!-- bench {name}: begin -->", f"<!-- bench {name}: end -->"
    before, found, rest = document.partition(begin)
    inside, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f'cannot write the document: it has no markers "{begin}" and "{end}"')
    return f"{before}{begin}\n{replaced(inside.strip()).strip()}\n{end}{after}"


def place(number):
    """Where a line stands among the others."""
    digits, letter = re.fullmatch(r"(\d+)([a-z]?)", number).groups()
    return int(digits), letter


def line_of(row):
    """Where a row of the summary stands: the number of its line, and the letter."""
    found = re.match(r"\| (\d+)([a-z]?)\. ", row)
    if not found:
        raise SystemExit(f"cannot read the document's table: {row!r} names no line")
    return int(found.group(1)), found.group(2)


def renewed(table_there, lines, real):
    """The table with this run's rows in place of those that such a run measures."""

    def is_told(row):
        return (str(line_of(row)[0]) in WITH_PIPELOCK) == real

    header, rule, *rows = table_there.splitlines()
    new_header, _, *new_rows = summary(lines).splitlines()
    if header != new_header:
        raise SystemExit(f"cannot renew the document's table: its columns are\n{header}\nand not\n{new_header}")
    kept = [row for row in rows if not is_told(row)]
    told = [row for row in new_rows if is_told(row)]
    return "\n".join([header, rule, *sorted(kept + told, key=line_of)])


def sections(lines):
    """The lines that have tables of their own, by the names of these."""
    told = {}
    for line in lines:
        if line.section:
            told.setdefault(line.section, []).append(line)
    return told


def renew_document(document, lines, machine, missing, pictures, real, whole):
    """Of a run of some lines only the tables that tell when they were measured themselves."""
    text = document.read_text()
    if whole:
        text = replace_block(text, "pipelock" if real else "stand-in", lambda _: in_words(machine, missing))
        text = replace_block(text, "table", lambda there: renewed(there, lines, real))
    for name, told in sections(lines).items():
        if real:
            made = f"{section(told)}\n{in_words(machine, [])}"
            text = replace_block(text, name, lambda _, made=made: made)
    document.write_text(text)
    if real and whole:
        for line, name in SHOWN.items():
            shutil.copy(pictures / f"{line}.svg", document.with_suffix("") / name)
