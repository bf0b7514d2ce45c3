"""Small JATS articles for the tests of the parser and of the sources that use it; none is copied from anywhere."""

from medvlm_cli.sources.jats import parse

XLINK = 'xmlns:xlink="http://www.w3.org/1999/xlink"'


def figure(number, caption="<p>A caption.</p>", more="", image=None):
    """A ``fig`` with label, caption and one graphic."""
    graphic = f'<graphic xlink:href="{image or f"g{number}.jpg"}"/>'
    return f'<fig id="f{number}"><label>Fig {number}</label><caption>{caption}</caption>{graphic}{more}</fig>'


def article(body="", meta="", head="", attributes="", back=""):
    """A whole article as bytes."""
    front = f"<front><article-meta>{meta}</article-meta></front>"
    text = f"{head}<article {XLINK} {attributes}>{front}<body>{body}</body>{back}</article>"
    return text.encode()


def cited(sentence, *figures):
    """An article with one paragraph, and figures 1 to 6 unless others are given."""
    return article(f"<sec><p>{sentence}</p>{''.join(figures or map(figure, range(1, 7)))}</sec>")


def link(number, text=None):
    """A citation of figure ``number``."""
    return f'<xref ref-type="fig" rid="f{number}">{number if text is None else text}</xref>'


def one(data):
    """The only article of a file."""
    (found,) = parse(data, "a.xml")
    return found


def only_figure(data):
    """The only figure of the only article."""
    (found,) = one(data).figures
    return found
