"""What kind of picture a caption describes, by rules that would rather say ``unknown`` than guess.

The five modalities of LLaVA-Med (chest_xray, ct, mri, histology, gross) and a few neighbours that must not be taken for
them.  The earliest cue decides; words that announce a drawing or a chart are cues for ``unknown``.
"""

import re
import unicodedata

UNKNOWN = "unknown"

_CUES = {
    UNKNOWN: r"(?i:flow[- ]?(?:chart|diagram|cytometr)|schematic|diagram|kaplan|survival curve|roc curve|"
    r"receiver operating|forest plot|funnel plot|box[- ]?(?:and[- ]whisker )?plot|scatter ?plot|histogram|"
    r"bar (?:graph|chart|plot)|heat ?map|volcano plot|venn|phylogen|nomogram|prisma|western blot|immunoblot|workflow|"
    r"pipeline|dose[- ]response|calibration curve|crystal structure|gel electrophoresis|network architecture|timeline|"
    r"x[- ]?ray (?:diffract|crystal|photo|scatter|structure|fluoresc|spectro|absorp)|micro[- ]?(?:CT|computed)|μCT)|"
    r"\bROC\b|\bXRD\b",
    "chest_xray": r"(?i:\b(?:chest|thora(?:x|cic))[- ](?:x[- ]?rays?|(?:plain )?(?:radiogra(?:m|ph)s?|radiography)|"
    r"films?|roentgenogra(?:m|ph)s?)\b|\b(?:x[- ]?rays?|radiogra(?:m|ph)s?) of (?:the |her |his )?(?:chest|thorax))|"
    r"\bCXRs?\b",
    "pet": r"\bPET\b|(?i:positron emission)",
    "ct": r"(?<![A-Za-z])(?!(?<=\()CT\))(?:CB|HR|CE|MD)?CT\b(?!\s?(?:values?|cycles?|method|threshold)| ?=)|"
    r"(?i:comput(?:ed|eri[sz]ed)(?: axial)? tomogra)",  # "(CT)" alone may abbreviate anything
    "mri": r"\bf?MRIs?\b|(?i:magnetic resonance (?:imag|scan|angio|cholangio))|\bT[12]\*?[- ]?(?i:weighted)|"
    r"\bT[12]WI?\b|\bFLAIR\b|\bMR (?i:imag|scan|angio)",
    "histology": r"(?i:\bhistolog(?:ical|ic|y)\b|\bhistopatholog|\bphotomicrograph|\bha?ematoxylin|"
    r"\bimmunohistochem|\bmasson'?s?\b|\btrichrome|\bgiemsa|\bpapanicolaou|\bcongo red)|\bH ?& ?E\b|\bHE[- ]stain",
    "gross": r"(?i:\bgross(?:ly)? (?:specimen|patholog|appearance|examination|photograph|view|image|section|morpholog|"
    r"anatom|picture|features?|findings?)|\bmacroscopic(?:al)? (?:specimen|view|appearance|image|aspect|picture|"
    r"photograph|findings?)|\b(?:resected|surgical|excised) specimens?\b|\bcut surface)",
    "ultrasound": r"(?i:\bultraso(?:und|nogra)|\bsonogra|\bechocardiogra|\bdoppler)",
    "xray": r"(?i:\bradiogra(?:m|ph)s?\b|\bradiographic image|\bx[- ]?rays?\b|\bmammogra)",
    "angiography": r"(?i:\bangiogra(?:m|phy|phic))",
    "endoscopy": r"(?i:\b(?:endo|colono|broncho|gastro|cysto|laparo)scop(?:y|ic)\b)",
    "fundus": r"(?i:\bfundus (?:photo|image)|\bfundoscop|\boptical coherence tomogra)",
    "fluorescence": r"(?i:\bimmunofluoresc|\bconfocal)",
    "electron": r"(?i:\belectron microgra|\b(?:scanning|transmission) electron)",
}
_ANY_CUE = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in _CUES.items()))
_DASHES = re.compile("[\u2010-\u2015\u2212]")


def modality(caption: str, mentions: list[str]) -> tuple[str, str | None]:
    """The kind of picture, and where the words that say so were found.

    The earliest cue of the caption decides.  Sentences that cite the figure are asked only where the caption holds no
    cue at all, and believed only where all their cues agree: they speak of one panel, or of another figure too.

    Returns:
        (name, ``caption`` or ``mentions``), or (``unknown``, None).
    """
    cue = _ANY_CUE.search(_folded(caption))
    if cue is not None:
        return (str(cue.lastgroup), "caption") if cue.lastgroup != UNKNOWN else (UNKNOWN, None)
    kinds = {str(found.lastgroup) for text in mentions for found in _ANY_CUE.finditer(_folded(text))}
    kind = kinds.pop() if len(kinds) == 1 else UNKNOWN
    return kind, None if kind == UNKNOWN else "mentions"


def _folded(text: str) -> str:
    """Captions hold "T1‐weighted" with U+2010, and ligatures."""
    return _DASHES.sub("-", unicodedata.normalize("NFKC", text))


_JOIN = r"\s?(,|&|-|~|/|\band\b|\bto\b)\s?"
_LETTERS = rf"[A-Za-z](?:{_JOIN.replace('(', '(?:', 1)}[A-Za-z])*"
_BRACKETED = re.compile(rf"\(\s?({_LETTERS})\s?\)")
_BARE = re.compile(rf"(?:^|[.;:]\s)({_LETTERS})(?:[,.:)]|\s-)\s")
_BOLD = re.compile(r"(?:^|[.;,:)]\s)([a-z](?:\s?[,-]\s?[a-z])*)\s(?=[A-Z\d])")  # "... mats. b Image of": bold in print


def n_panels(caption: str) -> int:
    """Panels that the caption tells apart by letters: ``(A)``, ``(b-d)``, ``A, ...``, ``a Image``; 1 where by none.

    Letters count only as far as they run on without a gap from A, so that "(n)" or "(E. coli)" are no panels.
    """
    text = _DASHES.sub("-", caption)
    return max(_run(_BRACKETED, text), _run(_BARE, text), _run(_BOLD, text), 1)


def _run(marker: re.Pattern[str], text: str) -> int:
    letters: set[str] = set()
    for match in marker.finditer(text):
        parts = re.split(_JOIN, match[1].upper(), flags=re.I)
        letters.update(parts[::2])
        for first, separator, last in zip(parts[::2], parts[1::2], parts[2::2], strict=False):
            if separator in ("-", "~", "TO"):
                letters.update(chr(code) for code in range(ord(first), ord(last)))
    return next(count for count in range(27) if chr(ord("A") + count) not in letters)
