// Keeps every file of this very version in the browser, so that the page opens again without a network.

const KEPT = "kit-/*version*/";

self.addEventListener("install", () => self.skipWaiting());

self.addEventListener("activate", (event) =>
  event.waitUntil(
    (async () => {
      for (const name of await caches.keys()) if (name.startsWith("kit-") && name !== KEPT) await caches.delete(name);
      const kept = await caches.open(KEPT);
      await kept.addAll(["./", "app.js", "style.css"]); // what was loaded before this began to listen
      await self.clients.claim();
    })(),
  ),
);

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method !== "GET" || !request.url.startsWith(self.registration.scope)) return;
  event.respondWith(
    (async () => {
      const kept = await caches.open(KEPT);
      const found = await kept.match(request, { ignoreSearch: true });
      if (found) return found;
      const answer = await fetch(request);
      if (answer.ok) event.waitUntil(kept.put(request, answer.clone()));
      return answer;
    })(),
  );
});
