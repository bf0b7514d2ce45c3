"""The tiny preset's frozen parts, made here and now: a CLIP tower, a tokenizer and a language model; no download.

They stand for what a real run downloads, so they are trained apart from it: on phantom figures and texts of a stream
that neither training nor the questions ever see.  The tower learns from pieces at one, two and three times, each with
what it shows, so the one-scale model gets a tower that did all it could at one time.

Sizes: tower 32 pixels, patches of 8, width 64, 3 blocks; language model width 96, 2 blocks, 2,048 positions.
Legend: B pieces, U different captions in a batch, C width of the tower.
"""

import json
import math
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from medvlm_cli.core import commit
from medvlm_cli.core.images import MEAN, STD
from medvlm_cli.core.model.threads import one_thread_if_small
from medvlm_cli.core.phantom import tower_pairs, tower_texts
from medvlm_cli.core.tell import Tell

SPECIAL = ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<image>", "<|pad|>")
VOCABULARY = 1024
GENERAL_TEXT = (
    "The patient was a 54-year-old woman with a history of diabetes and hypertension who presented with fever.",
    "Figure 1 (A) Computed tomography (CT) scan showing a mass in the right upper lobe of the lung (arrow).",
    "Magnetic resonance imaging (MRI), T1-weighted and T2-weighted images with contrast enhancement, axial, coronal.",
    "Histopathological examination with hematoxylin and eosin staining, original magnification x 40; scale bar 50 um.",
    "Immunohistochemistry was positive for expression of the protein in tumor cells and negative in normal tissue.",
    "Data are shown as mean and standard deviation (n = 3 independent experiments); *P < 0.05, **P < 0.01.",
    "Chest radiograph before and after treatment: pleural effusion, pneumonia, consolidation, cardiomegaly, fracture.",
    "Fluorescence microscopy of mouse neurons; representative images of the control and treated groups are shown.",
    "Survival curves were compared with the log-rank test. The results of the analysis are given in Table 2.",
    "What is the most likely diagnosis? Which organ is shown? Is the lesion benign or malignant? Describe the image.",
    "Give a short description of this image. Summarise what is visible in the image. Provide a concise description.",
    "What does the image show? Answer briefly. Is it best called smooth? What can be seen, what is shown here?",
    "Yes, there is evidence of this in the image. No, the findings are normal. It is located in the left lower lobe.",
)
"""Teaches the tokenizer the commonest pieces of real captions; what is not in here it spells in bytes."""
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 3's tokenizer splits text before it joins bytes (tokenizer.json of Meta-Llama-3-8B)."""
DESCRIBE = ("Describe the image briefly.", "What does the image show?")
_TURN = "<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>"


@dataclass(frozen=True, kw_only=True)
class TinyRecipe:
    """How long the parts are trained."""

    figures: int = 1200
    """Figures drawn for the tower."""
    texts: int = 1200
    """Figures told to the language model, in five dialogues each."""
    tower_steps: int = 600
    llm_steps: int = 250
    batch: int = 64
    llm_batch: int = 32
    tower_lr: float = 1.5e-3
    llm_lr: float = 3e-3


def make_tiny(folder: Path, seed: int, tell: Tell, recipe: TinyRecipe | None = None) -> Path:
    """Make ``folder/tower``, a Hugging Face ``CLIPVisionModel``, and ``folder/llm``, a causal LM with its tokenizer.

    The same seed, number of threads and torch give the same bytes.  The folder appears when it is complete.

    Args:
        folder: what to make; its parent exists or is made.
        seed: of figures, weights and order.
        tell: progress.
        recipe: how long to train; shorter in tests.

    Returns:
        ``folder``; where it is there already, it is left as it is.

    Source: CLIP, Radford et al. 2021, arXiv:2103.00020, with captions that occur more than once in a batch counted as
    positives of all their images (UniCL, Yang et al. 2022, arXiv:2204.03610).
    """
    if folder.exists():
        return folder
    recipe = recipe or TinyRecipe()
    one_thread_if_small(0)
    commit.make_folder(folder.parent)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            _tower(seed, recipe, tell).save_pretrained(work / "tower")
            _save_llm(work / "llm", seed, recipe, tell)
        (work / "recipe.json").write_text(json.dumps({"seed": seed, **vars(recipe)}, indent=1), encoding="utf-8")
        work.chmod(0o755)  # mkdtemp's folder is its owner's alone
        commit.settle_folder(work)
        if not folder.exists():
            commit.rename(work, folder)
    finally:
        commit.remove_tree(work)
    return folder


def _tower(seed: int, recipe: TinyRecipe, tell: Tell) -> CLIPVisionModel:
    """Draw the pieces, then train tower and captions against each other."""
    images, captions = [], []
    for number, (image, caption) in enumerate(tower_pairs(seed, recipe.figures)):
        images.append(image)
        captions.append(caption)
        tell("draw figures for the tower", number + 1, None)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    config = CLIPVisionConfig(
        image_size=32, patch_size=8, hidden_size=64, intermediate_size=256, num_hidden_layers=3,
        num_attention_heads=2, hidden_act="quick_gelu", projection_dim=64,
    )  # fmt: skip
    tower = CLIPVisionModel(config)
    _whiten(tower, normalised(pixels[: 4 * recipe.batch * 16]))
    bags, known = _bags(captions)
    labels = torch.tensor([known[caption] for caption in captions])
    text = nn.Sequential(nn.Linear(bags.shape[1], 64), nn.GELU(), nn.Linear(64, 64))
    project = nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(2))
    warmth = nn.Parameter(torch.tensor(math.log(10.0)))
    weights = [*tower.parameters(), *text.parameters(), *project.parameters(), warmth]
    for step, chosen in _training(weights, recipe.tower_lr, recipe.tower_steps, len(pixels), recipe.batch, seed):
        out = tower(pixel_values=normalised(pixels[chosen]), output_hidden_states=True)
        told, which = torch.unique(labels[chosen], return_inverse=True)
        captioned = warmth.exp().clamp(max=50) * F.normalize(text(bags[told]), dim=-1).T  # (64, U)
        # The patches of the second last block are what a vision-language model reads, so they too are taught to tell.
        loss = torch.zeros(())
        for head, seen in zip(project, (out.pooler_output, out.hidden_states[-2][:, 1:].mean(1)), strict=True):
            scores = F.normalize(head(seen), dim=-1) @ captioned  # (B, U)
            loss = loss + (F.cross_entropy(scores, which) + _text_loss(scores, which)) / 4
        step(loss)
        tell("train the tower", step.done, recipe.tower_steps)
    return tower.eval()


def _text_loss(scores: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """Cross entropy from captions to images, all images of one caption equally right; ``scores`` is ``(B, U)``."""
    right = F.one_hot(which, scores.shape[1]).T.to(scores)
    return -(right / right.sum(1, keepdim=True) * F.log_softmax(scores.T, 1)).sum(1).mean()


@torch.no_grad()
def _whiten(tower: CLIPVisionModel, pixels: torch.Tensor) -> None:
    """Begin with patch filters that whiten the pictures: the principal components of their patches, each at unit power.

    From random filters a tower this small sees brightness alone for longer than its training lasts, and never specks.
    """
    patches = pixels.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).reshape(-1, 192)
    power, filters = torch.linalg.eigh(torch.cov(patches.T))
    filters = filters * filters.sum(0).sign()  # a library may return either sign
    scaled = filters[:, -64:] / (power[-64:] + 3e-3).sqrt() / 2
    tower.embeddings.patch_embedding.weight.copy_(scaled.T.reshape(64, 3, 8, 8))


def _bags(captions: Sequence[str]) -> tuple[torch.Tensor, dict[str, int]]:
    """The words of each different caption as zeros and ones, float32 ``(captions, words)``, and the captions' lines."""
    known = {caption: line for line, caption in enumerate(sorted(set(captions)))}
    split = [set(re.findall(r"[\w-]+", caption)) for caption in known]
    words = sorted(set().union(*split))
    return torch.tensor([[float(word in bag) for word in words] for bag in split]), known


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 ``(B, 3, 32, 32)`` as CLIP takes them, float32."""
    return (pixels.float() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


class _Step:
    """One optimiser step: gradients clipped to 1, AdamW, cosine after a warm-up of 5 %."""

    def __init__(self, weights: Sequence[torch.Tensor], lr: float, steps: int) -> None:
        self.weights, self.done = weights, 0
        self.optimizer = torch.optim.AdamW(weights, lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
        warm = max(1, steps // 20)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min(1.0, (step + 1) / warm) * (1 + math.cos(math.pi * step / steps)) / 2
        )

    def __call__(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.done += 1


def _training(
    weights: Sequence[torch.Tensor], lr: float, steps: int, rows: int, batch: int, seed: int
) -> Iterator[tuple[_Step, torch.Tensor]]:
    """``steps`` times a step and the rows of its batch; a new order every epoch."""
    random, step = torch.Generator().manual_seed(seed), _Step(weights, lr, steps)
    epochs = steps * batch // rows + 1
    order = torch.cat([torch.randperm(rows, generator=random) for _ in range(epochs)])
    for number in range(steps):
        yield step, order[number * batch : (number + 1) * batch]


def _save_llm(folder: Path, seed: int, recipe: TinyRecipe, tell: Tell) -> None:
    """Train tokenizer and language model on dialogues without images, and save them as one Hugging Face folder."""
    dialogues = [pair for told in tower_texts(seed, recipe.texts) for pair in _dialogues(*told)]
    tokenizer = make_tokenizer([question + answer for question, answer in dialogues])
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=96, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True, initializer_range=0.05,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    llm = LlamaForCausalLM(config)
    read, said = (tokenizer(list(side), add_special_tokens=False)["input_ids"] for side in zip(*dialogues, strict=True))
    weights, padding = [*llm.parameters()], tokenizer.pad_token_id
    for step, chosen in _training(weights, recipe.llm_lr, recipe.llm_steps, len(read), recipe.llm_batch, seed):
        rows = [(torch.tensor(read[row] + said[row]), len(read[row])) for row in chosen.tolist()]
        ids = nn.utils.rnn.pad_sequence([row for row, _ in rows], batch_first=True, padding_value=padding)
        labels = ids.masked_fill(ids == padding, -100)
        mask = (labels != -100).long()
        for line, (_, length) in zip(labels, rows, strict=True):
            line[:length] = -100
        hidden = llm.model(input_ids=ids, attention_mask=mask).last_hidden_state[:, :-1]
        targets = labels[:, 1:]
        step(F.cross_entropy(llm.lm_head(hidden[targets != -100]), targets[targets != -100]))
        tell("train the language model", step.done, recipe.llm_steps)
    llm.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _dialogues(key_words: str, caption: str, asked: dict[str, tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """What is read and what is answered: two descriptions of findings given as key words, and every question.

    A language model that can put key words into sentences can be shown pictures by a connector that finds the words.
    """
    said = [(request, caption) for request in DESCRIBE] + list(asked.values())
    head, tail = _TURN.split("{text}")
    for request, answer in said:
        question = head.format(role="user") + f"{key_words}\n{request}" + tail + head.format(role="assistant")
        yield SPECIAL[0] + question, answer + tail


def make_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: whatever is in ``texts`` becomes few tokens, and any text can be written.

    Its split and its special tokens are Llama 3's, so that Llama 3's chat template fits; ``<|eot_id|>`` ends an answer.
    """
    bpe = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    plain = [re.sub("|".join(map(re.escape, SPECIAL)), "\n", text) for text in texts]
    bpe.train_from_iterator([*plain, *GENERAL_TEXT * 4], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=SPECIAL[0], eos_token=SPECIAL[1], pad_token=SPECIAL[5],
        additional_special_tokens=[*SPECIAL[2:5]], model_max_length=2048, clean_up_tokenization_spaces=False,
    )  # fmt: skip
