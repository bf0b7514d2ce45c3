"""The model card of a checkpoint: what it is, what it must not be used for, and whose licences it carries."""

import json
import re
from collections.abc import Mapping
from typing import Any

from medvlm_cli.core.model.towers import TOWERS
from medvlm_cli.core.model.vlm import MedVLMConfig

_LLAMA3_WORDS = 128_000
"""Llama 3's own vocabulary is at least this large; a model that only borrows its header tokens is smaller."""
_LLAMA3_TERMS = (
    "Meta Llama 3 Community License.  Built with Meta Llama 3.  Who passes the model on must say so, add the licence, "
    "and begin its name with `Llama 3`"
)
_APACHE = re.compile(r"mistralai/Mistral-7B-.*")
"""Language models, by hub id, whose makers gave them under Apache-2.0."""

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
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder)
```

That runs `modeling_medvlm.py` of this folder.  Where medvlm is installed, `import medvlm_cli.core.model.vlm` first and
leave `trust_remote_code` out: then nothing of this folder is run, and the tower is faster.  The logits are the same for
pixels that are normalised floats, as the processor gives them; for bytes they differ by rounding.

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
    name = re.sub(r".*/", "", config.base_llm) or "medvlm"
    return _CARD.format(
        title=f"Llama 3 medvlm ({name})" if of_llama else f"medvlm ({name})",
        tower=config.base_tower or "a CLIP vision model",
        scales=", ".join(str(scale) for scale in vision.s2_scales),
        fit=config.fit,
        channels=vision.channels,
        width=config.text_config.hidden_size,
        llm=config.base_llm + (f" at {config.base_llm_revision}" if config.base_llm_revision else "")
        or "a causal language model",
        tokens=vision.tokens,
        tower_licence=tower.licence if tower else "that of its maker",
        llm_licence=_LLAMA3_TERMS if of_llama else _licence(config.base_llm),
        run=json.dumps(run, indent=2, default=str),
    )


def _licence(llm: str) -> str:
    return "Apache-2.0" if _APACHE.fullmatch(llm) else "that of its maker"
