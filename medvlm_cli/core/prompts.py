"""Turns -> token ids, and which of them the loss sees.

A conversation is rendered whole by the chat template, tokenised once, and the targets are found in the tokens: from
where the template marks the assistant's words (``{% generation %}``) to the special token that ends them.  Nothing is
tokenised in rounds and counted, which is how published trainers lost their end token (LLaVA issues 661, 1166).

Every sample is checked, and refused where it fails: its targets decode to exactly the assistant's words, each of them
ends with an end token, and there are T placeholders for every image.

What a user or a source writes is text, never structure: special tokens and role markers in it (``<image>``,
``<|eot_id|>``, ``[/INST]``) are kept readable but broken by a zero-width space, see ``neutral``.  The words of a turn
lose white space at both ends, as in the official Llama 3 template, because a leading new line would melt into the
header's token.

Legend: T tokens of one image.
"""

import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import LlavaProcessor
from transformers.utils.chat_template_utils import render_jinja_template

from medvlm_cli.core.errors import ConfigError, DataError

IMAGE = "<image>"
IGNORED = -100
"""Label of a token the loss does not see."""
_BREAK = "\u200b"

# ``content`` is text, or a list of {"type": "image"} and {"type": "text", "text": ...}: images stand before the words.
_WORDS = (
    "{%- macro words(content) -%}{%- if content is string -%}{{ content | trim }}{%- else -%}"
    "{%- for part in content if part['type'] == 'image' -%}{{ '<image>\\n' }}{%- endfor -%}"
    "{%- for part in content if part['type'] == 'text' -%}{{ part['text'] | trim }}{%- endfor -%}"
    "{%- endif -%}{%- endmacro -%}"
)

LLAMA3 = (
    _WORDS + "{{- bos_token }}{%- for message in messages -%}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{ words(message['content']) + '<|eot_id|>' }}{%- endgeneration -%}"
    "{%- else -%}{{ words(message['content']) + '<|eot_id|>' }}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif -%}"
)
"""Llama 3 Instruct, as in Meta's model card, with the assistant's words marked."""

MISTRAL = (
    _WORDS + "{{- bos_token }}{%- set first = namespace(words='') -%}{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{%- set first.words = words(message['content']) + '\\n\\n' -%}"
    "{%- elif message['role'] == 'assistant' -%}"
    "{%- generation -%}{{ ' ' + words(message['content']) + eos_token }}{%- endgeneration -%}"
    "{%- else -%}{{ ' [INST] ' + first.words + words(message['content']) + ' [/INST]' }}"
    "{%- set first.words = '' -%}{%- endif -%}{%- endfor -%}"
)
"""Mistral 7B Instruct v0.1 and v0.2 (their tokenizer has no ``[INST]`` token).  They have no system role: its words
stand before the first user's.

Source: ``<s> [INST] user message [/INST] assistant message</s> [INST] ...``, github.com/mistralai/cookbook,
concept-deep-dive/tokenization/chat_templates.md, tokenizer V1.
"""

GENERIC = (
    _WORDS + "{{- bos_token }}{%- for message in messages -%}{%- if message['role'] == 'assistant' -%}"
    "{{- '### Assistant:' }}{%- generation -%}{{ ' ' + words(message['content']) + eos_token }}{%- endgeneration -%}"
    "{{- '\\n' }}{%- elif message['role'] == 'system' -%}{{ '### System: ' + words(message['content']) + '\\n' }}"
    "{%- else -%}{{ '### User: ' + words(message['content']) + '\\n' }}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '### Assistant:' }}{%- endif -%}"
)
"""For a language model that was never taught to chat: plain role names, and the tokenizer's own end token."""

_ROLE_MARKERS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "### System:", "### User:", "### Assistant:")


def tokens_per_image(processor: LlavaProcessor) -> int:
    """T, the number of placeholders one image takes: 729 for 1134 pixels of patches of 14 at three scales."""
    return (processor.image_processor.crop_size["height"] // processor.patch_size) ** 2


def neutral(processor: LlavaProcessor, text: str) -> str:
    """``text`` without anything the tokenizer or a chat template would take for structure.

    A zero-width space goes behind the first character of every special token and role marker: the words stay readable,
    and the tokenizer sees ordinary text.  Text without such strings comes back as it is.
    """
    return _structure(processor, len(processor.tokenizer)).sub(lambda hit: hit[0][0] + _BREAK + hit[0][1:], text)


@functools.lru_cache(maxsize=8)
def _structure(processor: LlavaProcessor, _vocabulary: int) -> re.Pattern[str]:
    """What ``neutral`` looks for; made again when the tokenizer has got more tokens."""
    special = {str(token) for token in processor.tokenizer.added_tokens_decoder.values() if token.special}
    markers = special | set(processor.tokenizer.all_special_tokens) | {IMAGE, *_ROLE_MARKERS}
    return re.compile("|".join(re.escape(marker) for marker in sorted(markers, key=len, reverse=True)))


def encode(
    processor: LlavaProcessor,
    turns: Sequence[Mapping[str, str]],
    images: int = 1,
    max_length: int | None = None,
    where: str = "conversation",
) -> dict[str, Any]:
    """Token ids and labels of a conversation, for training.

    Args:
        processor: of a model that ``build_model`` or ``load`` gave.
        turns: ``{"role": "user" | "assistant", "text": ...}``, the user first, alternating, the assistant last.  A turn
            of the role ``system`` may stand before them.
        images: figures of the conversation.  Their placeholders open the first turn; ``<image>`` at either end of that
            turn is where a source put them and is not repeated, and anywhere else it is text.
        max_length: longest sequence in tokens, images included.  A longer conversation loses whole question-answer
            pairs from its end; of a single pair that is too long, the answer loses its end, and its end token with it,
            as in LLaVA's training.
        where: id of the conversation, for the error.

    Returns:
        ``input_ids`` and ``labels``, two lists of one length (``IGNORED`` but for the assistant's words and their end
        tokens), and ``cut``, the number of turns that were dropped or lost their end.

    Raises:
        DataError: the turns do not alternate, an answer is empty, not even the first question leaves room for an
            answer, or the targets are not exactly the answers.
        ConfigError: the chat template cannot say where answers begin or end.
    """
    messages = _messages(processor, turns, images, where)
    if messages[-1]["role"] != "assistant":
        raise DataError(f"{where}: the last turn is the user's, so there is nothing to learn", "drop that turn")
    ids: list[int] = []
    labels: list[int] = []
    for end in range(len(messages), len(messages) % 2, -2):
        ids, labels = _labelled(processor, messages[:end], images, where)
        if max_length is None or len(ids) <= max_length:
            return {"input_ids": ids, "labels": labels, "cut": len(messages) - end}
    assert max_length is not None  # or the first pair would have been returned
    question = next(place for place, label in enumerate(labels) if label != IGNORED)
    if question >= max_length:
        raise DataError(
            f"{where}: its first question takes {question} tokens, max_length is {max_length}",
            "raise it with --set max_length, or drop the conversation",
        )
    return {"input_ids": ids[:max_length], "labels": labels[:max_length], "cut": len(messages) - 1 - len(messages) % 2}


def generation_prompt(
    processor: LlavaProcessor, turns: Sequence[Mapping[str, str]], images: int = 1, where: str = "question"
) -> list[int]:
    """Token ids that ask for the next answer: those that stand before it in training, one for one.

    Args:
        processor: of a model that ``build_model`` or ``load`` gave.
        turns: as for ``encode``, but the user's turn is the last.
        images: as for ``encode``.
        where: what to call the turns in an error.

    Raises:
        DataError: the turns do not alternate, or the last one is the assistant's.
    """
    text = prompt_text(processor, turns, images, where)
    answered = _messages(processor, turns, images, where)[:-1]
    starts = _marked(processor, answered)[1] if len(answered) > 1 else []
    ids, _ = _tokens(processor, text, starts)
    return _with_images(processor, ids, ids, images, where)[0]


def prompt_text(
    processor: LlavaProcessor, turns: Sequence[Mapping[str, str]], images: int = 1, where: str = "question"
) -> str:
    """The text behind ``generation_prompt``, with one ``<image>`` for each image."""
    messages = _messages(processor, turns, images, where)
    if messages[-1]["role"] != "user":
        raise DataError(f"{where}: the last turn is not the user's", "end with a question")
    return _render(processor, messages, asking=True)


def _messages(
    processor: LlavaProcessor, turns: Sequence[Mapping[str, str]], images: int, where: str
) -> list[dict[str, str]]:
    """The turns as a chat template takes them, made harmless; the images stand before the first words."""
    if not turns:
        raise DataError(f"{where}: it has no turns", "drop it")
    messages: list[dict[str, str]] = []
    system = turns[0]["role"] == "system"
    for number, turn in enumerate(turns[system:], start=int(system)):
        role, text = ("user", "assistant")[(number - system) % 2], _text(turn, number, where)
        if turn["role"] != role:
            raise DataError(
                f"{where}: turn {number + 1} is of role {turn['role']!r}, not {role!r}",
                "turns alternate between user and assistant, and the user begins",
            )
        if not messages:
            text = _without_placeholders(text, images)
        text = neutral(processor, text)
        if role == "assistant" and not text:
            raise DataError(f"{where}: the answer in turn {number + 1} is empty", "drop the pair of turns")
        messages.append({"role": role, "content": text if messages else f"{IMAGE}\n" * images + text})
    if not messages:
        raise DataError(f"{where}: it has no turn of the user's", "drop it")
    words = neutral(processor, _text(turns[0], 0, where)) if system else ""
    return _instructed(processor, words, messages) if words else messages


def _instructed(processor: LlavaProcessor, words: str, messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """The messages behind a system prompt; where the chat template knows none, it stands before the first words."""
    if _takes_system(processor, str(processor.chat_template)):
        return [{"role": "system", "content": words}, *messages]
    return [messages[0] | {"content": f"{words}\n\n{messages[0]['content']}"}, *messages[1:]]


@functools.lru_cache(maxsize=8)
def _takes_system(processor: LlavaProcessor, _template: str) -> bool:
    """Whether the chat template has a place for a system prompt: some refuse the role, some drop its words."""
    probe = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is it?"}]
    try:
        return "Be brief." in _render(processor, probe, asking=True)
    except TemplateError:
        return False


def _text(turn: Mapping[str, str], number: int, where: str) -> str:
    """The words of a turn without white space at both ends.

    Raises:
        DataError: they are no text: missing, or with half a character in them, which no tokenizer takes.
    """
    text = turn["text"]
    if not isinstance(text, str):
        raise DataError(f"{where}: turn {number + 1} has no text", "drop the conversation")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        what = f"{where}: turn {number + 1} holds half a character, {text[error.start]!a}, at place {error.start}"
        raise DataError(what, "read its source in the right encoding, or drop the conversation") from error
    return text.strip()


def _without_placeholders(text: str, images: int) -> str:
    """``text`` without up to ``images`` placeholders at its beginning and then its end, where sources put them."""
    for _ in range(images):
        if text.startswith(IMAGE):
            text = text.removeprefix(IMAGE).strip()
        elif text.endswith(IMAGE):
            text = text.removesuffix(IMAGE).strip()
    return text


def _render(processor: LlavaProcessor, messages: list[dict[str, str]], asking: bool) -> str:
    return processor.tokenizer.apply_chat_template(
        messages, chat_template=processor.chat_template, tokenize=False, add_generation_prompt=asking
    )


def _marked(processor: LlavaProcessor, messages: list[dict[str, str]]) -> tuple[str, list[int]]:
    """The rendered conversation, and the character at which each answer begins.

    Raises:
        ConfigError: the template has no marks, and writes the beginning of a conversation differently when it goes on.
    """
    template: Any = processor.chat_template
    if re.search(r"\{%-?\s*generation\s*-?%\}", template):
        rendered: Any = render_jinja_template(  # texts and spans, one a conversation; its annotation says str
            [messages],
            chat_template=template,
            return_assistant_tokens_mask=True,
            **processor.tokenizer.special_tokens_map,
        )
        return rendered[0][0], [start for start, _ in rendered[1][0]]
    text, starts = _render(processor, messages, asking=False), []
    for number in (number for number, message in enumerate(messages) if message["role"] == "assistant"):
        prompt = _render(processor, messages[:number], asking=True)
        if not text.startswith(prompt):
            raise ConfigError(
                "the language model's chat template does not show where an answer begins",
                "mark the assistant's words in its chat_template with {% generation %}",
            )
        starts.append(len(prompt))
    return text, starts


def _labelled(
    processor: LlavaProcessor, messages: list[dict[str, str]], images: int, where: str
) -> tuple[list[int], list[int]]:
    """Ids and labels of whole messages, images expanded, checked."""
    tokenizer = processor.tokenizer
    text, starts = _marked(processor, messages)
    ids, stops = _tokens(processor, text, starts)
    labels = [IGNORED] * len(ids)
    ends = _end_ids(processor, len(tokenizer))
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    for start, answer in zip(starts, answers, strict=True):
        first = next(i for i, stop in enumerate(stops) if stop > start)
        last = next((i for i in range(first, len(ids)) if ids[i] in ends), None)
        if last is None:
            raise ConfigError(
                "the language model's chat template puts no special token behind an answer",
                "a model trained on it would never stop: end the assistant's turn with the eos token",
            )
        labels[first : last + 1] = ids[first : last + 1]
        learned = tokenizer.decode(ids[first:last], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if learned.lstrip(" ") != answer:
            raise DataError(
                f"{where}: the targets read {learned!r}, the answer is {answer!r}",
                "the tokenizer does not keep this text as it is: mend the text, or take another language model",
            )
    return _with_images(processor, ids, labels, images, where)


def _tokens(processor: LlavaProcessor, text: str, starts: Sequence[int]) -> tuple[list[int], list[int]]:
    """Token ids of a rendered conversation, and the character behind each; ``starts`` is where answers begin.

    What stands before an answer must be cut as it is when the answer is yet to come.  Some tokenizers (GPT-2's) cut the
    line ends of a prompt otherwise once a word follows: for these every answer begins a piece of its own.
    """
    cuts = [0, *starts, len(text)] if _looks_ahead(processor, len(processor.tokenizer)) else [0, len(text)]
    ids: list[int] = []
    stops: list[int] = []
    for begin, end in itertools.pairwise(cuts):
        piece = processor.tokenizer(  # what is too long, the caller says; not a warning between the lines of a screen
            text[begin:end], add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        ids += piece["input_ids"]
        stops += [begin + stop for _, stop in piece["offset_mapping"]]
    return ids, stops


@functools.lru_cache(maxsize=8)
def _looks_ahead(processor: LlavaProcessor, _vocabulary: int) -> bool:
    """Whether the tokenizer cuts a prompt otherwise when an answer follows it."""
    question = [{"role": "user", "content": "Is it?"}]
    prompt = _render(processor, question, asking=True)
    alone = processor.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    for answer in ("Yes", "1", "(a)", "\u00e9", "left lung"):
        text, starts = _marked(processor, [*question, {"role": "assistant", "content": answer}])
        if text[: starts[0]] == prompt:  # else the template itself puts something between the two: a space
            together = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
            if together[: len(alone)] != alone:
                return True
    return False


@functools.lru_cache(maxsize=8)
def _end_ids(processor: LlavaProcessor, _vocabulary: int) -> frozenset[int]:
    """The special tokens, one of which ends every answer."""
    special = {number for number, token in processor.tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(special | set(processor.tokenizer.all_special_ids)) - {processor.image_token_id}


def _with_images(
    processor: LlavaProcessor, ids: list[int], labels: list[int], images: int, where: str
) -> tuple[list[int], list[int]]:
    """Every image token repeated T times; it stands in a question, so there is no label to repeat."""
    found = ids.count(processor.image_token_id)
    if found != images:
        raise DataError(f"{where} has {found} image tokens and {images} figures", "each figure needs exactly one")
    tokens = tokens_per_image(processor)
    wide: list[int] = []
    wide_labels: list[int] = []
    for token, label in zip(ids, labels, strict=True):
        times = tokens if token == processor.image_token_id else 1
        wide += [token] * times
        wide_labels += [label] * times
    return wide, wide_labels
