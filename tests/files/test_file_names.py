"""Names of files and folders that users type: what stays inside the LoRA folder, and what any system can hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_pm.core.errors import MergeInputError
from lib_pm.files.file_names import DEEPEST, LONGEST, check_folder, check_name, lora_file

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
    ("name", "message"),
    [
        ("", "The name is empty"),
        ("  ", "The name is empty"),
        ("../style", "contains /"),
        ("..\\style", "contains \\"),
        ("c:style", "contains :"),
        ("<lora>", "contains < >"),
        ("a\0b", "'a\\x00b' contains U+0000"),
        ("a\nb", "'a\\nb' contains U+000A"),
        ("a\x1b[2Jb", "'a\\x1b[2Jb' contains U+001B"),
        ("gpj.\u202esrotcafes", "'gpj.\\u202esrotcafes' contains U+202E RIGHT-TO-LEFT OVERRIDE"),
        ("\u2066a\u2069", "U+2066 LEFT-TO-RIGHT ISOLATE, U+2069 POP DIRECTIONAL ISOLATE"),
        ("a\u200bb", "U+200B ZERO WIDTH SPACE"),
        ("a\u3164", "U+3164 HANGUL FILLER"),
        ("a\ufe0f", "U+FE0F VARIATION SELECTOR-16"),
        ("a\U000e0061", "U+E0061 TAG LATIN SMALL LETTER A"),
        ("a\u2028b", "U+2028 LINE SEPARATOR"),
        ("..", "is not allowed"),
        (".hidden", "is not allowed"),
        ("style.", "is not allowed"),
        ("CON", "is not allowed"),
        ("lpt1.old", "is not allowed"),
        ("COM¹", "is not allowed"),
        ("LPT²", "is not allowed"),
        ("com³.x", "is not allowed"),
        ("CONIN$", "is not allowed"),
        ("conout$.a", "is not allowed"),
        ("NUL.x", "is not allowed"),
        ("NUL.tar.gz", "is not allowed"),
        ("AUX .safetensors", "is not allowed"),
        ("style .", "is not allowed"),
        pytest.param("x" * (LONGEST + 1), f"has {LONGEST + 1} bytes; allowed: {LONGEST}", id="long"),
        pytest.param("漢" * 100, f"has 300 bytes; allowed: {LONGEST}", id="long in bytes"),
        ("\ud800", "contains U+D800"),
    ],
)
def test_what_is_no_name(name: str, message: str) -> None:
    with pytest.raises(MergeInputError) as error:
        check_name(name)
    assert message in str(error.value)


def test_the_message_says_what_the_name_is_of() -> None:
    with pytest.raises(MergeInputError, match=r"^The recipe 'a\*' contains \*"):
        check_name("a*", "recipe")


@pytest.mark.parametrize(
    ("folder", "expected"),
    [("", ""), (" a ", "a"), ("a/b", "a/b"), ("a\\b", "a/b"), ("a//b/", "a/b"), ("a / b", "a/b")],
)
def test_folders(folder: str, expected: str) -> None:
    assert check_folder(folder) == expected


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("/etc", "is an absolute path; allowed: a folder inside the LoRA folder"),
        ("\\\\host\\share", "absolute path"),
        ("C:/loras", "absolute path"),
        ("d:loras", "absolute path"),
        ("..", "The folder '..' is not allowed"),
        ("a/../../b", "The folder '..' is not allowed"),
        ("a/.", "The folder '.' is not allowed"),
        ("a/ /b", "The folder is empty"),
        ("a/<b", "The folder '<b' contains <"),
    ],
)
def test_what_is_no_folder(folder: str, message: str) -> None:
    with pytest.raises(MergeInputError) as error:
        check_folder(folder)
    assert message in str(error.value)


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
    with pytest.raises(MergeInputError, match="The file name is empty"):
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
        with pytest.raises(MergeInputError, match=rf"is nested {count} levels deep; allowed: {DEEPEST}"):
            check_folder("x/" * count)
