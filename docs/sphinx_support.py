"""What conf.py needs: docstring sections as field lists, local MathJax, and the notebooks inside the source folder."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import json
import re
from pathlib import Path

import sgdsim.plot

_SECTIONS = ("Parameters", "Returns", "Raises", "Attributes")
_ENTRY = re.compile(r"(?P<names>\*{0,2}\w+(?:(?:, | or |, then )\*{0,2}\w+)*) : (?P<text>.*)")


def field_lists(app, what, name, obj, options, lines: list[str]) -> None:
    """Turn the sections of a docstring into Sphinx's field lists, in place (event autodoc-process-docstring).

    An entry is `name : text` or `name, other : text`, its continuation indented; after `Raises` the name is that of an
    exception. The text says type and meaning in one, so it is no type for Sphinx to take apart. What stands below
    `Returns` is text as it is.
    """
    out: list[str] = []
    section = ""
    for i, line in enumerate(lines):
        if line.strip() in _SECTIONS and i + 1 < len(lines) and re.fullmatch(r"\s*-{3,}", lines[i + 1]):
            section = line.strip()
            out.append("")
            if section != "Raises":
                out.append(f":{section.lower()}:")
        elif re.fullmatch(r"\s*-{3,}", line) and section and lines[i - 1].strip() in _SECTIONS:
            continue
        elif not section:
            out.append(line)
        elif section == "Returns":
            out.append(f"    {line}" if line.strip() else "")
        elif line.startswith(" ") or not line.strip():
            out.append(line if section == "Raises" else f"      {line.strip()}")
        elif entry := _ENTRY.fullmatch(line):
            if section == "Raises":
                out.append(f":raises {entry['names']}: {entry['text']}")
            else:  # Sphinx's own field takes one name, and here several may share a text
                names = entry["names"].replace("*", r"\*")
                out.append(f"    * **{names}** – {entry['text']}")
        else:  # ordinary text again
            section = ""
            out += ["", line]
    lines[:] = [*map(_plain_bars, out), ""]


def skip_tuple_fields(app, what, name, obj, skip, options) -> bool | None:
    """A named tuple's fields stand in its own docstring; "Alias for field number 0" adds nothing (skip-member)."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def _plain_bars(line: str) -> str:
    """|β| outside of backticks is a magnitude, not a substitution."""
    return "".join(
        part if part.startswith("`") else part.replace("|", r"\|") for part in re.split(r"(`+[^`]*`+)", line)
    )


def resolve_public_name(app, env, node, contnode):
    """A link to `sgdsim.simulate` goes to where it is described, `sgdsim.runs.simulation.simulate`
    (missing-reference)."""
    head, _, name = node.get("reftarget", "").rpartition(".")
    if head.split(".")[0] != "sgdsim":
        return None
    try:
        thing = getattr(importlib.import_module(head), name)
    except (ImportError, AttributeError):
        return None
    homes = [getattr(thing, "__module__", ""), f"sgdsim.{sgdsim._HOMES.get(name, '')}"]
    homes += [home.rpartition(".")[0] for home in homes]
    for home in homes:
        found = env.domains["py"].resolve_xref(
            env, node["refdoc"], app.builder, "obj", f"{home}.{name}", node, contnode
        )
        if home and found is not None:
            return found
    return None


def plot_functions() -> list[str]:
    """The public functions of `sgdsim.plot`, from whichever of its modules."""
    return [
        name
        for name, thing in sorted(vars(sgdsim.plot).items())
        if inspect.isfunction(thing) and thing.__module__.startswith("sgdsim.plot") and not name.startswith("_")
    ]


def local_mathjax() -> tuple[str, list[tuple[Path, str]]]:
    """Where pages load MathJax from, and the files (source, name) to copy there: the program and its fonts.

    They come with the package sphinx-mathjax-offline. Without it: the address that Sphinx itself would take.
    """
    program, fonts = "tex-chtml.js", "output/chtml/fonts/woff-v2/"
    try:
        files = importlib.metadata.files("sphinx-mathjax-offline") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = []
    for file in files:
        _, _, name = file.as_posix().partition("/static/mathjax/")
        if name == program or name.startswith(fonts):
            found.append((Path(file.locate()), name))
    if not found:
        return "https://cdn.jsdelivr.net/npm/mathjax@3/es5/tex-chtml.js", []
    return f"mathjax/{program}", found


def copy_notebooks(source: Path, target: Path) -> None:
    """Bring the notebooks into the source folder, with a page that lists them; Sphinx reads nothing outside it."""
    target.mkdir(exist_ok=True)
    names = sorted(path.name for path in source.glob("*.ipynb"))
    for old in target.glob("*.ipynb"):
        if old.name not in names:
            old.unlink()
    for name in names:
        notebook = json.loads((source / name).read_text(encoding="utf-8"))
        notebook["metadata"].setdefault("language_info", {"name": "python", "pygments_lexer": "ipython3"})
        text = json.dumps(notebook, ensure_ascii=False)
        _write(target / name, text.replace("](../docs/", "](../"))  # pages lie one folder up here
    listed = "".join(f"{Path(name).stem}\n" for name in names)
    _write(
        target / "index.md",
        "# Notebooks\n\nWorked examples with their outputs. They lie in the folder `notebooks/` of the repository; "
        "`pip install 'sgdsim[notebooks]'` brings what they need.\n\n"
        + (f"```{{toctree}}\n:maxdepth: 1\n\n{listed}```\n" if names else "There are none in this copy.\n"),
    )


def _write(path: Path, text: str) -> None:
    """Only what changed, so that Sphinx does not read the rest again."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
