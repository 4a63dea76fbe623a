"""Vision transformers from the folders in which they are published."""

import os
from pathlib import Path

from metajax.checks.settings import check_paths
from metajax.models.adapters.linen import from_linen
from metajax.models.pretrained.backbones import Backbone, Part
from metajax.models.pretrained.vision_configs import read_preprocessing, read_settings
from metajax.models.pretrained.vision_network import parts_of
from metajax.models.pretrained.vision_weights import read_weights

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_PREPROCESSING = "preprocessor_config.json"


def vision_transformer(folder: str | os.PathLike[str]) -> Backbone:
    """A ViT, DINOv2, CLIP or SigLIP, to features `[items, width]` of RGB images in `[0, 1]`.

    The folder is one that `save_pretrained` of Hugging Face's Transformers writes, and that models
    are published as: `config.json`, `model.safetensors` and, if it is there,
    `preprocessor_config.json`. Its `model_type` says which network it is: `vit`, `dinov2`, `clip`
    or `siglip`, of which the text's half is not read, or `clip_vision_model` or
    `siglip_vision_model` of the image's half alone. Every number of the network comes from the
    file, or an error says which does not. Nothing is downloaded, and no pickle is opened.

    Features are those that each is used by: of ViT and DINOv2 the class token after the last
    normalisation, of CLIP its projection to where images and texts meet, if the file has one, of
    SigLIP what its attention pools.

    Parts are `"embeddings"`, `"block1"` and so on, and `"pooling"`; parameters are called
    `"block1/attention/query/kernel"`, and so are those of `key`, `value` and `out`, of `norm1` and
    `norm2`, and of `mlp/up` and `mlp/down`. All kernels but that of the patches are matrices,
    `[inputs, outputs]`. There is no dropout.

    Images are brought to the side that the position embeddings are for, `image_size` of
    `config.json` (518 for DINOv2), by the interpolation, mean and deviation of
    `preprocessor_config.json`. Without that file they are those of the family: DINOv2's are
    ImageNet's, CLIP's its own, ViT's and SigLIP's 0.5; all bicubic but ViT's, which is bilinear.
    Nothing is cropped.

    Networks: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021; Oquab et al.,
    "DINOv2", TMLR 2024; Radford et al., "Learning Transferable Visual Models From Natural Language
    Supervision", ICML 2021; Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023.

    Args:
      folder: with the files of the model.

    Raises:
      FileNotFoundError: there is no such folder, or one of the two files is missing.
      ImportError: safetensors is missing, see the extra `pretrained`.
      OSError: a file may not be read, or is no regular one.
      TypeError: `folder` is no path.
      ValueError: a file is damaged, or of a network that is not supported, or the weights are not
        those of the configuration, see the message.
    """
    check_paths(folder=folder)
    files = {name: Path(folder, name) for name in (_CONFIG, _WEIGHTS)}
    if missing := [name for name, path in files.items() if not path.exists()]:
        raise FileNotFoundError(
            f"{os.fspath(folder)!r} has no {' and no '.join(missing)}; expected a folder that "
            "Transformers' save_pretrained wrote, or the files of a published model, copied there: "
            "nothing is downloaded"
        )
    configured = read_settings(files[_CONFIG])
    preprocessing = read_preprocessing(Path(folder, _PREPROCESSING), configured)
    settings, params = read_weights(files[_WEIGHTS], configured)
    models = {module: from_linen(module) for module in set(parts_of(settings).values())}
    parts = {
        name: Part(models[module], params[name]) for name, module in parts_of(settings).items()
    }
    # What weights do not tell is a part of the name, and so of the digest.
    name = (
        f"{settings.family}, {settings.heads} heads, {settings.activation}, "
        f"epsilon {settings.epsilon:g}"
    )
    return Backbone(name, parts, preprocessing)
