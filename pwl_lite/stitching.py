"""Converters by least squares, without any training: the start, and the rival, of trained ones."""

import torch
from torch import Tensor, nn

from .blocknet import channels_first
from .errors import NetworkError
from .swapnet import SwapNet


@torch.no_grad()
def fit_converters(net: SwapNet, images: Tensor, ridge: float = 1e-4) -> list[tuple[float, float]]:
    """Set every converter, in place, to the linear map that predicts the other network's features best.

    Both networks must be trained already; here they are run in evaluation mode and stay as they are.
    Source: Pan, Cai, Zhuang, *Stitchable Neural Networks*, arXiv 2302.06586, which fits its stitches on 100 images.

    Args:
        net: the pair.
        images: normalised, (batch, 3, height, width); each place of a feature map counts as one example, so a hundred
            images are plenty where maps are large, and some thousands where they are 3 x 3.
        ridge: added to the diagonal of the examples' covariance, relative to its mean, so that channels that are always 0
            do no harm.

    Returns:
        For each boundary the share of the variance that (encoder, decoder) explain on these images, 1 for all of it.

    Raises:
        NetworkError: fewer examples than channels at some boundary.
    """
    training = net.training
    net.eval()
    features = zip(net.student.features(images), net.teacher.features(images), strict=True)
    net.train(training)
    explained = []
    for i, ((student, teacher), converter) in enumerate(zip(features, net.converters, strict=False), start=1):
        s, t = _rows(student), _rows(teacher)
        channels = max(s.shape[1], t.shape[1])
        if len(s) <= channels:
            raise NetworkError(
                f"{len(images)} images are {len(s)} examples after block {i}, which has {channels} channels: "
                "expected more examples than channels; give more images"
            )
        explained.append((_fit(converter.encoder, t, s, ridge), _fit(converter.decoder, s, t, ridge)))
    return explained


def _rows(features: Tensor) -> Tensor:
    """Maps or tokens as examples: (batch x places, channels), in double precision for the sums to come."""
    return channels_first(features).flatten(2).transpose(1, 2).flatten(0, 1).double()


def _fit(linear: nn.Module, inputs: Tensor, outputs: Tensor, ridge: float) -> float:
    """Ridge regression with an offset: weight and bias of `linear`; returns the explained share of the variance."""
    mean_in, mean_out = inputs.mean(0), outputs.mean(0)
    x, y = inputs - mean_in, outputs - mean_out
    covariance = x.T @ x
    covariance.diagonal().add_(ridge * covariance.diagonal().mean())
    weight = torch.linalg.solve(covariance, x.T @ y).T  # (channels out, channels in)
    linear.weight.copy_(weight.view_as(linear.weight))
    linear.bias.copy_(mean_out - weight @ mean_in)
    return float(1 - (y - x @ weight.T).square().sum() / y.square().sum())
