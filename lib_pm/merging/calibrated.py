"""A calibration made into a LoRA: at rank Σr as it is, or truncated by what matters for the layers' outputs."""

from __future__ import annotations

from typing import Any

from lib_pm.core.calibration import merged, truncated
from lib_pm.core.errors import MergeInputError, counted
from lib_pm.core.layers import Layer
from lib_pm.core.merge_layer import MergedLayer
from lib_pm.core.ranks import FULL_RANK, NO_RANK, asked_rank
from lib_pm.merging.calibration import Calibration, core_of
from lib_pm.merging.devices import Device, torch_dtype
from lib_pm.merging.layers import Finished, finish, layer_merger
from lib_pm.merging.memory import Need
from lib_pm.merging.plan import MergePlan, PlannedLayer
from lib_pm.merging.progress import Progress, silent
from lib_pm.merging.run import Result, Run

# The mode of the plain sum at the same rank, and what the merge is called.
CALIBRATED = {"concat": "calibrated", "add_svd": "calibrated_svd"}


def merge_calibrated(plan: MergePlan, calibration: Calibration, *, progress: Progress = silent) -> Result:
    """Return the merge, which can be saved later. plan: of the LoRAs that were calibrated, in mode concat or add_svd.

    The strengths and block weights have to be those that were calibrated, too: a MergeInputError if they are not.
    Biases and norms, which have no inputs, are added up.
    """
    recipe = plan.recipe
    if recipe.mode.id not in CALIBRATED:
        raise MergeInputError(f"The mode is {recipe.mode.id}; allowed with a calibration: {', '.join(CALIBRATED)}.")
    dtype, device = torch_dtype(recipe.save_dtype), Device("cpu")

    plain = layer_merger(plan, device)

    def work(planned: PlannedLayer) -> Finished | None:
        if planned.shape.vector:
            return plain(planned)
        layer = _merged(plan, planned, calibration)
        owners = [plan.files[source.lora].path.name for source in planned.sources if source.weight]
        return finish(planned, layer, plan.naming, dtype, plan.alpha, owners) if layer else None

    def size(planned: PlannedLayer) -> int:  # A, B and their mixture in float64, and the core
        rank = sum(planned.shape.max_rank if rank is FULL_RANK else rank for rank in plan.ranks(planned))
        return 8 * (4 * rank * (planned.shape.out + planned.shape.columns) + 4 * rank**2)

    run = Run(
        plan,
        f"Calibrated merge of {counted(len(plan.files), 'LoRA')}",
        work,
        need=Need(size),
        device=device,
        workers=1,
        progress=progress,
    )
    layers = list(run)
    written: dict[str, Any] = recipe.to_json(plan.contents(progress))
    written |= {"mode": CALIBRATED[recipe.mode.id], "calibration": calibration.to_json()}
    return Result(run.report(), plan, layers, written)


def _merged(plan: MergePlan, planned: PlannedLayer, calibration: Calibration) -> MergedLayer | None:
    recipe, core = plan.recipe, core_of(plan, planned)
    found, rank = calibration.layer(planned.name, core), asked_rank(core.shape, plan.recipe.options)
    if rank == NO_RANK:
        return None
    if rank is FULL_RANK:
        layer = MergedLayer(merged(core, found.change, torch_dtype(recipe.dtype)))
    else:
        cut = truncated(core, found.change, found.second, rank, calibration.settings.ridge)
        layer = MergedLayer(Layer(core.shape, cut.up, cut.down), cut.kept, cut.total)
    factor = float(recipe.options["lambda"] or 0.0)
    return layer if factor == 1 else layer.times(factor)
