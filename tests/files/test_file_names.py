"""Names of files and folders that users type: what stays inside the LoRA folder, and what any system can hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_pm.core.errors import MergeInputError
from lib_pm.files.file_names import DEEPEST, LONGEST, check_folder, check_name, lora_file
from tests.messages import saying, says

ROOT = Path("/loras")


@pytest.mark.parametrize(
    "name",
    [
        "style",
        "my style v1.2",
        "ünïcode 漢字",
        "a-b_c(1)",
        "com10",
        "console",
        "aux2",
        "COM⁴",
        "漢\u3000字",
        "naïve",
        pytest.param("x" * LONGEST, id="long"),
    ],
)
def test_names(name: str) -> None:
    assert check_name(name) == check_name(f"  {name} ") == name


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("", "name … empty"),
        ("  ", "name … empty"),
        ("../style", "'../style' … /"),
        ("..\\style", "'..\\\\style' … \\"),
        ("c:style", "'c:style' … :"),
        ("<lora>", "'<lora>' … < >"),
        ("a\0b", r"'a\x00b' … U+0000"),
        ("a\nb", r"'a\nb' … U+000A"),
        ("a\x1b[2Jb", r"'a\x1b[2Jb' … U+001B"),
        ("gpj.\u202esrotcafes", r"'gpj.\u202esrotcafes' … U+202E RIGHT-TO-LEFT OVERRIDE"),
        ("\u2066a\u2069", "U+2066 LEFT-TO-RIGHT ISOLATE, U+2069 POP DIRECTIONAL ISOLATE"),
        ("a\u200bb", "U+200B ZERO WIDTH SPACE"),
        ("a\u3164", "U+3164 HANGUL FILLER"),
        ("a\ufe0f", "U+FE0F VARIATION SELECTOR-16"),
        ("a\U000e0061", "U+E0061 TAG LATIN SMALL LETTER A"),
        ("a\u2028b", "U+2028 LINE SEPARATOR"),
        ("..", "'..' … dot"),
        (".hidden", "'.hidden' … dot"),
        ("style.", "'style.' … dot"),
        ("CON", "'CON' … Windows"),
        ("lpt1.old", "'lpt1.old' … Windows"),
        ("COM¹", "'COM¹' … Windows"),
        ("LPT²", "'LPT²' … Windows"),
        ("com³.x", "'com³.x' … Windows"),
        ("CONIN$", "'CONIN$' … Windows"),
        ("conout$.a", "'conout$.a' … Windows"),
        ("NUL.x", "'NUL.x' … Windows"),
        ("NUL.tar.gz", "'NUL.tar.gz' … Windows"),
        ("AUX .safetensors", "'AUX .safetensors' … Windows"),
        ("style .", "'style .' … dot"),
        pytest.param("x" * (LONGEST + 1), f"{LONGEST + 1} bytes … {LONGEST}", id="long"),
        pytest.param("漢" * 100, f"300 bytes … {LONGEST}", id="long in bytes"),
        ("\ud800", "U+D800"),
    ],
)
def test_what_is_no_name(name: str, facts: str) -> None:
    with pytest.raises(MergeInputError) as caught:
        check_name(name)
    assert says(caught.value, facts), caught.value


def test_the_message_says_what_the_name_is_of() -> None:
    with pytest.raises(MergeInputError, match=saying("The recipe 'a*' … *")):
        check_name("a*", "recipe")


@pytest.mark.parametrize(
    ("folder", "expected"),
    [("", ""), (" a ", "a"), ("a/b", "a/b"), ("a\\b", "a/b"), ("a//b/", "a/b"), ("a / b", "a/b")],
)
def test_folders(folder: str, expected: str) -> None:
    assert check_folder(folder) == expected


@pytest.mark.parametrize(
    ("folder", "facts"),
    [
        ("/etc", "'/etc' … absolute … inside the LoRA folder"),
        ("\\\\host\\share", "'//host/share' … absolute"),
        ("C:/loras", "'C:/loras' … absolute"),
        ("d:loras", "'d:loras' … absolute"),
        ("..", "folder '..' … dot"),
        ("a/../../b", "folder '..' … dot"),
        ("a/.", "folder '.' … dot"),
        ("a/ /b", "folder … empty"),
        ("a/<b", "folder '<b' … <"),
    ],
)
def test_what_is_no_folder(folder: str, facts: str) -> None:
    with pytest.raises(MergeInputError) as caught:
        check_folder(folder)
    assert says(caught.value, facts), caught.value


@pytest.mark.parametrize(
    ("folder", "name", "expected"),
    [
        ("", "style", "style.safetensors"),
        ("", " style.safetensors ", "style.safetensors"),
        ("a/b", "style.v2", "a/b/style.v2.safetensors"),
    ],
)
def test_the_file(folder: str, name: str, expected: str) -> None:
    assert lora_file(ROOT, folder, name) == ROOT / expected


def test_a_file_that_is_only_an_ending() -> None:
    with pytest.raises(MergeInputError, match=saying("file name … empty")):
        lora_file(ROOT, "", ".safetensors")


parts = st.text("ab./\\: ~", max_size=8)


@given(parts, parts)
def test_whatever_is_typed_stays_inside(folder: str, name: str) -> None:
    try:
        path = lora_file(ROOT, folder, name)
    except MergeInputError:
        return
    assert ROOT in path.parents
    assert ".." not in path.parts
    assert path.suffix == ".safetensors"


def test_how_deep_a_folder_may_be() -> None:
    deepest = "/".join("abcdefghijkl"[:DEEPEST])
    assert check_folder(deepest) == check_folder(f"{deepest}//") == deepest
    for count in (DEEPEST + 1, 100_000):
        with pytest.raises(MergeInputError, match=saying(f"{count} levels … {DEEPEST}")):
            check_folder("x/" * count)
