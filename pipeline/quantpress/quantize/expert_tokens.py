"""Counts the calibration tokens of each expert while llmcompressor runs."""

from __future__ import annotations

import re
from inspect import signature
from math import prod
from typing import Any

from quantpress.artifact.manifest import ExpertTokens
from quantpress.quantize import several_worker
from quantpress.quantize.remarks import ENOUGH_EXPERT_TOKENS

_EXPERT = re.compile(r"\.experts\.\d+$")


class ExpertCounter:
    """Hooks on a model's experts. They are llmcompressor's kind, which it turns off where it runs data a second time.

    `seen` are the tokens that each expert computed with, `routed` those that its router sent it (known where
    llmcompressor made the experts Linear), by module name.
    """

    def __init__(self, model: Any) -> None:
        from llmcompressor.modeling.moe.linearize import get_linearized_moes
        from llmcompressor.modifiers.utils.hooks import HooksMixin

        self.seen = {name: 0 for name, _ in model.named_modules() if _EXPERT.search(name)}
        self.routed: dict[str, int] = {}
        self._hooks = HooksMixin()
        for name in self.seen:
            self._hooks.register_hook(model.get_submodule(name), self._see(name), "forward_pre", with_kwargs=True)
        for name, module in get_linearized_moes(model):
            if "top_k_index" not in signature(module.forward).parameters:  # Llama 4 sends every token everywhere
                continue
            self.routed |= {f"{name}.{number}": 0 for number in range(module.num_experts)}
            self._hooks.register_hook(module, self._route(name), "forward_pre", with_kwargs=True)

    def _see(self, name: str) -> Any:
        def hook(module: Any, inputs: Any, named: Any) -> None:
            self.seen[name] += prod(next(iter([*inputs, *named.values()])).shape[:-1])

        return hook

    def _route(self, name: str) -> Any:
        def hook(module: Any, inputs: Any, named: Any) -> None:
            chosen = named["top_k_index"] if "top_k_index" in named else inputs[1]
            for number, tokens in enumerate(chosen.flatten().bincount(minlength=module.num_experts).tolist()):
                self.routed[f"{name}.{number}"] += tokens

        return hook

    def counted(self, all_experts: bool) -> ExpertTokens | None:
        """What was counted, and takes the hooks off; None for a model without experts, or that saw no data."""
        self._hooks.remove_hooks()
        self.seen, self.routed = several_worker.summed(self.seen), several_worker.summed(self.routed)
        if not any(self.seen.values()):
            return None
        decisive = self.routed if all_experts and self.routed else self.seen
        return ExpertTokens(
            experts=len(self.seen),
            all_experts=all_experts,
            fewest=min(self.seen.values()),
            fewest_routed=min(self.routed.values(), default=None),
            without=sum(tokens == 0 for tokens in decisive.values()),
            few=[name for name, tokens in decisive.items() if tokens < ENOUGH_EXPERT_TOKENS],
        )
