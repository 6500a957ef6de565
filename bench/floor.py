"""The floor under a merge: read every tensor of the inputs, write tensors of as many as the output has bytes.

python floor.py OUTPUT BYTES INPUT...
"""

import sys

from safetensors import safe_open
from safetensors.torch import save_file

output, size, inputs = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
tensors = {}
for path in inputs:
    with safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 (not a dict)
            tensors[f"{len(tensors)}.{key}"] = file.get_tensor(key)
written = {}
for key, tensor in tensors.items():
    if size <= 0:
        break
    written[key] = tensor
    size -= tensor.nbytes
save_file(written, output)
