"""U-Net with batch norm and learned upsampling.

O. Ronneberger, P. Fischer, T. Brox, "U-Net: convolutional networks for biomedical image
segmentation", MICCAI 2015.
"""

from arraynn import nn
from arraynn.autograd import concatenate


def double_conv(ic, oc):
    """Two 3x3 convolutions, each with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(ic, oc, 3, padding=1, bias=False),
        nn.BatchNorm2d(oc),
        nn.ReLU(),
        nn.Conv2d(oc, oc, 3, padding=1, bias=False),
        nn.BatchNorm2d(oc),
        nn.ReLU(),
    )


class Up(nn.Module):
    """Twice the size, beside what the way down had at that size."""

    def __init__(self, ic, oc):
        super().__init__()
        self.up = nn.ConvTranspose2d(ic, oc, 2, stride=2)
        self.conv = double_conv(2 * oc, oc)

    def forward(self, x, skip):
        return self.conv(concatenate((skip, self.up(x)), 1))


class UNet(nn.Module):
    """Images (n, in_channels, h, w) to class maps (n, num_classes, h, w); 16 divides h and w."""

    def __init__(self, in_channels=3, num_classes=2, width=64):
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        self.inc = double_conv(in_channels, width)
        self.down1 = double_conv(width, 2 * width)
        self.down2 = double_conv(2 * width, 4 * width)
        self.down3 = double_conv(4 * width, 8 * width)
        self.down4 = double_conv(8 * width, 16 * width)
        self.up1 = Up(16 * width, 8 * width)
        self.up2 = Up(8 * width, 4 * width)
        self.up3 = Up(4 * width, 2 * width)
        self.up4 = Up(2 * width, width)
        self.outc = nn.Conv2d(width, num_classes, 1)

    def forward(self, x):
        x1 = self.inc(x)
        x2 = self.down1(self.pool(x1))
        x3 = self.down2(self.pool(x2))
        x4 = self.down3(self.pool(x3))
        x = self.down4(self.pool(x4))
        x = self.up4(self.up3(self.up2(self.up1(x, x4), x3), x2), x1)
        return self.outc(x)


if __name__ == "__main__":
    import numpy as np

    from arraynn import Tensor

    model = UNet().eval()
    print(sum(p.data.size for p in model.parameters()), "parameters")
    print(model(Tensor(np.zeros((1, 3, 64, 64), np.float32))).shape)
