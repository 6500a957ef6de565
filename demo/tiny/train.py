"""Trains the small Stable Diffusion: `python -m demo.tiny.train vae|base|loras --folder FOLDER`, in this order.

A part that was stopped goes on from its checkpoint in FOLDER. The weights come into FOLDER too, or into --out.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch

from demo.quiet import hush_libraries
from demo.tiny.model import build_models, build_tokenizer
from demo.tiny.train_base import train_base
from demo.tiny.train_loras import KINDS, train_lora
from demo.tiny.train_vae import train_vae
from demo.tiny.weights import load_weights, save_weights

SEED = 0
STEPS = {"vae": 12_000, "base": 6000, "loras": 500}
BATCH = 32


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.tiny.train", description=__doc__)
    parser.add_argument("part", choices=list(STEPS))
    parser.add_argument("--folder", type=Path, required=True, help="for checkpoints")
    parser.add_argument("--out", type=Path, help="for weights; default: the same folder")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--lora", choices=list(KINDS), help="only this one of the LoRAs")
    options = parser.parse_args(arguments)
    hush_libraries()
    folder: Path = options.folder
    out: Path = options.out or folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    steps = options.steps or STEPS[options.part]
    models, tokenizer, start = build_models(SEED), build_tokenizer(), time.monotonic()
    if options.part == "vae":
        train_vae(models["vae"], steps=steps, checkpoint=folder / "vae.pt")
        save_weights(models, folder / "vae.safetensors")
    elif options.part == "base":
        load_weights(models, folder / "vae.safetensors")
        train_base(models, tokenizer, steps=steps, batch=BATCH, seed=SEED, checkpoint=folder / "base.pt")
        save_weights(models, out / "tiny.safetensors")
    else:
        load_weights(models, out / "tiny.safetensors")
        for name in [options.lora] if options.lora else KINDS:
            print(name)
            path = out / "loras" / f"{name}.safetensors"
            train_lora(name, models, tokenizer, steps=steps, checkpoint=folder / f"{name}.pt", path=path)
    print(f"{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
