"""The autoencoder of DALL-E without its quantiser: its network, its two losses, and its encode half as an encoder."""

from idl.encoders.autoencoder.config import PRESETS, STRIDE, AutoencoderConfig, Loss, require_size
from idl.encoders.autoencoder.network import Autoencoder, DecoderHalf, EncoderHalf

__all__ = [
    "PRESETS",
    "STRIDE",
    "Autoencoder",
    "AutoencoderConfig",
    "DecoderHalf",
    "EncoderHalf",
    "Loss",
    "require_size",
]
