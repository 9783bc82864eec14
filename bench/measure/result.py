"""Figures: collected, summed up, judged."""

import statistics
from dataclasses import dataclass, field

from .peers import OURS


def spread(values):
    """Median, and the quartiles as the spread."""
    ordered = sorted(values)
    if len(ordered) == 1:
        return ordered[0], ordered[0], ordered[0]
    low, middle, high = statistics.quantiles(ordered, n=4, method="inclusive")
    return middle, low, high


@dataclass
class Verdict:
    what: str
    measured: float
    allowed: float
    unit: str

    @property
    def held(self):
        return self.measured <= self.allowed


@dataclass
class View:
    """One row of the table of all lines: which of a line's figures stand side by side."""

    work: str = ""
    ours: str = OURS
    # A peer's name to the name of its figures, and what is added for those that need it.
    peers: str = "{}"
    loop: str = ""
    floor: str | None = None
    # Who is in this line alone: a short name, and the name of the figures.
    others: dict = field(default_factory=dict)


@dataclass
class Line:
    """One line of the bench: the same work, everybody's figures."""

    number: str
    title: str
    unit: str
    floor: str | None = None
    work: str = ""
    # Its title above a column, where it has one.
    short: str = ""
    # The table of its own in which it stands, where who is in it is in no other line.
    section: str = ""
    # Figures that stand beside ours and are not compared with it.
    apart: tuple = ()
    # For figures of which more is better.
    more_is_better: bool = False
    # What the ratio is to, where that is no floor but another contestant.
    rival: str | None = None
    views: list = field(default_factory=lambda: [View()])
    samples: dict = field(default_factory=dict)
    failures: dict = field(default_factory=dict)
    budgets: list = field(default_factory=list)
    notes: list = field(default_factory=list)

    def add(self, name, value):
        self.samples.setdefault(name, []).append(value)

    def arrange(self, names):
        """The order of the rows: these names last, in their order."""
        last = {name: self.samples.pop(name) for name in names if name in self.samples}
        self.samples |= last

    def fail(self, name, why):
        self.failures[name] = str(why)

    def note(self, text):
        self.notes.append(text)

    def median(self, name):
        return spread(self.samples[name])[0]

    def ratio(self, name, base):
        """The median of the ratios of each round: a slow round slows both. None over zero."""
        pairs = zip(self.samples[name], self.samples[base], strict=False)
        ratios = [value / other for value, other in pairs if other]
        return statistics.median(ratios) if ratios else None

    def beyond(self, name, base):
        """The median of the differences of each round."""
        return statistics.median(
            value - other for value, other in zip(self.samples[name], self.samples[base], strict=False)
        )

    @property
    def base(self):
        """What the figures are divided by."""
        return self.floor or self.rival

    def budget(self, what, name, allowed, times=None, beyond=None, unit=None):
        """Judged by itself, by its ratio to another row, or by how far it is beyond one."""
        if name not in self.samples or (times is not None and times not in self.samples):
            return
        if times is not None:
            measured, unit = self.ratio(name, times), "×"
            if measured is None:
                return
        elif beyond:
            measured = self.beyond(name, beyond)
        else:
            measured = self.median(name)
        self.budgets.append(Verdict(what, measured, allowed, unit or self.unit))

    def rows(self, ours):
        """Name, median, spread, ratio to the floor or the rival, ratio of ours to it."""
        rows = []
        for name, values in self.samples.items():
            middle, low, high = spread(values)
            to_base = self.ratio(name, self.base) if self.base in self.samples else None
            to_ours = self.ratio(ours, name) if ours in self.samples else None
            rows.append(
                {
                    "name": name, "median": middle, "low": low, "high": high, "count": len(values),
                    "to_base": to_base, "ours_to_it": to_ours,
                }  # fmt: skip
            )
        return rows

    def as_json(self, ours):
        return {
            "line": self.number, "title": self.title, "unit": self.unit, "work": self.work,
            "floor": self.floor, "rival": self.rival, "more_is_better": self.more_is_better, "rows": self.rows(ours),
            "failures": self.failures, "notes": self.notes, "samples": self.samples,
            "budgets": [vars(verdict) | {"held": verdict.held} for verdict in self.budgets],
        }  # fmt: skip
