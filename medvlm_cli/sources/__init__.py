"""Where figures come from.  A source is a module with two functions, and knows no other source:

``keys(config: FetchConfig) -> list[str]``: names of everything the source holds (an article, a row of a table), each
once, in an order that depends on the input alone.  Raises ``DataError`` when there is nothing to read, ``ConfigError``
when a setting is missing.

``harvest(key: str, config: FetchConfig) -> Harvest``: what one key gave, rows of figures/1 and rejects.  ``found``
counts what was met and equals rows plus rejects: nothing is lost without a reason.  Bad data makes rejects, never an
exception.  Any process may call it for any key, in any order.

It may have more: ``schema(config)``, where its rows are not plain figures/1; ``name(config)``, where the dataset is not
called as the source is; ``select(config, folder, tell)``, which writes down what is to be fetched before anything is;
``retrieval(keys, config, crew)``, which gives the harvests of many keys at once over a network; ``estimate(config)``,
what it will cost; ``mendable(config)``, the reasons that a user can cure; ``counted(dataset, config)``, more of the
summary; ``REASONS``, what each code means.

The other modules are what sources are made with: ``jats`` and its helpers read articles, ``places`` and its kin find
them in folders, packages and the bucket, ``dicom`` and its kin make pictures of a hospital's files.
"""

SOURCES = {
    "phantom": "medvlm_cli.sources.phantom",
    "folder": "medvlm_cli.sources.folder",
    "pmc": "medvlm_cli.sources.pmc",
    "llava-med": "medvlm_cli.sources.llava_med",
    "llama3-med": "medvlm_cli.sources.llama3_med",
    "roco": "medvlm_cli.sources.roco",
}
