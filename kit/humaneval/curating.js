// The face of looking through a curation: a grid of pictures, each with its reasons, to keep or to drop.
// common.js and widget_forms.js go before it in one module.

const ANSWER_MS = 5000; // a kernel that says nothing for so long is busy or gone

class Grid {
    constructor(model, root) {
        Object.assign(this, { model, root, page: 0, pages: 1, urls: [], cards: new Map() });
        this.count = el("span", { class: "kc-count", role: "status", "aria-live": "polite" }, "Getting the first page…");
        this.back = el("button", { type: "button", onclick: () => this.turn(-1) }, "← Back");
        this.next = el("button", { type: "button", onclick: () => this.turn(1) }, "Next →");
        this.where = el("span", { class: "kc-where" });
        this.body = el("div", { class: "kc-grid", role: "list" });
        const hint = el("span", { class: "kc-hint" }, "Arrow keys move; ", el("kbd", {}, "K"), " keep, ", el("kbd", {}, "D"), " drop, ", el("kbd", {}, "U"), " undo");
        root.append(el("header", {}, this.count, el("span", { class: "kc-pages" }, this.back, this.where, this.next)), this.body, el("footer", {}, hint));
        root.addEventListener("keydown", (event) => this.key(event));
        this.hear = (message, buffers) => this.got(message, buffers);
        model.on("msg:custom", this.hear);
        this.theme();
        this.watch = new MutationObserver(() => this.theme());
        for (const node of [document.documentElement, document.body]) this.watch.observe(node, { attributes: true });
        this.ask({ kind: "page", page: 0 });
    }

    theme() { this.root.dataset.theme = isDark(this.root.parentElement || document.body) ? "dark" : "light"; }

    stop() {
        clearTimeout(this.late);
        this.watch.disconnect();
        this.model.off("msg:custom", this.hear);
        this.urls.forEach((url) => URL.revokeObjectURL(url));
    }

    ask(message) {
        clearTimeout(this.late);
        this.late = setTimeout(() => this.say("The kernel does not answer yet. Run the cell again if it was restarted."), ANSWER_MS);
        this.model.send(message);
    }

    turn(by) { this.ask({ kind: "page", page: this.page + by }); }

    say(text) { this.count.textContent = text; }

    got(message, buffers) {
        clearTimeout(this.late);
        if (message.kind === "trouble") return this.say(message.message);
        if (message.kind === "page") this.show(message, buffers);
        if (message.kind === "decided") this.paint(this.cards.get(message.row), message);
        this.say(`${message.counts.keep} kept, ${message.counts.drop} dropped of ${message.counts.keep + message.counts.drop}`);
    }

    show(message, buffers) {
        this.urls.forEach((url) => URL.revokeObjectURL(url));
        this.urls = [];
        this.cards.clear();
        Object.assign(this, { page: message.page, pages: message.pages });
        this.where.textContent = `${message.page + 1} of ${message.pages}`;
        this.back.disabled = message.page === 0;
        this.next.disabled = message.page + 1 >= message.pages;
        const made = message.cards.map((card, place) => this.card(card, buffers[place]));
        const inside = this.body.contains(document.activeElement);
        this.body.replaceChildren(...made);
        if (inside) made[0]?.focus();
    }

    card(card, buffer) {
        const bytes = buffer.buffer ? new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength) : buffer;
        const url = bytes.byteLength ? URL.createObjectURL(new Blob([bytes], { type: "image/png" })) : "";
        if (url) this.urls.push(url);
        const choice = (verdict, text) => el("button", { type: "button", "data-verdict": verdict, tabindex: "-1", onclick: () => this.decide(card.row, verdict) }, text);
        const node = el("article", { class: "kc-card", role: "listitem", tabindex: "0", "data-row": card.row },
            url ? el("img", { src: url, alt: `Picture of row ${card.row}`, draggable: "false" }) : null,
            el("p", { class: "kc-text" }, card.text), el("ul", { class: "kc-why" }, ...card.reasons.map((reason) => el("li", {}, reason))),
            el("div", { class: "kc-choice" }, choice("keep", "Keep"), choice("drop", "Drop")), el("p", { class: "kc-by" }));
        this.cards.set(card.row, node);
        this.paint(node, card);
        return node;
    }

    paint(node, { verdict, person }) {
        if (!node) return;
        node.dataset.verdict = verdict;
        for (const one of node.querySelectorAll("[data-verdict]")) one.setAttribute("aria-pressed", String(one.dataset.verdict === verdict));
        node.querySelector(".kc-by").textContent = person ? `by ${person}` : "";
        node.setAttribute("aria-label", `${node.querySelector(".kc-text").textContent}: ${verdict === "drop" ? "dropped" : "kept"}${person ? ` by ${person}` : ""}`);
    }

    decide(row, verdict) { this.ask({ kind: "decide", row, verdict }); }

    key(event) {
        if (event.ctrlKey || event.metaKey || event.altKey) return;
        const card = event.target.closest(".kc-card");
        const verdict = { k: "keep", d: "drop", u: "undo" }[event.key.toLowerCase()];
        if (card && verdict && !(verdict === "undo" && !card.querySelector(".kc-by").textContent)) this.decide(card.dataset.row, verdict);
        else if (!card || !this.move(card, event.key)) return;
        event.preventDefault();
        event.stopPropagation();
    }

    // As many cards to the side or down as the grid has columns now.
    move(card, key) {
        const all = [...this.body.children], columns = all.filter((one) => one.offsetTop === all[0].offsetTop).length;
        const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[key];
        if (!step) return false;
        all[all.indexOf(card) + step]?.focus();
        return true;
    }
}

export default {
    render({ model, el: place }) {
        const root = el("div", { class: "kit-curate", role: "group", "aria-label": "Rows to keep or drop", "data-lm-suppress-shortcuts": "true" });
        place.append(root);
        const grid = new Grid(model, root);
        return () => grid.stop();
    },
};
