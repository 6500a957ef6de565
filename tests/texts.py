"""The catalogue of all texts that a user meets, in reading order: docs/texts.md, and a template for a translation.

    python -m tests.texts             # writes docs/texts.md
    python -m tests.texts --template  # prints the fixed texts of the pages as a localization file of the WebUI

The texts are taken from the syntax of the code, so that they depend on no version of Python or gradio.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "texts.md"

HEAD = """\
# Texts

Every text that a user meets, in the order of meeting it, for reading it aloud and for translating it. What is put in
stands in {braces}; a heading names the file in which to change a text. A text that is in several files is listed once.
`python -m tests.texts` writes this page; a test compares it with the code.

To translate the pages, `python -m tests.texts --template` prints their fixed texts as a localization file of the WebUI,
`{"text": "text", …}`. Translate the right side, save it as `localizations/LANGUAGE.json` in the extension's folder, and
choose it in *Settings → User interface → Localization*. The WebUI replaces whole texts only, so those with {braces}
stay English.
"""

# Titles, and the files of each in reading order. A * stands for the others of a folder.
SECTIONS = {
    "The accordion in txt2img and img2img": """
        lib_pm/ui/accordion.py lib_pm/ui/mode_controls.py lib_pm/core/methods/linear.py lib_pm/core/methods/*.py
        lib_pm/core/params.py lib_pm/core/registry.py""",
    "The settings": "lib_pm/webui/settings.py",
    "Merging in an image: notes and errors": """
        lib_pm/webui/live.py lib_pm/webui/prompts.py lib_pm/webui/refusal.py lib_pm/webui/infotext.py
        lib_pm/prompt/tag.py lib_pm/prompt/parse.py lib_pm/prompt/*.py lib_pm/families/blocks.py
        lib_pm/merging/cache.py lib_pm/webui/adapter.py lib_pm/webui/a1111.py lib_pm/webui/forge.py""",
    "The X/Y/Z plot": "lib_pm/sweep/axes.py lib_pm/webui/xyz.py lib_pm/sweep/*.py",
    "The tab: Merge": """
        lib_pm/ui/tab.py lib_pm/ui/merge_page.py lib_pm/ui/draft_controls.py lib_pm/workspace/draft.py
        lib_pm/ui/recipe_form.py lib_pm/workspace/saved_recipes.py lib_pm/ui/save_form.py lib_pm/ui/card_form.py
        lib_pm/workspace/card.py""",
    "The tab: the rows of LoRAs": """
        javascript/pm_rows.js javascript/pm_picker.js javascript/pm_recipe.js javascript/*.js""",
    "The tab: progress and reports": """
        lib_pm/ui/job_status.py lib_pm/render/report_html.py lib_pm/render/messages.py
        lib_pm/workspace/jobs.py lib_pm/workspace/job_queue.py lib_pm/workspace/*.py
        lib_pm/render/text.py lib_pm/merging/report.py lib_pm/merging/merge.py""",
    "The tab: Analyse": """
        lib_pm/compare/meaning.py lib_pm/render/analysis_html.py lib_pm/render/charts.py lib_pm/compare/*.py""",
    "The tab: Resize": "lib_pm/ui/resize_page.py lib_pm/merging/resize.py",
    "The tab: Inspect": "lib_pm/ui/inspect_page.py lib_pm/render/inspection_html.py lib_pm/files/contents.py",
    "The tab: X/Y/Z plot": "lib_pm/ui/sweep_page.py lib_pm/ui/*.py",
    "Opening LoRAs: errors": """
        lib_pm/files/library.py lib_pm/files/reading.py lib_pm/files/tensors.py lib_pm/files/header.py
        lib_pm/files/json_text.py lib_pm/files/reader.py lib_pm/files/stored_layers.py lib_pm/core/formats/*.py
        lib_pm/files/checkpoint.py lib_pm/files/peft_config.py
        lib_pm/files/alpha_patterns.py lib_pm/files/base_model.py lib_pm/families/spelling.py
        lib_pm/files/metadata.py lib_pm/merging/plan.py""",
    "Computing: errors and notes": """
        lib_pm/core/errors.py lib_pm/merging/recipe.py lib_pm/merging/devices.py lib_pm/merging/memory.py
        lib_pm/merging/*.py""",
    "Saving: errors": """
        lib_pm/files/file_names.py lib_pm/files/new_folder.py lib_pm/files/whole_file.py lib_pm/files/writer.py""",
    "The REST interface": "lib_pm/webui/api.py lib_pm/webui/origin.py lib_pm/webui/*.py",
    "The command line": """
        lib_pm/cli/__init__.py lib_pm/cli/arguments.py lib_pm/cli/merge.py lib_pm/cli/analyse.py lib_pm/render/modes.py
        lib_pm/cli/*.py""",
    "Python: errors": "lib_pm/api.py lib_pm/pipeline/*.py",
}
ON_PAGES = ("The accordion", "The settings", "The tab")

# Given to these keywords, functions and names, even a single word is a text.
_KEYWORDS = {"label", "info", "placeholder", "title", "help", "metavar", "description", "when", "when_factors", "empty"}
_CALLS = {"HTML", "Markdown", "Button", "TabItem", "Accordion", "Radio", "label", "new", "info", "Declared"}
_NAMES = {"TITLE", "PREFIX", "FIXED"}
_BUGS = {"TypeError", "RuntimeError", "OverflowError", "debug"}  # what is raised or logged for developers
_NOT_TEXT = re.compile(
    r"\(\?|\\[sdwb]|^[a-z-]+:[^ ]*;?$|^#|^lora_|_\w*\{|Callable\[|system-ui|^\{[^{}]*\}-|^rotate|_resized$"
    r"|^\{[^{}]*\}\.\{|lora_[AB]\.|^lbw=|^activation text|^\./"
)
_IDENTIFIER = re.compile(r"pm_\w*|[a-z]+_[a-z_]+|/[\w/-]+|\{[^{}]*\}")
_JS_STRING = re.compile(r"""(=== |case |count\(|placeholder: )?("(?:[^"\n\\]|\\.)*"|`[^`\n]*`)""")
_JS_TEXT = re.compile(r"[A-Za-z]+ [A-Za-z$(]|^[A-Z][a-z]+(s|[A-Z]\w*)?$|^not ")
_NOT_JS_TEXT = re.compile(
    r"use strict|<svg|^pm-|pm-\w+ |^[#.]|^[MAL]\d|=\"|^input|^[a-z ]*\[data|switch_to|\(\?:"
    r"|^\$\{[^{}]*\}[/ ]*(\$\{[^{}]*\}[/ ]*)*$"
)
_HTML = re.compile(r"</?(?:p|b|ul|li|div|details|summary|table|thead|tbody|tr|th|td|progress)\b[^<>]*>")


def catalogue() -> dict[str, dict[str, list[str]]]:
    """Return the texts by section and file. A text is in the first file only."""
    listed = {path for files in SECTIONS.values() for path in files.split()}
    known: set[str] = set()
    sections: dict[str, dict[str, list[str]]] = {}
    for title, files in SECTIONS.items():
        section = sections[title] = {}
        for pattern in files.split():
            for path in sorted(ROOT.glob(pattern)):
                name = path.relative_to(ROOT).as_posix()
                if "*" in pattern and name in listed:
                    continue
                new = [text for text in texts_of(path) if text not in known]
                known.update(new)
                if new:
                    section[name] = list(dict.fromkeys(new))
    return sections


def page() -> str:
    """Return the catalogue as Markdown."""
    lines = [HEAD]
    for title, files in catalogue().items():
        lines.append(f"## {title}\n")
        for name, texts in files.items():
            lines.append(f"### {name}\n")
            lines += [f"* {_in_markdown(text)}" for text in texts]
            lines.append("")
    return "\n".join(lines)


def template() -> dict[str, str]:
    """Return the fixed texts of the pages, each on both sides."""
    chosen = (files for title, files in catalogue().items() if title.startswith(ON_PAGES))
    texts = (text for files in chosen for texts in files.values() for text in texts)
    return {text: text for text in texts if "{" not in text}


def texts_of(path: Path) -> Iterator[str]:
    """Yield the texts of a Python or JavaScript file in the order of its lines."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".js":
        for match in _JS_STRING.finditer(re.sub(r"^\s*(//|/?\*).*$", "", source, flags=re.MULTILINE)):
            before, text = match[1] or "", match[2][1:-1]
            if before.startswith(("count", "placeholder")) or (
                not before and _JS_TEXT.search(text) and not _NOT_JS_TEXT.search(text)
            ):
                yield re.sub(r"\$\{(?:\w+\.)*(\w+)[^{}]*\}", r"{\1}", text)
    else:
        for text in _texts(ast.parse(source), named=False):
            yield from (part.strip(" ") for part in _HTML.split(text) if re.search("[A-Za-z]", part))


def _texts(node: ast.AST, *, named: bool) -> Iterator[str]:
    """named: by where it stands, any word in it is a text."""
    if isinstance(node, (ast.Constant, ast.JoinedStr, ast.BinOp)):
        text = _rendered(node)
        if text:
            if _is_text(text, named):
                yield text
            return
    if isinstance(node, ast.Assign):
        named = any(_name(target) in _NAMES for target in node.targets)
    if isinstance(node, ast.Dict):
        named = False
    function = _name(node.func) if isinstance(node, ast.Call) else ""
    if function in _BUGS or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        return
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.keyword):
                yield from _texts(child.value, named=child.arg in _KEYWORDS)
            elif isinstance(child, ast.AST) and field not in ("annotation", "returns"):
                yield from _texts(child, named=function in _CALLS if function else named)


def _is_text(text: str, named: bool) -> bool:
    words = re.sub(r"\{[^{}]*\}|<[^<>]*>", " ", text)
    if _NOT_TEXT.search(text) or _IDENTIFIER.fullmatch(text) or not re.search(r"[A-Za-z]{2}", words):
        return False
    return named or bool(re.search(r"[A-Za-z)\]…%:,;}]+ +[A-Za-z(\[{]", text) and re.search("[a-z]{2}", words))


def _name(function: ast.AST) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _rendered(node: ast.AST) -> str:
    """Return a text with its placeholders, "" for what is none."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_rendered, node.values))
    if isinstance(node, ast.FormattedValue):
        return f"{{{_placeholder(node.value)}}}"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _rendered(node.left), _rendered(node.right)
        return left + right if left and right else ""
    return ""


def _placeholder(node: ast.AST) -> str:
    """Return a name for what is put into a text, without the calls that shape it."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return re.sub(r"[{}]", "", _rendered(node))
    if isinstance(node, ast.Name):
        return node.id.strip("_").lower()
    if isinstance(node, ast.Attribute):
        owner = _placeholder(node.value)
        return node.attr if owner == "self" else f"{owner}'s {node.attr}" if owner else node.attr
    if isinstance(node, ast.Call):
        if _name(node.func) == "len":
            return f"number of {_placeholder(node.args[0])}"
        if _name(node.func) == "did_you_mean":
            return "did you mean"
        inside = [_placeholder(part) for part in node.args[:1]]
        return inside[0] if inside else _placeholder(node.func)
    if isinstance(node, ast.IfExp):
        return " or ".join(filter(None, (_placeholder(node.body), _placeholder(node.orelse))))
    if isinstance(node, (ast.GeneratorExp, ast.ListComp)):
        return _placeholder(node.elt)
    if isinstance(node, (ast.Subscript, ast.Starred)):
        return _placeholder(node.value)
    if isinstance(node, ast.BinOp):
        return _placeholder(node.left)
    if isinstance(node, ast.BoolOp):
        return " or ".join(map(_placeholder, node.values))
    return "…"


def _in_markdown(text: str) -> str:
    return "`` " + " ⏎ ".join(filter(None, (line.strip() for line in text.split("\n")))) + " ``"


if __name__ == "__main__":
    if sys.argv[1:] == ["--template"]:
        print(json.dumps(template(), ensure_ascii=False, indent=4))
    else:
        PAGE.write_text(page(), encoding="utf-8")
