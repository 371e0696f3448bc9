"""The default encoder: ConvNeXt-T of timm (Liu et al. 2022), by default at stride 16 with 384 channels."""

import torch

from idl.encoders import timm_model
from idl.encoders.base import Encoder, EncoderConfig

ARCHITECTURE = "convnext_tiny"


def build(config: EncoderConfig, device: torch.device) -> Encoder:
    """Build it; everything else is as for any timm model."""
    return timm_model.build_architecture(config, device, ARCHITECTURE)
