"""Sweeps in processes of their own, stopped by signals at random moments, several times in a row, and finished."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM

from kills import oracle
from kills.processes import Running, moment

SIGNALS = [
    (SIGKILL,), (SIGTERM,), (SIGINT,), (SIGINT, SIGINT), (SIGTERM, SIGTERM), (SIGTERM, SIGKILL), (SIGINT, SIGTERM),
]  # fmt: skip
# Their workers tell of Ctrl-C by tracebacks of their own where it comes to them as well.
_OWN_GROUP = ("processes", "dask", "client")
# What Python says of an interruption inside one of its callbacks.
_LOST = re.compile("Exception ignored in.*?KeyboardInterrupt", re.DOTALL)


def stop(draw: random.Random, running: Running, signals: tuple[int, ...]) -> str:
    """Send `signals` at a moment drawn at random; says which."""
    if signals[0] != SIGKILL:
        running.until(running.catches_sigterm)
    name, seen = moment(draw, running)
    delay = draw.choice([0.0, draw.uniform(0, 0.05), draw.uniform(0, 1.0)])
    gaps = [draw.choice([0.0, draw.uniform(0, 0.05), draw.uniform(0, 0.5)]) for _ in signals[1:]]
    group = draw.random() < 0.5 and not any(word.startswith(_OWN_GROUP) for word in running.words)
    running.until(seen)
    time.sleep(delay)
    for number, gap in zip(signals, [*gaps, 0.0], strict=True):
        running.send(number, group)
        time.sleep(gap)
    return f"{'+'.join(number.name for number in signals)} {name.strip()} +{delay:.3f} s, {gaps}"


def check_exit(running: Running, code: int, signals: tuple[int, ...], expected) -> None:
    """The exits that are documented; others only where the stop came too late to stop anything. The second signal may
    come after a script's sweep was stopped, to Python itself while it ends."""
    said = f"exit {code} of {running} after {[number.name for number in signals]}: {running.told[-1500:]}"
    if SIGKILL not in signals:  # after that, Python's own start of a worker tells that its parent is gone
        assert "Traceback" not in _LOST.sub("", running.told), said
    interrupted = {130}
    if running.words[0] != "cli":
        interrupted |= {-SIGTERM} if SIGTERM in signals else {0, -SIGINT} if len(signals) > 1 else {0}
    allowed = {-SIGKILL} if signals[0] == SIGKILL else interrupted | ({-SIGKILL} if SIGKILL in signals else set())
    if code not in allowed:
        assert code in (0, -SIGTERM, -SIGINT), said
        try:
            oracle.assert_whole(running.home, expected)
        except (AssertionError, ValueError) as error:
            raise AssertionError(f"{said}\n{error}") from error


def stopped_and_finished(draw: random.Random, home: Path, call: list[str], expected) -> tuple[int, list[str]]:
    """Stop the call some times, then let it end; how many signals were sent, and the story."""
    story, kills = [], 0
    for _ in range(draw.randint(2, 6)):
        running = Running(call, home, terminal=draw.random() < 0.5)
        try:
            signals = draw.choice(SIGNALS)
            story.append(stop(draw, running, signals))
            too_late = running.ended
            code = running.end()
            story[-1] += f" -> {code}"
            check_exit(running, code, signals, expected)
            oracle.assert_partial(home, expected)
            if len(signals) == 1 and signals != (SIGKILL,):
                allowed = oracle.LEFT | {"r.nc.parts"}
                assert (names := {path.name for path in home.iterdir()}) <= allowed, f"left behind: {names - allowed}"
            kills += not too_late or code != 0
        except AssertionError as error:
            raise AssertionError(f"{'; '.join(story)}\n{error}") from error
        finally:
            running.destroy()
    try:
        running = Running(call, home)
        code = running.end()
        assert code == 0, f"exit {code}: {running.told[-1500:]}"
        assert "Traceback" not in running.told, running.told
        oracle.assert_whole(home, expected)
    except (AssertionError, ValueError) as error:
        raise AssertionError(f"{'; '.join(story)}; then finished\n{error}") from error
    return kills, story


def commands(draw: random.Random, home: Path) -> tuple[int, list[str]]:
    """`landscape --out` and `compare --out --resume`."""
    call = oracle.words(draw.choice(["landscape", "compare", "network", "maps"]))
    used = draw.choice(["threads", "threads", "serial", "dask"])
    return stopped_and_finished(
        draw, home, [*call, "--executor", used], oracle.reference(*call, "--executor", "serial")
    )


def scripts(draw: random.Random, home: Path) -> tuple[int, list[str]]:
    """`sgdsim.sweep` with executors of every kind."""
    name = draw.choice(["power", "network"])
    used = draw.choice(["serial", "threads", "own-threads", "processes", "client1", "client4", "dask"])
    call = oracle.script(name, used)
    return stopped_and_finished(draw, home, call, oracle.reference(*oracle.script(name, "serial")))
