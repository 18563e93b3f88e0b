// Pages as elements. Texts go in as text, never as HTML; nothing has a name that could tell who made it.

function mediaElement(media, label, zoom) {
  if (media.kind === "text") return el("p", { class: "text", dir: "auto" }, media.text);
  if (media.kind === "audio") return el("audio", { controls: true, controlslist: "nodownload", preload: "auto", src: media.src, "aria-label": label });
  const picture = el("img", { src: media.src, alt: label, decoding: "async", draggable: "false" });
  picture.decode?.().catch(() => {});
  return el("button", { type: "button", class: "picture", "aria-label": `${label}, larger`, onclick: () => zoom(label) }, picture);
}

// One page, ready to be put in place: built while the one before is on the screen, its pictures decoded.
function pageElement(form, page, zoom) {
  const prompt = page.prompt.map((media) => mediaElement(media, "What was asked", zoom));
  const many = page.answers.length > 1;
  const answers = page.answers.map((media, place) => el(
    "section", { class: `answer side${place + 1}`, "data-place": place, "aria-label": many ? `Answer ${place + 1}` : "Answer" },
    el("header", {}, el("span", { class: "badge", "aria-hidden": "true" }, many ? String(place + 1) : "Answer")),
    mediaElement(media, many ? `Answer ${place + 1}` : "Answer", zoom),
  ));
  const kind = page.answers.some((media) => media.kind === "picture") ? "pictures" : "words";
  const asked = page.prompt.some((media) => media.kind === "picture") ? "prompt shows" : "prompt";
  return el(
    "div", { class: "page" },
    prompt.length ? el("section", { class: asked, "aria-label": "What was asked" }, ...prompt) : null,
    el("div", { class: `answers ${kind} n${page.answers.length}` }, ...answers),
  );
}

// Pictures over the whole screen, one beside the other by a swipe, a key or the buttons.
function lightbox(pictures, first) {
  let at = first;
  const box = el("dialog", { class: "lightbox", "aria-label": "Picture, larger" });
  const show = (place) => {
    at = (place + pictures.length) % pictures.length;
    const { label, src } = pictures[at];
    box.replaceChildren(
      el("img", { src, alt: label }),
      el("p", {}, label),
      el("div", { class: "turn" },
        pictures.length > 1 ? el("button", { type: "button", "aria-label": "Previous", onclick: () => show(at - 1) }, "‹") : null,
        el("button", { type: "button", class: "close", onclick: () => box.close() }, "Close"),
        pictures.length > 1 ? el("button", { type: "button", "aria-label": "Next", onclick: () => show(at + 1) }, "›") : null),
    );
    box.querySelector(".close").focus();
  };
  let begun = null;
  box.addEventListener("pointerdown", (event) => { begun = event.clientX; });
  box.addEventListener("pointerup", (event) => {
    if (begun !== null && Math.abs(event.clientX - begun) > 50) show(at + (event.clientX < begun ? 1 : -1));
    begun = null;
  });
  box.addEventListener("keydown", (event) => {
    event.stopPropagation(); // arrows turn pictures here, and do not vote
    if (event.key === "ArrowRight") show(at + 1);
    if (event.key === "ArrowLeft") show(at - 1);
  });
  box.addEventListener("click", (event) => event.target === box && box.close());
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  show(first);
  box.showModal();
}

function notice(title, text, mark = "") {
  return el("div", { class: "notice" },
    mark ? el("div", { class: "mark", "aria-hidden": "true" }, mark) : null,
    el("h1", { tabindex: "-1" }, title), el("p", {}, text));
}

function say(text) { // for those who listen to the page
  document.getElementById("live").textContent = text;
}
