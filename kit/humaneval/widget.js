// The voting widget's face. The kernel sends pages (pictures and sounds as bytes) one ahead, and the state of the
// sitting; an answer goes out with an id of its own and again with that id until the kernel has committed it.

const RESEND_MS = 4000; // a kernel that is busy answers late; the same id makes a resend harmless
const RETRY_MS = 2500; // between two tries to reach the database
const BEAT_MS = 60000; // what is on the screen stays leased
const DECODE_MS = 1500; // a window that paints nothing may never be told that a picture is decoded
const ANSWERS = /^(Arrow(Left|Right|Up|Down)|[1-9bt]|Enter|Backspace)$/; // keys of one design or another
const PAGES = 6; // kept in the browser: the shown one, the next one, and some to take back

function stash(name, value) {
    try {
        if (value === undefined) return JSON.parse(sessionStorage.getItem(name));
        if (value === null) sessionStorage.removeItem(name);
        else sessionStorage.setItem(name, JSON.stringify(value));
    } catch { /* a frame without storage: a resend after the kernel's death is lost, nothing else */ }
    return null;
}

// Pages with their pictures decoded, so that the next one is painted in the frame after the kernel's word.
class Pages {
    constructor(design) { this.design = design; this.all = new Map(); }

    add({ token, prompt, answers }, buffers) {
        if (this.all.has(token)) return;
        const sides = { pairwise: ["Left answer", "Right answer"], likert: ["Answer"] }[this.design];
        const made = (parts, label) => parts.map((part, place) => this.part(part, buffers, label(place)));
        this.all.set(token, {
            token,
            prompt: made(prompt, () => "What was asked"),
            answers: made(answers, (place) => sides?.[place] || `Answer ${place + 1}`),
        });
        for (const old of [...this.all.keys()].slice(0, -PAGES)) this.drop(old);
    }

    part(part, buffers, label) {
        if (part.kind === "text") return { ...part, label };
        const buffer = buffers[part.buffer];
        const bytes = buffer.buffer ? new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength) : buffer;
        const url = URL.createObjectURL(new Blob([bytes], { type: part.type }));
        if (part.kind !== "picture") return { kind: part.kind, url, label };
        const image = el("img", { src: url, alt: label, decoding: "sync", draggable: "false" });
        return { kind: part.kind, url, label, image, ready: Promise.race([image.decode().catch(() => {}), pause(DECODE_MS)]) };
    }

    drop(token) {
        const page = this.all.get(token);
        for (const part of page ? [...page.prompt, ...page.answers] : []) if (part.url) URL.revokeObjectURL(part.url);
        this.all.delete(token);
    }

    clear() { for (const token of [...this.all.keys()]) this.drop(token); }
}

class View {
    constructor(model, root) {
        Object.assign(this, { model, root, id: uuid4(), pages: new Pages(), heard: false, shown: "", pressed_ms: 0 });
        this.bar = el("div", { class: "kv-bar", role: "progressbar", "aria-label": "Progress", "aria-valuemin": 0 }, el("i"));
        this.count = el("span", { class: "kv-count" });
        this.decision = el("span", { class: "kv-decision" });
        this.status = el("p", { class: "kv-status", role: "status", "aria-live": "polite" });
        this.body = el("div", { class: "kv-body" }, el("p", { class: "kv-quiet" }, "Getting the first page…"));
        this.undo = el("button", { type: "button", "aria-keyshortcuts": "u", onclick: () => this.take("undo") }, "Undo", kbd("U"));
        this.skip = el("button", { type: "button", "aria-keyshortcuts": "s", onclick: () => this.take("skip") }, "Skip", kbd("S"));
        this.keys = el("span", { class: "kv-hint" }, "Click here to vote with the keys");
        this.foot = el("footer", {}, el("span", { class: "kv-tools" }, this.undo, this.skip), this.status, this.keys);
        root.append(this.bar, el("header", {}, this.count, this.decision), this.body, this.foot);
        root.addEventListener("keydown", (event) => this.key(event));
        // A click beside the buttons turns the keys on; one on a button leaves the focus there, inside of the root.
        root.addEventListener("click", (event) => { if (!event.target.closest("button, a, input, audio, label, dialog")) root.focus({ preventScroll: true }); });
    }

    start() {
        this.theme();
        this.watch = new MutationObserver(() => this.theme());
        for (const node of [document.documentElement, document.body]) this.watch.observe(node, { attributes: true });
        this.hear = (message, buffers) => this.got(message, buffers);
        this.model.on("msg:custom", this.hear);
        this.leave = () => this.pass({ kind: "bye", view: this.id });
        window.addEventListener("pagehide", this.leave);
        this.pass(this.hello());
        this.tick = setInterval(() => this.beat(), 500);
        this.since_ms = this.asked_ms = performance.now();
    }

    // A page that is loaded anew has another origin of time, and its views replace those of before.
    hello() { return { kind: "hello", view: this.id, page: performance.timeOrigin }; }

    stop() {
        clearInterval(this.tick);
        clearTimeout(this.due);
        this.watch.disconnect();
        this.model.off("msg:custom", this.hear);
        this.pages.clear();
        window.removeEventListener("pagehide", this.leave);
        this.leave();
    }

    theme() { this.root.dataset.theme = isDark(this.root.parentElement || document.body) ? "dark" : "light"; }

    // Twice a second: what is due to be sent again, and what to say meanwhile.
    beat() {
        const now = performance.now(), quiet = now - this.asked_ms;
        this.theme(); // a theme's colours come some time after its name
        if (this.sending || !this.heard) {
            if (quiet > RESEND_MS && !document.hidden) this.ask(this.sending || this.hello());
            if (now - this.since_ms > 1000) this.say(this.sending ? "Saving… the kernel is busy." : "Waiting for the kernel…");
            if (this.gone || now - this.since_ms > 15000) this.say("The kernel does not answer. Your answer is kept: run this cell again to go on.", "warn");
            return;
        }
        if (this.state?.token && this.state.token !== this.shown && quiet > RETRY_MS) return void this.show(this.state.token); // its page is late
        const due = { unsaved: RETRY_MS, away: RETRY_MS, waiting: RETRY_MS, asking: BEAT_MS }[this.state?.status];
        if (due && quiet > due && !document.hidden) this.ask({ kind: this.state.status === "unsaved" ? "retry" : "state" });
    }

    ask(message) { this.asked_ms = performance.now(); this.pass(message); }

    pass(message) {
        try { this.model.send(message); } catch { this.gone = true; } // its kernel was restarted: another view takes over
    }

    // Send what has to arrive: it is sent until the kernel names its id, by another kernel after a restart if need be.
    send(message) {
        this.sending = { uuid: uuid4(), ...message };
        this.since_ms = performance.now();
        stash(this.sitting, this.sending);
        this.root.setAttribute("aria-busy", "true");
        this.readiness();
        this.ask(this.sending);
    }

    got(message, buffers) {
        this.heard = true;
        if (message.kind === "form") this.begin(message);
        else if (message.kind === "page") this.pages.add(message, buffers);
        else if (message.kind === "decision") this.decision.textContent = message.text;
        else if (message.kind === "trouble") { this.acknowledged(message.uuid, true); this.say(message.message, "warn"); }
        else if (message.kind === "state") this.stands(message);
        this.readiness();
    }

    get guard_left_ms() { return this.shown ? GUARD_MS - (performance.now() - this.shown_ms) : 0; }

    get waits() { return Boolean(this.shown) && !this.sending && this.state?.status === "asking" && this.state.token === this.shown; }

    get ready() { return this.waits && this.guard_left_ms <= 0; }

    // Says on the root whether an answer is taken now. One look at the clock decides: of two, the first may find the
    // guard up and the second find it down, and nothing would look a third time.
    readiness() {
        clearTimeout(this.due);
        const left_ms = this.guard_left_ms;
        this.root.toggleAttribute("data-ready", this.waits && left_ms <= 0);
        if (left_ms > 0) this.due = setTimeout(() => this.readiness(), left_ms);
    }

    begin(form) {
        this.form = form;
        this.sitting = `kit-vote-${form.sitting}`;
        this.pages.design = form.design;
        const left = stash(this.sitting);
        if (left?.uuid && !this.sending) this.send(left);
    }

    acknowledged(uuid, saved) {
        if (!this.sending || this.sending.uuid !== uuid) return;
        this.sending = null;
        if (saved) stash(this.sitting, null);
        this.root.removeAttribute("aria-busy");
    }

    async stands(state) {
        this.acknowledged(state.uuid, state.status !== "unsaved");
        if (state.status !== "unsaved" && !this.sending) stash(this.sitting, null);
        this.state = state;
        this.asked_ms = performance.now();
        const total = state.done + state.left;
        this.bar.firstChild.style.width = `${total ? (100 * state.done) / total : 0}%`;
        for (const [name, value] of [["max", total], ["now", state.done], ["text", `${state.done} of ${total}`]]) this.bar.setAttribute(`aria-value${name}`, value);
        this.count.textContent = `${state.done} of ${total}` + (state.left && state.left_s !== null ? ` · ${minutes(state.left_s)}` : "");
        this.decision.textContent = state.decision;
        this.undo.setAttribute("aria-disabled", String(!state.last));
        this.root.dataset.status = state.status;
        this.say(state.message, ["unsaved", "away"].includes(state.status) ? "warn" : "");
        this.skip.hidden = !state.token;
        if (state.token) await this.show(state.token);
        else this.rest(state);
    }

    rest(state) {
        this.shown = this.wanted = "";
        const said = {
            finished: [el("span", { class: "kv-done", "aria-hidden": "true" }, "✓"), el("h3", {}, "That was the last one"), el("p", {}, "Thank you. Every answer is saved.")],
            waiting: [el("h3", {}, "The rest is open in another window"), el("p", {}, "This goes on by itself as soon as something is free.")],
            away: [el("h3", {}, "The database does not answer"), el("p", {}, "Nothing is lost. This goes on by itself.")],
        }[state.status] || [];
        this.body.replaceChildren(el("div", { class: "kv-rest" }, ...said));
    }

    async show(token) {
        if (this.shown === token) return;
        this.wanted = token;
        const page = this.pages.all.get(token);
        if (!page) return this.ask({ kind: "want" });
        await Promise.all([...page.prompt, ...page.answers].map((part) => part.ready));
        if (this.wanted !== token || this.shown === token) return; // another state came meanwhile
        this.shown = token;
        const pictures = [...page.prompt, ...page.answers].filter((part) => part.kind === "picture");
        const zoom = (part) => openZoom(this.root, pictures, pictures.indexOf(part));
        const cards = page.answers.map((part) => el("section", { class: `kv-card kv-of-${part.kind}`, "aria-label": part.label }, this.caption(part), this.part(part, zoom)));
        const submit = (answer) => this.answer(answer);
        this.asking = DESIGNS[this.form.design](this.form, page, submit, cards);
        this.zoom = () => { const first = page.answers.find((part) => part.kind === "picture") || pictures[0]; if (first) zoom(first); };
        const inside = this.root.contains(document.activeElement);
        const focused = document.activeElement?.dataset?.answer;
        this.body.replaceChildren(
            el("h3", { class: "kv-question" }, this.form.question),
            page.prompt.length ? el("div", { class: "kv-prompt" }, ...page.prompt.map((part) => this.part(part, zoom))) : "",
            el("div", { class: `kv-cards kv-${page.answers[0].kind}s`, "data-n": page.answers.length }, ...cards), this.asking.node);
        this.shown_ms = this.visible_ms = performance.now(); // the latter more exactly below
        this.readiness();
        // The focus stays on the same button, or else on the root: a screen reader is not thrown out of the widget.
        if (inside) (this.body.querySelector(`[data-answer="${focused}"]`) || this.root).focus({ preventScroll: true });
        if (!this.state.message && this.state.done) this.say(`Saved. Number ${this.state.done + 1} of ${this.state.done + this.state.left}.`);
        const start = this.pressed_ms;
        this.pressed_ms = 0;
        requestAnimationFrame(() => setTimeout(() => { // after the frame is painted
            const end = performance.now();
            if (start) performance.measure("kit-vote-next", { start, end });
            if (this.shown === token) this.visible_ms = end; // a busy machine may have placed the next page meanwhile
        }));
    }

    caption(part) {
        const side = part.label.match(/^(Left|Right) answer$/)?.[1];
        if (!side) return el("h4", {}, part.label);
        if (part.kind === "picture") return el("h4", {}, side); // pictures stay side by side, however narrow
        return el("h4", {}, el("span", { class: "kv-wide" }, side), el("span", { class: "kv-narrow" }, { Left: "First", Right: "Second" }[side]));
    }

    part(part, zoom) {
        if (part.kind === "audio") return el("audio", { controls: true, controlslist: "nodownload", src: part.url, "aria-label": part.label, preload: "auto" });
        if (part.kind === "picture") return el("button", { type: "button", class: "kv-picture", "aria-label": `${part.label}: see it in full`, onclick: () => zoom(part) }, part.image);
        return el("div", { class: "kv-words", tabindex: "0", role: "region", "aria-label": part.label }, part.text);
    }

    answer(answer) {
        if (!this.ready) return;
        this.pressed_ms = performance.now();
        this.body.querySelectorAll("[data-answer]").forEach((one) => one.classList.toggle("kv-pressed", one.dataset.answer === answer));
        this.body.querySelectorAll("audio").forEach((one) => one.pause());
        this.send({ kind: "answer", token: this.shown, answer, ms: Math.max(1, Math.round(this.pressed_ms - this.visible_ms)) });
    }

    take(what) {
        if (what === "skip") return this.answer("skip");
        if (this.sending || this.guard_left_ms > 0 || !this.state?.last || this.state.status === "unsaved") return;
        this.send({ kind: "undo", undoes: this.state.last });
    }

    key(event) {
        if (event.ctrlKey || event.metaKey || event.altKey) return;
        // A button is clicked anew by each repeat of a held Enter, and the focus stays on it from page to page.
        if (event.repeat) return event.key === "Enter" && event.target.matches("button") && event.preventDefault();
        const name = event.key.length === 1 ? event.key.toLowerCase() : event.key, at = event.target;
        if (at.matches("audio, input") && name.startsWith("Arrow")) return; // they have a use for them
        if (at.matches(".kv-words") && ["ArrowUp", "ArrowDown"].includes(name) && at.scrollHeight > at.clientHeight) return;
        if (at.matches("button") && name === "Enter") return;
        const own = { u: () => this.take("undo"), s: () => this.take("skip"), z: () => this.zoom?.() }[name];
        if (own) own();
        else if (!this.shown || !(this.ready ? this.asking?.key(name) : ANSWERS.test(name))) return; // an early press is nobody else's
        event.preventDefault();
        event.stopPropagation();
    }

    say(text, kind = "") {
        if (this.status.textContent !== text) this.status.textContent = text;
        this.status.dataset.kind = kind;
    }
}

export default {
    render({ model, el: place }) {
        const root = el("div", { class: "kit-vote", tabindex: "0", role: "group", "aria-label": "Blind comparison", "data-lm-suppress-shortcuts": "true" });
        place.append(root);
        const view = new View(model, root);
        view.start();
        return () => view.stop();
    },
};
