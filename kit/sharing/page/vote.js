// The rater's page: what is shown, what a tap or a key does, and what the server said since.

const POLL_MS = 8000;
const KEYS = {
  pairwise: {
    ArrowLeft: "left", 1: "left", ArrowRight: "right", 2: "right", ArrowDown: "tie", 3: "tie", t: "tie",
    ArrowUp: "both_bad", 4: "both_bad", b: "both_bad", s: "skip", u: "undo", Backspace: "undo",
  },
  likert: { s: "skip", u: "undo", Backspace: "undo" },
  best_of: { s: "skip", u: "undo", Backspace: "undo" },
};

class Rating {
  constructor(form, windowId) {
    Object.assign(this, { form, windowId });
    this.pages = new Map(); // by token, the latest few
    this.built = new Map();
    this.queue = [];
    this.past = []; // answered in this window, the latest last: { page, uuid }
    this.view = { status: "away", done: 0, left: 0 };
    this.shown = "";
    this.chosen = {};
    this.outbox = new Outbox({
      // What a closed window left is sent from here, and answered with that window's pages, which this one may not vote on.
      onView: (view, sender) => (sender === windowId ? this.heard(view) : this.refresh()),
      onTrouble: (text, status) => this.trouble(text, status),
      onDropped: (text) => { this.toast(text); this.refresh(); },
    });
    this.outbox.have = () => [...this.pages.keys()].slice(-6);
  }

  async start() {
    this.frame();
    document.addEventListener("keydown", (event) => this.key(event));
    window.addEventListener("resize", () => this.arrange());
    await this.outbox.flush();
    await this.refresh();
    this.poll = setInterval(() => {
      const idle = ["waiting", "away"].includes(this.view.status) || !this.shown;
      if (idle && this.view.status !== "finished" && !document.hidden) this.refresh();
    }, POLL_MS);
  }

  async refresh() {
    if (this.outbox.pending.length || this.refreshing) return;
    this.refreshing = true;
    const before = this.outbox.count;
    try {
      const view = await ask("state", { window: this.windowId, have: this.outbox.have() });
      if (before === this.outbox.count) this.heard(view); // else it is how things stood before the latest press
      this.trouble("", 0);
    } catch (error) {
      this.trouble(error instanceof Refusal && error.message ? error.message : "No connection.", error.status || 0);
    } finally {
      this.refreshing = false;
    }
  }

  heard(view) {
    this.view = view;
    for (const [name, page] of Object.entries(view.pages)) this.pages.set(name, page);
    let queue = [...view.queue];
    for (const sent of this.outbox.pending.filter((one) => one.window === this.windowId)) {
      // What was done since that answer: the server will say the same once it knows.
      if (sent.path === "answer") queue = queue.filter((name) => name !== sent.page);
      else if (sent.back) queue.unshift(sent.back);
    }
    this.queue = queue.filter((name) => this.pages.has(name));
    if (view.refused) this.past = [];
    if (view.message) this.toast(view.message);
    this.waitingForUndo = false;
    this.show();
  }

  show() {
    const [name] = this.queue;
    for (const one of this.queue) {
      if (!this.built.has(one)) this.built.set(one, pageElement(this.form, this.pages.get(one), (label) => this.zoom(one, label)));
    }
    this.bar();
    if (!name) return this.showNothing();
    if (name === this.shown) return;
    this.shown = name;
    this.chosen = {};
    this.stage.replaceChildren(this.built.get(name));
    this.stage.classList.remove("enter");
    void this.stage.offsetWidth; // begins the animation anew
    this.stage.classList.add("enter");
    window.scrollTo(0, 0);
    this.root.dataset.state = "asking";
    this.shownAt = this.seenAt = performance.now(); // the latter more exactly when it is painted
    requestAnimationFrame(() => requestAnimationFrame(() => { if (this.shown === name) this.seenAt = performance.now(); }));
    this.root.dataset.page = name;
    this.controls();
    this.arrange();
    this.forget();
  }

  showNothing() {
    const { status, done } = this.view;
    this.shown = "";
    delete this.root.dataset.page;
    const unsent = this.outbox.pending.length;
    const state = unsent || status === "away" || status === "asking" ? "waiting" : status;
    this.root.dataset.state = state;
    const [title, text, mark] = {
      finished: ["Thank you!", `That was all: ${done} answers, every one of them stored. You can close this page.`, "✓"],
      waiting: unsent || status === "away"
        ? ["One moment", "The next one comes as soon as there is a connection. What you answered is kept here.", "…"]
        : ["Almost done", "What is left is open in another window of yours, or was a moment ago. It comes here within five minutes.", "…"],
    }[state] ?? ["One moment", "", "…"];
    this.stage.replaceChildren(notice(title, text, mark));
    say(title);
    this.controls();
  }

  // Pictures as large as the screen allows without scrolling: one beside or one below the other.
  arrange() {
    const answers = this.stage.querySelector(".answers.pictures");
    if (!answers) return;
    const gap = 12;
    const images = [...answers.querySelectorAll("img")];
    const top = answers.getBoundingClientRect().top + window.scrollY;
    const wide = answers.clientWidth;
    const free = window.innerHeight - top - this.dock.offsetHeight - gap;
    const tall = Math.max(free, 0.42 * window.innerHeight);
    const lay = () => {
      const w = Math.max(1, ...images.map((one) => one.naturalWidth));
      const h = Math.max(1, ...images.map((one) => one.naturalHeight));
      const beside = Math.min((wide - gap) / 2 / w, tall / h);
      const below = Math.min(wide / w, (tall - gap) / 2 / h);
      const stack = images.length === 2 && below > beside;
      const rows = stack || (images.length > 2 && wide < 700) ? 2 : 1;
      answers.classList.toggle("stack", stack);
      answers.style.setProperty("--tall", `${Math.floor((tall - gap * (rows - 1)) / rows)}px`);
    };
    lay();
    Promise.all(images.map((one) => one.decode?.())).then(lay, lay);
  }

  // Everything around the page, made once.
  frame() {
    this.fill = el("div", { class: "fill" });
    this.count = el("span", { class: "count" });
    this.time = el("span", { class: "time" });
    this.undo = el("button", { type: "button", class: "quiet undo", disabled: true, onclick: () => this.takeBack() }, "Undo");
    this.stage = el("main", { id: "stage" });
    this.strip = el("p", { class: "strip", role: "status", hidden: true });
    this.buttons = el("nav", { class: "buttons", "aria-label": "Your answer" });
    this.dock = el("footer", { class: "dock" }, this.strip, this.buttons);
    this.root = el("div", { class: `rating ${this.form.design}`, "data-state": "waiting" },
      el("div", { class: "progress", role: "progressbar", "aria-label": "Progress" }, this.fill),
      el("header", { class: "top" },
        el("h1", {}, this.form.question),
        el("div", { class: "where" }, this.count, this.time, this.undo)),
      this.stage,
      this.dock);
    document.title = this.form.question;
    document.getElementById("app").replaceChildren(this.root);
  }

  bar() {
    const ahead = this.outbox.pending.filter((one) => one.path === "answer").length;
    const total = this.view.done + this.view.left;
    const done = Math.min(total, this.view.done + ahead);
    this.fill.style.width = total ? `${(100 * done) / total}%` : "0";
    this.fill.parentElement.setAttribute("aria-valuenow", String(total ? Math.round((100 * done) / total) : 0));
    this.count.textContent = total ? `${this.queue.length ? Math.min(done + 1, total) : done} of ${total}` : "";
    this.time.textContent = this.view.left && this.queue.length ? minutes(this.view.left_s) : "";
    this.undo.disabled = !this.last;
  }

  controls() {
    const buttons = this.shown ? { pairwise: pairButtons, likert: rubricButtons, best_of: rankButtons }[this.form.design](this) : [];
    this.buttons.replaceChildren(...buttons);
  }

  get guarded() {
    return Boolean(this.shown) && performance.now() - this.shownAt < GUARD_MS;
  }

  get ready() {
    return Boolean(this.shown) && !this.waitingForUndo && !this.guarded;
  }

  // The answer that Undo takes back. What the server said last is stale while something is on its way there.
  get last() {
    return this.past.at(-1)?.uuid ?? (this.outbox.pending.length ? "" : this.view.last);
  }

  vote(answer, element) {
    if (!this.ready) return;
    const page = this.shown;
    const ms = Math.max(0, Math.round(performance.now() - this.seenAt));
    navigator.vibrate?.(8);
    element?.classList.add("pressed");
    this.queue = this.queue.filter((name) => name !== page);
    this.past.push({ page, uuid: this.outbox.put({ path: "answer", window: this.windowId, page, answer, ms }) });
    this.show();
    if (this.shown) say(`${this.count.textContent}`);
  }

  takeBack() {
    const undoes = this.last;
    if (!undoes || this.waitingForUndo || this.guarded) return;
    const page = this.past.pop()?.page;
    const back = this.pages.has(page) ? page : null;
    if (back) this.queue = [back, ...this.queue.filter((name) => name !== back)];
    else this.waitingForUndo = true; // its page has to come from the server first
    this.outbox.put({ path: "undo", window: this.windowId, undoes, back });
    this.toast("Taken back. Answer again.");
    this.show();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || document.querySelector("dialog[open]")) return;
    if (event.target.closest?.("audio, input, textarea")) return;
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const what = KEYS[this.form.design][name];
    if (what === "undo") this.takeBack();
    else if (what) this.vote(what, this.buttons.querySelector(`[data-answer=${what}]`));
    else if (!this.digit(name)) return;
    event.preventDefault();
  }

  digit(name) { // 1 to 9: the next criterion's points, or the next place of a ranking
    const place = "123456789".indexOf(name);
    const next = this.buttons.querySelector("[data-next]");
    const button = next?.querySelectorAll("button")[place];
    if (place < 0 || !button || button.disabled) return false;
    button.click();
    return true;
  }

  zoom(name, label) {
    const page = this.pages.get(name);
    const pictures = [
      ...page.prompt.filter((one) => one.kind === "picture").map(({ src }) => ({ label: "What was asked", src })),
      ...page.answers.map(({ kind, src }, n) => (kind === "picture" ? { label: page.answers.length > 1 ? `Answer ${n + 1}` : "Answer", src } : null)),
    ].filter(Boolean);
    lightbox(pictures, Math.max(0, pictures.findIndex((one) => one.label === label)));
  }

  trouble(text, status) {
    const unsent = this.outbox.pending.length;
    if (status === 401 || status === 403) return refusedPage(text, unsent);
    const kept = unsent ? ` ${unsent} ${unsent === 1 ? "answer is" : "answers are"} kept here and sent by ${unsent === 1 ? "itself" : "themselves"}.` : "";
    this.strip.textContent = text ? `${text.replace(/\.$/, "")}.${kept}` : "";
    this.strip.hidden = !text;
    this.strip.classList.toggle("bad", Boolean(text));
    this.arrange();
    if (!this.shown && this.root.dataset.state !== "finished") this.showNothing();
  }

  toast(text) {
    if (!text) return;
    clearTimeout(this.toasted);
    this.strip.textContent = text;
    this.strip.classList.remove("bad");
    this.strip.hidden = false;
    this.toasted = setTimeout(() => { if (!this.strip.classList.contains("bad")) this.strip.hidden = true; }, 2600);
  }

  forget() { // an evening is long and pictures are large
    const keep = new Set([...this.queue, ...this.past.slice(-4).map((one) => one.page), ...this.outbox.pending.map((one) => one.page)]);
    for (const name of this.pages.keys()) if (!keep.has(name)) this.pages.delete(name);
    for (const name of this.built.keys()) if (!keep.has(name)) this.built.delete(name);
  }
}

function refusedPage(text, unsent = 0) {
  const kept = unsent ? ` ${unsent} of your answers are still kept in this browser.` : "";
  document.getElementById("app").replaceChildren(notice("This link does not open", (text || "It is not valid.") + kept, "✕"));
}
