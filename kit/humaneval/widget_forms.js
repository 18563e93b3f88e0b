// What the voting widget asks with, design by design, and its pictures in full. widget.js goes after it in one module.

const CHOICES = [
    { answer: "left", wide: "Left", narrow: "First", rest: "is better", keys: ["ArrowLeft", "1"], hint: ["←", "1"] },
    { answer: "tie", wide: "Tie", keys: ["ArrowDown", "3", "t"], hint: ["↓", "T"] },
    { answer: "both_bad", wide: "Both bad", keys: ["ArrowUp", "4", "b"], hint: ["↑", "B"] },
    { answer: "right", wide: "Right", narrow: "Second", rest: "is better", keys: ["ArrowRight", "2"], hint: ["→", "2"] },
];

const kbd = (...keys) => el("span", { class: "kv-keys", "aria-hidden": "true" }, ...keys.map((key) => el("kbd", {}, key)));

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// JupyterLab, VS Code and Colab each mark a dark theme in their own way; what is painted behind the widget is the same.
function isDark(node) {
    for (let at = node; at; at = at.parentElement) {
        const [r, g, b, a = 1] = (getComputedStyle(at).backgroundColor.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
        if (a > 0.5) return 0.299 * r + 0.587 * g + 0.114 * b < 128;
    }
    return matchMedia("(prefers-color-scheme: dark)").matches;
}

// A picture in full, over everything; the arrow keys go from one to the next at the same place and size.
function openZoom(root, parts, start) {
    let at = start, scale = 1, x = 0, y = 0, from = null;
    const image = el("img", { alt: "", draggable: "false" });
    const title = el("h3", { "aria-live": "polite" });
    const draw = () => {
        image.src = parts[at].url;
        image.alt = title.textContent = parts[at].label;
        image.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
    };
    const zoom = (factor) => {
        scale = Math.min(16, Math.max(1, scale * factor));
        if (scale === 1) x = y = 0;
        draw();
    };
    const turn = (step) => { at = (at + step + parts.length) % parts.length; draw(); };
    const keys = {
        ArrowLeft: () => turn(-1), ArrowRight: () => turn(1), "+": () => zoom(1.4), "=": () => zoom(1.4),
        "-": () => zoom(1 / 1.4), 0: () => zoom(1 / 16), z: () => dialog.close(),
    };
    const button = (text, label, act) => el("button", { type: "button", "aria-label": label, onclick: act }, text);
    const dialog = el("dialog", { class: "kv-zoom", "aria-label": "Picture in full", "data-lm-suppress-shortcuts": "true" },
        el("header", {}, title, el("span", { class: "kv-tools" },
            button("−", "Smaller", () => zoom(1 / 1.4)), button("+", "Larger", () => zoom(1.4)),
            button("‹", "Previous picture", () => turn(-1)), button("›", "Next picture", () => turn(1)),
            button("Close", "Close", () => dialog.close()))),
        el("div", {
            class: "kv-stage",
            onpointerdown: (event) => { from = [event.clientX - x, event.clientY - y]; event.target.setPointerCapture(event.pointerId); },
            onpointermove: (event) => { if (from && scale > 1) { [x, y] = [event.clientX - from[0], event.clientY - from[1]]; draw(); } },
            onpointerup: () => { from = null; },
            onwheel: (event) => { event.preventDefault(); zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15); },
            ondblclick: () => zoom(scale > 1 ? 1 / 16 : 2.5),
        }, image));
    dialog.addEventListener("keydown", (event) => {
        event.stopPropagation();
        if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
    });
    dialog.addEventListener("close", () => { dialog.remove(); root.focus({ preventScroll: true }); });
    draw();
    root.append(dialog);
    dialog.showModal();
}

// What one design asks for: its controls, the keys that work them, and the answer when there is one.
const DESIGNS = {
    pairwise(form, page, submit) {
        const buttons = CHOICES.map((one) => el("button", {
            type: "button", class: `kv-choice kv-${one.answer}`, "data-answer": one.answer,
            "aria-keyshortcuts": one.keys.join(" "), onclick: () => submit(one.answer),
        }, el("span", {},
            el("span", { class: one.narrow ? "kv-wide" : "" }, one.wide),
            one.narrow ? el("span", { class: "kv-narrow" }, one.narrow) : "", one.rest ? ` ${one.rest}` : ""),
        kbd(...one.hint)));
        const key = (name) => {
            const found = CHOICES.find((one) => one.keys.includes(name));
            if (found) submit(found.answer);
            return Boolean(found);
        };
        return { node: el("div", { class: "kv-choices", role: "group", "aria-label": "Your answer" }, ...buttons), key };
    },

    likert(form, page, submit) {
        const points = {};
        const send = el("button", { type: "button", class: "kv-send", onclick: () => whole() && submit(points) }, "Send", kbd("Enter"));
        const whole = () => form.rubric.every(([name]) => points[name]);
        const rows = form.rubric.map(([name, labels], row) => {
            const group = `kv-${page.token}-${row}`;
            return el("fieldset", { class: "kv-row" }, el("legend", {}, name), el("div", { class: "kv-scale" },
                ...labels.map((label, place) => el("label", {},
                    el("input", { type: "radio", name: group, value: place + 1, onchange: () => give(row, place + 1) }),
                    el("span", {}, label), kbd(String(place + 1))))));
        });
        const mark = () => rows.forEach((row, n) => row.classList.toggle("kv-now", form.rubric.findIndex(([name]) => !points[name]) === n));
        const give = (row, value) => {
            points[form.rubric[row][0]] = value;
            rows[row].querySelectorAll("input")[value - 1].checked = true;
            mark();
            send.setAttribute("aria-disabled", String(!whole()));
        };
        mark();
        send.setAttribute("aria-disabled", "true");
        const key = (name) => {
            const row = form.rubric.findIndex(([criterion]) => !points[criterion]);
            if (name === "Enter" && whole()) return submit(points), true;
            if (row < 0 || !(Number(name) >= 1 && Number(name) <= form.rubric[row][1].length)) return false;
            give(row, Number(name));
            if (form.rubric.length === 1) submit(points); // one criterion is one key press
            return true;
        };
        return { node: el("div", { class: "kv-rubric" }, ...rows, send), key };
    },

    best_of(form, page, submit, cards) {
        const order = [];
        const send = el("button", { type: "button", class: "kv-send", onclick: () => whole() && submit(order) }, "Send", kbd("Enter"));
        const again = el("button", { type: "button", onclick: () => back() }, "Clear last", kbd("⌫"));
        const whole = () => order.length === cards.length;
        const picks = cards.map((card, place) => el("button", { type: "button", class: "kv-pick", onclick: () => pick(place) }));
        cards.forEach((card, place) => card.append(picks[place]));
        const draw = () => {
            picks.forEach((button, place) => {
                const rank = order.indexOf(place);
                const next = ["best", "second", "third"][order.length] || `number ${order.length + 1}`;
                button.replaceChildren(rank < 0 ? `Choose as ${next}` : `Rank ${rank + 1}`, kbd(String(place + 1)));
                button.setAttribute("aria-pressed", String(rank >= 0));
                cards[place].classList.toggle("kv-ranked", rank >= 0);
            });
            send.setAttribute("aria-disabled", String(!whole()));
        };
        const pick = (place) => {
            if (order.includes(place)) return;
            order.push(place);
            if (order.length === cards.length - 1) order.push(cards.findIndex((_, n) => !order.includes(n)));
            draw();
        };
        const back = () => { order.splice(whole() && cards.length > 1 ? -2 : -1); draw(); };
        draw();
        const key = (name) => {
            if (name === "Enter" && whole()) return submit(order), true;
            if (name === "Backspace") return back(), true;
            if (!(Number(name) >= 1 && Number(name) <= cards.length)) return false;
            pick(Number(name) - 1);
            return true;
        };
        return { node: el("div", { class: "kv-choices kv-two" }, send, again), key };
    },
};
