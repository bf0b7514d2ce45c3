"""Read articles: our parser beside pubmed_parser 0.5.1 on the same files, in one process.  Run it, it is no test.

    python tests/bench/parse_articles.py [DIR ...] [--articles 40] [--runs 5]

Both find figures, captions and what cites them: ours with ``jats.parse``, pubmed_parser with ``parse_pubmed_caption``
and ``parse_pubmed_paragraph``, which is as near as it comes.  Each reads its files from disk.  CPU time, best of the
runs, the two in turn.  What is asked of ours: 300 articles and 45 MB a second, no crash.

Without a folder the script writes articles as PubMed Central serves them since 2026: 150 kB, 40 % of it references, 6
figures, about 9 paragraphs that cite them, inline markup, ranges of citations, a table.  Then it knows the truth and
says how much of it each has found.
"""

import argparse
import contextlib
import io
import random
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ARTICLES_A_SECOND, MEGABYTES_A_SECOND = 300, 45
FIGURES, REFERENCES = 6, 100
XLINK = 'xmlns:xlink="http://www.w3.org/1999/xlink"'
WORDS = re.findall(
    r"\w+",
    "the of and in a to with was for that cells tumour expression patients were lesion after treatment by at "
    "growth from mice levels as binding protein this on membrane response is we an samples showed control signal "
    "or which imaging between increase observed region left tissue ratio higher than days analysis model not "
    "marked",
)
MARKED = (
    "CO<sub>2</sub>", "<italic>E. coli</italic>", "Ca<sup>2+</sup>", "<bold>P</bold> = 0.03", "TGF-&#x003b2;1",
    "10&#x000a0;mm", "<italic>in vitro</italic>", "T1&#x02010;weighted",
)  # fmt: skip


def sentence(rng: random.Random, end: str = "") -> str:
    """Words with inline markup and now and then a reference."""
    words = [rng.choice(MARKED) if rng.random() < 0.08 else rng.choice(WORDS) for _ in range(rng.randint(10, 28))]
    if rng.random() < 0.4:
        number = rng.randint(1, REFERENCES)
        words.append(f'[<xref rid="ref{number:03}" ref-type="bibr">{number}</xref>]')
    return " ".join(words).capitalize() + end + ". "


def cite(rng: random.Random, stem: str) -> tuple[str, set[int]]:
    """A citation as publishers mark it up, and the figures it means."""
    first = rng.randint(1, FIGURES - 2)

    def link(number: int, words: str) -> str:
        return f'<xref rid="{stem}.g{number:03}" ref-type="fig">{words}</xref>'

    kind = rng.randrange(4)
    if kind == 0:
        return f"({link(first, f'Fig {first}')})", {first}
    if kind == 1:
        return f"({link(first, f'Fig {first}')}A and {first}B)", {first}
    if kind == 2:
        return f"(Figs {link(first, str(first))}&#x02013;{link(first + 2, str(first + 2))})", {*range(first, first + 3)}
    return f"({link(first, f'Figs {first} and {first + 1}')})", {first, first + 1}


def write_article(folder: Path, number: int) -> list[dict[str, Any]]:
    """One article on disk; its figures: id, graphic, caption without spaces, number of citing sentences."""
    rng = random.Random(number)
    stem = f"journal.{number:07}"
    figures: list[dict[str, Any]] = []
    bodies = []
    for position in range(1, FIGURES + 1):
        title, text = sentence(rng), "".join(sentence(rng) for _ in range(5))
        name = f"{stem}.g{position:03}"
        bodies.append(
            f'<fig position="float" id="{name}" orientation="portrait"><object-id pub-id-type="doi">10.1/{name}'
            f"</object-id><label>Fig {position}</label><caption><title>{title}</title>\n<p>{text}</p></caption>"
            f'<graphic {XLINK} position="float" orientation="portrait" xlink:href="{name}.jpg"/></fig>'
        )
        words = re.sub(r"<[^>]+>", "", f"{title} {text}")
        words = re.sub("&#x([0-9a-f]+);", lambda match: chr(int(match[1], 16)), words)
        figures.append({"id": name, "graphic": f"{name}.jpg", "caption": " ".join(words.split()), "cited": 0})
    sections = []
    for section in range(12):
        paragraphs = []
        for _ in range(5):
            sentences = [sentence(rng) for _ in range(8)]
            if rng.random() < 0.15:
                words, cited = cite(rng, stem)
                sentences.insert(rng.randint(0, 6), sentence(rng, " " + words))
                for one in cited:
                    figures[one - 1]["cited"] += 1
            paragraphs.append(f"<p>{''.join(sentences)}</p>")
        figure = bodies[section // 2] if section % 2 else ""
        sections.append(f"<sec><title>{sentence(rng)}</title>{''.join(paragraphs)}{figure}</sec>")
    cells = "".join(f"<tr>{''.join(f'<td>{rng.random():.3f}</td>' for _ in range(8))}</tr>" for _ in range(20))
    sections.append(f'<table-wrap id="t1"><label>Table 1</label><table><tbody>{cells}</tbody></table></table-wrap>')
    references = "".join(
        f'<ref id="ref{one:03}"><label>{one}</label><element-citation publication-type="journal"><name><surname>'
        f"{rng.choice(WORDS)}</surname><given-names>J</given-names></name> <name><surname>{rng.choice(WORDS)}</surname>"
        f"<given-names>A</given-names></name><article-title>{sentence(rng)}</article-title><source>Journal</source>"
        f"<year>2010</year><volume>{one}</volume><fpage>1</fpage><lpage>9</lpage>"
        f'<pub-id pub-id-type="doi">10.1/{one}</pub-id><pub-id pub-id-type="pmid">{10**7 + one}</pub-id>'
        f'<pub-id pub-id-type="pmcid">PMC{10**6 + one}</pub-id></element-citation></ref>'
        for one in range(1, REFERENCES + 1)
    )
    meta = (
        f'<article-id pub-id-type="pmcid">PMC{number}</article-id><article-id pub-id-type="pmid">{number}</article-id>'
        f"<title-group><article-title>{sentence(rng)}</article-title></title-group><contrib-group><contrib "
        'contrib-type="author"><name><surname>Smith</surname><given-names>Jo</given-names></name></contrib>'
        "</contrib-group><pub-date><year>2026</year></pub-date><permissions><license><license-p>Creative Commons "
        f'<ext-link {XLINK} xlink:href="http://creativecommons.org/licenses/by/4.0/">CC BY</ext-link></license-p>'
        "</license></permissions>"
    )
    (folder / f"PMC{number}.xml").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n<article article-type="research-article" xml:lang="en"><front>'
        "<journal-meta><journal-title-group><journal-title>Journal</journal-title></journal-title-group></journal-meta>"
        f"<article-meta>{meta}</article-meta></front>\n<body>{''.join(sections)}</body>\n"
        f"<back><ref-list><title>References</title>{references}</ref-list></back></article>",
        encoding="utf-8",
    )
    return figures


def read_ours(path: Path) -> dict[str, tuple[str | None, str, int | None]]:
    """Figures of one file: id -> (graphic, caption, number of sentences that cite it)."""
    from medvlm_cli.sources.jats import parse

    figures = [figure for article in parse(path.read_bytes(), path.name) for figure in article.figures]
    return {
        figure.id: (next((each[0] for each in figure.images if each), None), figure.caption, len(figure.mentions))
        for figure in figures
    }


def read_pubmed_parser(path: Path) -> dict[str, tuple[str | None, str, int | None]]:
    """The same; paragraphs that cite take the place of sentences, so they are not counted."""
    import pubmed_parser

    found = pubmed_parser.parse_pubmed_caption(str(path)) or []
    pubmed_parser.parse_pubmed_paragraph(str(path))
    return {figure["fig_id"]: (figure["graphic_ref"], figure["fig_caption"], None) for figure in found}


READERS: dict[str, Callable[[Path], dict[str, tuple[str | None, str, int | None]]]] = {
    "ours": read_ours,
    "pubmed_parser": read_pubmed_parser,
}


def measure(paths: list[Path], runs: int) -> dict[str, tuple[float, dict[str, str]]]:
    """CPU seconds for all files, best of the runs, and the files that raised: name -> exception."""
    best = dict.fromkeys(READERS, float("inf"))
    failed: dict[str, dict[str, str]] = {name: {} for name in READERS}
    for _ in range(runs):
        for name, read in READERS.items():
            start = time.process_time()
            for path in paths:
                try:
                    read(path)
                except Exception as error:  # whatever it is, it is counted
                    failed[name][path.name] = type(error).__name__
            best[name] = min(best[name], time.process_time() - start)
    return {name: (best[name], failed[name]) for name in READERS}


def quality(paths: list[Path], truth: dict[str, list[dict[str, Any]]]) -> None:
    """How much of what was written each has found."""
    figures = [(path, figure) for path in paths for figure in truth[path.name]]
    for name, read in READERS.items():
        answers = {path: read(path) for path in paths}
        found = [(figure, answers[path].get(figure["id"], (None, "", None))) for path, figure in figures]
        graphics = sum(figure["graphic"] == graphic for figure, (graphic, _, _) in found)
        whole = sum("".join(figure["caption"].split()) == "".join(text.split()) for figure, (_, text, _) in found)
        glued = sum(bool(set(text.split()) - set(figure["caption"].split())) for figure, (_, text, _) in found)
        line = (
            f"{name:14} of {len(found)} figures: {graphics} right graphics, {whole} whole captions, {glued} glued words"
        )
        if name == "ours":
            line += f", {sum(figure['cited'] == cited for figure, (_, _, cited) in found)} with all citing sentences"
        print(line)


def main() -> None:
    """Write or find the articles, measure both readers, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="DIR", help="folders of articles, read with what is inside"
    )
    parser.add_argument("--articles", type=int, default=40, help="how many to write where no folder is given")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="medvlm-bench-"))
    try:
        truth = {}
        if not options.folders:
            truth = {f"PMC{number}.xml": write_article(scratch, number) for number in range(1, options.articles + 1)}
        folders = options.folders or [scratch]
        paths = [path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix in (".xml", ".nxml")]
        if not paths:
            raise SystemExit(f"no .xml or .nxml file in {', '.join(map(str, folders))}")
        megabytes = sum(path.stat().st_size for path in paths) / 1e6
        print(f"{len(paths)} articles, {megabytes:.1f} MB, {1000 * megabytes / len(paths):.0f} kB each")
        with contextlib.redirect_stdout(io.StringIO()):  # pubmed_parser prints its errors
            results = measure(paths, options.runs)
        print(f"{'':14} {'articles/s':>10} {'MB/s':>7} {'raised':>7}")
        for name, (seconds, failed) in results.items():
            print(f"{name:14} {len(paths) / seconds:10.0f} {megabytes / seconds:7.1f} {len(failed):7}  {failed or ''}")
        ours, theirs = results["ours"][0], results["pubmed_parser"][0]
        print(f"{'ratio':14} {theirs / ours:10.2f}")
        if truth:
            quality(paths, truth)
        kept = (
            len(paths) / ours >= ARTICLES_A_SECOND and megabytes / ours >= MEGABYTES_A_SECOND and not results["ours"][1]
        )
        bar = f"{ARTICLES_A_SECOND} articles/s, {MEGABYTES_A_SECOND} MB/s, nothing raised"
        print(f"{bar}: {'yes' if kept else 'NO'}")
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
