"""What is asked.  A benchmark is a module, or an object, with two functions, and knows no model:

``keys(config: FetchConfig) -> list[str]``: names of all records, in order.
``harvest(key: str, config: FetchConfig) -> Harvest``: what one record gave, rows of questions/1 and rejects.

A closed question whose gold answer is not yes or no lists its ``choices``, so that an answer which names several is
told from one which names the right one.  How answers are scored is ``core.scoring``, the same for every benchmark.
"""

BENCHMARKS = {
    "phantom-vqa": "medvlm_cli.benchmarks.phantom_vqa",
    "own": "medvlm_cli.benchmarks.own",
    "vqa-rad": "medvlm_cli.benchmarks.vqa_rad",
    "slake": "medvlm_cli.benchmarks.slake",
    "pathvqa": "medvlm_cli.benchmarks.pathvqa",
    "vqa-rad-hf": "medvlm_cli.benchmarks.hub_copies:VQA_RAD",
    "pathvqa-hf": "medvlm_cli.benchmarks.hub_copies:PATHVQA",
}
