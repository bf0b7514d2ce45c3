"""The model card of a checkpoint: what it is, what it must not be used for, and whose licences it carries."""

import json
import re
from collections.abc import Mapping
from typing import Any

from medvlm_cli.core.model.towers import TOWERS
from medvlm_cli.core.model.vlm import MedVLMConfig

_LLAMA3_WORDS = 128_000
"""Llama 3's own vocabulary is at least this large; a model that only borrows its header tokens is smaller."""

_CARD = """---
library_name: transformers
pipeline_tag: image-text-to-text
license: other
tags: [medical, vision-language, medvlm]
---
# {title}

A biomedical vision-language model made by medvlm.  **For research only: it is not a medical device, and its answers are
not medical advice.  They can be wrong in ways that sound right; do not use them to diagnose or treat anyone.**

| part | what it is |
| --- | --- |
| vision tower, frozen | {tower}, read at {scales} pixels, images made square by `{fit}` |
| connector | two linear layers, {channels} -> {width} -> {width} |
| language model | {llm} |

{tokens} tokens an image.  `run.json` says how it was trained, and holds the SHA-256 of every weight file.

```python
import medvlm_cli.core.model.vlm  # registers the model
from transformers import AutoModelForImageTextToText, AutoProcessor

model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
```

## Licences

The weights are derived from their parts, and the terms of each apply.

- vision tower {tower}: {tower_licence}
- language model {llm}: {llm_licence}

## Training

```json
{run}
```
"""


def card(config: MedVLMConfig, run: Mapping[str, Any]) -> str:
    """The model card as Markdown with Hugging Face's front matter.

    Args:
        config: of the model.
        run: what ``run.json`` says about the training.
    """
    vision = config.vision_config
    tower = TOWERS.get(config.base_tower)
    of_llama = config.llm_family == "llama3" and config.text_config.vocab_size >= _LLAMA3_WORDS
    llama_terms = (
        "Meta Llama 3 Community License.  Built with Meta Llama 3.  Who passes the model on must say so, add the "
        "licence, and begin its name with `Llama 3`"
    )
    name = re.sub(r".*/", "", config.base_llm) or "medvlm"
    return _CARD.format(
        title=f"Llama 3 medvlm ({name})" if of_llama else f"medvlm ({name})",
        tower=config.base_tower or "a CLIP vision model",
        scales=", ".join(str(scale) for scale in vision.s2_scales),
        fit=config.fit,
        channels=vision.channels,
        width=config.text_config.hidden_size,
        llm=config.base_llm or "a causal language model",
        tokens=vision.tokens,
        tower_licence=tower.licence if tower else "that of its maker",
        llm_licence=llama_terms if of_llama else "that of its maker",
        run=json.dumps(run, indent=2, default=str),
    )
