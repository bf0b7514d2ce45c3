"""The dataset card: ``README.md`` of a dataset, with the front matter that the Hugging Face hub reads."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_HUB_LICENSES = re.compile(
    r"apache-2\.0|mit|cc0-1\.0|cc-by-[234]\.0|cc-by-sa-[34]\.0|cc-by-nc-[234]\.0|cc-by-nd-4\.0|cc-by-nc-nd-[34]\.0"
    r"|cc-by-nc-sa-[234]\.0"
)
"""Of the identifiers that the hub knows, those that figures and texts come under."""
_TASKS = {"figures": "image-to-text", "conversations": "image-text-to-text", "questions": "visual-question-answering"}
_COUNTED = {
    "license": "Licences",
    "license_tags": "Licences",
    "source": "Sources",
    "benchmark": "Benchmarks",
    "modality": "Modalities",
    "teacher": "Teachers",
    "kind": "Kinds",
    "split": "Splits",
    "finish": "Ends of answers",
}
_MARKUP = r"\|`*_<>[]#&!~"
"""Characters that begin markup of the hub's Markdown."""
_USE = """Made for training and measuring biomedical vision-language models in research.
Not a medical device, not for diagnosis.
Each row keeps the licence of where it came from; whoever passes the data on keeps to the strictest of them."""
_PMC = """The articles come from PubMed Central, courtesy of the U.S. National Library of Medicine (NLM).
NLM may have updated its data since the day that `run.json` states; these may not be the most current.
NLM does not endorse this dataset or the work done with it.
Pass a figure on only as its own licence allows, with the credit that `ATTRIBUTION.csv` has ready."""
"""What NLM asks of those who redistribute: README of its open-access bucket ``pmc-oa-opendata``."""


def card(name: str, schema: str, files: list[Path], run: Mapping[str, Any]) -> str:
    """The text of the card, the same for the same data and settings.

    Args:
        name: of the dataset, its folder's.
        schema: name and number, ``figures/1``.
        files: the data files; only columns with few different values are read.
        run: the finished ``run.json``.
    """
    counted = _count(files)
    rows = run["counts"]["out"]
    licenses = counted.get("Licences", {})
    only = next(iter(licenses)).lower() if len(licenses) == 1 else "other"
    front = [
        "---",
        f"license: {only if _HUB_LICENSES.fullmatch(only) else 'other'}",
        f"pretty_name: {name}",
        f"size_categories: [{_size(rows)}]",
        *([f"task_categories: [{_TASKS[schema.split('/')[0]]}]"] if schema.split("/")[0] in _TASKS else []),
        "tags: [medical, medvlm]",
        "configs:",
        "- config_name: default",
        "  data_files: data/*.arrow",
        "---",
    ]
    reasons = run["counts"]["reasons"]
    body = [
        f"# {name}",
        f"{rows:,} rows of `{schema}`, written by `medvlm {run['stage']}`. "
        f"{run['counts']['in']:,} came in, {run['counts']['rejected']:,} were rejected; `rejects/` says which and why.",
        *_table("Rejected, by reason", reasons),
        *[line for title, values in counted.items() for line in _table(title, values)],
        *(
            ["## How it was written", "\n".join(f"- {_line(note)}" for note in run["notes"])]
            if run.get("notes")
            else []
        ),
        *(["## Acknowledgement", _PMC] if "pmc" in counted.get("Sources", {}) else []),
        "## Intended use",
        _USE,
        "## Provenance",
        "`run.json` holds the settings and the hashes of the inputs, `manifest.json` the hash of every file.",
    ]
    return "\n".join(front) + "\n\n" + "\n\n".join(body) + "\n"


def _count(files: list[Path]) -> dict[str, dict[str, int]]:
    """How often each value of the counted columns occurs, commonest first."""
    totals: dict[str, dict[str, int]] = {}
    for path in files:
        with pa.OSFile(str(path)) as source:
            names = pa.ipc.open_file(source).schema.names
            wanted = [index for index, name in enumerate(names) if name in _COUNTED]
            options = pa.ipc.IpcReadOptions(included_fields=wanted, use_threads=False)
            reader = pa.ipc.open_file(source, options=options)
            for i in range(reader.num_record_batches if wanted else 0):
                batch = reader.get_batch(i)
                for column, array in zip(batch.schema.names, batch.columns, strict=True):
                    values = totals.setdefault(_COUNTED[column], {})
                    flat = array.flatten() if pa.types.is_list(array.type) else array
                    for pair in pc.value_counts(flat).to_pylist():
                        value = str(pair["values"])
                        values[value] = values.get(value, 0) + pair["counts"]
    return {
        title: dict(sorted(values.items(), key=lambda item: (-item[1], item[0]))) for title, values in totals.items()
    }


def _table(title: str, values: Mapping[str, int], most: int = 20) -> list[str]:
    if not values:
        return []
    shown = [f"| {_cell(value)} | {count:,} |" for value, count in list(values.items())[:most]]
    if len(values) > most:
        shown.append(f"| {len(values) - most} others | {sum(list(values.values())[most:]):,} |")
    return [f"## {title}", "\n".join(["| | rows |", "| --- | ---: |", *shown])]


def _line(note: str) -> str:
    """A note as one line.  Names in it come from the user, so only a pair of backticks begins anything: code."""
    flat = " ".join(note.split())
    parts = flat.split("`")
    if len(parts) % 2 == 0 or "``" in flat:  # backticks that are no pairs
        return _escaped(flat)
    return "".join(f"`{part}`" if number % 2 else _escaped(part) for number, part in enumerate(parts))


def _escaped(text: str) -> str:
    """Words without markup, also where they begin a line: ``1.`` and ``-`` would begin a list."""
    safe = "".join(f"\\{char}" if char in _MARKUP else char for char in text)
    return re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", safe)


def _cell(value: str) -> str:
    """A value of the data as one cell: nothing in it ends the cell or begins markup."""
    flat = " ".join(value.split())[:80]
    return "".join(f"\\{char}" if char in _MARKUP else char for char in flat)


def _size(rows: int) -> str:
    """The size category of the hub."""
    steps = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
    return next((name for limit, name in steps if rows < limit), "10M<n<100M")
