// Whose page it is: a rater's, the owner's, or nobody's.

async function start() {
  const app = document.getElementById("app");
  if (!token) return refusedPage("It is not complete: what comes after # is missing. Ask whoever sent it for the whole link.");
  for (let wait = 1000; ; wait = Math.min(8000, wait * 2)) {
    try {
      const form = await ask("form");
      if (form.owner) return new Leaderboard(app).start();
      return await new Rating(form, await windowName()).start();
    } catch (error) {
      if (error instanceof Refusal && [401, 403].includes(error.status)) return refusedPage(error.message);
      if (!(error instanceof Refusal) && !(error instanceof TypeError) && error.name !== "TimeoutError") throw error;
      app.replaceChildren(notice("No connection", "Trying again …", "…"));
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }
}

window.addEventListener("hashchange", () => location.reload()); // another link, pasted into the same window
start();
