// The loop as a ring: seven stages, what is in each, and what happens right now.
import { ask } from "./api.js";
import { el, put, storyLink, svg, tone, when } from "./dom.js";
import { approvals } from "./approvals.js";

const NAMES = {
  detection: ["Detection", "notices what is unlike its past"],
  question: ["Question", "asks what could be better"],
  evolution: ["Evolution", "measures candidates"],
  permission: ["Permission", "decides what may be changed"],
  deployment: ["Deployment", "writes it and restarts the service"],
  validation: ["Validation", "measures old against new"],
  learning: ["Learning", "makes the next question a better one"],
};
/** The ring on a wide screen, and on a phone, where every name stands below its stage. */
const WIDE = { size: 560, radius: 188, disc: 34, margin: 40, line: 17, compact: false };
const SMALL = { size: 400, radius: 134, disc: 29, margin: 0, line: 17, compact: true };
const shape = () => (matchMedia("(max-width: 860px)").matches ? SMALL : WIDE);
const FEED_MAX = 60;

/** What happened lately, the newest first. */
const feed = [];

/** Keeps a fact for the list of what happens. */
export function heard(fact) {
  // What has no words is nobody's news.
  if (fact.words === fact.kind.replaceAll("_", " ")) return;
  feed.unshift(fact);
  feed.length = Math.min(feed.length, FEED_MAX);
}

const turn = (index) => (index / 7) * 2 * Math.PI - Math.PI / 2;

function spot({ size, radius }, angle) {
  return [size / 2 + radius * Math.cos(angle), size / 2 + radius * Math.sin(angle)];
}

function arc(ring, index) {
  const gap = (ring.disc + 9) / ring.radius;
  const [[x1, y1], [x2, y2]] = [spot(ring, turn(index) + gap), spot(ring, turn(index + 1) - gap)];
  return svg("path", { class: "arc", d: `M${x1} ${y1}A${ring.radius} ${ring.radius} 0 0 1 ${x2} ${y2}`, "marker-end": "url(#tip)" });
}

/** Returns where the name of a stage stands: beside it, or above or below where there is no room. */
function label(ring, index, [x, y]) {
  const angle = turn(index);
  const isBelow = ring.compact ? index > 0 : Math.sin(angle) > 0.5;
  if (isBelow) return [x, y + ring.disc + 22, "middle"];
  if (index === 0) return [x, y - ring.disc - 27, "middle"];
  return Math.cos(angle) > 0 ? [x + ring.disc + 14, y, "start"] : [x - ring.disc - 14, y, "end"];
}

function node(ring, stage, index, chosen, choose) {
  const [x, y] = spot(ring, turn(index));
  const [lx, ly, anchor] = label(ring, index, [x, y]);
  const [name] = NAMES[stage.stage];
  const count = stage.now.length;
  const recent = stage.last_ms && Date.now() - stage.last_ms < 15000;
  const classes = ["stage", count ? "busy" : "", recent ? "recent" : "", chosen ? "chosen" : ""].join(" ");
  const said = `${name}: ${count ? `${count} now` : "nothing now"}, ${stage.passed} came through`;
  const pick = (event) => {
    if (event.type === "keydown" && event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    choose(stage.stage);
  };
  return svg("g", { class: classes, tabindex: 0, role: "button", "aria-label": said, "aria-pressed": chosen ? "true" : "false", onclick: pick, onkeydown: pick },
    svg("circle", { class: "halo", cx: x, cy: y, r: ring.disc + 7 }),
    svg("circle", { class: "disc", cx: x, cy: y, r: ring.disc }),
    count ? svg("text", { class: "count", x, y: y + 7, "text-anchor": "middle" }, String(count)) : svg("circle", { class: "idle", cx: x, cy: y, r: 3 }),
    svg("text", { class: "name", x: lx, y: ly, "text-anchor": anchor }, name),
    svg("text", { class: "passed", x: lx, y: ly + ring.line, "text-anchor": anchor }, stage.passed ? `${stage.passed} so far` : "none yet"));
}

function picture(stages, work, chosen, choose) {
  const ring = shape();
  const middle = ring.size / 2;
  const verdict = work?.last_verdict;
  const tip = svg("marker", { id: "tip", viewBox: "0 0 8 8", refX: 5, refY: 4, markerWidth: 6, markerHeight: 6, orient: "auto" },
    svg("path", { class: "tip", d: "M1 1l5 3-5 3" }));
  const below = ring.compact ? 34 : 6;
  return svg("svg", { class: ring.compact ? "ring compact" : "ring", viewBox: `${-ring.margin} 0 ${ring.size + 2 * ring.margin} ${ring.size + below}`, role: "group", "aria-label": "The loop" },
    svg("defs", null, tip),
    stages.map((_, index) => arc(ring, index)),
    svg("text", { class: "cycles", x: middle, y: middle + 6, "text-anchor": "middle" }, String(work?.cycles ?? 0)),
    svg("text", { class: "caption", x: middle, y: middle + 28, "text-anchor": "middle" }, work?.cycles === 1 ? "cycle closed" : "cycles closed"),
    verdict ? svg("text", { class: `caption ${tone(verdict.outcome)}`, x: middle, y: middle + 49, "text-anchor": "middle" }, `last: ${verdict.outcome}`) : null,
    stages.map((stage, index) => node(ring, stage, index, stage.stage === chosen, choose)));
}

function inside(stage) {
  const [name, does] = NAMES[stage.stage];
  return el("section", { class: "inside", "aria-label": name },
    el("h3", null, name, el("span", { class: "muted" }, ` ${does}`)),
    stage.now.length
      ? el("ul", { class: "things" }, stage.now.map((thing) => el("li", null, storyLink(thing.cycle, thing.id), el("span", null, thing.what))))
      : el("p", { class: "muted" }, "Nothing is in it now."),
    stage.last ? el("p", { class: "last" }, when(stage.last_ms), " ", stage.last) : null);
}

function happens() {
  const line = ({ at_ms, words, cycle, kind }) => {
    const [verb, ...rest] = words.split(" ");
    return el("li", { class: `fact ${kind}` },
      el("time", { datetime: new Date(at_ms).toISOString() }, new Date(at_ms).toLocaleTimeString("en-GB")),
      el("a", { href: `#/story/${encodeURIComponent(cycle)}`, title: `the story of ${cycle}` }, kind === "step" ? words : [el("b", null, verb), ` ${rest.join(" ")}`]));
  };
  return feed.length ? el("ol", { class: "feed" }, feed.map(line)) : el("p", { class: "muted" }, "Quiet: what happens from now on appears here.");
}

/** The view of the loop. */
export function loopView(root, shared) {
  let chosen = null;
  const [asks, figure, detail, list] = [el("div"), el("figure", { class: "figure" }), el("div"), el("div")];
  root.append(asks, el("div", { class: "split" },
    el("section", { class: "card", "aria-label": "The loop" }, figure, detail),
    el("section", { class: "card", "aria-labelledby": "feed-title" }, el("h2", { id: "feed-title" }, "What happens"), list)));
  let [stages, asked] = [[], ""];
  const draw = () => {
    // Cards are left alone while they are the same: somebody may be writing a reason.
    const asks_now = JSON.stringify([shared.live?.holding.waiting, shared.live?.holding.held]);
    if (asks_now !== asked) put(asks, approvals(shared));
    asked = asks_now;
    // A redraw takes the focus away from who walks the ring with the keyboard.
    const held = [...figure.querySelectorAll(".stage")].indexOf(document.activeElement);
    put(figure, picture(stages, shared.work, chosen, (stage) => { chosen = chosen === stage ? null : stage; draw(); }));
    if (held >= 0) figure.querySelectorAll(".stage")[held]?.focus();
    const busiest = stages.find((stage) => stage.stage === chosen) ?? [...stages].reverse().find((stage) => stage.now.length);
    put(detail, busiest ? inside(busiest) : null);
    put(list, happens());
  };
  return async (what) => {
    if (what !== "room" && what !== "tick") stages = await ask("/loop");
    draw();
  };
}
