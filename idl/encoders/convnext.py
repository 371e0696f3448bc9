"""The default encoder: ConvNeXt-T of timm (Liu et al. 2022), by default at stride 16 with 384 channels.

A file of weights that names another ConvNeXt makes it that one, at its level of stride 16: what ships with the
package is a convnext_atto, and what `pretrain` registers may be of any size.
"""

import torch

from idl.encoders import timm_model
from idl.encoders.base import Encoder, EncoderConfig

ARCHITECTURE = "convnext_tiny"


def build(config: EncoderConfig, device: torch.device) -> Encoder:
    """Build it; everything else is as for any timm model."""
    return timm_model.build_architecture(config, device, ARCHITECTURE, is_any_of_family=True)
