"""The rows are the text, and the text is the rows."""

from __future__ import annotations

import pytest

from tests.browser.driver import Tab

RECIPE = "<lora:style/watercolor_v2:0.80>\n<lora:miku:0.6:0.75:lbw=MIDD:start=5>\n#<lora:detail>"


@pytest.fixture
def three(tab: Tab) -> Tab:
    tab.write(RECIPE)
    return tab


def lines(tab: Tab) -> list[str]:
    return tab.text().split("\n")


def test_a_text_shows_as_rows(three: Tab) -> None:
    assert three.names() == ["watercolor_v2", "miku", "detail"]
    values = [
        [three.in_row(index, label).input_value() for label in ("Model strength", "Clip strength", "Block weights")]
        for index in range(3)
    ]
    assert values == [["0.8", "0.8", ""], ["0.75", "0.6", "MIDD"], ["1", "1", ""]]
    assert [box.is_checked() for box in three.rows.get_by_role("checkbox").all()] == [True, True, False]
    assert three.rows.nth(1).locator("small").inner_text() == "char · Hatsune · start=5"
    assert three.page.get_by_text("3 LoRAs, 1 disabled").is_visible()
    assert three.text() == RECIPE


def test_a_picture_is_shown_where_there_is_one(three: Tab) -> None:
    three.page.wait_for_function("document.querySelectorAll('.pm-row img')[1].naturalWidth == 1")
    assert not three.rows.nth(0).locator("img").is_visible()


def test_an_edit_changes_its_own_tag_only(three: Tab) -> None:
    three.in_row(1, "Model strength").fill("-0.5")
    assert lines(three) == [
        "<lora:style/watercolor_v2:0.80>",
        "<lora:miku:0.6:-0.5:lbw=MIDD:start=5>",
        "#<lora:detail>",
    ]
    three.in_row(1, "Block weights").fill("1,0,0.5")
    three.in_row(1, "Block weights").press("Enter")
    assert lines(three)[1] == "<lora:miku:0.6:-0.5:lbw=1,0,0.5:start=5>"
    three.in_row(1, "Block weights").fill("")
    three.in_row(1, "Block weights").press("Enter")
    assert lines(three)[1] == "<lora:miku:0.6:-0.5:start=5>"


def test_equal_strengths_are_linked_until_they_are_set_apart(three: Tab) -> None:
    three.in_row(0, "Model strength").press("ArrowUp")
    assert lines(three)[0] == "<lora:style/watercolor_v2:0.85>"
    three.in_row(0, "Clip strength").fill("0.5")
    assert lines(three)[0] == "<lora:style/watercolor_v2:0.5>"
    three.button(0, "Set model and clip strength separately").click()
    assert lines(three)[0] == "<lora:style/watercolor_v2:0.5>"
    three.in_row(0, "Clip strength").fill("0.7")
    assert lines(three)[0] == "<lora:style/watercolor_v2:0.7:0.5>"
    three.button(0, "Link clip strength to model strength").click()
    assert lines(three)[0] == "<lora:style/watercolor_v2:0.5:0.5>"


def test_a_strength_that_is_no_number_yet_is_waited_for(three: Tab) -> None:
    field = three.in_row(0, "Model strength")
    field.fill("")
    assert three.text() == RECIPE
    field.press("-")
    field.press("2")
    assert lines(three)[0] == "<lora:style/watercolor_v2:-2>"
    field.fill("")
    field.blur()
    assert field.input_value() == "-2"


def test_off_is_a_hash_in_front_of_the_line(three: Tab) -> None:
    three.in_row(2, "Use detail").check()
    three.in_row(0, "Use style/watercolor_v2").uncheck()
    assert lines(three) == [
        "#<lora:style/watercolor_v2:0.80>",
        "<lora:miku:0.6:0.75:lbw=MIDD:start=5>",
        "<lora:detail>",
    ]


def test_rows_move_and_go(three: Tab) -> None:
    three.button(2, "Move up").click()
    assert three.names() == ["watercolor_v2", "detail", "miku"]
    assert three.focused() == "Move up (Alt+↑)"
    three.button(0, "Move down").click()
    assert lines(three) == [
        "#<lora:detail>",
        "<lora:style/watercolor_v2:0.80>",
        "<lora:miku:0.6:0.75:lbw=MIDD:start=5>",
    ]
    three.button(0, "Move up").press("Enter")  # it is the first already
    three.button(1, "Remove").click()
    assert lines(three) == ["#<lora:detail>", "<lora:miku:0.6:0.75:lbw=MIDD:start=5>"]


def test_a_row_is_dragged_by_its_picture(three: Tab) -> None:
    three.rows.nth(0).locator(".pm-thumb").drag_to(three.rows.nth(2))
    assert three.names() == ["miku", "detail", "watercolor_v2"]


def test_the_keyboard_moves_and_removes(three: Tab) -> None:
    three.in_row(0, "Use style/watercolor_v2").focus()
    three.page.keyboard.press("Alt+ArrowDown")
    assert three.names() == ["miku", "watercolor_v2", "detail"]
    assert three.focused() == "Use style/watercolor_v2"
    three.page.keyboard.press("Alt+ArrowUp")
    three.page.keyboard.press("Alt+ArrowUp")  # it is the first already
    assert three.text() == RECIPE
    three.page.keyboard.press("Delete")
    assert three.names() == ["miku", "detail"]
    three.in_row(0, "Block weights").press("Delete")  # a letter of what is typed there
    assert three.names() == ["miku", "detail"]
    for _ in range(2):
        three.button(0, "Remove").press("Delete")
    assert three.text() == ""
    assert three.focused().startswith("Add a LoRA")


def test_every_control_is_reached_in_order(three: Tab) -> None:
    three.search.focus()
    reached = []
    for _ in range(10):
        three.page.keyboard.press("Tab")
        reached.append(three.focused())
    assert reached == [
        *("Use style/watercolor_v2", "Choose another LoRA", "Model strength", "Set model and clip strength separately"),
        *("Clip strength", "Block weights", "Move up (Alt+↑)", "Move down (Alt+↓)", "Remove (Delete)", "Use miku"),
    ]
    outline = three.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_what_the_list_does_not_have_is_marked(tab: Tab) -> None:
    tab.write("<lora:nobody:1>\n<lora:MIKU:1: PM = off>\n<lora:char/asuka:x>\n<lora:detail:te=1:TE=0>\n<pm>")
    notes = ["not found", "pm=off · char · Hatsune", "a strength is not a number · char", "te is given twice"]
    assert tab.rows.locator("small").all_inner_texts() == [*notes, "not a valid tag"]
    assert tab.page.get_by_text("4 LoRAs, 3 with a problem").is_visible()
    assert tab.page.locator(".pm-wrong").count() == 4


def test_typing_in_the_text_redraws_the_rows_and_keeps_the_focus(tab: Tab) -> None:
    tab.recipe.focus()
    tab.page.keyboard.type("<lora:miku:0.7")
    assert tab.names() == ["<lora:miku:0.7"]
    tab.page.keyboard.type(">")
    assert tab.names() == ["miku"]
    assert tab.page.evaluate("document.activeElement.tagName") == "TEXTAREA"


def test_a_text_that_python_writes_redraws_the_rows(three: Tab) -> None:
    three.prompt.fill("a cat <lora:style/oil_paint:0.25>")
    three.page.locator("#pm_get_txt2img").click()
    three.rows.get_by_text("oil_paint").wait_for()
    assert three.text() == "<lora:oil_paint:0.25>"
    assert three.names() == ["oil_paint"]


def test_python_gets_what_the_rows_wrote(tab: Tab) -> None:
    tab.add("asuka")
    tab.in_row(0, "Model strength").fill("0.35")
    tab.page.locator("#pm_insert_txt2img").click()
    tab.wait_for_prompt("<lora:asuka:0.35> <pm:concat:lambda=1>")


def test_a_whole_prompt(tab: Tab) -> None:
    prompt = "a cat, <lora:miku:0.6> in a hat, <lora:asuka:0.5:lbw=MIDD>, <pm:ties:density=0.5>\n\nmasterpiece"
    tab.write(prompt)
    assert tab.names() == ["a cat,", "miku", "in a hat,", "asuka", "<pm:ties:density=0.5>", "masterpiece"]
    tab.in_row(1, "Model strength").fill("0.8")
    assert tab.text() == prompt.replace("miku:0.6", "miku:0.8")
    tab.in_row(3, "Use asuka").uncheck()
    assert lines(tab) == [
        *("a cat,", "<lora:miku:0.8>", "in a hat,", "#<lora:asuka:0.5:lbw=MIDD>", "<pm:ties:density=0.5>"),
        *("", "masterpiece"),
    ]
    tab.button(2, "Remove").click()
    assert tab.names() == ["a cat,", "miku", "asuka", "<pm:ties:density=0.5>", "masterpiece"]


def test_one_of_several_tags_in_a_line_goes_alone(tab: Tab) -> None:
    tab.write("a cat, <lora:miku:0.6>, <lora:asuka:0.5>")
    tab.button(1, "Remove").click()
    assert tab.text() == "a cat, <lora:asuka:0.5>"
