"""A merge the plain way: all inputs in memory, PEFT's own function on the dense deltas, a thin SVD of every result.

python plain.py MODE RANK OUTPUT INPUT INPUT, at strengths 1 and 0.7 and density 0.5
"""

import importlib.util
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

mode, rank, output, inputs = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:]
# PEFT's one file of merge functions, without the seconds that importing all of it takes
(folder,) = importlib.util.find_spec("peft").submodule_search_locations
spec = importlib.util.spec_from_file_location("merge_utils", Path(folder, "utils", "merge_utils.py"))
peft = importlib.util.module_from_spec(spec)
spec.loader.exec_module(peft)

torch.set_num_threads(1)
loras = [load_file(path) for path in inputs]
merged = {}
for name in [key.removesuffix(".alpha") for key in loras[0] if key.endswith(".alpha")]:
    deltas = []
    for lora in loras:
        up, down = (lora[f"{name}.lora_{part}.weight"].float().flatten(1) for part in ("up", "down"))
        deltas.append(float(lora[f"{name}.alpha"]) / len(down) * up @ down)
    delta = getattr(peft, mode.removesuffix("_svd"))(deltas, torch.tensor([1.0, 0.7]), 0.5)
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    root = values[:rank].sqrt()
    merged[f"{name}.lora_up.weight"] = (left[:, :rank] * root).half().contiguous()
    merged[f"{name}.lora_down.weight"] = (right[:rank] * root[:, None]).half().contiguous()
save_file(merged, output)
