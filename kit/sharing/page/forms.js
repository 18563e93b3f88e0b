// What a design asks with: buttons for pairs, points of a rubric, places of a ranking.

function answerButton(rating, answer, text, key, extra = "") {
  return el("button", {
    type: "button", class: `choice ${answer} ${extra}`, "data-answer": answer,
    onclick: (event) => rating.vote(answer, event.currentTarget),
  }, el("span", {}, text), el("kbd", { "aria-hidden": "true" }, key));
}

function skipButton(rating) {
  return answerButton(rating, "skip", "Skip", "S", "small");
}

function pairButtons(rating) {
  return [
    answerButton(rating, "left", "1 is better", "←"), answerButton(rating, "right", "2 is better", "→"),
    answerButton(rating, "tie", "Tie", "↓", "small"), answerButton(rating, "both_bad", "Both bad", "↑", "small"), skipButton(rating),
  ];
}

function rubricButtons(rating) {
  const criteria = Object.entries(rating.form.rubric);
  const rows = criteria.map(([name, labels]) => {
    const row = el("div", { class: "criterion", role: "radiogroup", "aria-label": name });
    const points = labels.map((label, place) => el("button", {
      type: "button", class: "point", role: "radio", "aria-checked": "false", title: label,
      onclick: () => {
        if (!rating.ready) return; // it would look chosen, and the last one could not be sent
        rating.chosen[name] = place + 1;
        for (const [n, one] of points.entries()) one.setAttribute("aria-checked", String(n === place));
        mark();
        if (Object.keys(rating.chosen).length === criteria.length) rating.vote({ ...rating.chosen });
      },
    }, label));
    row.append(el("span", { class: "name" }, name), el("div", { class: "points" }, ...points));
    row.dataset.name = name;
    return row;
  });
  const mark = () => {
    const next = rows.find((row) => !(row.dataset.name in rating.chosen));
    for (const row of rows) row.toggleAttribute("data-next", row === next);
  };
  mark();
  return [...rows, skipButton(rating)];
}

function rankButtons(rating) {
  const count = rating.pages.get(rating.shown).answers.length;
  const order = [];
  const hint = el("span", { class: "name" }, "Tap the best one first");
  const buttons = Array.from({ length: count }, (_, place) => el("button", {
    type: "button", class: "point", "aria-label": `Answer ${place + 1}`,
    onclick: (event) => {
      if (!rating.ready) return; // there is no taking a place back, and the last one could not be sent
      order.push(place);
      event.currentTarget.disabled = true;
      event.currentTarget.append(el("sup", {}, ["best", "2nd", "3rd"][order.length - 1] ?? `${order.length}th`));
      hint.textContent = order.length < count - 1 ? "And the next best?" : "Thank you";
      const last = buttons.findIndex((button) => !button.disabled);
      if (order.length === count - 1) rating.vote([...order, last]);
    },
  }, String(place + 1)));
  return [el("div", { class: "criterion", "data-next": true }, hint, el("div", { class: "points" }, ...buttons)), skipButton(rating)];
}
