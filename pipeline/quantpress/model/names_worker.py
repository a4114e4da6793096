"""What tensors of the files are called in the model, and what those of the model will be called in its files.

Both are transformers' own renaming; part of the structure's worker.
"""

from __future__ import annotations

from typing import Any

from quantpress.model.headers import Tensor


def parameters_of(model: Any, files: dict[str, Tensor]) -> dict[str, str]:
    """The parameter that each tensor of the files goes to; a tensor that is never loaded is left out."""
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    conversions = getattr(model, "_weight_conversions", None) or []
    renamings = [one for one in conversions if isinstance(one, WeightRenaming)]
    converters = [one for one in conversions if isinstance(one, WeightConverter)]
    state = model.state_dict()
    found = {}
    for name in files:
        renamed, _ = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        if renamed in state:
            found[name] = renamed
    return found


class SavedNames:
    """What tensors of the model are called in the files: by transformers' own renaming, backwards."""

    def __init__(self, model: Any) -> None:
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        self._model = model
        reverse = [one.reverse_transform() for one in reversed(getattr(model, "_weight_conversions", None) or [])]
        self._renamings = [one for one in reverse if isinstance(one, WeightRenaming)]
        self._converters = [one for one in reverse if isinstance(one, WeightConverter)]

    def names(self, name: str, tensor: Any) -> list[str]:
        """Several names for a tensor that the files keep in parts, such as experts one by one."""
        from transformers.core_model_loading import rename_source_key, revert_weight_conversion

        # What is only renamed needs no conversion: transformers compiles a pattern for each tensor that it converts.
        renamed, converted = rename_source_key(name, self._renamings, self._converters, reverse=True)
        if converted is None:
            return [renamed]
        try:
            return list(revert_weight_conversion(self._model, {name: tensor})) or [name]
        except Exception:  # a conversion that needs the other parts too: the files hold it under the model's name
            return [name]

    def of_module(self, name: str, module: Any) -> str:
        """The name of a module, which is that of its weight without `.weight`."""
        return self.names(f"{name}.weight", module.weight)[0].removesuffix(".weight")
