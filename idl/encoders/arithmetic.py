"""Which arithmetic an encoder runs in."""

import torch

from idl.encoders.base import Arithmetic, EncoderConfig

# Milliseconds an image and, in brackets, the relative error of the features in the L2 norm against float32;
# random weights, 256 x 256, batches of 16, channels_last, torch 2.15, two AMD EPYC cores (avx512_bf16):
#                               float32    autocast        cast to bfloat16
#   convnext_tiny, stride 16    105.3      51.9 (0.7 %)    43.5 (1.0 %)
#   convnext_atto, stride 16     14.0       8.2 (0.6 %)     8.0 (0.8 %)
#   mobilenetv2_100, stride 16   26.6       9.8 (3.5 %)     9.8 (3.5 %)
#   resnet18, stride 16          22.7      12.4 (0.4 %)    13.1 (0.4 %)
# Hence a network cast as a whole, weights included. With real ImageNet weights, on indoor photographs, the
# features of mobilenetv2_100 are 4.9 % away from float32's, or 5.0 % of their spread: float32 remains a choice.
# The autoencoder of n_hid 32, on one such core in batches of 32: 152, 76 (0.6 %) and 76 (0.6 %) ms. Trained on
# rooms for 1,200 steps, its latents are 0.9 % away from float32's, or 1.1 % of their spread.


def has_fast_bfloat16(device: torch.device) -> bool:
    """Tell whether `device` multiplies bfloat16 in hardware: CUDA from capability 8, avx512_bf16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        # Private in torch 2.11 to 2.15, which has no public question for these.
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def choose(config: EncoderConfig, device: torch.device) -> Arithmetic:
    """Resolve "auto" for a network of convolutions and matrix products."""
    if config.arithmetic != "auto":
        return config.arithmetic
    return "bfloat16" if has_fast_bfloat16(device) else "float32"
