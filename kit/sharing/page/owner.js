// The owner's page: who is ahead, how sure that is, how far everybody is; read anew every few seconds.

const LOOK_MS = 5000;
const SVG = "http://www.w3.org/2000/svg";

function drawn(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const percent = (share) => (share === null || share === undefined ? "–" : `${Math.round(100 * share)}%`);
const span = (one, digits = 2) => (one && one.low !== null ? `${one.low.toFixed(digits)} to ${one.high.toFixed(digits)}` : "–");

class Leaderboard {
  constructor(app) {
    this.app = app;
  }

  async start() {
    document.title = "Leaderboard";
    await this.look();
    setInterval(() => document.hidden || this.look(), LOOK_MS);
    document.addEventListener("visibilitychange", () => document.hidden || this.look());
  }

  async look() {
    try {
      this.show(await ask("leaderboard"));
    } catch (error) {
      if (error instanceof Refusal && [401, 403].includes(error.status)) return refusedPage(error.message);
      const line = this.app.querySelector(".fresh");
      if (line) line.replaceChildren(el("span", { class: "stale" }, "No connection: this is how it stood before."));
      else this.app.replaceChildren(notice("No connection", "Trying again …", "…"));
    }
    return undefined;
  }

  show(board) {
    const scroll = window.scrollY;
    this.app.replaceChildren(el("div", { class: "board" },
      el("header", {}, el("h1", {}, board.question || board.study),
        el("p", { class: "fresh" }, `Only you see this page. ${new Date().toLocaleTimeString()}`)),
      factsPanel(board), verdictPanel(board),
      el("div", { class: "columns" },
        el("div", {}, rankingPanel(board), rubricPanel(board), matrixPanel(board)),
        el("div", {}, peoplePanel(board), notesPanel(board)))));
    window.scrollTo(0, scroll);
  }
}

function panel(title, ...children) {
  return el("section", { class: "panel" }, el("h2", {}, title), ...children);
}

function factsPanel(board) {
  const fact = (value, text) => el("div", { class: "fact" }, el("b", {}, value), el("span", {}, text));
  const alpha = board.agreement;
  return el("section", { class: "panel facts" },
    fact(String(board.votes), board.skipped ? `answers, ${board.skipped} of them skipped` : "answers"),
    fact(board.median_s === null ? "–" : `${board.median_s.toFixed(1)} s`, "an answer, median"),
    board.left_share ? fact(percent(board.left_share.value), `chose the left side (${span(board.left_share)})`) : null,
    alpha ? fact(alpha.value.toFixed(2), `agreement, Krippendorff's alpha (${span(alpha)})`) : null,
    board.identical ? fact(String(board.identical), "identical outputs: ties that nobody saw") : null);
}

function verdictText(one) {
  const n = one.wins + one.losses + one.ties;
  if (one.verdict === "first" || one.verdict === "second") return `${one[one.verdict]} is better. Decided after ${one.decided_after} items.`;
  if (one.verdict === "equivalent") return `${one.first} and ${one.second} are equivalent in practice. Decided after ${one.decided_after} items.`;
  if (one.verdict === "ended") return `${one.first} and ${one.second}: no verdict after ${n} items, where the study ends.`;
  if (!n) return `${one.first} and ${one.second}: nothing yet.`;
  const lead = one.wins === one.losses ? "level" : `${one.wins > one.losses ? one.first : one.second} is ahead`;
  const more = one.likely_left === null ? "" : `, about ${one.likely_left} more items likely until a verdict`;
  return `${one.first} and ${one.second}: ${lead} ${Math.max(one.wins, one.losses)} to ${Math.min(one.wins, one.losses)}${more}.`;
}

function verdictPanel(board) {
  if (!board.verdicts.length) return null;
  return panel("May we stop?", ...board.verdicts.map((one) => el("p", { class: "verdict" }, verdictText(one))),
    el("p", {}, "May be looked at after every vote: the rule, fixed in advance, counts on it. It counts items, each once."));
}

function rankingPanel(board) {
  if (!board.board) return board.design === "likert" ? null : panel("Ranking", el("p", {}, "Nobody has compared anything yet."));
  const { standings } = board.board;
  const ends = standings.flatMap((one) => [one.spans.these_raters, one.spans.sandwich_new])
    .filter(Boolean).flatMap((one) => [one.low, one.high]).concat(standings.map((one) => one.strength)).filter(Number.isFinite);
  const reach = Math.min(6, Math.max(0.5, ...ends.map(Math.abs))) * 1.05;
  const x = (value) => 50 + (50 * Math.max(-reach, Math.min(reach, value))) / reach;
  const bar = (one, kind) => (one && one.low !== null ? [drawn("line", { class: kind, x1: `${x(one.low)}%`, x2: `${x(one.high)}%`, y1: 12, y2: 12 })] : []);
  const rows = standings.map((one) => {
    const known = Number.isFinite(one.strength);
    const picture = drawn("svg", { role: "img", "aria-label": known ? `strength ${one.strength.toFixed(2)}` : "no finite strength" },
      drawn("line", { class: "zero", x1: "50%", x2: "50%", y1: 0, y2: 24 }),
      ...(known ? [...bar(one.spans.these_raters, "these"), ...bar(one.spans.sandwich_new, "newer"), drawn("circle", { class: "dot", cx: `${x(one.strength)}%`, cy: 12, r: 4.5 })] : []));
    return el("div", { class: "standing" },
      el("span", { class: "place" }, one.place === null ? "?" : String(one.place)), el("span", { class: "model" }, one.model),
      el("span", { class: "share" }, one.votes ? `won ${percent(one.win_share)} of ${one.votes}` : "no votes"), picture);
  });
  return panel("Ranking", el("div", {}, ...rows),
    el("div", { class: "legend" },
      el("span", {}, el("i", {}), "these raters, other prompts (95%)"), el("span", {}, el("i", { class: "thin" }), "other raters, too (95%)")),
    el("p", {}, "Strengths are log-odds against the average, by Davidson's model for ties."));
}

function matrixPanel(board) {
  if (!board.matrix.length || !board.board) return null;
  const names = board.board.standings.map((one) => one.model);
  const cells = new Map();
  for (const one of board.matrix) {
    const n = one.won + one.lost + one.tied;
    if (!n) continue;
    cells.set(`${one.first}\n${one.second}`, [(one.won + one.tied / 2) / n, n]);
    cells.set(`${one.second}\n${one.first}`, [(one.lost + one.tied / 2) / n, n]);
  }
  const cell = (row, column) => {
    const found = cells.get(`${row}\n${column}`);
    if (!found) return el("td", {}, row === column ? "" : "–");
    const [share, n] = found;
    const element = el("td", {}, percent(share), el("small", {}, String(n)));
    const strength = Math.round(70 * Math.abs(share - 0.5) * 2);
    element.style.background = `color-mix(in srgb, var(--${share >= 0.5 ? "one" : "two"}) ${strength * 0.55}%, var(--card))`;
    return element;
  };
  return panel("Who beat whom", el("div", { class: "scroll" }, el("table", {},
    el("tr", {}, el("th", {}, "row against column"), ...names.map((name) => el("th", { scope: "col" }, name))),
    ...names.map((row) => el("tr", {}, el("th", { scope: "row" }, row), ...names.map((column) => cell(row, column)))))),
    el("p", {}, "Share of votes that the row won, ties as half, and how many votes there were."));
}

function rubricPanel(board) {
  const criteria = Object.entries(board.rubric);
  if (!criteria.length) return null;
  const names = [...new Set(criteria.flatMap(([, by]) => Object.keys(by)))];
  return panel("Points", el("div", { class: "scroll" }, el("table", {},
    el("tr", {}, el("th", {}, ""), ...names.map((name) => el("th", { scope: "col" }, name))),
    ...criteria.map(([name, by]) => el("tr", {}, el("th", { scope: "row" }, name),
      ...names.map((one) => el("td", {}, by[one] ? by[one].value.toFixed(2) : "–", by[one] ? el("small", {}, span(by[one])) : null)))))));
}

function peoplePanel(board) {
  const reports = new Map(board.raters.map((one) => [one.rater, one]));
  const people = Object.entries(board.progress).map(([name, [done, left]]) => {
    const fill = el("div", { class: "fill" });
    fill.style.width = `${done + left ? (100 * done) / (done + left) : 0}%`;
    const report = reports.get(name);
    const about = report ? [
      report.median_s === null ? "" : `${report.median_s.toFixed(1)} s an answer`,
      report.self_consistency ? `same again ${percent(report.self_consistency.value)} of ${report.self_consistency.n}` : "",
      report.gold_accuracy ? `gold right ${percent(report.gold_accuracy.value)} of ${report.gold_accuracy.n}` : "",
    ].filter(Boolean).join(" · ") : "";
    return el("div", { class: "person" }, el("span", { class: "name" }, name), el("span", { class: "of" }, `${done} of ${done + left}`),
      el("div", { class: "rail" }, fill), about ? el("small", {}, about) : null);
  });
  return panel("Raters", ...people);
}

function notesPanel(board) {
  return board.notes.length ? panel("What the votes cannot tell", el("ul", {}, ...board.notes.map((note) => el("li", {}, note)))) : null;
}
