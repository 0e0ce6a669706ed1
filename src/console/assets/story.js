// The story of one cycle, as kloros explain tells it.
import { ask } from "./api.js";
import { el, put } from "./dom.js";

const LINE = /^(\d{4}-\d{2}-\d{2}T(\d{2}:\d{2}:\d{2})\S*)?\s*(.*)$/s;

function line(text) {
  const [, stamp, clock, rest] = text.match(LINE) ?? [null, null, null, text];
  const [head, ...more] = rest.split("\n");
  const [, verb, words] = stamp ? head.match(/^(\S+(?: \S+)?)\s{2,}(.*)$/s) ?? [null, "", head.trim()] : [null, "", head.trim()];
  return el("li", { class: stamp ? (verb ? "" : "sub") : "sub" },
    stamp ? el("time", { datetime: stamp, title: stamp }, clock) : el("span"),
    el("div", null, verb ? el("b", null, verb) : null, verb ? " " : null, words, more.map((each) => el("div", { class: "muted" }, each.trim()))));
}

/** Opens the story of any id. */
export async function openStory(id, close) {
  const drawer = document.getElementById("drawer");
  const body = el("div", { class: "drawer-body" }, el("p", { class: "muted" }, "Reading the journal\u2026"));
  const shut = el("button", { class: "quiet", type: "button", autofocus: true, onclick: () => drawer.close() }, "Close");
  put(drawer, el("header", { class: "row" }, el("h2", { id: "drawer-title" }, "The story of ", el("code", null, id)), el("span", { class: "push" }, shut)), body);
  drawer.onclose = close;
  drawer.onclick = (event) => { if (event.target === drawer) drawer.close(); };
  if (!drawer.open) drawer.showModal();
  try {
    const told = await ask(`/stories/${encodeURIComponent(id)}`);
    put(body, el("ol", { class: "story" }, told.lines.slice(1).map(line)));
  } catch (error) {
    put(body, el("p", null, error.message));
  }
}
