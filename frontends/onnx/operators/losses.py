"""Losses."""

from __future__ import annotations

from typing import Any

import torch

from ullage.frontends.onnx.table import Call, operator

Tensor = torch.Tensor


def _negative_log_likelihood(call: Call, scores: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """−scores[target] per element, weighted by class, without those of `ignore_index`, then reduced."""
    ignored = call.attribute("ignore_index")
    places = (
        target.long() if ignored is None else torch.where(target == ignored, torch.zeros_like(target), target).long()
    )
    loss = -torch.gather(scores, 1, places.unsqueeze(1)).squeeze(1)
    share = torch.ones_like(loss) if weight is None else weight[places]
    if ignored is not None:
        share = torch.where(target == ignored, torch.zeros_like(share), share)
    loss = loss * share
    match call.attribute("reduction", "mean"):
        case "none":
            return loss
        case "sum":
            return loss.sum()
    return loss.sum() / share.sum()


@operator("NegativeLogLikelihoodLoss")
def _nll(call: Call) -> Tensor:
    return _negative_log_likelihood(call, call.tensor(0), call.tensor(1), call.optional(2))


@operator("SoftmaxCrossEntropyLoss")
def _cross_entropy(call: Call) -> tuple[Any, ...]:
    log = torch.log_softmax(call.tensor(0), 1)
    return _negative_log_likelihood(call, log, call.tensor(1), call.optional(2)), log
