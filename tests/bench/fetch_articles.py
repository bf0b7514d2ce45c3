"""``fetch pmc`` against a bucket on loopback that takes 50 ms for every answer.

``python tests/bench/fetch_articles.py [ARTICLES]``: articles a second of the whole command, from its start to the
finished dataset with its report, with 64 connections and, as the peers fetch, with one; with small images and with
images of the size that the bucket has (600 x 455); and how much longer it takes when one answer in twenty is wrong
(429, 503, cut, flipped, an HTML page, empty, a drip).  The bucket runs in a process of its own beside it.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def fetch(articles: int, *, connections: int = 64, faults: float = 0.0, size: tuple[int, int] = (64, 48)) -> float:
    """Seconds of the whole command; the rows are counted, so that what is fast is also right."""
    options = ["--articles", str(articles), "--faults", str(faults), "--size", *map(str, size), "--seed", "1"]
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.bucket", *options],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout is not None and server.stdin is not None
    url = server.stdout.readline().strip()
    with tempfile.TemporaryDirectory() as folder:
        ids = Path(folder, "ids.txt")
        ids.write_text("\n".join(f"PMC{number}" for number in range(1, articles + 1)))
        command = [sys.executable, "-m", "medvlm_cli", "fetch", "pmc", "--pmcids", str(ids), "-q", "--json"]
        command += ["-o", f"{folder}/pmc", "--set", f"bucket={url}", "--set", f"connections={connections}"]
        began = time.monotonic()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        seconds = time.monotonic() - began
    server.stdin.close()
    server.wait()
    assert done.returncode == 0, done.stdout[:3000] + done.stderr[-2000:]
    assert json.loads(done.stdout)["rows"] == 3 * articles, done.stdout[:1000]
    return seconds


def main() -> None:
    """Print the rates and the ratios."""
    articles = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    clean = fetch(articles)
    print(f"64 connections: {articles:,} articles in {clean:.1f} s, {articles / clean:.0f} articles/s", flush=True)
    few = max(20, articles // 40)
    serial = fetch(few, connections=1)
    ratio = (articles / clean) / (few / serial)
    print(
        f"1 connection:   {few:,} articles in {serial:.1f} s, {few / serial:.1f} articles/s; ratio {ratio:.0f}",
        flush=True,
    )
    faulty = fetch(articles, faults=0.05)
    print(f"5 % faults:     {faulty:.1f} s, ratio {faulty / clean:.2f}", flush=True)
    large = fetch(articles // 4, size=(600, 455))
    print(f"600 x 455 pixels: {articles // 4:,} articles in {large:.1f} s, {articles / 4 / large:.0f} articles/s")


if __name__ == "__main__":
    main()
