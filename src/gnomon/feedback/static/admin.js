"use strict";
// The figures of a campaign are read again now and then, unless somebody is at work in them.
const EVERY = 15000;
const live = document.querySelector("[data-live]");
if (live) setInterval(async () => {
  if (document.hidden || live.contains(document.activeElement)) return;
  try {
    const answer = await fetch(location.href, {headers: {accept: "text/html"}});
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("[data-live]");
    if (fresh && !live.contains(document.activeElement) && fresh.innerHTML !== live.innerHTML) live.replaceChildren(...fresh.childNodes);
  } catch { /* the server is away: what is shown stays */ }
}, EVERY);
const link = document.querySelector("[data-copy]");
if (link) link.addEventListener("focus", () => link.select());
