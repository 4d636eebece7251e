"""Run benchmarks by name and print their rows."""

import argparse
import importlib
import json
import platform

NAMES = ("ntk", "theory", "engines", "sweep")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    args = parser.parse_args()
    unknown = set(args.names) - set(NAMES)
    if unknown:
        parser.error(f"expected names from {', '.join(NAMES)}; got {', '.join(sorted(unknown))}")
    rows = []
    for name in args.names or NAMES:
        for row in importlib.import_module(f"benchmarks.{name}").rows():
            rows.append({"benchmark": name, **row})
            if not args.json:
                print("  ".join(f"{key}: {value}" for key, value in row.items()), flush=True)
    if args.json:
        print(json.dumps({"machine": platform.platform(), "rows": rows}))


if __name__ == "__main__":
    main()
