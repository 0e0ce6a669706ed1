// The machine: host and GPUs over the last while, and the services on it.
import { ask } from "./api.js";
import { chip, colour, el, empty, put } from "./dom.js";

/** Draws lines or dots; one library for all plots. It follows the width of its place. */
export function plot(into, { xs, series, x, axis, height, label, range }) {
  const grid = { stroke: colour("line"), width: 1 };
  const common = { stroke: colour("ink-2"), grid, ticks: { show: false }, font: "12px system-ui, sans-serif" };
  const width = () => Math.max(240, into.clientWidth || into.parentElement?.clientWidth || 600);
  const drawn = new window.uPlot({
    width: width(),
    height,
    scales: { x: x ?? {}, y: range ? { range } : {} },
    cursor: { drag: { x: false, y: false }, points: { size: 7 } },
    legend: { live: true },
    axes: [x?.time === false ? { ...common } : { ...common, space: 80, values: (_, ticks) => ticks.map(clock) }, { ...common, size: 62, values: (_, ticks) => ticks.map((each) => (axis ? axis(each) : each)) }],
    series: [x?.time === false ? { label: "trial" } : { label: "time", value: (_, each) => (each ? clock(each) : "\u2013") }, ...series.map(({ data, ...rest }) => ({ value: (_, each) => (each === null || each === undefined ? "\u2013" : axis ? axis(each) : each), ...rest }))],
  }, [xs, ...series.map((each) => each.data)], into);
  into.setAttribute("role", "img");
  into.setAttribute("aria-label", label);
  new ResizeObserver(() => drawn.setSize({ width: width(), height })).observe(into);
  return drawn;
}

const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");
const ratio = (each) => `${Math.round(each * 100)} %`;
const bytes = (each) => `${(each / 2 ** 30).toFixed(1)} GiB`;

/** What is drawn together: the metrics, their names, and how a tick is spelled. */
const HOST = [
  ["Processors and memory", [["cpu_used_ratio", "processors", "accent"], ["memory_used_ratio", "memory", "series-2"], ["swap_used_ratio", "swap", "series-3"], ["disk_used_ratio", "disk", "series-4"]], ratio],
  ["Time in which work was stalled", [["cpu_stalled_ratio", "for processors", "accent"], ["memory_stalled_ratio", "for memory", "series-2"], ["io_stalled_ratio", "for disks", "series-3"]], ratio],
];
const GPU = [
  ["Load", [["busy", "busy", "accent"]], ratio],
  ["Memory", [["memory_used", "used", "series-2"], ["memory_total", "all", "series-4"]], bytes],
  ["Temperature", [["temperature", "core", "series-3"]], (each) => `${Math.round(each)} \u00b0C`],
  ["Power", [["power", "drawn", "accent"]], (each) => `${Math.round(each)} W`],
];

function panel(charts, subject, [title, wanted, axis]) {
  const found = wanted.map(([metric, name, tint]) => [charts.series.find((each) => each.subject === subject && each.metric === metric), name, tint]).filter(([series]) => series);
  if (!found.length) return null;
  const place = el("div");
  const draw = () => plot(place, {
    height: 170,
    label: `${subject}: ${title}`,
    xs: charts.at_ms.map((ms) => ms / 1000),
    range: axis === ratio ? [0, 1] : (_, least, most) => [0, (most || 1) * 1.1],
    axis,
    series: found.map(([series, name, tint]) => ({ label: name, stroke: colour(tint), width: 1.75, points: { show: false }, data: series.values })),
  });
  return { card: el("section", { class: "card chart" }, el("h3", null, title), place), draw };
}

function services(live) {
  return el("section", { class: "card" }, el("h2", null, "Services"), el("ul", { class: "services" }, live.services.map((service) => {
    const level = live.levels.find((each) => each.domain === service.domain);
    return el("li", null, el("b", null, service.domain), chip(service.state, service.is_up ? "good" : "bad"),
      el("span", { class: "muted" }, [service.url, service.pid ? `pid ${service.pid}` : null, service.deaths ? `died ${service.deaths} times in a row` : null, level ? `autonomy ${level.in_force} of at most ${level.ceiling}` : null].filter(Boolean).join(" \u00b7 ")));
  })));
}

function measuring(live) {
  const standing = live.measuring?.Ok;
  if (!standing) return null;
  const line = (verb, seen) => el("li", null, el("b", null, verb), ` ${seen.what} `, el("span", { class: "muted" }, `for ${Math.round(seen.for_s)} s, process ${seen.pid}`));
  const lines = [standing.measures ? line("measures", standing.measures) : null, ...standing.waits.map((seen) => line("waits", seen))].filter(Boolean);
  return el("section", { class: "card" }, el("h2", null, "Whose turn it is to measure"), lines.length ? el("ul", { class: "services" }, lines) : el("p", { class: "muted" }, "Nobody measures."));
}

/** The view of the machine. */
export function machineView(root, shared) {
  const [top, plots] = [el("div", { class: "split even" }), el("div", { class: "stack" })];
  root.append(top, plots);
  let [drawn, at] = ["", 0];
  return async (what) => {
    put(top, services(shared.live), measuring(shared.live));
    if (what === "room" || what === "fact") return;
    const charts = await ask("/charts");
    const text = JSON.stringify(charts.at_ms.slice(-1)) + charts.series.length + colour("ink");
    if (text === drawn || Date.now() - at < 1000) return;
    [drawn, at] = [text, Date.now()];
    const subjects = [...new Set(charts.series.map((each) => each.subject))].sort((a, b) => (a === "host" ? -1 : b === "host" ? 1 : a.localeCompare(b)));
    const groups = subjects.map((subject) => [subject, (subject === "host" ? HOST : GPU).map((each) => panel(charts, subject, each)).filter(Boolean)]);
    put(plots, groups.length ? groups.map(([subject, panels]) => el("section", { "aria-label": subject }, el("h2", { class: "group" }, subject === "host" ? "Host" : subject.toUpperCase()), el("div", { class: "grid" }, panels.map((each) => each.card)))) : el("section", { class: "card" }, empty("Nothing was seen yet.")),
      groups.some(([subject]) => subject !== "host") ? null : el("p", { class: "muted" }, "No GPU is seen on this machine. kloros gpu says why."));
    groups.forEach(([, panels]) => panels.forEach((each) => each.draw()));
  };
}
