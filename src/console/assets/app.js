// The page: which view is shown, when it is drawn anew, and what a person may do from anywhere.
import { act, ask, keepToken, listen, token, tokenFromAddress } from "./api.js";
import { chip, el, put } from "./dom.js";
import { deploymentsView } from "./deployments.js";
import { experimentsView } from "./experiments.js";
import { learningView } from "./learning.js";
import { machineView } from "./machine.js";
import { heard, loopView } from "./ring.js";
import { roomsView, touch } from "./rooms.js";
import { openStory } from "./story.js";

const VIEWS = {
  loop: ["Loop", loopView],
  experiments: ["Experiments", experimentsView],
  deployments: ["Deployments", deploymentsView],
  learning: ["Learning", learningView],
  machine: ["Machine", machineView],
  rooms: ["Rooms", roomsView],
};
/** How long changes are gathered before the page asks, and how often it asks by itself. */
const [GATHER_MS, LOOK_MS] = [350, 4000];

const at = (id) => document.getElementById(id);
const shared = { live: null, work: null, askForToken, say, refresh: () => refresh("asked") };
let [view, update, connected] = ["", null, false];
let gathering = null;

/** Says something for a while. */
function say(text, isBad) {
  const notice = at("notice");
  put(notice, text);
  notice.classList.toggle("bad", Boolean(isBad));
  notice.hidden = false;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { notice.hidden = true; }, 6000);
}

function sheet(title, ...body) {
  const box = at("sheet");
  put(box, el("h2", { id: "sheet-title" }, title), body);
  if (!box.open) box.showModal();
  return box;
}

function askForToken() {
  const input = el("input", { type: "password", id: "token", autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": "token-said" });
  const said = el("p", { id: "token-said", class: "said", role: "status" });
  const form = el("form", { onsubmit: async (event) => {
    event.preventDefault();
    try {
      await keepToken(input.value.trim());
      box.close();
      top();
      say("This tab answers for you now.");
    } catch (error) {
      put(said, error.message);
      input.select();
    }
  } },
  el("label", { for: "token" }, "Token of the home"), input,
  el("p", { class: "muted" }, el("code", null, "kloros console"), " prints an address that has it already. It stays in this tab."), said,
  el("footer", null, el("button", { class: "primary", type: "submit" }, "Use it"),
    token() ? el("button", { class: "quiet", type: "button", onclick: () => { keepToken(""); box.close(); top(); } }, "Forget it") : null,
    el("button", { class: "quiet", type: "button", onclick: () => box.close() }, "Cancel")));
  const box = sheet("Answer for yourself", form);
  input.focus();
}

function halt() {
  if (!token()) return askForToken();
  const stopped = shared.live?.holding.stop;
  const reason = el("input", { type: "text", id: "reason", maxlength: 400, placeholder: "for the record" });
  const said = el("p", { class: "said", role: "status" });
  const act_now = async (event) => {
    event.preventDefault();
    try {
      await act(stopped ? "/go" : "/stop", stopped ? {} : { reason: reason.value });
      box.close();
      await refresh("asked");
    } catch (error) {
      put(said, error.message);
    }
  };
  const box = stopped
    ? sheet("Let everything go on?", el("form", { onsubmit: act_now }, el("p", null, "The loop goes on where it was."), said,
      el("footer", null, el("button", { class: "primary", type: "submit" }, "Go on"), el("button", { class: "quiet", type: "button", onclick: () => box.close() }, "Cancel"))))
    : sheet("Stop everything?", el("form", { onsubmit: act_now },
      el("p", null, "Nothing is measured or deployed until you let it go on, and what is not proven is taken back."),
      el("label", { for: "reason" }, "Reason"), reason, said,
      el("footer", null, el("button", { class: "danger", type: "submit" }, "Stop everything"), el("button", { class: "quiet", type: "button", onclick: () => box.close() }, "Cancel"))));
}

/** Draws what stands above every view. */
function top() {
  const { live, work } = shared;
  at("key").textContent = token() ? "Token kept" : "Token";
  if (!live) return;
  const stop = live.holding.stop;
  const down = live.rooms.filter((room) => room.state !== "running").length + live.services.filter((service) => !service.is_up).length;
  const stuck = [...(work?.deployments ?? []).filter((each) => each.stage === "stuck"), ...(work?.lent ?? []).filter((each) => each.stuck)].length;
  const [state, words] = !connected ? ["off", "not connected"] : stop ? ["bad", "stopped"] : down || stuck ? ["warn", "degraded"] : ["good", "running"];
  const level = live.levels.length ? `autonomy ${Math.min(...live.levels.map((each) => each.in_force))}` : null;
  const parts = [words, level, live.waiting.length ? `${live.waiting.length} waiting for you` : null, down ? `${down} down` : null, stuck ? `${stuck} stuck` : null].filter(Boolean);
  const health = at("health");
  if (health.dataset.words !== state + parts.join()) put(health, el("span", { class: `dot ${state}` }), el("span", null, parts.join(" \u00b7 ")));
  health.dataset.words = state + parts.join();
  const button = at("halt");
  button.disabled = false;
  button.textContent = stop ? "Let it go on" : "Stop everything";
  button.className = stop ? "primary" : "danger";
  document.body.classList.toggle("stopped", Boolean(stop));
  const reload = live.reload?.outcome?.refused ? chip("settings on disk are refused: kloros check-config", "bad") : null;
  put(at("foot"), `pid ${live.pid} \u00b7 metrics ${live.metrics_address} `, stop ? chip(`stopped: ${stop.why || "no reason given"}`, "bad") : null, reload);
}

async function refresh(what) {
  try {
    if (what !== "tick" || !shared.live) [shared.live, shared.work] = await Promise.all([ask("/live"), ask("/work")]);
    else shared.live = await ask("/live");
    top();
    await update?.(what);
  } catch (error) {
    if (error.status) say(error.message, true);
    else top();
  }
}

/** Gathers what happens at once into one look. */
function soon(what) {
  const before = gathering?.what;
  clearTimeout(gathering?.timer);
  const most = before === "fact" || before === "asked" ? before : what;
  gathering = { what: most, timer: setTimeout(() => { gathering = null; refresh(most); }, GATHER_MS) };
}

function route() {
  const [name, id] = location.hash.replace(/^#\//, "").split("/").map(decodeURIComponent);
  if (name === "story" && id) {
    if (!view) show("loop");
    return openStory(id, () => { if (location.hash.startsWith("#/story/")) history.replaceState(null, "", `#/${view.replace("|", "/").replace(/\/$/, "")}`); });
  }
  at("drawer").open && at("drawer").close();
  show(VIEWS[name] ? name : "loop", VIEWS[name] ? id : undefined);
}

function show(name, id) {
  const key = `${name}|${id ?? ""}`;
  if (key === view) return;
  view = key;
  const root = at("view");
  root.replaceChildren();
  root.className = name;
  put(at("tabs"), Object.entries(VIEWS).map(([each, [title]]) => el("li", null, el("a", { href: `#/${each}`, "aria-current": each === name ? "page" : undefined }, title))));
  document.title = `${VIEWS[name][0]} \u00b7 kloros`;
  update = VIEWS[name][1](root, shared, id);
  refresh("asked");
}

at("key").addEventListener("click", askForToken);
at("halt").addEventListener("click", halt);
window.addEventListener("hashchange", route);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => refresh("asked"));
await tokenFromAddress().catch((error) => say(error.message, true));
route();
listen({
  fact: (fact) => { heard(fact); soon("fact"); },
  room: (event) => { touch(event); soon("room"); },
  state: (is) => { connected = is; top(); if (is) soon("asked"); },
});
setInterval(() => { if (!document.hidden) refresh("tick"); }, LOOK_MS);
