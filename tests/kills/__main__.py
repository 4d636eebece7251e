"""`python -m kills [KIND …] --seed 0 --count 1`: see the package's docstring."""

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path
from unittest import SkipTest

from kills import KINDS, case


def main() -> int:
    parser = argparse.ArgumentParser(prog="kills")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"{', '.join(KINDS)} (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the first case; the others follow")
    parser.add_argument("--count", type=int, default=1, help="cases of each kind")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))  # so that what was started is ended as well
    stops, failed, cases = 0, [], 0
    for seed in range(args.seed, args.seed + args.count):
        for kind in args.kinds or KINDS:
            began = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="kills-", ignore_cleanup_errors=True) as home:
                try:
                    count, story = case(kind, seed, Path(home))
                    stops, cases = stops + count, cases + 1
                    print(f"{kind} --seed {seed}: right after {count} stops: {'; '.join(story)}", end=" ")
                except SkipTest as reason:
                    print(f"{kind} --seed {seed}: not run: {reason}", end=" ")
                except Exception as error:
                    failed.append(f"{kind} --seed {seed}")
                    print(f"{kind} --seed {seed}: FAILED: {type(error).__name__}: {error}", end=" ")
            print(f"[{time.monotonic() - began:.0f} s]", flush=True)
    print(f"{cases} cases right, with {stops} stops; {len(failed)} failed")
    for words in failed:
        print(f"again: python -m kills {words}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
