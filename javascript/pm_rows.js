// The rows: one for each part of the recipe's text. They hold no state of their own but what the text cannot say:
// which strengths are to go apart although they are equal.

window.powerMerger = window.powerMerger || {};
window.powerMerger.rows = (() => {
    "use strict";

    const {recipe, picker} = window.powerMerger;
    const {make, thumb} = picker;
    const icon = (path) => `<svg viewBox="0 0 16 16" aria-hidden="true"><path d="${path}"/></svg>`;
    const UP = icon("M8 13V3M4 7l4-4 4 4");
    const DOWN = icon("M8 3v10M4 9l4 4 4-4");
    const REMOVE = icon("M4 4l8 8M12 4l-8 8");
    const LINKED = icon("M6.5 9.5l3-3M7 5l1.5-1.5a2.8 2.8 0 0 1 4 4L11 9M9 11l-1.5 1.5a2.8 2.8 0 0 1-4-4L5 7");
    const UNLINKED = icon("M7 5l1.5-1.5a2.8 2.8 0 0 1 4 4L11 9M9 11l-1.5 1.5a2.8 2.8 0 0 1-4-4L5 7M3 3l10 10");

    /** read(): the text. write(text). list(): the LoRAs. Returns {element, draw}. */
    function build({read, write, list}) {
        const apart = new Set(); // names of LoRAs whose equal strengths are not linked
        const rows = [];
        let dragged = -1;
        const items = make("ul", {className: "pm-rows", "aria-label": "Recipe"});
        const presets = make("datalist", {id: "pm-presets"});
        const status = make("div", {className: "pm-note", role: "status"});
        const adder = picker.build({label: "Add a LoRA: type part of its name", loras: () => list().loras, pick: add});
        const element = make("div", {className: "pm-board"}, adder.element, items, status, presets);

        function add(lora) {
            write(recipe.add(read(), lora.name));
            items.lastChild.scrollIntoView({block: "nearest"});
        }

        function draw() {
            const parts = recipe.parse(read());
            while (rows.length > parts.length) rows.pop().element.remove();
            parts.forEach((part, index) => {
                if (!rows[index]) {
                    rows[index] = row(index);
                    items.append(rows[index].element);
                }
                rows[index].show(part, parts.length);
            });
            status.textContent = summary(parts.filter((part) => part.name !== undefined));
        }

        function summary(tags) {
            const count = (word, some) => (some.length ? [`${some.length} ${word}`] : []);
            if (!tags.length) return "No LoRAs yet: pick some above, or paste a prompt into the text box.";
            return [
                `${tags.length} LoRA${tags.length === 1 ? "" : "s"}`,
                ...count("disabled", tags.filter((tag) => tag.off)),
                ...count("with a problem", tags.filter((tag) => tag.wrong || list().find(tag.name).problem)),
            ].join(", ");
        }

        /** Anew with another list: what is found, and the presets. */
        function refresh() {
            presets.replaceChildren(...list().presets.map((name) => make("option", {value: name})));
            adder.again();
            draw();
        }

        function move(from, to, control) {
            if (to < 0 || to >= rows.length || from === to) return;
            write(recipe.move(read(), from, to));
            rows[to].controls[Math.max(control, 0)].focus();
        }

        function remove(index) {
            write(recipe.remove(read(), recipe.parse(read())[index]));
            const next = rows[Math.min(index, rows.length - 1)];
            (next ? next.remove : adder.input).focus();
        }

        function row(index) {
            let part;
            let choosing = null;
            const button = (label, inside, act) => {
                const made = make("button", {type: "button", className: "pm-button", innerHTML: inside, title: label});
                made.addEventListener("click", act);
                return made;
            };
            const number = (label) => make("input", {type: "number", step: "0.05", "aria-label": label});
            const field = (label, input) => make("label", {className: "pm-field"}, make("span", {textContent: label}), input);
            const on = make("input", {type: "checkbox", className: "pm-on"});
            const picture = thumb();
            const stem = make("b");
            const about = make("small");
            const name = make("button", {type: "button", className: "pm-name", title: "Choose another LoRA"}, stem, about);
            const model = number("Model strength");
            const clip = number("Clip strength");
            const link = button("Link", LINKED, () => linkOrNot());
            const lbw = make("input", {type: "text", placeholder: "all 1", autocomplete: "off", spellcheck: false});
            lbw.setAttribute("list", "pm-presets");
            const up = button("Move up (Alt+↑)", UP, () => move(index, index - 1, controls.indexOf(up)));
            const down = button("Move down (Alt+↓)", DOWN, () => move(index, index + 1, controls.indexOf(down)));
            const bin = button("Remove (Delete)", REMOVE, () => remove(index));
            const controls = [on, name, model, link, clip, lbw, up, down, bin];
            const named = make("div", {className: "pm-named"}, name);
            const numbers = make("div", {className: "pm-numbers"}, field("Model", model), link, field("Clip", clip), field("Block weights", lbw));
            const moves = make("div", {className: "pm-moves"}, up, down, bin);
            const own = make("li", {className: "pm-row", tabIndex: -1}, on, picture, named, numbers, moves);
            const change = (edit, ...values) => write(edit(read(), part, ...values));
            const linked = () => part.model === part.clip && !apart.has(part.name);

            function show(now, total) {
                part = now;
                const isTag = part.name !== undefined;
                const {lora, problem} = isTag ? list().find(part.name) : {};
                const wrong = problem || part.wrong || part.broken;
                own.className = `pm-row${isTag ? "" : " pm-words"}${part.off ? " pm-off" : ""}${wrong ? " pm-wrong" : ""}`;
                own.setAttribute("aria-label", isTag ? part.name : `Text: ${part.text}`);
                for (const one of [on, picture, numbers]) one.hidden = !isTag;
                name.disabled = !isTag;
                stem.textContent = isTag ? part.name.split("/").pop() : part.text;
                stem.title = isTag ? part.name : part.text;
                about.textContent = isTag ? notes(lora, problem).join(" · ") : part.broken ? "not a valid tag" : "text";
                up.setAttribute("aria-disabled", index === 0);
                down.setAttribute("aria-disabled", index === total - 1);
                if (!isTag) return;
                picture.show(part.name, lora?.thumb);
                on.checked = !part.off;
                on.setAttribute("aria-label", `Use ${part.name}`);
                showNumber(model, part.model);
                showNumber(clip, part.clip);
                if (document.activeElement !== lbw || lbw.value.trim() !== part.lbw) lbw.value = part.lbw;
                lbw.title = part.lbw;
                link.innerHTML = linked() ? LINKED : UNLINKED;
                link.title = linked() ? "Set model and clip strength separately" : "Link clip strength to model strength";
                link.setAttribute("aria-pressed", linked());
            }

            function notes(lora, problem) {
                const title = lora && lora.title !== lora.stem ? lora.title : "";
                return [problem, part.wrong, part.out && "pm=off", lora?.folder, title, ...part.other].filter(Boolean);
            }

            /** What is being typed stays as it is, also where it is no number yet. */
            function showNumber(input, value) {
                const typed = recipe.number(input.value);
                if (document.activeElement === input && (Number.isNaN(typed) || typed === value)) return;
                input.value = Number.isNaN(value) ? "" : String(value);
            }

            function strength(input) {
                if (Number.isNaN(recipe.number(input.value))) return;
                const both = linked();
                const value = (other, now) => (both || input === other ? input.value : String(now));
                if (!both) apart.add(part.name);
                change(recipe.setStrengths, value(clip, part.clip), value(model, part.model));
            }

            function linkOrNot() {
                if (linked()) apart.add(part.name);
                else apart.delete(part.name);
                if (part.clip !== part.model) change(recipe.setStrengths, String(part.model), String(part.model));
                draw();
            }

            function choose() {
                const done = () => {
                    const open = choosing;
                    choosing = null; // before its removal, which takes the focus from it, and so calls this again
                    open?.element.remove();
                    name.hidden = false;
                };
                const pick = (lora) => {
                    done();
                    change(recipe.setName, lora.name);
                    name.focus();
                };
                const leave = (byKey) => {
                    done();
                    if (byKey) name.focus();
                };
                choosing = picker.build({label: `Replace ${part.name}`, loras: () => list().loras, pick, leave});
                name.hidden = true;
                named.append(choosing.element);
                choosing.input.focus();
                choosing.open();
            }

            on.addEventListener("change", () => write(recipe.setOff(read(), index, !on.checked)));
            name.addEventListener("click", choose);
            for (const input of [model, clip]) {
                input.addEventListener("input", () => strength(input));
                input.addEventListener("blur", draw);
            }
            lbw.addEventListener("change", () => change(recipe.setLbw, lbw.value));
            own.addEventListener("keydown", (event) => {
                const step = {ArrowUp: -1, ArrowDown: 1}[event.key];
                const typing = event.target.matches("input:not([type=checkbox])");
                if (event.altKey && step) move(index, index + step, controls.indexOf(event.target));
                else if (event.key === "Delete" && !typing) remove(index);
                else return;
                event.preventDefault();
            });
            picture.draggable = true;
            picture.addEventListener("dragstart", (event) => {
                dragged = index;
                event.dataTransfer.effectAllowed = "move";
                event.dataTransfer.setDragImage(own, 0, 0);
            });
            picture.addEventListener("dragend", () => (dragged = -1));
            own.addEventListener("dragover", (event) => dragged >= 0 && event.preventDefault());
            own.addEventListener("drop", (event) => {
                if (dragged < 0) return;
                event.preventDefault();
                move(dragged, index, controls.indexOf(name));
            });
            return {element: own, show, controls, remove: bin};
        }

        return {element, draw, refresh};
    }

    return {build};
})();
