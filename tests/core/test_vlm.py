"""The joined model: sizes of the paper's, parity with stock LLaVA, loss, generation, freezing."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlavaForConditionalGeneration,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from medvlm_cli.core.errors import ConfigError, RemoteError
from medvlm_cli.core.images import to_rgb_square
from medvlm_cli.core.model.connector import connector_parameters
from medvlm_cli.core.model.llms import family_of, load_llm
from medvlm_cli.core.model.towers import TOWERS
from medvlm_cli.core.model.vlm import MedVLMForConditionalGeneration, build_model, freeze, make_config, make_processor
from medvlm_cli.core.prompts import generation_prompt, tokens_per_image

SCALES = (32, 64, 96)
QUESTION = [{"role": "user", "text": "Is there a nodule?"}]


def pixels(figures, seed=0):
    return torch.randint(0, 256, (figures, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def prompt(processor, text="Is there a nodule?"):
    return torch.tensor([generation_prompt(processor, [{"role": "user", "text": text}])])


def labelled(processor, figures=2, targets=5):
    ids = prompt(processor).repeat(figures, 1)
    labels = torch.full_like(ids, -100)
    labels[:, -targets:] = ids[:, -targets:]
    labels[0, -1] = -100  # rows of different numbers of targets
    return ids, labels


def parameters(module):
    return sum(weight.numel() for weight in module.parameters())


# ---- the paper's model --------------------------------------------------------------------------------------------

LLAMA3_8B = {
    "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192, "tie_word_embeddings": False,
}  # fmt: skip
"""Meta-Llama-3-8B-Instruct, config.json."""


@pytest.fixture(scope="module")
def full_size():
    vision = TOWERS["dfn5b-vit-h-14-378"].config((378, 756, 1134))
    with torch.device("meta"):
        return MedVLMForConditionalGeneration(make_config(vision, LlamaConfig(**LLAMA3_8B), 128256, "squash", "llama3"))


def test_the_full_size_model_has_the_parameters_of_the_paper(full_size):
    model = full_size.model
    assert parameters(model.language_model) + parameters(full_size.lm_head) == 8_030_261_248
    assert parameters(model.multi_modal_projector) == connector_parameters(3840, 4096) == 32_514_048
    text_projection = 1280 * 1024  # part of open_clip's visual 632,682,240, of no use for features
    assert parameters(model.vision_tower) + text_projection == 632_682_240
    unused = parameters(model.vision_tower.clip.encoder.layers[-1]) + parameters(model.vision_tower.clip.post_layernorm)
    assert parameters(model.vision_tower) - unused == 611_691_520


def test_the_full_size_model_gives_729_tokens_an_image(full_size, tiny_model):
    features = full_size.model.vision_tower.encode(torch.empty(1, 3, 1134, 1134, device="meta", dtype=torch.uint8))
    assert features.shape == (1, 729, 3840)
    processor = make_processor(tiny_model[1].tokenizer, full_size.config.vision_config, "llama3", "squash")
    assert tokens_per_image(processor) == full_size.config.image_seq_length == 729
    assert generation_prompt(processor, QUESTION).count(processor.image_token_id) == 729


# ---- building -----------------------------------------------------------------------------------------------------


def test_the_same_seed_makes_the_same_connector_and_another_seed_another(tiny_model, tiny_tower, tiny_llm):
    starts = [build_model(tiny_tower, tiny_llm, SCALES, seed=seed)[0].model.multi_modal_projector for seed in (0, 1)]
    assert torch.equal(starts[0].linear_1.weight, tiny_model[0].model.multi_modal_projector.linear_1.weight)
    assert not torch.equal(starts[0].linear_1.weight, starts[1].linear_1.weight)


def test_the_connector_starts_as_torch_starts_linear_layers(tiny_model):
    connector = tiny_model[0].model.multi_modal_projector
    for linear in (connector.linear_1, connector.linear_2):
        reference = torch.nn.Linear(linear.in_features, linear.out_features)
        assert linear.weight.abs().max().item() == pytest.approx(reference.weight.abs().max().item(), rel=0.01)
        assert linear.weight.std().item() == pytest.approx(reference.weight.std().item(), rel=0.05)
        assert 0 < linear.bias.abs().max() <= reference.in_features**-0.5


def test_the_image_token_is_one_token_and_its_row_is_the_mean_of_the_others(tiny_model, tiny_llm):
    model, processor = tiny_model
    rows = AutoModelForCausalLM.from_pretrained(tiny_llm).get_input_embeddings().weight
    grown = model.get_input_embeddings().weight
    assert processor.image_token_id == len(rows) == len(processor.tokenizer) - 1
    assert len(grown) % 64 == 0
    assert len(grown) - len(rows) <= 64
    assert torch.equal(grown[: len(rows)], rows)
    assert torch.allclose(grown[len(rows) :], rows.mean(0).expand(len(grown) - len(rows), -1))
    assert model.lm_head.weight.shape == grown.shape


SHAPE = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (GPT2LMHeadModel, GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=2)),
        (
            Qwen2ForCausalLM,
            Qwen2Config(**SHAPE, intermediate_size=64, num_key_value_heads=1, tie_word_embeddings=True),
        ),
    ],
)
def test_any_causal_language_model_joins_tied_or_not(kind, config, tiny_tower, tiny_llm, tmp_path):
    torch.manual_seed(0)
    kind(config).save_pretrained(tmp_path / "llm")
    load_llm(tiny_llm, torch.float32)[1].save_pretrained(tmp_path / "llm")
    model, processor = build_model(tiny_tower, str(tmp_path / "llm"), SCALES)
    model.save_pretrained(tmp_path / "joined")
    again = MedVLMForConditionalGeneration.from_pretrained(tmp_path / "joined")
    ids = prompt(processor)
    with torch.no_grad():
        assert torch.equal(again(ids, pixel_values=pixels(1)).logits, model(ids, pixel_values=pixels(1)).logits)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (PhiForCausalLM, PhiConfig(**SHAPE, intermediate_size=64)),  # a head with a bias
        (CohereForCausalLM, CohereConfig(**SHAPE, intermediate_size=64, logit_scale=0.5, pad_token_id=0)),
    ],
)
def test_a_language_model_whose_head_is_more_than_a_linear_map_is_refused(kind, config, tiny_tower, tiny_llm, tmp_path):
    kind(config).save_pretrained(tmp_path)
    load_llm(tiny_llm, torch.float32)[1].save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="its head is more than a linear map"):
        build_model(tiny_tower, str(tmp_path), SCALES)


def test_a_language_model_that_is_not_there_says_what_to_do(tiny_tower):
    with pytest.raises(RemoteError, match=r"llm meta-llama/nonesuch: no such folder.*\n.*HF_TOKEN.*--set llm=tiny"):
        build_model(tiny_tower, "meta-llama/nonesuch", SCALES)


def test_a_path_that_is_not_there_is_not_asked_of_the_hub(tiny_tower, tmp_path):
    with pytest.raises(ConfigError, match="gone: no such folder"):
        build_model(tiny_tower, str(tmp_path / "gone"), SCALES)


def test_a_folder_that_is_no_language_model_is_refused(tiny_tower, tmp_path):
    with pytest.raises(ConfigError, match="not a causal language model"):
        build_model(tiny_tower, str(tmp_path), SCALES)


@pytest.mark.parametrize(
    ("llm", "family", "stops"),
    [
        ("tiny_llm", "llama3", ["<|eot_id|>", "<|end_of_text|>"]),
        ("mistral_llm", "mistral", ["</s>"]),
        ("chatml_llm", "own", ["<|im_end|>"]),
        ("plain_llm", "generic", ["<|endoftext|>"]),
    ],
)
def test_a_family_is_known_by_its_tokenizer_and_brings_its_stop_tokens(llm, family, stops, tiny_tower, request):
    model, processor = build_model(tiny_tower, request.getfixturevalue(llm), SCALES)
    assert model.config.llm_family == family
    assert processor.tokenizer.convert_ids_to_tokens(model.generation_config.eos_token_id) == stops


def test_a_mistral_whose_tokenizer_has_role_tokens_chats_by_its_own_template(mistral_llm):
    tokenizer = load_llm(mistral_llm, torch.float32)[1]
    assert family_of(tokenizer, "mistral") == "mistral"
    tokenizer.add_tokens(["[INST]"], special_tokens=True)
    tokenizer.chat_template = "its own"
    assert family_of(tokenizer, "mistral") == "own"


@pytest.mark.parametrize("fit", ["squash", "pad", "crop"])
def test_the_processor_makes_an_image_square_as_images_does(tiny_tower, tiny_llm, fit):
    model, processor = build_model(tiny_tower, tiny_llm, SCALES, fit=fit)
    smooth = np.linspace(0, 255, 150 * 100 * 3).reshape(100, 150, 3).astype(np.uint8)
    image = Image.fromarray(smooth)
    given = processor.image_processor(images=image, return_tensors="pt")["pixel_values"]
    ours = torch.from_numpy(to_rgb_square(image, 96, fit).copy()).permute(2, 0, 1)[None]
    levels = (model.model.vision_tower._normalised(ours) - given) * 255 * 0.27
    assert model.config.fit == fit
    assert levels.abs().quantile(0.95) <= 2  # of 255; LLaVA pads before it resizes, which bleeds into the border


# ---- forward ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_logits_are_those_of_stock_llava(tiny_model):
    model, processor = tiny_model
    stock = LlavaForConditionalGeneration(model.config).eval()
    stock.load_state_dict(model.state_dict())
    ids, images = prompt(processor).repeat(2, 1), model.model.vision_tower._normalised(pixels(2))
    assert torch.equal(model(ids, pixel_values=images).logits, stock(ids, pixel_values=images).logits)


@torch.no_grad()
def test_cached_features_give_the_logits_of_the_pixels(tiny_model):
    model, processor = tiny_model
    ids, images = prompt(processor).repeat(2, 1), pixels(2)
    features = model.model.vision_tower.encode(images)
    assert torch.equal(model(ids, image_features=features).logits, model(ids, pixel_values=images).logits)
    assert not torch.equal(model(ids, image_features=features.flip(0)).logits, model(ids, pixel_values=images).logits)


@torch.no_grad()
def test_the_loss_is_the_mean_over_the_targets(tiny_model):
    model, processor = tiny_model
    ids, labels = labelled(processor)
    logits = model(ids, pixel_values=pixels(2)).logits
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    out = model(ids, pixel_values=pixels(2), labels=labels)
    assert out.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert out.logits is None


@torch.no_grad()
def test_losses_of_micro_batches_add_up_to_the_loss_of_the_step(tiny_model):
    model, processor = tiny_model
    ids, labels = labelled(processor)
    whole, images = model(ids, pixel_values=pixels(2), labels=labels).loss, pixels(2)
    parts = [
        model(
            ids[row : row + 1], pixel_values=images[row : row + 1], labels=labels[row : row + 1], num_items_in_batch=9
        )
        for row in (0, 1)
    ]
    assert (parts[0].loss + parts[1].loss).item() == pytest.approx(whole.item(), rel=1e-6)
    assert parts[0].loss.item() != pytest.approx(parts[1].loss.item(), rel=1e-2)


def test_the_head_runs_at_target_positions_only(tiny_model):
    model, processor = tiny_model
    ids, labels = labelled(processor, targets=5)
    seen = []
    handle = model.lm_head.register_forward_hook(lambda module, given, out: seen.append(tuple(out.shape)))
    model(ids, pixel_values=pixels(2), labels=labels)
    handle.remove()
    assert seen == [(9, model.lm_head.out_features)]


def test_the_loss_is_taken_in_float32_whatever_the_weights(tiny_tower, tiny_llm):
    model, processor = build_model(tiny_tower, tiny_llm, SCALES, dtype=torch.bfloat16)
    ids, labels = labelled(processor)
    assert model(ids, pixel_values=pixels(2), labels=labels).loss.dtype == torch.float32
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


def test_a_batch_without_targets_has_a_loss_of_zero_that_can_go_backward(fresh_model):
    model, processor = fresh_model
    freeze(model, "finetune")
    ids = prompt(processor)
    loss = model(ids, pixel_values=pixels(1), labels=torch.full_like(ids, -100)).loss
    loss.backward()
    assert loss.item() == 0
    assert model.model.multi_modal_projector.linear_1.weight.grad.abs().sum() == 0


def test_a_training_batch_without_images_gives_the_connector_a_gradient_of_zero_and_the_same_loss(fresh_model):
    model, processor = fresh_model
    freeze(model, "finetune")
    ids = torch.tensor([generation_prompt(processor, QUESTION, images=0)])
    quiet = model.eval()(ids, labels=ids).loss.item()
    loss = model.train()(ids, labels=ids).loss
    loss.backward()
    assert loss.item() == quiet
    assert all((weight.grad == 0).all() for weight in model.model.multi_modal_projector.parameters())
    assert model.model.language_model.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0


def test_too_few_placeholders_for_the_images_are_refused(tiny_model):
    model, processor = tiny_model
    with pytest.raises(ValueError, match="Image features and image tokens do not match"):
        model(prompt(processor), pixel_values=pixels(2))


def test_pixels_and_features_together_are_refused(tiny_model):
    model, processor = tiny_model
    features = model.model.vision_tower.encode(pixels(1))
    with pytest.raises(ValueError, match="give only one of pixel_values, image_features"):
        model(prompt(processor), pixel_values=pixels(1), image_features=features)


@pytest.mark.parametrize(
    ("stage", "learning"),
    [("pretrain", {"multi_modal_projector"}), ("finetune", {"multi_modal_projector", "language_model", "lm_head"})],
)
def test_a_stage_trains_what_it_trains_and_never_the_tower(fresh_model, stage, learning):
    model, processor = fresh_model
    freeze(model, stage)
    ids, labels = labelled(processor)
    model.train()(ids, pixel_values=pixels(2), labels=labels).loss.backward()
    part = {name: name.removeprefix("model.").split(".")[0] for name, _ in model.named_parameters()}
    assert {part[name] for name, weight in model.named_parameters() if weight.grad is not None} == learning
    assert {part[name] for name, weight in model.named_parameters() if weight.requires_grad} == learning
    assert not model.model.vision_tower.training


# ---- generation ---------------------------------------------------------------------------------------------------


def grown(model, ids, tokens, **given):
    """Greedy, without a cache, written out."""
    for _ in range(tokens):
        logits = model(ids, **given).logits[:, -1]
        logits[:, model.config.image_token_index] = float("-inf")
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
    return ids


@torch.no_grad()
@pytest.mark.parametrize("use_cache", [True, False])
def test_generation_from_pixels_and_from_features_is_greedy_decoding(fresh_model, use_cache):
    model, processor = fresh_model
    for block in model.model.language_model.layers:  # so that the likeliest token changes from step to step
        block.mlp.down_proj.weight.mul_(30)
        block.self_attn.o_proj.weight.mul_(30)
    model.generation_config.eos_token_id = None
    ids, images = prompt(processor), pixels(1)
    expected = grown(model, ids, 6, pixel_values=images)
    features = model.model.vision_tower.encode(images)
    settings = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 6, "use_cache": use_cache}
    assert len(set(expected[0, -6:].tolist())) > 1
    assert torch.equal(model.generate(ids, pixel_values=images, **settings), expected)
    assert torch.equal(model.generate(ids, image_features=features, **settings), expected)


@torch.no_grad()
def test_the_model_never_says_the_image_token(fresh_model):
    model, processor = fresh_model
    ids, image = prompt(processor), model.config.image_token_index
    likeliest = model(ids, pixel_values=pixels(1)).logits[0, -1].argmax()
    model.lm_head.weight[image] = 2 * model.lm_head.weight[likeliest]
    assert model(ids, pixel_values=pixels(1)).logits[0, -1].argmax() == image
    said = model.generate(ids, attention_mask=torch.ones_like(ids), pixel_values=pixels(1), max_new_tokens=3)
    assert image not in said[0, ids.shape[1] :]
