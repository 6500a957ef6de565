// The recipe's text, read into parts and edited: an edit changes only what it is about, the rest keeps its spelling.
// A part is a <lora:…> tag or other words: {line, from, to, off, text} where it stands. A tag also has what it says:
// {name, clip, model, lbw, out, other, wrong}; words have `broken` if they look like a tag. All of it as in
// lib_pm/prompt/tag.py; tests/tags.json holds both to one meaning.

window.powerMerger = window.powerMerger || {};
window.powerMerger.recipe = (() => {
    "use strict";

    const TAG = /<(?:lora|lyco):([^<>\n]+)>/g;
    const LIKE = /<(?:(?:lora|lyco|pm)(?=[\s:=<>：＝]|$)|[ \t]+(?:lora|lyco|pm)(?=[ \t]*[:=：＝]))/i;
    const PM = /<pm:[^<>\n]+>/g; // a tag, but no LoRA
    const OFF = /^(\s*)#[ \t]*/;
    const READ = ["te", "unet", "lbw", "w", "pm"];
    const NUMBER = /^[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?$/;
    const LIMIT = 1e6;
    const WEIGHTS = /^(([^,]*,){2}[^]*|(?!(nan|inf|infinity)$)[^0-9+.,-][^,]*)$/i;
    const UNWRITABLE = /[<>:\x00-\x1f\x7f]/;
    // what Python calls space, which is not quite what JavaScript does
    const SPACE = "(?:[^\\S\\ufeff]|[\\x1c-\\x1f\\x85])*";
    const EDGES = new RegExp(`^${SPACE}|${SPACE}$`, "g");
    const trim = (text) => text.replace(EDGES, "");

    /** All parts of a text, in order. */
    function parse(text) {
        const parts = [];
        text.split("\n").forEach((content, line) => {
            const off = OFF.test(content);
            const add = (from, to, tag) => parts.push({line, from, to, off, text: content.slice(from, to), ...tag});
            const words = (from, to) => {
                const between = content.slice(from, to);
                const start = between.search(/[^\s,]/);
                const broken = between.split(PM).some((some) => LIKE.test(some));
                if (start >= 0) add(from + start, from + between.trimEnd().length, {broken});
            };
            let end = off ? content.match(OFF)[0].length : 0;
            for (const match of content.matchAll(TAG)) {
                words(end, match.index);
                end = match.index + match[0].length;
                add(match.index, end, read(match[1].split(":")));
            }
            words(end, content.length);
        });
        return parts;
    }

    function read(items) {
        const [clip, model] = strengths(items);
        const places = plain(items);
        const out = value(items, "pm");
        const seen = [0, ...places.slice(0, 2), ...READ.flatMap((key) => named(items, key))];
        const other = items.filter((item, at) => !seen.includes(at)).map(trim);
        const wrong = [
            ...[["te"], ["unet"], ["lbw", "w"], ["pm"]].filter((keys) => named(items, ...keys).length > 1).map((keys) => `${keys[0]} is given twice`),
            ...(olderLbw(items) && named(items, "lbw", "w").length ? ["lbw is given twice"] : []),
            ...(Number.isNaN(clip + model) || unread(items) ? ["a strength is not a number"] : []),
            ...(Math.max(Math.abs(clip), Math.abs(model)) > LIMIT ? [`a strength is beyond ${LIMIT}`] : []),
            ...(out !== undefined && out.toLowerCase() !== "off" ? ["pm can only be off"] : []),
            ...(trim(items[0]) ? [] : ["the name is missing"]),
        ].join(", ");
        return {name: trim(items[0]), clip, model, lbw: lbwOf(items), out: out !== undefined, other, wrong};
    }

    /** Where the items are that have one of these keys. */
    function named(items, ...keys) {
        const key = (item) => trim(item.split("=", 1)[0]).toLowerCase();
        return items.flatMap((item, at) => (at > 0 && item.includes("=") && keys.includes(key(item)) ? [at] : []));
    }

    /** The value of a key, undefined if it is not there. */
    function value(items, ...keys) {
        const [at] = named(items, ...keys);
        return at && trim(items[at].slice(items[at].indexOf("=") + 1));
    }

    /** Where the items without a key are. */
    function plain(items) {
        return items.flatMap((item, at) => (at > 0 && !item.includes("=") ? [at] : []));
    }

    /** Where MIDD is in x:1:MIDD, 0 for nowhere. */
    function olderLbw(items) {
        const at = plain(items)[1];
        return at && WEIGHTS.test(trim(items[at])) ? at : 0;
    }

    function lbwOf(items) {
        return olderLbw(items) ? trim(items[olderLbw(items)]) : (value(items, "lbw", "w") ?? "");
    }

    /** The text of a strength that goes by its place. */
    function placed(items, place) {
        const at = plain(items)[place];
        return at && at !== olderLbw(items) ? items[at] : undefined;
    }

    /** Whether there is a strength by its place that is no number, though a key may win over it. */
    function unread(items) {
        return [0, 1].map((place) => placed(items, place)).some((text) => text !== undefined && Number.isNaN(number(text)));
    }

    /** Of clip and model: clip is 1 if it is missing, model is then clip. NaN for what is no number. */
    function strengths(items) {
        const of = (key, place) => {
            const text = value(items, key) ?? placed(items, place);
            return text === undefined ? undefined : number(text);
        };
        const clip = of("te", 0) ?? 1;
        return [clip, of("unet", 1) ?? clip];
    }

    /** NaN for what is no number as people write them. */
    function number(text) {
        return NUMBER.test(trim(text)) ? Number(trim(text)) : NaN;
    }

    /** An item with another value; its key and the spaces stay. */
    function withText(item, text) {
        const from = item.indexOf("=") + 1;
        const old = trim(item.slice(from));
        const start = old ? item.indexOf(old, from) : item.length;
        return item.slice(0, start) + text + item.slice(start + old.length);
    }

    /** One strength written where it stands already, else where the WebUI looks for it. */
    function write(items, key, place, text) {
        const [at] = named(items, key);
        const places = plain(items);
        const older = olderLbw(items);
        if (at) items[at] = withText(items[at], text);
        else if (places.length > place && places[place] !== older) items[places[place]] = withText(items[places[place]], text);
        else if (place === 0) items.splice(1, 0, text);
        else if (older || (named(items, "te").length && !places.length)) items.push(`${key}=${text}`);
        else if (places.length) items.splice(places[0] + 1, 0, text);
        else items.splice(1, 0, "1", text);
    }

    /** The text with other strengths for a part, each a text such as "0.8". */
    function setStrengths(text, part, clip, model) {
        return change(text, part, (items) => {
            if (strengths(items)[0] !== number(clip)) write(items, "te", 0, clip);
            if (strengths(items)[1] !== number(model)) write(items, "unet", 1, model);
        });
    }

    function setName(text, part, name) {
        return change(text, part, (items) => items.splice(0, 1, name));
    }

    /** lbw: a list or a preset's name; "" takes the item away. */
    function setLbw(text, part, lbw) {
        return change(text, part, (items) => {
            const clean = trim(lbw.replace(/[<>:\n]/g, ""));
            const older = olderLbw(items);
            const [at] = named(items, "lbw", "w");
            // with a key, as 0.5 in that place would be a strength; what comes after it keeps its place
            const standIn = plain(items).length > 2 ? [String(strengths(items)[1])] : [];
            if (older) items.splice(older, 1, ...standIn, ...(clean ? [`lbw=${clean}`] : []));
            else if (!clean) items.splice(at ?? items.length, 1);
            else if (at) items[at] = withText(items[at], clean);
            else items.push(`lbw=${clean}`);
        });
    }

    /** The text with one tag's items changed by edit(items). */
    function change(text, part, edit) {
        const lines = text.split("\n");
        const content = lines[part.line];
        const colon = part.text.indexOf(":");
        const items = part.text.slice(colon + 1, -1).split(":");
        edit(items);
        const tag = `${part.text.slice(0, colon + 1)}${items.join(":")}>`;
        lines[part.line] = content.slice(0, part.from) + tag + content.slice(part.to);
        return lines.join("\n");
    }

    /** Why a tag cannot hold a LoRA's name, "" if it can. */
    function unwritable(name) {
        const sign = name.match(UNWRITABLE)?.[0];
        if (sign !== undefined) return `cannot go into a tag: its name has ${sign > " " && sign < "\x7f" ? sign : "control characters"}`;
        return name === trim(name) ? "" : "cannot go into a tag: its name begins or ends with a space";
    }

    /** A new tag on a line of its own at the end. */
    function add(text, name) {
        return `${text}${text && !text.endsWith("\n") ? "\n" : ""}<lora:${name}:1>`;
    }

    function remove(text, part) {
        const lines = text.split("\n");
        const content = lines[part.line];
        if (parse(content).length === 1) lines.splice(part.line, 1);
        else lines[part.line] = (content.slice(0, part.from) + content.slice(part.to).replace(/^[\s,]+/, "")).trimEnd();
        return lines.join("\n");
    }

    /** The text with these parts each on a line of its own. It has the same parts in the same order. */
    function alone(text, ...parts) {
        const wanted = new Set(parts.map((part) => part.line));
        const split = (content) => parse(content).map((part) => (part.off ? "#" : "") + part.text);
        return text
            .split("\n")
            .flatMap((content, line) => (wanted.has(line) && parse(content).length > 1 ? split(content) : [content]))
            .join("\n");
    }

    /** Switched off is a `#` in front of the line. index: of the part. */
    function setOff(text, index, off) {
        const own = alone(text, parse(text)[index]);
        const part = parse(own)[index];
        const lines = own.split("\n");
        if (part.off !== off) lines[part.line] = off ? `#${lines[part.line]}` : lines[part.line].replace(OFF, "$1");
        return lines.join("\n");
    }

    /** Part `from` in the place of part `to`; those between move up or down. */
    function move(text, from, to) {
        const parts = parse(text);
        const own = alone(text, parts[from], parts[to]);
        const places = parse(own);
        const lines = own.split("\n");
        const [line] = lines.splice(places[from].line, 1);
        lines.splice(places[to].line, 0, line);
        return lines.join("\n");
    }

    return {parse, number, unwritable, add, remove, move, setOff, setName, setStrengths, setLbw};
})();
