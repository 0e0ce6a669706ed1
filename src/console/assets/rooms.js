// The supervision tree as it stands: every room, how often it was restarted, and what it does now.
import { chip, el, put, span } from "./dom.js";

/** Rooms that were restarted lately, by path, and when. */
const touched = new Map();
const TOUCHED_MS = 6000;

/** Keeps what happened to a room. */
export function touch(event) {
  touched.set(event.path, { at: Date.now(), ...event });
  if (touched.size > 200) touched.delete(touched.keys().next().value);
}

function row(room) {
  const name = room.path.split("/").pop();
  const recent = touched.get(room.path);
  const flashes = recent && Date.now() - recent.at < TOUCHED_MS;
  const state = room.state === "running" ? chip("running", "good") : chip(room.state, "bad");
  return el("tr", { class: [room.is_supervisor ? "supervisor" : "", flashes ? "flash" : "", room.restarts ? "restarted" : ""].join(" ") },
    el("th", { scope: "row", style: { "--depth": room.depth_in_tree } }, el("span", { class: "branch" }, name)),
    el("td", null, state),
    el("td", { class: "num" }, room.uptime_s === null ? "\u2013" : span(room.uptime_s)),
    el("td", { class: "num" }, room.is_supervisor ? "" : room.handled.toLocaleString("en")),
    el("td", { class: "num" }, room.is_supervisor ? "" : room.busy_s !== null && room.busy_s > 1 ? `${room.waiting}, busy ${span(room.busy_s)}` : String(room.waiting)),
    el("td", { class: "num" }, room.restarts ? el("b", null, String(room.restarts)) : "0"),
    el("td", { class: "why" }, room.last_failure ?? ""));
}

/** The view of the rooms. */
export function roomsView(root, shared) {
  const body = el("tbody");
  const summary = el("p", { class: "muted" });
  root.append(el("section", { class: "card", "aria-labelledby": "rooms-title" }, el("h2", { id: "rooms-title" }, "Rooms"), summary,
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "The supervision tree" }, el("table", { class: "tree" },
      el("thead", null, el("tr", null, ["Room", "State", "Up", "Handled", "Waiting", "Restarts", "Last failure"].map((text, index) => el("th", { scope: "col", class: index > 1 && index < 6 ? "num" : "" }, text)))),
      body))));
  return async () => {
    const rooms = shared.live?.rooms ?? [];
    const restarts = rooms.reduce((sum, room) => sum + (room.is_supervisor ? 0 : room.restarts), 0);
    const up = rooms.filter((room) => room.state === "running").length;
    put(summary, `${up} of ${rooms.length} are up, ${restarts} restarts since the daemon began. A room that fails is started again; what it was doing is in the journal.`);
    put(body, rooms.map(row));
  };
}
