"use strict";
// Keeps the parts of a page that are marked data-live as they are on the server. Without this script
// every page is there, as it was when it was loaded.
const FIRST = 2000, LAST = 30000;
const status = document.getElementById("live");
let tag = null, wait = FIRST;

function opened(part) {
  return new Set([...part.querySelectorAll("details[id][open]")].map((one) => one.id));
}

function inputs(part) {
  return [...part.querySelectorAll("input[type=checkbox]:checked")].map((one) => one.value);
}

function replace(old, fresh) {
  const reachable = "a, summary, button, input, select, [tabindex]";
  const at = [...old.querySelectorAll(reachable)].indexOf(document.activeElement);
  const open = opened(old), ticked = new Set(inputs(old));
  for (const one of fresh.querySelectorAll("details[id]")) one.open = open.has(one.id);
  for (const one of fresh.querySelectorAll("input[type=checkbox]")) one.checked = ticked.has(one.value);
  old.replaceWith(fresh);
  if (at >= 0) fresh.querySelectorAll(reachable)[at]?.focus({ preventScroll: true });
}

async function look() {
  let changed = false;
  try {
    const headers = tag ? { "If-None-Match": tag } : {};
    const answer = await fetch(location.href, { headers, cache: "no-store", credentials: "same-origin" });
    if (answer.status === 200) {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = [...page.querySelectorAll("[data-live]")];
      const old = [...document.querySelectorAll("[data-live]")];
      if (fresh.length === old.length) old.forEach((part, i) => replace(part, document.adoptNode(fresh[i])));
      document.title = page.title;
      changed = tag !== null;
      tag = answer.headers.get("ETag");
    } else if (answer.status !== 304) throw new Error(String(answer.status));
    if (status) status.textContent = changed ? `Updated at ${new Date().toLocaleTimeString()}.` : status.textContent;
    if (status && status.dataset.lost) { status.textContent = "Connected again."; delete status.dataset.lost; }
  } catch {
    if (status) { status.textContent = "The program that serves this page does not answer; it is asked again."; status.dataset.lost = "1"; }
  }
  wait = changed ? FIRST : Math.min(wait * 1.5, LAST);
  later();
}

function later() {
  setTimeout(() => (document.hidden ? later() : look()), wait);
}

function ages() {
  for (const one of document.querySelectorAll("time[datetime]")) {
    const s = Math.max(0, (Date.now() - Date.parse(one.dateTime)) / 1000);
    const [size, unit] = s >= 172800 ? [86400, "days"] : s >= 3600 ? [3600, "h"] : s >= 60 ? [60, "min"] : [1, "s"];
    one.textContent = `${Math.floor(s / size)} ${unit} ago`;
  }
}

if (document.querySelector("[data-live]")) {
  later();
  setInterval(ages, 10000);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) wait = FIRST; });
}

// Filters act as soon as one is chosen; words when Enter is pressed.
const filters = document.getElementById("filters");
if (filters) {
  for (const one of filters.querySelectorAll("select")) one.addEventListener("change", () => filters.requestSubmit());
  filters.dataset.ready = "1";
}

// One key chooses: 1, 2, t, s, u.
const choices = document.getElementById("choices");
if (choices) {
  let sent = false;
  choices.addEventListener("submit", (event) => {
    if (sent) event.preventDefault();
    sent = true;
  });
  window.addEventListener("pageshow", () => { sent = false; });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const button = choices.querySelector(`button[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
    if (button) { event.preventDefault(); button.click(); }
  });
  choices.dataset.ready = "1";
}
