// The recipe's text, read into parts and edited: an edit changes only what it is about, the rest keeps its spelling.
// A part is a <lora:…> tag or other words: {line, from, to, off, text} where it stands, and for a tag what it says:
// {name, clip, model, lbw, other}. Strengths are read as lib_pm/jobs/prompt.py reads them.

window.powerMerger = window.powerMerger || {};
window.powerMerger.recipe = (() => {
    "use strict";

    const TAG = /<(?:lora|lyco):([^<>]*)>/g;
    const OFF = /^(\s*)#[ \t]*/;
    const READ = ["te", "unet", "lbw", "w"];

    /** All parts of a text, in order. */
    function parse(text) {
        const parts = [];
        text.split("\n").forEach((content, line) => {
            const off = OFF.test(content);
            const add = (from, to, tag) => parts.push({line, from, to, off, text: content.slice(from, to), ...tag});
            const words = (from, to) => {
                const between = content.slice(from, to);
                const start = between.search(/[^\s,]/);
                if (start >= 0) add(from + start, from + between.trimEnd().length, {});
            };
            let end = off ? content.match(OFF)[0].length : 0;
            for (const match of content.matchAll(TAG)) {
                words(end, match.index);
                end = match.index + match[0].length;
                add(match.index, end, read(match[1]));
            }
            words(end, content.length);
        });
        return parts;
    }

    function read(body) {
        const items = body.split(":");
        const lbw = items[named(items, "lbw")] ?? items[named(items, "w")] ?? "";
        return {
            name: items[0].trim(),
            ...strengths(items),
            lbw: lbw.slice(lbw.indexOf("=") + 1).trim(),
            other: items.slice(1).filter((item, index, all) => {
                if (item.includes("=")) return !READ.includes(item.split("=")[0]);
                return all.slice(0, index).filter((earlier) => !earlier.includes("=")).length > 1;
            }),
        };
    }

    /** Where an item `key=…` is; the last one counts. -1: nowhere. */
    function named(items, key) {
        return items.map((item, index) => index > 0 && item.startsWith(`${key}=`)).lastIndexOf(true);
    }

    /** Where the first (0) or second (1) item without a name is, -1: nowhere. */
    function positional(items, wanted) {
        const plain = items.flatMap((item, index) => (index > 0 && !item.includes("=") ? [index] : []));
        return plain[wanted] ?? -1;
    }

    function strengths(items) {
        const value = (key, place) => {
            const item = items[named(items, key)] ?? items[positional(items, place)];
            return item === undefined ? undefined : number(item.slice(item.indexOf("=") + 1));
        };
        const clip = value("te", 0) ?? 1;
        return {clip, model: value("unet", 1) ?? clip};
    }

    /** NaN for what is no number. */
    function number(text) {
        return text.trim() === "" ? NaN : Number(text);
    }

    /** One strength written into the items where it stands already, else where the WebUI looks for it. */
    function write(items, key, place, text) {
        const at = named(items, key);
        const plain = positional(items, place);
        if (at > 0) items[at] = `${key}=${text}`;
        else if (plain > 0) items[plain] = text;
        else if (place === 0) items.splice(1, 0, text);
        else if (positional(items, 0) > 0) items.splice(positional(items, 0) + 1, 0, text);
        else if (named(items, "te") > 0) items.push(`unet=${text}`);
        else items.splice(1, 0, String(strengths(items).clip), text);
    }

    /** The text with other strengths for a part, each a text such as "0.8". */
    function setStrengths(text, part, clip, model) {
        return change(text, part, (items) => {
            if (strengths(items).clip !== number(clip)) write(items, "te", 0, clip);
            if (strengths(items).model !== number(model)) write(items, "unet", 1, model);
        });
    }

    function setName(text, part, name) {
        return change(text, part, (items) => items.splice(0, 1, name));
    }

    /** lbw: a list or a preset's name; "" takes the item away. */
    function setLbw(text, part, lbw) {
        return change(text, part, (items) => {
            const clean = lbw.replace(/[<>:\n]/g, "").trim();
            const key = named(items, "lbw") < 0 && named(items, "w") > 0 ? "w" : "lbw";
            const at = named(items, key);
            items.splice(at > 0 ? at : items.length, at > 0 ? 1 : 0, ...(clean ? [`${key}=${clean}`] : []));
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

    return {parse, number, add, remove, move, setOff, setName, setStrengths, setLbw};
})();
