// A combobox over the LoRAs of the list: type, arrow keys, Enter. Words may stand in name, folder and title.

window.powerMerger = window.powerMerger || {};
window.powerMerger.picker = (() => {
    "use strict";

    const SHOWN = 50;
    let made = 0;

    /** Why a LoRA cannot be picked. Scripts are loaded by their names, this one before that of the recipe. */
    const unwritable = (lora) => window.powerMerger.recipe.unwritable(lora.name);

    /** An element. properties: of the element, but `data`, and attributes where the name has a dash or is role. */
    function make(kind, properties = {}, ...children) {
        const element = document.createElement(kind);
        for (const [name, value] of Object.entries(properties)) {
            if (name === "role" || name.includes("-")) element.setAttribute(name, value);
            else element[name] = value;
        }
        element.append(...children);
        return element;
    }

    /** A LoRA's picture, or its first letter where there is none. */
    function thumb() {
        const image = make("img", {alt: "", loading: "lazy", decoding: "async"});
        const element = make("span", {className: "pm-thumb", "aria-hidden": "true"}, make("span"), image);
        image.addEventListener("error", () => (image.hidden = true));
        element.show = (name, url) => {
            element.firstChild.textContent = (name.split("/").pop() || "?").slice(0, 1).toUpperCase();
            if (url && image.getAttribute("src") === url) return;
            image.hidden = !url;
            if (url) image.src = url;
            else image.removeAttribute("src");
        };
        return element;
    }

    /** The LoRAs in which every word of the query stands, those whose name begins with it first. */
    function search(loras, query) {
        const words = query.toLowerCase().split(/\s+/).filter(Boolean);
        const found = loras.filter((lora) => words.every((word) => lora.searched.includes(word)));
        const rank = (lora) => {
            const place = lora.stem.toLowerCase().indexOf(words[0]);
            return place === 0 ? 0 : place > 0 ? 1 : 2;
        };
        return words.length ? found.map((lora) => [rank(lora), lora]).sort((a, b) => a[0] - b[0]).map((pair) => pair[1]) : found;
    }

    /** label: what it is for. loras(): the list as it is now. pick(lora). leave(byKey): Escape, or the focus goes. */
    function build({label, loras, pick, leave = () => {}}) {
        const id = `pm-options-${++made}`;
        const input = make("input", {
            type: "text", className: "pm-search", placeholder: label, autocomplete: "off", spellcheck: false,
            role: "combobox", "aria-label": label, "aria-autocomplete": "list", "aria-expanded": "false", "aria-controls": id,
        });
        const options = make("ul", {id, className: "pm-options", role: "listbox", "aria-label": "LoRAs"});
        const note = make("div", {className: "pm-note", role: "status"});
        const popup = make("div", {className: "pm-popup", hidden: true}, options, note);
        const element = make("div", {className: "pm-picker"}, input, popup);
        let found = [];
        let active = -1;

        function open() {
            found = search(loras(), input.value);
            options.replaceChildren(...found.slice(0, SHOWN).map(option));
            const left = found.length - SHOWN;
            note.textContent = !found.length ? "No LoRA matches all of these words." : left > 0 ? `${left} more: keep typing.` : "";
            popup.hidden = false;
            input.setAttribute("aria-expanded", "true");
            activate(input.value && found.length ? 0 : -1);
        }

        function close() {
            popup.hidden = true;
            input.setAttribute("aria-expanded", "false");
            input.removeAttribute("aria-activedescendant");
            active = -1;
        }

        function option(lora, index) {
            const picture = thumb();
            picture.show(lora.name, lora.thumb);
            const title = lora.title === lora.stem ? "" : lora.title;
            const about = [unwritable(lora), lora.folder, title].filter(Boolean).join(" · ");
            const texts = make("span", {className: "pm-texts"}, make("b", {textContent: lora.stem}), make("small", {textContent: about}));
            const item = make("li", {id: `${id}-${index}`, role: "option", "aria-selected": "false"}, picture, texts);
            if (unwritable(lora)) item.setAttribute("aria-disabled", "true");
            item.addEventListener("click", () => choose(lora));
            return item;
        }

        function activate(index) {
            options.children[active]?.setAttribute("aria-selected", "false");
            active = index;
            const item = options.children[active];
            item?.setAttribute("aria-selected", "true");
            item?.scrollIntoView({block: "nearest"});
            if (item) input.setAttribute("aria-activedescendant", item.id);
            else input.removeAttribute("aria-activedescendant");
        }

        function choose(lora) {
            if (unwritable(lora)) return;
            input.value = "";
            close();
            pick(lora);
        }

        function press(event) {
            const last = Math.min(found.length, SHOWN) - 1;
            const steps = {ArrowDown: 1, ArrowUp: -1, PageDown: 5, PageUp: -5};
            if (event.altKey || event.ctrlKey || event.metaKey || event.isComposing) return;
            if (event.key in steps) {
                if (popup.hidden) open();
                if (steps[event.key] === -1 && active <= 0) activate(last);
                else if (steps[event.key] === 1 && active === last) activate(0);
                else activate(Math.max(0, Math.min(last, active + steps[event.key])));
            } else if (event.key === "Enter") {
                if (popup.hidden) open();
                else if (found[active]) choose(found[active]);
            } else if (event.key === "Escape") {
                input.value = "";
                close();
                leave(true);
            } else return;
            event.preventDefault();
            event.stopPropagation();
        }

        popup.addEventListener("mousedown", (event) => event.preventDefault()); // the focus stays in the input
        input.addEventListener("input", open);
        input.addEventListener("click", () => popup.hidden && open());
        input.addEventListener("keydown", press);
        input.addEventListener("blur", () => {
            close();
            leave(false);
        });
        return {element, input, open, again: () => popup.hidden || open()};
    }

    return {build, make, thumb, search};
})();
