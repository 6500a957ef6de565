"""The same merge twice: as a prompt asks for it, and as a file that the host loads with `<lora:…>`."""

from __future__ import annotations

import hashlib

from lib_pm.files.library import Library
from lib_pm.merging.merge import merge_to_file
from lib_pm.merging.recipe import recipe_from_request
from lib_pm.prompt.parse import parse_prompt
from lib_pm.prompt.presets import load_presets
from tests.host.lora_files import PREFIX, put, tensors
from tests.host.server import Result, Server

A, B = f"{PREFIX}a", f"{PREFIX}b"
TIES = "<pm:ties_svd:density=0.5:rank=4>"
PLAIN = "a red cat"


def make_ab(server: Server) -> None:
    """The two LoRAs of most tests, of all parts of the model."""
    put(server, A, tensors(server, 1))
    put(server, B, tensors(server, 2, rank=8))


def saved(server: Server, tags: str) -> str:
    """A `<lora:…>` tag for the file that the merge of these tags is saved to."""
    request = parse_prompt(tags)
    library = Library(server.lora_folder)
    recipe = recipe_from_request(request, library.find, load_presets)
    files = [(use.path.name, use.path.stat().st_mtime_ns) for use in recipe.loras]
    name = f"{PREFIX}merged_{hashlib.sha256(repr((tags, files)).encode()).hexdigest()[:12]}"
    path = server.lora_folder / f"{name}.safetensors"
    if not path.exists():
        merge_to_file(recipe, path, device="cpu")
    return f"<lora:{name}:1>"


_drawn: dict[tuple[str, str], Result] = {}


def drawn_first(server: Server, prompt: str) -> Result:
    """What a server of this kind makes of the prompt: the first one's, as each test's has the same model, A and B."""
    found = _drawn.get((server.kind, prompt))
    if found is None:
        found = _drawn[server.kind, prompt] = server.txt2img(prompt)
    return found
