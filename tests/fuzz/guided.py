"""A coverage-guided fuzzer for one target: ``python -m tests.fuzz.guided TARGET FOLDER [OPTION of libFuzzer] ...``.

Ends with 0 after the runs that were asked for, and with the input in FOLDER where the target fails.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["medvlm_cli"]):
    from tests.fuzz.targets import TARGETS


def main():
    """Write the seeds, then fuzz."""
    name, folder, *options = sys.argv[1:]
    target = next(one for one in TARGETS if one.__name__ == name)
    _, seeds, tokens = TARGETS[target]
    root, corpus, words = Path(folder), Path(folder, "corpus"), Path(folder, "words")
    corpus.mkdir(parents=True)
    for number, seed in enumerate(seeds):
        (corpus / str(number)).write_bytes(seed)
    entries = ("".join(f"\\x{byte:02x}" for byte in token[:64]) for token in tokens)
    words.write_text("\n".join(f'"{entry}"' for entry in entries))
    fixed = [f"-dict={words}", f"-artifact_prefix={root}/", "-rss_limit_mb=2048", "-timeout=20", "-max_len=8192"]
    atheris.Setup([sys.argv[0], *fixed, *options, str(corpus)], lambda data: target(data, root))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
