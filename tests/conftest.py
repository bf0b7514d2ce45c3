"""What tests of models share: random, seeded, tiny, made in this process; no network, no downloads.

Heavy packages are imported inside the fixtures, so that the other tests start without them.
"""

import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that reaches for the hub fails at once
os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns about it on every import

SCALES = (32, 64, 96)
"""Pixels; a tower of 32 pixels in patches of 8 gives 16 tokens of 3 * 64 channels."""

CORPUS = [
    "Is there a nodule in the left lung? Yes, a small nodule lies in the left lung.",
    "What does the image show? A chest radiograph of the right lung without an opacity.",
    "Describe the figure. An axial CT of the liver; the lesion is calcified. No, it is not.",
    "user assistant\n\nuser\n\nassistant\n\n### User: ### Assistant: [INST] [/INST]",
]

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2_SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3_SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def byte_level_tokenizer(special, split=LLAMA3_SPLIT, **names):
    """A byte-level BPE split as Llama 3 splits, or as told: any text is representable."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    blank_lines = ["\n\n"] * 50  # one token, as in real vocabularies: what a prompt ends in
    tokenizer.train_from_iterator([*CORPUS * 4, *blank_lines], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def metaspace_tokenizer():
    """A BPE with spaces as U+2581 and bytes to fall back on, as Mistral 7B's first tokenizer."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([line.replace(" ", "▁") for line in CORPUS * 4], trainer)
    # the byte tokens are ordinary words of the vocabulary, so start over with only the three as special
    plain = Tokenizer.from_str(_without_special_bytes(tokenizer.to_str()))
    plain.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special[:3]])
    return PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def _without_special_bytes(text):
    import json

    stored = json.loads(text)
    stored["added_tokens"] = []
    return json.dumps(stored)


def save_tiny_llm(folder, tokenizer, kind="llama"):
    """A random causal language model of 2 layers and width 96, with its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

    shape = {
        "vocab_size": len(tokenizer), "hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None,
    }  # fmt: skip
    torch.manual_seed(1)
    config, model = {"llama": (LlamaConfig, LlamaForCausalLM), "mistral": (MistralConfig, MistralForCausalLM)}[kind]
    model(config(**shape)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_tiny_tower(folder):
    """A random CLIP vision model: 32 pixels, patches of 8, width 64, 3 layers."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=64, intermediate_size=256, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=8
    )
    model = CLIPVisionModel(config)
    with torch.no_grad():  # as large as trained ones: a fresh CLIP's are so small that wrong tiles look right
        model.embeddings.position_embedding.weight.normal_(0, 0.5)
        model.embeddings.patch_embedding.weight.normal_(0, 0.1)
    model.save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_tower(tmp_path_factory):
    """Folder of the tower of ``save_tiny_tower``."""
    folder = tmp_path_factory.mktemp("tower")
    save_tiny_tower(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory):
    """Folder of a random Llama with a tokenizer that has the header tokens of Llama 3."""
    folder = tmp_path_factory.mktemp("llm")
    names = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
    save_tiny_llm(folder, byte_level_tokenizer(LLAMA3_SPECIAL, **names))
    return str(folder)


@pytest.fixture(scope="session")
def mistral_llm(tmp_path_factory):
    """Folder of a random Mistral with a tokenizer of pieces."""
    folder = tmp_path_factory.mktemp("mistral")
    save_tiny_llm(folder, metaspace_tokenizer(), "mistral")
    return str(folder)


@pytest.fixture(scope="session")
def chatml_llm(tmp_path_factory):
    """Folder of a random Llama whose tokenizer brings a chat template of its own, without marks."""
    folder = tmp_path_factory.mktemp("chatml")
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = byte_level_tokenizer(special, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = CHATML
    save_tiny_llm(folder, tokenizer)
    return str(folder)


@pytest.fixture(scope="session")
def gpt2_llm(tmp_path_factory):
    """Folder of a random Llama with Llama 3's marks and GPT-2's split, which cuts line ends by what follows them."""
    folder = tmp_path_factory.mktemp("gpt2")
    names = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
    save_tiny_llm(folder, byte_level_tokenizer(LLAMA3_SPECIAL, GPT2_SPLIT, **names))
    return str(folder)


@pytest.fixture(scope="session")
def plain_llm(tmp_path_factory):
    """Folder of a random Llama that was never taught to chat."""
    folder = tmp_path_factory.mktemp("plain")
    save_tiny_llm(folder, byte_level_tokenizer(["<|endoftext|>"], eos_token="<|endoftext|>"))
    return str(folder)


@pytest.fixture(scope="session")
def tiny_model(tiny_tower, tiny_llm):
    """Model and processor at three scales.  Shared: a test that changes weights takes ``fresh_model``."""
    from medvlm_cli.core.model.vlm import build_model

    return build_model(tiny_tower, tiny_llm, SCALES)


@pytest.fixture
def fresh_model(tiny_tower, tiny_llm):
    """Model and processor at three scales, for one test alone."""
    from medvlm_cli.core.model.vlm import build_model

    return build_model(tiny_tower, tiny_llm, SCALES)


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_tower, tiny_llm, tmp_path_factory):
    """Folder of a tiny model as training leaves it.  Shared: a test that changes files copies it first."""
    import torch

    from medvlm_cli.core.model.checkpoint import save
    from medvlm_cli.core.model.vlm import build_model

    model, processor = build_model(tiny_tower, tiny_llm, SCALES)
    random = torch.Generator().manual_seed(2)
    parts = [model.model.language_model.layers, model.model.multi_modal_projector]
    with torch.no_grad():  # as large as trained weights: what a fresh model says hardly depends on what it is asked
        for weight in (weight for part in parts for weight in part.parameters() if weight.ndim == 2):
            weight.normal_(0, 0.2, generator=random)
    folder = tmp_path_factory.mktemp("checkpoints") / "finetune"
    save(model, processor, folder, {"stage": "finetune"})
    return folder


@pytest.fixture(scope="session")
def training_data(tmp_path_factory):
    """Folder with figures, captions and instruct: 26 of each, 4 of them held out."""
    from tests.training_cases import ROWS, write_conversations, write_figures

    folder = tmp_path_factory.mktemp("data")
    write_figures(folder / "figures", [str(number) for number in range(ROWS)])
    write_conversations(folder / "captions", "caption")
    write_conversations(folder / "instruct", "instruct")
    return folder


@pytest.fixture
def bench(training_data, tmp_path, tiny_tower, tiny_llm):
    """A place to train in, for one test."""
    import torch

    from tests.training_cases import Bench

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums of floats depend on it, and a small step is fastest with one
    yield Bench(training_data, tmp_path, tiny_tower, tiny_llm)
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def pretrained(training_data, tmp_path_factory, tiny_tower, tiny_llm):
    """A pretraining that nothing disturbed: its ``Bench``, with the checkpoint ``pretrain``."""
    import torch

    from tests.training_cases import Bench

    torch.set_num_threads(1)
    bench = Bench(training_data, tmp_path_factory.mktemp("pretrained"), tiny_tower, tiny_llm)
    bench.pretrain("pretrain")
    return bench
