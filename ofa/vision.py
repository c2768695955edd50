"""ResNet v1.5 without its fourth stage: from a picture to image tokens of 1024 channels.

He et al. 2015, https://arxiv.org/abs/1512.03385, with the stride in the 3×3 convolution. Attribute names
equal the checkpoint's keys. ModelScope uses bottlenecks for every depth, "resnet18" included.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ofa import onednn

CancelPoint = Callable[[], None]
#: Output channels of the third stage.
WIDTH = 1024
_EXPANSION = 4


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions with a shortcut."""

    def __init__(self, inputs: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        outputs = planes * _EXPANSION
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3: nn.Module = nn.BatchNorm2d(outputs)  # all three are Identities once folded
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, height, width) → (batch, 4·planes, height/stride, width/stride)."""
        shortcut: Tensor = x if self.downsample is None else self.downsample(x)
        if isinstance(self.bn3, nn.Identity) and onednn.fuses(x):
            x = onednn.conv_relu(onednn.conv_relu(x, self.conv1), self.conv2)
            return onednn.conv_add_relu(x, self.conv3, shortcut)
        # In place: on a CPU these memory passes take a quarter of the convolutions' time.
        x = torch.relu_(self.bn1(self.conv1(x)))
        x = torch.relu_(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return torch.relu_(x.add_(shortcut))


class ResNet(nn.Module):
    """Stem and three stages; all but the first stage halve the picture.

    Args:
        blocks: bottlenecks in each of the three stages.
    """

    def __init__(self, blocks: tuple[int, int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(64)  # an Identity once folded
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(64, 64, blocks[0], stride=1)
        self.layer2 = _stage(256, 128, blocks[1], stride=2)
        self.layer3 = _stage(512, 256, blocks[2], stride=2)

    def forward(self, pixels: Tensor, cancel_point: CancelPoint | None = None) -> Tensor:
        """(batch, 3, size, size) → (batch, 1024, size/16, size/16), rounded up."""
        x: Tensor
        if isinstance(self.bn1, nn.Identity) and onednn.fuses(pixels):
            x = onednn.conv_relu(pixels, self.conv1)
        else:
            x = torch.relu_(self.bn1(self.conv1(pixels)))
        x = self.maxpool(x)
        for stage in (self.layer1, self.layer2, self.layer3):
            for block in stage:
                if cancel_point is not None:
                    cancel_point()
                x = block(x)
        return x


def _stage(inputs: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    rest = (Bottleneck(planes * _EXPANSION, planes) for _ in range(blocks - 1))
    return nn.Sequential(Bottleneck(inputs, planes, stride), *rest)
