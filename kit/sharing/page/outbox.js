// What was answered and is not yet acknowledged. It lies in the browser's own storage until the server has said that
// the row is there, and goes out in order; a resend carries the same uuid, so it counts once.

const token = location.hash.replace(/^#/, "");
const PREFIX = `kit:${token.slice(0, 10)}:`;
const MOST_WAIT_MS = 15000;

const storage = (() => {
  try {
    localStorage.setItem("kit:probe", "1");
    localStorage.removeItem("kit:probe");
    return localStorage;
  } catch { // private windows of some browsers: kept in memory then, as long as the page is open
    const kept = new Map();
    return {
      getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value),
      removeItem: (key) => kept.delete(key), key: (n) => [...kept.keys()][n], get length() { return kept.size; },
    };
  }
})();

// A window's name. One that was closed gives its name, and with it what it held, to the next one that opens.
async function windowName() {
  const named = (key, where) => {
    const name = where.getItem(key) || uuid4();
    where.setItem(key, name);
    return name;
  };
  if (!navigator.locks) return named(`${PREFIX}window`, window.sessionStorage ?? storage);
  for (let number = 0; number < 8; number += 1) {
    const key = `${PREFIX}window:${number}`;
    const mine = await new Promise((resolve) => {
      navigator.locks.request(key, { ifAvailable: true }, (lock) => {
        resolve(Boolean(lock));
        return lock ? new Promise(() => {}) : undefined; // held until the window closes
      });
    });
    if (mine) return named(key, storage);
  }
  return uuid4();
}

class Refusal extends Error {
  constructor(status, text, wait) {
    super(text);
    this.status = status;
    this.wait = wait;
  }
}

async function ask(path, body = {}) {
  const answer = await fetch(`api/${path}`, {
    method: "POST", headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    body: JSON.stringify(body), signal: AbortSignal.timeout?.(20000), keepalive: true,
  });
  let value = {};
  try {
    value = await answer.json();
  } catch { // cut off on its way, or from something in between: as if it had not come
    throw new Refusal(503, "", 0);
  }
  if (!answer.ok) throw new Refusal(answer.status, value.error || "", 1000 * Number(answer.headers.get("retry-after") || 0));
  return value;
}

class Outbox {
  constructor({ onView, onTrouble, onDropped }) {
    Object.assign(this, { onView, onTrouble, onDropped });
    this.sending = false;
    this.count = 0;
    this.failures = 0;
    window.addEventListener("online", () => this.flush());
    document.addEventListener("visibilitychange", () => document.hidden || this.flush());
  }

  get pending() {
    const keys = [];
    for (let n = 0; n < storage.length; n += 1) {
      const key = storage.key(n);
      if (key?.startsWith(`${PREFIX}send:`)) keys.push(key);
    }
    return keys.sort().map((key) => ({ key, ...JSON.parse(storage.getItem(key)) }));
  }

  put(what) {
    this.count += 1;
    const uuid = uuid4(); // in the key, too: two windows of a browser share the storage
    const key = `${PREFIX}send:${Date.now().toString().padStart(15, "0")}:${String(this.count).padStart(6, "0")}:${uuid}`;
    storage.setItem(key, JSON.stringify({ uuid, ...what }));
    this.flush();
    return uuid;
  }

  async flush() {
    clearTimeout(this.timer);
    if (this.sending) return;
    this.sending = true;
    try {
      for (let [next] = this.pending; next; [next] = this.pending) {
        const { key, path, ...body } = next;
        const view = await this.sent(path, { ...body, have: this.have?.() ?? [] });
        storage.removeItem(key);
        this.failures = 0;
        this.onTrouble("", 0);
        if (view) this.onView(view, body.window);
      }
    } catch (error) {
      this.again(error);
    } finally {
      this.sending = false;
    }
  }

  async sent(path, body) {
    try {
      return await ask(path, body);
    } catch (error) {
      // Refused for good: nothing would change by sending it again.
      if (error instanceof Refusal && [413, 422].includes(error.status)) {
        this.onDropped(error.message);
        return null;
      }
      throw error;
    }
  }

  again(error) {
    const refused = error instanceof Refusal;
    this.onTrouble(refused && error.message ? error.message : "No connection.", refused ? error.status : 0);
    if (refused && [401, 403].includes(error.status)) return;
    this.failures += 1;
    const wait = Math.max(error.wait || 0, Math.min(MOST_WAIT_MS, 500 * 2 ** Math.min(this.failures, 6)));
    this.timer = setTimeout(() => this.flush(), wait * (0.75 + Math.random() / 2));
  }
}
