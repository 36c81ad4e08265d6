"""Image classifiers in which each layer reads only the one before: AlexNet, VGG, MobileNet, and small ones."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from limbeck.apps.images.models.layers import chain, convolution, he_initialised, normalized, pooled, relu

VGG_DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""3x3 convolutions of each stage, by the number of layers: configurations A, B, D and E of Simonyan and Zisserman, table 1."""
VGG_WIDTHS = (64, 128, 256, 512, 512)
MOBILENET = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
"""Width and stride of each separable convolution: Howard et al., table 1."""


def alexnet(norm: bool, num_classes: int = 1000) -> nn.Sequential:
    """AlexNet in one tower (Krizhevsky 2014, arXiv 1404.5997), for images ``[batch, 3, 224, 224]``; with ``norm`` after each convolution a batch norm.

    Without norms: convolutions ``features.0``, ``3``, ``6``, ``8`` and ``10``, linear layers ``classifier.1``, ``4`` and ``6``.
    """
    convolutions = (
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.Conv2d(256, 256, 3, padding=1),
    )
    features: list[nn.Module] = []
    for number, conv in enumerate(convolutions):
        features += normalized(conv) if norm else [conv, relu()]
        if number in (0, 1, 4):
            features.append(nn.MaxPool2d(3, stride=2))
    classifier = nn.Sequential(
        *(nn.Dropout(), nn.Linear(256 * 6 * 6, 4096), relu()),
        *(nn.Dropout(), nn.Linear(4096, 4096), relu()),
        nn.Linear(4096, num_classes),
    )
    parts = {"features": nn.Sequential(*features), "avgpool": nn.AdaptiveAvgPool2d(6), "flatten": nn.Flatten()}
    return he_initialised(chain({**parts, "classifier": classifier}))


def vgg(depth: int, norm: bool, num_classes: int = 1000) -> nn.Sequential:
    """VGG (Simonyan and Zisserman 2014, arXiv 1409.1556) of so many layers, one of ``VGG_DEPTHS``, for images ``[batch, 3, 224, 224]``."""
    classifier = nn.Sequential(
        *(nn.Linear(512 * 7 * 7, 4096), relu(), nn.Dropout()),
        *(nn.Linear(4096, 4096), relu(), nn.Dropout()),
        nn.Linear(4096, num_classes),
    )
    parts = {"features": _vgg_features(depth, norm), "avgpool": nn.AdaptiveAvgPool2d(7), "flatten": nn.Flatten()}
    return he_initialised(chain({**parts, "classifier": classifier}))


def vgg_cifar(depth: int, norm: bool, num_classes: int = 10) -> nn.Sequential:
    """VGG for images ``[batch, 3, 32, 32]``, of which its five poolings leave one place: one linear layer classifies."""
    classifier = nn.Linear(512, num_classes)
    return he_initialised(chain({"features": _vgg_features(depth, norm), "flatten": nn.Flatten(), "classifier": classifier}))


def _vgg_features(depth: int, norm: bool) -> nn.Sequential:
    def parts() -> Iterator[nn.Module]:
        inputs = 3
        for width, convolutions in zip(VGG_WIDTHS, VGG_DEPTHS[depth], strict=True):
            for _ in range(convolutions):
                conv = convolution(inputs, width, 3, bias=True)
                yield from normalized(conv) if norm else (conv, relu())
                inputs = width
            yield nn.MaxPool2d(2)

    return nn.Sequential(*parts())


def mobilenet(width: float, num_classes: int = 1000) -> nn.Sequential:
    """MobileNet (Howard et al. 2017, arXiv 1704.04861) with channels multiplied by ``width``, for images ``[batch, 3, 224, 224]``.

    ``model.0.0`` is the first convolution; of each further part ``model.N.0`` is depthwise and ``model.N.3`` pointwise.
    """
    channels = int(32 * width)
    parts = [nn.Sequential(*normalized(convolution(3, channels, 3, 2)))]
    for full, stride in MOBILENET:
        outputs = int(full * width)
        depthwise = convolution(channels, channels, 3, stride, groups=channels)
        parts.append(nn.Sequential(*normalized(depthwise), *normalized(convolution(channels, outputs, 1))))
        channels = outputs
    return he_initialised(chain({"model": nn.Sequential(*parts), **pooled(channels, num_classes)}))


def simplenet_cifar(num_classes: int = 10) -> nn.Sequential:
    """LeNet-5 with rectifiers (LeCun et al. 1998) for images ``[batch, 3, 32, 32]``."""
    linear = {
        "fc1": nn.Linear(16 * 5 * 5, 120),
        "relu3": relu(),
        "fc2": nn.Linear(120, 84),
        "relu4": relu(),
        "fc3": nn.Linear(84, num_classes),
    }
    return he_initialised(chain({**_two_convolutions(3, 6, 16), "flatten": nn.Flatten(), **linear}))


def simplenet_mnist(num_classes: int = 10) -> nn.Sequential:
    """The LeNet-5 of Caffe for images ``[batch, 1, 28, 28]``: 431 thousand parameters, as Han et al. 2015 (arXiv 1506.02626) pruned them."""
    linear = {"fc1": nn.Linear(50 * 4 * 4, 500), "relu3": relu(), "fc2": nn.Linear(500, num_classes)}
    return he_initialised(chain({**_two_convolutions(1, 20, 50), "flatten": nn.Flatten(), **linear}))


def simplenet_v2_mnist(num_classes: int = 10) -> nn.Sequential:
    """The same convolutions with one linear layer, on the mean over all places."""
    return he_initialised(chain({**_two_convolutions(1, 20, 50), **pooled(50, num_classes)}))


def _two_convolutions(inputs: int, first: int, second: int) -> dict[str, nn.Module]:
    one, two = nn.Conv2d(inputs, first, 5), nn.Conv2d(first, second, 5)
    return {"conv1": one, "relu1": relu(), "pool1": nn.MaxPool2d(2), "conv2": two, "relu2": relu(), "pool2": nn.MaxPool2d(2)}
