"""What a WebUI's images show of a live merge, on the doubles, or on a real one: PM_WEBUI_URL=http://127.0.0.1:7860.

Here: images of txt2img and img2img. test_contract_page.py has what is said and refused, test_contract_state.py what
lies between images.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.host.lora_files import PREFIX, put, tensors
from tests.host.merging import PLAIN, TIES, A, B, make_ab, saved
from tests.host.server import HIRES, Server, difference, same

pytest_plugins = ("tests.host.fixtures",)


@pytest.fixture(autouse=True)
def loras(server: Server) -> None:
    make_ab(server)


def assert_live_is_file(server: Server, tags: str, **payload: Any) -> list[np.ndarray]:
    """Hash-equal to the saved merge, other than the plain image and the stack, and nothing is left behind."""
    plain = server.txt2img(PLAIN, **payload).images
    live = server.txt2img(f"{PLAIN}{tags}", **payload).images
    assert all(same(*pair) for pair in zip(server.txt2img(PLAIN, **payload).images, plain, strict=True))
    file = server.txt2img(f"{PLAIN}{saved(server, tags)}", **payload).images
    assert all(same(*pair) for pair in zip(live, file, strict=True))
    assert not any(same(*pair) for pair in zip(live, plain, strict=True))
    return live


@pytest.mark.parametrize(
    "payload",
    [{}, HIRES, {"batch_size": 2, "n_iter": 2}, {"batch_size": 2, **HIRES}],
    ids=["txt2img", "hires", "batches", "hires of a batch"],
)
def test_live_merge_is_its_saved_file_and_the_next_image_is_plain(server: Server, payload: dict[str, Any]) -> None:
    live = assert_live_is_file(server, f"<lora:{A}:0.8><lora:{B}:0.6:lbw=MIDD>{TIES}", **payload)
    stacked = server.txt2img(f"{PLAIN}<lora:{A}:0.8><lora:{B}:0.6>", **payload).images
    assert not any(same(*pair) for pair in zip(live, stacked, strict=True))


@pytest.mark.parametrize(
    "mode", ["add_svd:rank=4", "dare_ties_svd:density=0.5:seed=7", "magnitude_prune_svd", "ties", "dare_linear"]
)
def test_every_kind_of_mode_is_its_saved_file(server: Server, mode: str) -> None:
    assert_live_is_file(server, f"<lora:{A}:0.8><lora:{B}:0.6><pm:{mode}>")


@pytest.mark.parametrize(
    "stack",
    [
        f"<lora:{A}:1>",
        f"<lora:{A}:0.8><lora:{B}:0.6>",
        f"<lora:{A}:0.3:0.9><lora:{B}:te=0.7:unet=0.2>",
        f"<lora:{A}:-0.5><lora:{B}:0.8:-0.4>",
        f"<lora:{A}:0:0.9><lora:{B}:0.9:0>",
    ],
    ids=["one", "two", "te and unet apart", "negative", "one for each part"],
)
@pytest.mark.parametrize("payload", [{}, HIRES], ids=["txt2img", "hires"])
def test_concat_is_the_hosts_own_stacking(server: Server, stack: str, payload: dict[str, Any]) -> None:
    (plain,), (stacked,) = (server.txt2img(PLAIN + tags, **payload).images for tags in ("", stack))
    (merged,) = server.txt2img(f"{PLAIN}<pm:concat>{stack}", **payload).images
    assert difference(merged, stacked) <= 1
    assert difference(merged, plain) > 8


@pytest.mark.parametrize("part", ["lora_unet_", "lora_te_"])
def test_loras_of_one_part_of_the_model(server: Server, part: str) -> None:
    # Names of their own: Forge goes on serving a file that was overwritten.
    one, two = (f"{PREFIX}{part}{name}" for name in ("one", "two"))
    put(server, one, tensors(server, 3, part=part))
    put(server, two, tensors(server, 4, part=part))
    stack = f"<lora:{one}:0.8><lora:{two}:0.6>"
    assert_live_is_file(server, f"{stack}{TIES}")
    stacked, merged = (server.txt2img(f"{PLAIN}{stack}{tag}").image for tag in ("", "<pm:concat>"))
    assert difference(merged, stacked) <= 1


def test_pm_off_leaves_a_lora_stacked(server: Server) -> None:
    put(server, f"{PREFIX}speed", tensors(server, 5))
    merged = f"<lora:{A}:0.8><lora:{B}:0.6>{TIES}"
    live = server.txt2img(f"{PLAIN}{merged}<lora:{PREFIX}speed:0.7:0.5:pm=off>").image
    assert difference(live, server.txt2img(f"{PLAIN}{saved(server, merged)}<lora:{PREFIX}speed:0.7:0.5>").image) <= 1
    assert difference(live, server.txt2img(f"{PLAIN}{merged}").image) > 8


MIDD = "1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0"


@pytest.mark.parametrize(
    "lbw", [MIDD, "MIDD", "OUTALL", "IN04=0.5,OUT03-OUT06=0", "BASE=0", "attn=0"], ids=lambda lbw: lbw[:6]
)
def test_block_weights(server: Server, lbw: str) -> None:
    """As list, preset and named blocks."""
    tags = f"<lora:{A}:0.8:lbw={lbw}><lora:{B}:0.6><pm:concat>"
    live = assert_live_is_file(server, tags)
    assert not same(live[0], server.txt2img(f"{PLAIN}<lora:{A}:0.8><lora:{B}:0.6><pm:concat>").image)


def test_a_block_weight_list_and_its_preset_are_one(server: Server) -> None:
    images = [server.txt2img(f"{PLAIN}<lora:{A}:0.8:lbw={lbw}>{TIES}").image for lbw in (MIDD, "MIDD")]
    assert same(*images)


@pytest.mark.parametrize("lbw", [MIDD, "MIDD"])
def test_block_weights_in_the_older_form(server: Server, lbw: str) -> None:
    """The host itself cannot read it, if the extension for block weights is not there."""
    images = [server.txt2img(f"{PLAIN}<lora:{A}:0.8:{form}{lbw}><lora:{B}:0.6>{TIES}").image for form in ("", "lbw=")]
    assert same(*images)
    assert not same(images[0], server.txt2img(f"{PLAIN}<lora:{A}:0.8><lora:{B}:0.6>{TIES}").image)


def test_aliases_and_subfolders(server: Server) -> None:
    content = tensors(server, 6)
    put(server, f"{PREFIX}folder/{PREFIX}inner", content, {"ss_output_name": f"{PREFIX}known_as"})
    images = [
        server.txt2img(f"{PLAIN}<lora:{name}:0.8><lora:{B}:0.6>{TIES}").image
        for name in (f"{PREFIX}inner", f"{PREFIX}known_as", f"{PREFIX}folder/{PREFIX}inner")
    ]
    assert same(images[0], images[1])
    assert same(images[0], images[2])
    assert difference(images[0], server.txt2img(f"{PLAIN}<lora:{B}:0.6>{TIES}").image) > 8


def test_tags_may_be_in_any_order(server: Server) -> None:
    a, b = f"<lora:{A}:0.8>", f"<lora:{B}:0.6>"
    images = [server.txt2img(PLAIN + tags).image for tags in (a + b + TIES, TIES + a + b, b + TIES + a)]
    assert same(images[0], images[1])
    assert same(images[0], images[2])


def test_hires_with_a_prompt_of_its_own(server: Server) -> None:
    """Each pass has the merge of its own prompt, and none if that asks for none."""
    tags, other = f"<lora:{A}:0.8><lora:{B}:0.6>{TIES}", f"<lora:{A}:-0.6><lora:{B}:0.9><pm:add_svd:rank=4>"
    stack = tags.removesuffix(TIES)  # the host loads nothing new for it, as it has these LoRAs
    files = {text: saved(server, text) for text in (tags, other)} | {"": "", stack: stack}
    for first, second in ((tags, other), (tags, ""), ("", tags), (tags, stack), (stack, tags)):
        live = server.txt2img(PLAIN + first, hr_prompt=f"a blue dog{second}", **HIRES).images
        file = server.txt2img(PLAIN + files[first], hr_prompt=f"a blue dog{files[second]}", **HIRES).images
        assert same(live[0], file[0]), (first, second)
    plain = server.txt2img(PLAIN, hr_prompt="a blue dog", **HIRES).images[0]
    assert not same(plain, server.txt2img(PLAIN + tags, hr_prompt="a blue dog", **HIRES).images[0])


@pytest.mark.parametrize("inpaint", [False, True], ids=["img2img", "inpaint"])
def test_img2img(server: Server, inpaint: bool) -> None:
    image = server.txt2img("a green field", seed=9).image
    payload: dict[str, Any] = {"denoising_strength": 0.8, "steps": 4}
    if inpaint:
        mask = np.zeros(image.shape[:2], np.uint8)
        mask[:, 32:] = 255
        payload |= {"mask": mask, "mask_blur": 0, "inpainting_fill": 1, "inpaint_full_res": False}
    tags = f"<lora:{A}:0.8><lora:{B}:0.6>{TIES}"
    plain = server.img2img(PLAIN, image, **payload).image
    live = server.img2img(PLAIN + tags, image, **payload).image
    assert same(live, server.img2img(PLAIN + saved(server, tags), image, **payload).image)
    assert not same(live, plain)
    assert same(server.img2img(PLAIN, image, **payload).image, plain)
