"""Where figures come from.  A source is a module with two functions, and knows no other source:

``keys(config: FetchConfig) -> list[str]``: names of everything the source holds (an article, a row of a table), each
once, in an order that depends on the input alone.  Raises ``DataError`` when there is nothing to read, ``ConfigError``
when a setting is missing.

``harvest(key: str, config: FetchConfig) -> Harvest``: what one key gave, rows of figures/1 and rejects.  ``found``
counts what was met and equals rows plus rejects: nothing is lost without a reason.  Bad data makes rejects, never an
exception.  Any process may call it for any key, in any order.

``licenses``, ``text``, ``modality``, ``citations``, ``markup`` and ``jats`` are what sources are made with.
"""

SOURCES = {
    "phantom": "medvlm_cli.sources.phantom",
    "folder": "medvlm_cli.sources.folder",
    "pmc": "medvlm_cli.sources.pmc",
}
