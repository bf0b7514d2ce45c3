"""Wall time of `make demo`, step by step, in a fresh workspace.  Run it, it is no test.

    python tests/bench/demo_seconds.py [--seed 0] [--json]

The two models train side by side, so their steps overlap: the total is less than the sum.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Run the demo and print the seconds of each step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        command = [sys.executable, "-m", "medvlm_cli.demo", "--workspace", folder, "--seed", options.seed]
        subprocess.run(command, check=True, stdout=sys.stderr)
        seconds = json.loads((Path(folder) / "demo.json").read_text())["seconds"]
        seconds["total"] = round(time.monotonic() - began, 1)
    if options.json:
        print(json.dumps(seconds))
    else:
        for step, spent in seconds.items():
            print(f"{spent:8.1f} s  {step}")


if __name__ == "__main__":
    main()
