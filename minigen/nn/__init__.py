"""Layers and blocks that no single paper owns.

Read `module` first, then `layers`, `resnet`, `attention`, `unet`, `transformer`, `text_unet`; `eight_bit` rounds trained
linear layers.
"""

from .attention import Attention, PixelAttention
from .eight_bit import EightBitLinear, in_eight_bits
from .layers import (
    MLP,
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    Dropout,
    Embedding,
    GroupNorm,
    LayerNorm,
    Linear,
    Sequential,
)
from .module import Module, parameter
from .resnet import Downsample, ResBlock, Upsample, fold, unfold
from .text_unet import ReadingUNet, TextAttention, TextUNet, Words
from .time import TimeEmbedding, sinusoidal
from .transformer import Block, Transformer
from .unet import UNet

__all__ = [
    "MLP",
    "Attention",
    "BatchNorm",
    "Block",
    "Conv2d",
    "ConvTranspose2d",
    "Downsample",
    "Dropout",
    "EightBitLinear",
    "Embedding",
    "GroupNorm",
    "LayerNorm",
    "Linear",
    "Module",
    "PixelAttention",
    "ReadingUNet",
    "ResBlock",
    "Sequential",
    "TextAttention",
    "TextUNet",
    "TimeEmbedding",
    "Transformer",
    "UNet",
    "Upsample",
    "Words",
    "fold",
    "in_eight_bits",
    "parameter",
    "sinusoidal",
    "unfold",
]
