"""Small random CLIP towers whose weights are as large as trained ones, so that wrong tiles show."""

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def random_clip(size, patch, width=32, layers=4, heads=2, **more):
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads,
        image_size=size, patch_size=patch, hidden_act="quick_gelu", **more,
    )  # fmt: skip
    model = CLIPVisionModel(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name or "bias" in name:
                weight.add_(torch.randn_like(weight) * 0.2)
            elif "position" in name or "class" in name:
                weight.normal_(0, 0.5)
            else:
                weight.normal_(0, 1.5 * weight[0].numel() ** -0.5)
    return model
