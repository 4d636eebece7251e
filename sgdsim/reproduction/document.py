"""The report on disk: report.json with all numbers, report.md for reading, figures beside them.

Everything is written after each exhibit, aside and then renamed, so that what is on disk is always a whole report of
the exhibits done. A folder is taken only if it is new, empty, or holds such a report, whose other exhibits are kept.
"""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from sgdsim.common.checks import InputError
from sgdsim.common.files import replacing
from sgdsim.common.jsonable import jsonable
from sgdsim.common.table import Table, escaped
from sgdsim.reproduction import EXHIBITS
from sgdsim.reproduction.base import Exhibit, Finding
from sgdsim.reproduction.verdicts import VERDICTS

MADE_BY = "sgdsim reproduce"
JSON, MARKDOWN, FIGURES = "report.json", "report.md", "figures"
DONE, SKIPPED = "done", "skipped"


class Entry(TypedDict):
    """An exhibit in the report: done, with what it found, or skipped for a reason."""

    state: str
    title: str
    rows: list[Any]
    figures: list[dict[str, str]]
    reason: NotRequired[str]
    text: NotRequired[str]
    full: NotRequired[bool]
    seed: NotRequired[int]
    seconds: NotRequired[float]
    finished: NotRequired[str]


class Report:
    """A report in a folder; `open` one, `add` or `skip` exhibits, which write it each time."""

    def __init__(self, folder: Path, entries: dict[str, Entry]) -> None:
        self.folder, self.entries = folder, entries

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Report:
        """A new report in `folder`, or the one that is there. InputError for a folder with anything else in it."""
        path = Path(folder)
        if path.exists() and not path.is_dir():
            raise InputError(f"{path}: expected a folder for the report, got a file")
        entries: dict[str, Entry] = {}
        if path.is_dir() and any(path.iterdir()):
            stored = _stored(path)
            if stored is None:
                got = f"one with a {JSON} that is not ours, or damaged" if (path / JSON).exists() else "other files"
                raise InputError(
                    f"{path}: expected a new or empty folder or one with a report of ours, got {got}; try another one"
                )
            entries = stored
        try:
            (path / FIGURES).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{path}: expected a folder that can be written; {error.strerror}") from error
        report = cls(path, entries)
        report.write()  # what cannot be written is told before any work
        return report

    def figure(self, name: str) -> Path:
        """Where the figure of that name is."""
        return self.folder / FIGURES / f"{name}.png"

    def add(self, exhibit: Exhibit, finding: Finding, *, full: bool, seed: int, seconds: float) -> Entry:
        """Take up what an exhibit found (its figures are drawn already) and write the report; the entry as JSON."""
        entry: Entry = {
            "state": DONE,
            "title": exhibit.title,
            "text": finding.text,
            "full": full,
            "seed": seed,
            "seconds": round(seconds, 2),
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "rows": [jsonable(row) for row in finding.rows],
            "figures": [{"file": f"{FIGURES}/{p.name}.png", "caption": p.caption} for p in finding.pictures],
        }
        return self._enter(exhibit, entry)

    def skip(self, exhibit: Exhibit, reason: str) -> Entry:
        """Record why an exhibit could not be worked out; one that is in the report already is kept."""
        entry: Entry = {"state": SKIPPED, "title": exhibit.title, "reason": reason, "rows": [], "figures": []}
        kept = self.entries.get(exhibit.name)
        if kept is not None and kept["state"] == DONE:
            return entry
        return self._enter(exhibit, entry)

    def _enter(self, exhibit: Exhibit, entry: Entry) -> Entry:
        self.entries = _stored(self.folder) or self.entries  # another run may have added exhibits meanwhile
        before = self.entries.get(exhibit.name)
        self.entries[exhibit.name] = entry
        self.write()
        kept = {figure["file"] for other in self.entries.values() for figure in other["figures"]}
        for figure in before["figures"] if before else []:
            if figure["file"] not in kept:
                (self.folder / figure["file"]).unlink(missing_ok=True)
        return entry

    def ordered(self) -> dict[str, Entry]:
        """The entries in the order of `EXHIBITS`."""
        return {exhibit.name: self.entries[exhibit.name] for exhibit in EXHIBITS if exhibit.name in self.entries}

    def write(self) -> None:
        """Write report.json and report.md."""
        document = {"made_by": MADE_BY, "verdicts": VERDICTS, "exhibits": self.ordered()}
        texts = {
            JSON: json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False) + "\n",
            MARKDOWN: self.markdown(),
        }
        for name, text in texts.items():
            with replacing(self.folder / name) as temporary:
                temporary.write_text(text, encoding="utf-8")

    def markdown(self) -> str:
        """The report for reading: the table of all rows, then each exhibit with its figures."""
        entries = self.ordered()
        done = {name: entry for name, entry in entries.items() if entry["state"] == DONE}
        rows = [(name, row) for name, entry in done.items() for row in entry["rows"]]
        counts = {verdict: sum(row["verdict"] == verdict for _, row in rows) for verdict in VERDICTS}
        summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count) or "no values yet"
        out = [
            "# Published values, reproduced",
            "",
            "M. Velikanov, D. Kuznedelev, D. Yarotsky, *A view of mini-batch SGD via generating functions: conditions "
            "of convergence, phase transitions, benefit from negative momenta*, ICLR 2023, "
            "[arXiv:2206.11124](https://arxiv.org/abs/2206.11124). Values from their public "
            "[notebooks](https://github.com/Godofnothing/PowerLawOptimization) are marked so;",
            "those on Corner SGD are from D. Yarotsky, [arXiv:2504.12519](https://arxiv.org/abs/2504.12519).",
            "",
            f"{len(done)} of {len(EXHIBITS)} exhibits: {summary}.",
            "",
            Table(["verdict", "meaning"], [*VERDICTS.items()]).markdown(),
            "",
        ]
        if rows:
            names = ("quantity", "published", "ours", "interval", "verdict")
            cells = [[row[name] for name in names] for _, row in rows]
            out += [Table(["value", *names[1:]], cells).markdown(), ""]
        for name, entry in entries.items():
            out += [f"## {entry['title']}", ""]
            if entry["state"] == SKIPPED:
                out += [f"*Skipped: {entry['reason']}*", ""]
                continue
            out += [entry["text"], ""]
            reasons = [row for row in entry["rows"] if row["reason"]]
            out += [f"- {escaped(row['quantity'])}: **{row['verdict']}**. {row['reason']}" for row in reasons]
            out += [""] if reasons else []
            for figure in entry["figures"]:
                out += [f"![{figure['caption']}]({figure['file']})", "", f"*{figure['caption']}*", ""]
            size = "the paper's sizes (--full)" if entry["full"] else "default sizes"
            out += [f"`sgdsim reproduce --figure {name}`, {size}, seed {entry['seed']}, {entry['seconds']:.1f} s.", ""]
        return "\n".join(out)


def _stored(folder: Path) -> dict[str, Entry] | None:
    """The exhibits of the report in a folder; None where there is none of ours."""
    try:
        report = json.loads((folder / JSON).read_text(encoding="utf-8"))
        ours = report["made_by"] == MADE_BY
        return {str(name): cast(Entry, dict(entry)) for name, entry in report["exhibits"].items()} if ours else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
