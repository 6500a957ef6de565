// The Power Merger tab: its recipe's text also as rows. It works in A1111, in Forge and in a bare gradio page, and
// without this file too: then the dropdown and the text box do every job.

(() => {
    "use strict";

    const {rows} = window.powerMerger;
    const REFRESH = "#txt2img_lora_extra_refresh, #img2img_lora_extra_refresh";
    const find = (selector) => document.querySelector(selector);

    let area = null; // the recipe's textarea; gradio may make a new one
    let drawn = null; // the text that the rows show
    let data = null; // the element that the list was made of
    let list = listOf("[]", "[]");
    const seen = new WeakSet(); // the markers of what Python did that were acted on
    const board = rows.build({read: () => area?.value ?? "", write, list: () => list});

    /** The LoRAs of the page, and how a name in a tag finds one: as lib_pm/files/library.py does. */
    function listOf(loras, presets) {
        const named = [new Map(), new Map(), new Map(), new Map()]; // by folder and name, name, either in any case, title
        const put = (map, key, lora) => key && map.set(key, (map.get(key) || new Set()).add(lora));
        const all = JSON.parse(loras).map((plain) => {
            const stem = plain.name.split("/").pop();
            const lora = {...plain, stem, searched: `${plain.folder}/${stem} ${plain.title}`.toLowerCase()};
            const whole = plain.folder ? `${plain.folder}/${stem}` : stem;
            put(named[0], whole, lora);
            put(named[1], stem, lora);
            put(named[2], whole.toLowerCase(), lora);
            put(named[2], stem.toLowerCase(), lora);
            put(named[3], lora.title, lora);
            return lora;
        });
        return {
            loras: all,
            presets: JSON.parse(presets),
            find(name) {
                const key = name.replace(/\\/g, "/").replace(/\.safetensors$/, "");
                const found = [named[0].get(key), named[1].get(key), named[2].get(key.toLowerCase()), named[3].get(key)].find(Boolean);
                const [lora, second] = found || [];
                return {lora, problem: !lora ? "not found" : second ? "several have this name: add the folder" : ""};
            },
        };
    }

    /** A new text, told to gradio as if it had been typed. */
    function write(text) {
        if (!area || area.value === text) return;
        area.value = text;
        area.dispatchEvent(new Event("input", {bubbles: true}));
    }

    function draw() {
        if (area.value === drawn) return;
        drawn = area.value;
        board.draw();
    }

    /** Call draw() at each new text, also one that Python sets, which makes no event. */
    function listen(textarea) {
        const value = Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value");
        Object.defineProperty(textarea, "value", {
            configurable: true,
            get: () => value.get.call(textarea),
            set(text) {
                value.set.call(textarea, text);
                if (textarea === area) draw();
            },
        });
        textarea.addEventListener("input", () => textarea === area && draw());
    }

    /** What the page is made of now. Runs at every change of the page, so it only looks for what is new. */
    function look() {
        const place = find("#pm_rows");
        const textarea = find("#pm_recipe textarea");
        if (!place || !textarea) return;
        find("#pm_tab")?.classList.add("pm-js");
        if (board.element.parentNode !== place) place.append(board.element);
        if (textarea !== area) {
            area = textarea;
            listen(area);
            draw();
        }
        const holder = find("#pm_data [data-loras]");
        if (holder && holder !== data) {
            data = holder;
            list = listOf(holder.dataset.loras, holder.dataset.presets || "[]");
            board.refresh();
        }
        for (const marker of document.querySelectorAll("#pm_tab [data-at]")) {
            if (seen.has(marker)) continue;
            seen.add(marker);
            if (marker.dataset.goto) window[`switch_to_${marker.dataset.goto}`]?.();
            if (marker.dataset.saved) document.querySelectorAll(REFRESH).forEach((button) => button.click());
        }
    }

    new MutationObserver(look).observe(document.documentElement, {childList: true, subtree: true});
    look();
})();
