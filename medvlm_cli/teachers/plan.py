"""What a run will ask and what it will cost: said before anything is sent, without a network."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from medvlm_cli.core import offline
from medvlm_cli.core.config import SynthesizeConfig
from medvlm_cli.core.errors import ConfigError
from medvlm_cli.teachers import claude
from medvlm_cli.teachers.asks import CHARS_PER_TOKEN, OUTPUT_TOKENS, Composer, Family
from medvlm_cli.teachers.judge import composer_of, family_of
from medvlm_cli.teachers.prices import dollars
from medvlm_cli.teachers.survey import Surveyed
from medvlm_cli.teachers.terms import refuse_unaccepted, terms_of
from medvlm_cli.teachers.work import claude_price

MARK_TOKENS = 100
"""Of a judge's line; where nobody has counted."""
WAYS = (
    f"export {claude.KEY}=... for Claude, and name a server for Llama: --llama-endpoint http://HOST:8000, or start "
    "one here: --launch MODEL",
    "replay answers that were recorded: --teacher replay:FOLDER",
    "write from the captions by fixed rules, without any model: --teacher template (demo data, not a reproduction)",
)
"""What a user without key and endpoint can do."""


def plan(
    found: Surveyed,
    config: SynthesizeConfig,
    composer: Composer,
    families: Mapping[str, Family],
    seen: Mapping[str, tuple[int, float]],
) -> dict[str, Any]:
    """Rows, tokens and dollars of each teacher.

    Args:
        found: the survey.
        config: models and modes.
        composer: of the requests.
        families: teachers by name.
        seen: of each teacher, the answers that are there already and their mean tokens out; a new run has none.

    Returns:
        ``teachers``: a line for each, and one for the judge; ``expected_usd`` and ``worst_usd`` of what is still to be
        asked, the first with tokens estimated as ``tokens by`` says, the second with every answer as long as it may be;
        ``rejected``: figures that nobody is asked about, by reason; ``prices dated``.
    """
    lines: dict[str, dict[str, Any]] = {}
    for name in sorted(found.rows):
        answers, mean = seen.get(name, (0, 0.0))
        chars, output = found.chars[name] / found.rows[name], mean if answers >= 20 else OUTPUT_TOKENS
        batch = name == "claude" and config.claude_mode == "batch"
        lines[name] = _line(composer, families[name], config, (found.rows[name], answers), (chars, output), batch=batch)
    if config.judge:
        rows, chars = found.rows.total(), found.chars.total() / max(1, found.rows.total())
        sizes = chars + OUTPUT_TOKENS * CHARS_PER_TOKEN, MARK_TOKENS
        family = family_of(config.judge, families)
        lines["judge"] = _line(composer_of(config.seed), family, config, (rows, 0), sizes, batch=False)
    paid = [line["model"] for line in lines.values() if "mode" in line]
    told = {"prices dated": claude_price(config, paid[0]).dated} if paid else {}
    expected, worst = (sum(line[column] for line in lines.values()) for column in ("expected USD", "worst USD"))
    models = dict.fromkeys(line["model"] for line in lines.values())
    reasons = Counter(reject.reason for reject in found.rejects.values())
    return {
        "figures": len(found.modality),
        "teachers": lines,
        "expected_usd": round(expected, 4),
        "worst_usd": round(worst, 4),
        **told,
        "tokens by": "earlier answers" if any(one[0] >= 20 for one in seen.values()) else "characters / 3.5, 450 out",
        "rejected": dict(sorted(reasons.items())),
        "terms": [f"{one.title}: {one.says}" for model in models if (one := terms_of(model))],
    }


def _line(
    composer: Composer,
    family: Family,
    config: SynthesizeConfig,
    counts: tuple[int, int],
    sizes: tuple[float, float],
    *,
    batch: bool,
) -> dict[str, Any]:
    """One teacher's rows, tokens and dollars.

    Args:
        composer: of its requests.
        family: whom they go to.
        config: prices.
        counts: requests, and how many of them are answered.
        sizes: characters of a user's message, and tokens of an answer, on average.
        batch: whether they go in Message Batches, but for the first, which goes alone.
    """
    (rows, answered), (chars, output) = counts, sizes
    left = max(0, rows - answered)
    tokens_in, tokens_out = composer.expected(family, chars, output)
    line: dict[str, Any] = {
        "model": family.model,
        "rows": rows,
        "answered": answered,
        "tokens in": round(tokens_in * left),
        "tokens out": round(tokens_out * left),
        "expected USD": 0.0,
        "worst USD": 0.0,
    }
    if family.name != "claude":
        return line
    price, alone = claude_price(config, family.model), int(batch and left > 0 and not answered)
    cost = composer.price(family, chars, left - alone, price, batch=batch, output=output)
    cost += composer.price(family, chars, alone, price, batch=False, output=output)
    user = "x" * math.ceil(chars)
    most = composer.worst(family, user, price, batch=batch) * (left - alone)
    most += composer.worst(family, user, price, batch=False) * alone
    mode = "batch" if batch else "sync"
    return line | {"expected USD": round(dollars(int(cost)), 4), "worst USD": round(dollars(most), 4), "mode": mode}


def refuse(found: Surveyed, config: SynthesizeConfig, families: Mapping[str, Family]) -> None:
    """Stop before anything is asked where something is missing that only the user can give.

    Raises:
        ConfigError: no key, no endpoint, no cap, or terms that were not accepted; each with what to do.
        OfflineError: a teacher is not on this machine, and nothing else may be asked.
    """
    missing = []
    judge = family_of(config.judge, families) if config.judge else None
    names = {name for name in families if found.rows[name]} | ({judge.name} if judge else set())
    offline.refuse(*[claude.base_url(config.claude_url)] * ("claude" in names), *config.llama_endpoint)
    if "claude" in names and not claude.has_key():
        missing.append(f"no key for Claude ({claude.KEY} is not set)")
    if "llama" in names and not (config.llama_endpoint or config.launch):
        missing.append("no endpoint for Llama")
    if missing:
        ways = "; ".join(f"({number}) {way}" for number, way in enumerate(WAYS, 1))
        raise ConfigError(f"nobody to ask: {' and '.join(missing)}; no teacher takes the place of another", ways)
    asked = [families[name].model for name in found.rows]
    if judge:
        asked.append(judge.model)
    refuse_unaccepted(asked, config.accept_terms)
    if "claude" in names and config.max_cost <= 0:
        what = "a paid teacher, and no cap: nothing is spent without one"
        raise ConfigError(what, "see the plan (--plan), then give --max-cost DOLLARS")
