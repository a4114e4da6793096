"""What llmcompressor says of a run reaches people in sentences with a consequence, or fails the stage."""

from typing import Any

import pytest

from quantpress.artifact.manifest import Calibrated, ExpertTokens, Filled
from quantpress.errors import InputError, StageError
from quantpress.quantize import oneshot_worker, remarks
from quantpress.recipe.modifiers import Awq, Gptq
from quantpress.recipe.recipe import Recipe


def _recipe(name: str = "gptq", **body: Any) -> Recipe:
    modifiers = [{name: {"scheme": "W4A16", **body}}]
    return Recipe.model_validate({"name": "r", "description": "d", "modifiers": modifiers})


def _gptq_said(fallen: int, of: int) -> list[str]:
    """As GPTQModifier._log_rtn_fallback_summary has it: ten names at most."""
    names = ", ".join(f"model.layers.{number}" for number in range(min(fallen, 10)))
    names += f", and {fallen - 10} more (full list at DEBUG level)" if fallen > 10 else ""
    return [
        "something else",
        f"Hessian inversion failed for {fallen}/{of} modules (50.0%). These modules were quantized with "
        f"round-to-nearest instead of GPTQ. Affected modules: {names}\n",
    ]


@pytest.mark.parametrize(("fallen", "of"), [(7, 14), (60, 100), (1, 1)])
def test_layers_that_gptq_gave_up_on_are_named(fallen: int, of: int) -> None:
    [warning] = remarks.of_fallbacks(_recipe(fallback_limit=1), _gptq_said(fallen, of))
    assert warning.startswith(f"GPTQ could not invert the Hessians of {fallen} of {of} layers (model.layers.0")
    assert "rounded to nearest, without calibration" in warning
    assert (f"model.layers.2 and {fallen - 3} more" in warning) is (fallen > 3)


def test_half_of_the_layers_is_a_warning_and_two_thirds_a_failure() -> None:
    assert remarks.of_fallbacks(_recipe(), _gptq_said(7, 14))
    with pytest.raises(StageError, match=r"gptq rounded 10 of 15 layers without calibration \(67%, and 60%") as caught:
        remarks.of_fallbacks(_recipe(), _gptq_said(10, 15))
    assert "gptq.dampening_frac" in str(caught.value.hint)
    assert "gptq.fallback_limit: 1" in str(caught.value.hint)
    with pytest.raises(StageError, match="20% are allowed"):
        remarks.of_fallbacks(_recipe(fallback_limit=0.2), _gptq_said(7, 14))


def test_the_reference_states_the_limit() -> None:
    for body in (Gptq, Awq):
        assert f"left out: {remarks.FALLBACK_LIMIT}." in str(body.model_fields["fallback_limit"].description)


def _awq_said(skipped: int, done: int) -> list[str]:
    said = [f"Skipping smooth_layer model.{n}.norm, NaN or inf outputs found during forward" for n in range(skipped)]
    return [*said, f"AWQ per-mapping error metrics: {{'quantization_config': {{}}, 'total_layers': {done}}}"]


def test_places_that_awq_could_not_rescale_count_likewise() -> None:
    [warning] = remarks.of_fallbacks(_recipe("awq"), _awq_said(2, 2))
    assert warning.startswith("AWQ did not rescale 2 of 4 places (model.0.norm, model.1.norm)")
    with pytest.raises(StageError, match="awq rounded 3 of 4"):
        remarks.of_fallbacks(_recipe("awq"), _awq_said(3, 1))
    assert remarks.of_fallbacks(_recipe("awq"), _awq_said(0, 6)) == []


def test_each_kind_of_warning_is_said_once() -> None:
    said = ["Attempted to calibrate a module input without statistics. This"] * 3
    said += ["imatrix_mse: no importance data available. Falling back to uniform MSE."] * 2 + ["No accelerator"]
    found = remarks.of_llmcompressor(said)
    assert [text.partition(" (")[0] for text in found] == [
        "calibration data never reached some modules",
        "the observer imatrix_mse had no use of its data",
    ]
    assert "(no importance data available)" in found[1]


def _experts(all_experts: bool, few: list[str], without: int = 0) -> ExpertTokens:
    return ExpertTokens(experts=512, all_experts=all_experts, fewest=0, fewest_routed=0, few=few, without=without)


def test_experts_that_saw_too_little_are_named_in_bounded_length() -> None:
    few = [f"model.layers.{layer}.mlp.experts.{number}" for layer in range(48) for number in range(64)]
    for all_experts, words in ((True, "the router sent 3072 of 512 experts"), (False, "saw fewer than 128")):
        [warning] = remarks.of_experts(_experts(all_experts, few, without=2))
        assert words in warning
        assert "model.layers.0.mlp: 0, 1, 2, 3, 4, 5, 6, 7 and 56 more" in warning
        assert "and 45 more)" in warning
        assert ", 2 of them none" in warning
        assert len(warning) < 600
    assert remarks.of_experts(_experts(True, [])) == []
    assert remarks.of_experts(None) == []


def test_data_that_cannot_be_enough() -> None:
    about = Calibrated(
        sources=[Filled(dataset="d", requested_sequences=8, sequences=4)],
        sequences=4,
        distinct_sequences=1,
        sequence_length=16,
        tokens=64,
        fingerprint="",
    )
    starts = [text[:12] for text in remarks.of_data(about, 128)]
    assert starts == ["d fills 4 of", "64 calibrati", "only 1 of 4 "]


def test_a_model_with_nan_is_refused_by_name_before_it_is_quantized() -> None:
    import torch

    model = torch.nn.ModuleDict({"a": torch.nn.Linear(4, 4), "b": torch.nn.Linear(4, 4)}).to(torch.float16)
    assert oneshot_worker.require_finite(model, {"a", "b"}) == []
    with torch.no_grad():
        model["b"].weight[1, 2] = float("nan")
    with pytest.raises(
        InputError, match=r"1 tensors of layers that are to be quantized hold NaN or infinity: b.weight"
    ):
        oneshot_worker.require_finite(model, {"a", "b"})
    [warning] = oneshot_worker.require_finite(model, {"a"})
    assert "(b.weight): they are kept as they are" in warning


def test_weights_that_the_files_lack_are_not_made_up() -> None:
    oneshot_worker.require_all_loaded(object(), [])
    with pytest.raises(InputError, match=r"object needs 1 tensors that the model's files do not hold: a\.weight"):
        oneshot_worker.require_all_loaded(object(), ["a.weight"])
