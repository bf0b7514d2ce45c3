"""What kind of picture a caption describes, by rules that would rather say ``unknown`` than guess.

The five modalities of LLaVA-Med (chest_xray, ct, mri, histology, gross) and a few neighbours that must not be taken for
them.  The earliest cue decides; words that announce a drawing or a chart are cues for ``unknown``.
"""

import re
import unicodedata
from collections.abc import Sequence

UNKNOWN = "unknown"

_DRAWINGS = (
    r"flow[- ]?(?:chart|diagram)|schema(?:tic|\b)|diagram|prisma\b|consort\b|kaplan|survival curve|\broc curve|"
    r"receiver operating|forest plot|funnel plot|nomogram|workflow|pipeline|study (?:design|protocol|population|flow)|"
    r"network architecture|architecture of|timeline|box[- ]?(?:and[- ]whisker )?plot|scatter ?plot|violin plot|"
    r"bland-altman|bar (?:graph|chart|plot)|histogram|heat ?map|volcano plot|venn|phylogen|calibration curve|"
    r"dose-response|(?:learning|training|loss|growth|standard) curves?|confusion matri|correlations? (?:between|of)|"
    r"linear regression|patient (?:selection|enrol)|(?:inclusion|exclusion) criteria|graphical abstract"
)
"""What draws or plots: wherever the first sentence says so, that is what the figure is."""
_STAIN = r"(?: stain(?:s|ed|ing)?| section| slide| image| micrograph|[,.;:)]|$)"
_PROJECTION = (
    r"(?:[- ]\(?(?:ap|pa|postero-?anterior|antero-?posterior|frontal|lateral|portable|plain|digital|"
    r"supine|upright|initial|follow-up|bedside|conventional)\)?)*"
)
_CUES = {
    UNKNOWN: rf"(?i:{_DRAWINGS}|flow cytometr|western blot|immunoblot|crystal structure|electrophoresis|spect\b|"
    r"scintigra|spectr(?:um|a|oscopy)\b|x[- ]?rays? (?:diffract|crystal|photo|scatter|structure|fluoresc|spectro|"
    r"absorp|irradi|dose|tube|beam|source|energy|detector|microscop|tomograph|therapy)|micro[- ]?(?:CT|computed)|"
    r"[μu]CT\b|"
    r"(?:ΔΔ?|\bdelta |\bdd?|\bmean |\bqpcr |\bpcr )CT\b|immunocyto|histolog(?:y|ical|ic) (?:scor|grad|index|type|sub)|"
    r"immunohistochemi(?:cal|stry) (?:scor|index|quantif))|\bROC\b|\bXRD\b|\bqPCR\b|\bRT-PCR\b",
    "chest_xray": rf"(?i:\b(?:chest|thora(?:x|cic)|lung){_PROJECTION}[- ]+(?:x[- ]?rays?|roentgenogra(?:m|ph|phy)s?|"
    r"(?:plain )?(?:radiogra(?:m|ph)s?|radiography)|films?)\b(?! tomogra)|"
    r"\b(?:x[- ]?rays?|radiogra(?:m|ph)s?|roentgenogra(?:m|ph)s?)(?: images?)? (?:of|from) (?:the |her |his |a )?"
    r"(?:chest|thorax|lungs?)\b)|\bCXRs?\b",
    "pet": r"\bPET\b|\bCT[/-]PET\b|(?i:positron[- ]emission)",
    "ct": r"(?<![A-Za-z/])(?!(?<=\()CT\))(?:CB|HR|CE|MD|LD)?CTs?\b"
    r"(?!-?\d|-?DNA|[- ](?:DNA|domain|terminal|peptide|group|mice|cells?)\b|\s?(?:values?|cycles?|method|threshold)\b|"
    r" ?=|[,:] ?control|/PET|-PET)|"
    r"(?i:comput(?:ed|er|eri[sz]ed)(?: axial)?[- ]tomogra)",  # "(CT)" alone may abbreviate anything
    "mri": r"\bf?MRIs?\b|(?i:magnetic[- ]resonance (?:imag|scan|angio|venogra|cholangio|enterogra))|"
    r"\b[Tt][12]\*?[- ]?(?i:weighted)|\bT[12]WI?\b|\b(?:FLAIR|STIR)\b|\bMR (?i:imag|scan|angio|venogra|cholangio)|"
    r"\bMRCP\b|\bDWI\b|(?i:\bdiffusion-weighted|\bgadolinium-enhanced)",
    "histology": r"(?i:\bhistolog(?:ical|ically|ic|y)\b|\bhistopatholog|\bhistomorpholog|\bphotomicrograph|"
    r"\bha?ematoxylin|\bimmunohistochem|\bmasson'?s?\b|\btrichrome|\bgiemsa|\bpapanicolaou|\bcongo red|"
    rf"\bperiodic acid[- ]schiff|\b(?:sirius red|oil red o|safranin(?: o)?|toluidine blue|alcian blue){_STAIN}|"
    r"\bparaffin(?:-embedded)? sections?|\bbiops(?:y|ies)(?: specimens?| samples?| sections?)? "
    r"(?:show|demonstrat|reveal)|\bmicroscopic(?:al)? (?:appearance|features?|findings?|examination|section|patholog))|"
    r"\bH ?(?:&|and) ?E\b|\bH-E\b|\bHE[- ]?(?:stain|x|×|\d)|\bHE\)|\bIHC\b|\bPAS[- ](?:stain|positive|reaction)",
    "gross": r"(?i:\bgross(?:ly)? (?:specimen|patholog|appearance|examination|photograph|view|image|section|morpholog|"
    r"anatom|picture|features?|findings?)|\bmacroscopic(?:al)? (?:specimen|view|appearance|image|aspect|picture|"
    r"photograph|findings?|examination|features?)|(?<!\bin )(?<!\bin the )(?<!\bfrom )(?<!\bof )(?<!\bof the )"
    r"\b(?:resected|surgical|excised|autopsy|necropsy) specimens?\b(?! \w+ (?:were|was) )|"
    r"\bcut (?:surface|section)s?\b|\bphotographs? of (?:the |an? )?(?:resected|excised|removed|explanted))",
    "ultrasound": r"(?i:\bultraso(?:und|nogra)|\bsonogra|\bechocardiogra|\bdoppler)",
    "xray": r"(?i:\bradiogra(?:m|ph)s?\b|\bradiographic image|\bx[- ]?rays?\b|\bmammogra|\borthopantomogra)",
    "angiography": r"(?i:\bangiogra(?:m|phy|phic))",
    "endoscopy": r"(?i:\b(?:endo|colono|broncho|gastro|cysto|laparo)scop(?:y|ic)\b)",
    "fundus": r"(?i:\bfundus (?:photo|image)|\bfundoscop|\boptical coherence tomogra)",
    "fluorescence": r"(?i:\bimmunofluoresc|\bconfocal|\bfluorescence (?:microsc|image|micrograph)|\bDAPI\b)",
    "electron": r"(?i:\belectron (?:photo)?micro(?:gra|sco)|\b(?:scanning|transmission) electron)|"
    r"\b[ST]EM (?i:image|microgr)",
}
NAMES = tuple(_CUES)
_ANY_CUE = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in _CUES.items()))
_DRAWN = re.compile(_DRAWINGS, re.I)
_STOP = re.compile(r"\.\s")
_DASHES = re.compile("[\u2010-\u2015\u2212]")

_KEYWORDS = {
    "chest_xray": "radiography, thoracic|chest x-ray|chest x-rays|chest radiograph|chest radiography|"
    "chest radiographs|cxr",
    "ct": "tomography, x-ray computed|computed tomography|ct|ct scan|computed tomography (ct)|"
    "x-ray computed tomography|multidetector computed tomography|cone-beam computed tomography|"
    "cbct|hrct|computerized tomography|"
    "tomography, spiral computed|four-dimensional computed tomography|computed tomography angiography",
    "mri": "magnetic resonance imaging|mri|magnetic resonance imaging (mri)|mr imaging|magnetic resonance angiography|"
    "diffusion magnetic resonance imaging|functional magnetic resonance imaging|fmri|cardiac magnetic resonance|"
    "cardiac mri|cholangiopancreatography, magnetic resonance",
    "pet": "positron-emission tomography|positron emission tomography|pet|pet/ct|pet-ct|"
    "positron emission tomography computed tomography|positron-emission tomography and computed tomography",
    "ultrasound": "ultrasonography|ultrasound|echocardiography|sonography|ultrasound imaging|ultrasonography, doppler|"
    "ultrasonography, prenatal|endosonography|doppler ultrasound",
    "xray": "radiography|mammography|x-ray|radiograph|radiography, dental|radiography, panoramic",
}
"""MeSH headings and keywords of authors that name how pictures were made; nothing shorter or longer counts."""
_QUALIFIER = re.compile(r"/\s?\*?(?!ct$)[a-z].*")
"""Of MeSH: "Tomography, X-Ray Computed/methods"."""
_KEYWORD = {word: name for name, words in _KEYWORDS.items() for word in words.split("|")}


def modality(caption: str, mentions: Sequence[str], keywords: Sequence[str] = ()) -> tuple[str, str | None]:
    """The kind of picture, and where the words that say so were found.

    The earliest cue of the caption decides, unless its first sentence speaks of a drawing.  Sentences that cite the
    figure are asked only where the caption holds no cue at all, and believed only where all their cues agree: they
    speak of one panel, or of another figure too.  Keywords are asked last, under the same terms; they speak of the
    article, so ask ``looks_like`` before believing them of a figure.

    Args:
        caption: of the figure.
        mentions: sentences that cite it.
        keywords: of its article: MeSH headings, with qualifiers or without, and the authors' own.

    Returns:
        (name, ``caption``, ``mentions`` or ``keywords``), or (``unknown``, None).
    """
    folded = _folded(caption)
    cue = _ANY_CUE.search(folded)
    if cue is not None:
        drawn = cue.lastgroup == UNKNOWN or _DRAWN.search(folded, 0, _first_sentence(folded))
        return (UNKNOWN, None) if drawn else (str(cue.lastgroup), "caption")
    kinds = {str(found.lastgroup) for text in mentions for found in _ANY_CUE.finditer(_folded(text))}
    source = "mentions"
    if not kinds:
        words = (_QUALIFIER.sub("", _folded(keyword).casefold()).strip(" *.") for keyword in keywords)
        kinds = {_KEYWORD[word] for word in words if word in _KEYWORD}
        source = "keywords"
    kind = kinds.pop() if len(kinds) == 1 else UNKNOWN
    return (UNKNOWN, None) if kind == UNKNOWN else (kind, source)


def _first_sentence(text: str) -> int:
    """Where the first sentence ends; "Fig. 1." and panel letters before it belong to it."""
    end = _STOP.search(text, 24)
    return end.start() if end else len(text)


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
