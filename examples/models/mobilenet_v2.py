"""MobileNetV2 with the state_dict layout of torchvision.models.mobilenet_v2.

M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L.-C. Chen, "MobileNetV2: inverted residuals and
linear bottlenecks", CVPR 2018.
"""

from arraynn import nn

# Expansion, output channels, repetitions, stride of the first.
SETTINGS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def conv_norm_act(ic, oc, kernel, stride=1, groups=1):
    """Convolution, batch norm and ReLU6."""
    return nn.Sequential(
        nn.Conv2d(ic, oc, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
        nn.BatchNorm2d(oc),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; beside a shortcut where the shape stays."""

    def __init__(self, ic, oc, stride, expansion):
        super().__init__()
        self.use_res_connect = stride == 1 and ic == oc
        wide = ic * expansion
        layers = [] if expansion == 1 else [conv_norm_act(ic, wide, 1)]
        self.conv = nn.Sequential(
            *layers,
            conv_norm_act(wide, wide, 3, stride, groups=wide),
            nn.Conv2d(wide, oc, 1, bias=False),
            nn.BatchNorm2d(oc),
        )

    def forward(self, x):
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


class MobileNetV2(nn.Module):
    """Images (n, 3, h, w) to logits (n, num_classes)."""

    def __init__(self, num_classes=1000, dropout=0.2):
        super().__init__()
        layers, ic = [conv_norm_act(3, 32, 3, 2)], 32
        for expansion, oc, repetitions, stride in SETTINGS:
            for i in range(repetitions):
                layers.append(InvertedResidual(ic, oc, stride if i == 0 else 1, expansion))
                ic = oc
        self.features = nn.Sequential(*layers, conv_norm_act(ic, 1280, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(1280, num_classes))

    def forward(self, x):
        return self.classifier(self.pool(self.features(x)).flatten(1))


if __name__ == "__main__":
    import numpy as np

    model = MobileNetV2().eval()
    print(sum(p.data.size for p in model.parameters()), "parameters")
    print(model(np.zeros((1, 3, 224, 224), np.float32)).shape)
