"use strict";
// Makes a question faster to answer: keys, dragging, drafts, and how long it was looked at. Without
// this script the page is a plain form that does all that has to be done.
(() => {
const form = document.getElementById("ask");
if (!form) return;
const kind = form.dataset.kind, count = Number(form.dataset.count);
const live = document.getElementById("live"), draft = document.getElementById("draft");
const $ = (selector) => form.querySelector(selector);
const $$ = (selector) => [...form.querySelectorAll(selector)];
for (const one of document.querySelectorAll(".needs-script")) one.hidden = false;
const announce = (words) => { live.textContent = ""; setTimeout(() => { live.textContent = words; }, 30); };

// -- how long it was looked at: while the page can be seen and somebody is there --------------------
const IDLE = 120000;
const seconds = $("[data-seconds]");
let seen = (Number(seconds.value) || 0) * 1000, since = performance.now(), active = since;
const watching = () => !document.hidden;
let counted = watching();
function count_time() {
  const now = performance.now();
  if (counted) seen += Math.max(0, Math.min(now, active + IDLE) - since);
  since = now;
  counted = watching();
  seconds.value = (seen / 1000).toFixed(1);
}
document.addEventListener("visibilitychange", () => { count_time(); if (watching()) active = performance.now(); });
for (const event of ["pointerdown", "pointermove", "keydown", "scroll"]) {
  document.addEventListener(event, () => {
    if (performance.now() > active + IDLE) count_time();
    active = performance.now();
  }, { passive: true, capture: true });
}

// -- drafts -----------------------------------------------------------------------------------------
let timer = 0, waiting = null, sent = false, changed = false;
function fields(submitter) {
  count_time();
  const data = new URLSearchParams();
  for (const [name, value] of new FormData(form)) data.append(name, value);
  if (submitter?.name) data.set(submitter.name, submitter.value);
  return data;
}
function later() { changed = true; clearTimeout(timer); if (!sent) timer = setTimeout(save_draft, 800); }
async function save_draft() {
  if (sent || !changed) return;
  changed = false;
  waiting = new AbortController();
  try {
    const answer = await fetch(`/draft/${form.dataset.item}`, {
      method: "POST", body: fields(), headers: { Accept: "application/json" }, signal: waiting.signal });
    const said = await answer.json();
    if (!answer.ok) throw new Error(said.problem);
    draft.textContent = "Draft saved";
  } catch (error) {
    if (sent) return;
    changed = true;
    draft.textContent = error instanceof TypeError ? "No connection; the draft is tried again" : `Draft not saved: ${error.message}`;
    timer = setTimeout(save_draft, 5000);
  }
}
form.addEventListener("input", later);
document.addEventListener("visibilitychange", () => { if (document.hidden && changed) save_draft(); });

// -- sending: the page stays as it is where the server does not answer -------------------------------
function problem(words) {
  let box = document.getElementById("problem");
  if (!box) {
    box = Object.assign(document.createElement("p"), { id: "problem", className: "notice bad" });
    box.setAttribute("role", "alert");
    $(".bar").before(box);
  }
  box.textContent = words;
  box.scrollIntoView({ block: "center" });
}
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (sent) return;
  sent = true;
  clearTimeout(timer);
  waiting?.abort();
  const button = event.submitter ?? $("#save");
  button.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(form.getAttribute("action"), {  // form.action is the button of that name
    
      method: "POST", body: fields(button), headers: { Accept: "application/json" } });
    const said = await answer.json();
    if (answer.ok) { location.assign(said.next); return; }
    problem(said.problem);
  } catch {
    problem("Not saved: the server does not answer. Nothing on this page is lost; try again in a moment.");
  }
  sent = false;
  button.removeAttribute("aria-busy");
});
window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

// -- ranking: the selects say it; the board and the keys change them ---------------------------------
const selects = $$("select[data-rank-of]");
const select_of = (place) => selects.find((one) => one.dataset.rankOf === String(place));
let typed = [], tie = false;
const board = document.getElementById("board");
const chips = new Map();
function rank(place, value, quiet) {
  select_of(place).value = value ? String(value) : "";
  render();
  later();
  if (quiet) return;
  const others = selects.filter((one) => one.value && one.value === String(value) && one.dataset.rankOf !== String(place));
  const with_ = others.length ? `, tied with ${others.map((one) => one.dataset.rankOf).join(" and ")}` : "";
  announce(value ? `Answer ${place}: rank ${value} of ${count}${with_}` : `Answer ${place} is not ranked`);
}
function render() {
  for (const one of selects) {
    const place = one.dataset.rankOf, chip = chips.get(place);
    const target = board.querySelector(`[data-rank="${one.value}"] .chips`);
    if (chip && chip.parentElement !== target) {
      const focused = document.activeElement === chip;
      target.append(chip);
      if (focused) chip.focus();
    }
    chip?.setAttribute("aria-label", `Answer ${place}, ${one.value ? `rank ${one.value} of ${count}` : "not ranked"}`);
    document.getElementById(`answer-${place}`).classList.toggle("chosen", one.value === "1");
  }
}
function step(place, by) {
  const at = Number(select_of(place).value);
  const next = at === 0 ? (by > 0 ? count : 1) : at + by;
  if (next >= 1 && next <= count) { typed = []; rank(place, next); }
}
function type(place) {
  if (typed.some((one) => one.place === place)) { announce(`Answer ${place} has its rank; Backspace takes the last back`); return; }
  if (!typed.length) for (const one of selects) one.value = "";
  const last = typed.at(-1)?.value ?? 0;
  const value = tie && last ? last : typed.length ? typed.filter((one, i) => typed.findIndex((o) => o.value === one.value) === i).length + 1 : 1;
  tie = false;
  typed.push({ place, value });
  rank(place, value);
}
function untype() {
  const last = typed.pop();
  tie = false;
  if (last) rank(last.place, 0);
}
if (board) {
  for (const one of selects) {
    const chip = Object.assign(document.createElement("button"), { type: "button", className: "chip", textContent: one.dataset.rankOf });
    chips.set(one.dataset.rankOf, chip);
    board.querySelector(".tray .chips").append(chip);
    one.addEventListener("change", () => { typed = []; rank(one.dataset.rankOf, Number(one.value)); });
    chip.addEventListener("keydown", (event) => {
      const by = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1 }[event.key];
      if (by) { event.preventDefault(); event.stopPropagation(); step(one.dataset.rankOf, by); }
    });
    drag(chip, one.dataset.rankOf);
  }
  render();
}
function drag(chip, place) {
  let start = null;
  const zone = (event) => document.elementsFromPoint(event.clientX, event.clientY)
    .filter((one) => one !== chip).map((one) => one.closest("#board [data-rank]")).find(Boolean);
  const mark = (to) => { for (const one of board.querySelectorAll("[data-rank]")) one.classList.toggle("over", one === to); };
  chip.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    start = { x: event.clientX, y: event.clientY };
    chip.setPointerCapture(event.pointerId);
  });
  chip.addEventListener("pointermove", (event) => {
    if (!start) return;
    chip.classList.add("moving");
    chip.style.transform = `translate(${event.clientX - start.x}px, ${event.clientY - start.y}px)`;
    mark(zone(event));
  });
  const end = (event, kept) => {
    if (!start) return;
    start = null;
    const to = kept ? zone(event) : null;
    chip.classList.remove("moving");
    chip.style.transform = "";
    mark(null);
    if (to) { typed = []; rank(place, Number(to.dataset.rank)); }
  };
  chip.addEventListener("pointerup", (event) => end(event, true));
  chip.addEventListener("pointercancel", (event) => end(event, false));
}

// -- a pair ------------------------------------------------------------------------------------------
function chosen() {
  const value = $('input[name="choice"]:checked')?.value;
  for (const place of ["1", "2"]) document.getElementById(`answer-${place}`).classList.toggle("chosen", value === place);
}
if ($('input[name="choice"]')) { form.addEventListener("change", chosen); chosen(); }

// -- rating, good or bad: one answer after the other ----------------------------------------------------
const scales = $$("[data-scale]");
let current = 0;
function frame(at, scroll) {
  if (!scales.length) return;
  current = Math.max(0, Math.min(scales.length - 1, at));
  for (const [i, one] of scales.entries()) one.closest(".answer").classList.toggle("current", i === current && scales.length > 1);
  if (scroll) scales[current].closest(".answer").scrollIntoView({ block: "nearest" });
}
function pick(value) {
  const input = [...scales[current].querySelectorAll("input")].find((one) => one.value === value);
  if (!input) return false;
  input.checked = true;
  input.dispatchEvent(new Event("input", { bubbles: true }));
  announce(`Answer ${current + 1}: ${input.parentElement.textContent.trim()}`);
  frame(current + 1, true);
  return true;
}
for (const [i, one] of scales.entries()) one.addEventListener("focusin", () => frame(i));
frame(0);

// -- an edit -----------------------------------------------------------------------------------------
for (const button of $$("[data-base]")) {
  button.addEventListener("click", () => {
    const text = $("#edit"), base = form.querySelector(`[data-base-of="${button.dataset.base}"]`).content.textContent;
    const known = $$("[data-base-of]").some((one) => one.content.textContent === text.value);
    if (!known && text.value.trim() && !confirm("Replace what you have written by this answer?")) return;
    text.value = base;
    text.focus();
    later();
  });
}

// -- keys --------------------------------------------------------------------------------------------
const help = document.getElementById("help"), on = document.getElementById("keys-on");
const remembered = (() => { try { return localStorage; } catch { return null; } })();
on.checked = remembered?.getItem("gnomon-keys") !== "off";
document.body.classList.toggle("no-keys", !on.checked);
on.addEventListener("change", () => {
  remembered?.setItem("gnomon-keys", on.checked ? "on" : "off");
  document.body.classList.toggle("no-keys", !on.checked);
});
document.getElementById("help-open").addEventListener("click", () => help.showModal());

function save() { form.requestSubmit($("#save")); }
function own(key) {
  if (kind === "ranking" && count === 2) {
    const value = { 1: "1", 2: "2", t: "tie", "=": "tie" }[key];
    if (!value) return false;
    const input = $(`input[name="choice"][value="${value}"]`);
    input.checked = true;
    input.dispatchEvent(new Event("input", { bubbles: true }));
    chosen();
    announce(input.parentElement.textContent.trim());
    return true;
  }
  if (kind === "ranking") {
    if (/^[1-9]$/.test(key) && Number(key) <= count) { type(key); return true; }
    if (key === "=") { tie = typed.length > 0; announce("The next number ties with the last"); return true; }
    if (key === "Backspace") { untype(); return true; }
    return false;
  }
  if (kind === "edit" || !scales.length) return false;
  if (key === "ArrowDown" || key === "ArrowUp") { frame(current + (key === "ArrowDown" ? 1 : -1), true); return true; }
  if (kind === "approval") return pick({ g: "good", b: "bad" }[key]);
  return pick(key);
}
document.addEventListener("keydown", (event) => {
  const inside = event.target.closest("textarea, select, input:not([type=radio]):not([type=checkbox])");
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); save(); return; }
  if (!on.checked || help.open || inside || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const radio = event.target.closest("input");
  if (radio && event.key.startsWith("Arrow")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key === "Enter") {
    if (event.target.closest("a, button, summary")) return;
    event.preventDefault();
    save();
  } else if (key === "?") { event.preventDefault(); help.showModal(); }
  else if (key === "c") { event.preventDefault(); $("#comment").focus(); }
  else if (own(key)) event.preventDefault();
  else {
    const found = form.querySelector(`.bar [data-key="${CSS.escape(key)}"]`);
    if (found) { event.preventDefault(); found.click(); }
  }
});
// On a small screen the guidelines are folded, above the question.
document.body.classList.add("scripted");
if (matchMedia("(max-width:70rem)").matches) document.getElementById("guide")?.removeAttribute("open");
form.dataset.ready = "1";
})();
