// Experiments: how the search came to its result, which parameters matter, and what stands against what.
import { ask } from "./api.js";
import { chip, colour, el, empty, number, percent, put, settings, span, storyLink, svg, tone, when } from "./dom.js";
import { plot } from "./machine.js";

const gain = (log) => Math.exp(log) - 1;

function item({ id, facts }, chosen) {
  const { experiment, trials, generations, end } = facts;
  const state = end ? end.how : "running";
  const best = [...generations].reverse().find((each) => each.best)?.best;
  return el("li", null, el("a", { class: "item", href: `#/experiments/${encodeURIComponent(id)}`, "aria-current": id === chosen ? "true" : undefined },
    el("span", { class: "item-head" }, el("b", null, experiment.spec.domain), chip(state.replace("_", " "), tone(state))),
    el("span", { class: "muted" }, `${trials} trials, ${generations.length} generations`, best ? `, best ${percent(gain(best.fitness))}` : ""),
    el("span", { class: "muted" }, when(experiment.at_ms))));
}

/** Returns what came of a trial as a number, or nothing where it failed. */
const measured = (mark) => mark.measured ?? mark.tripped?.value ?? null;

function convergence(shown, into) {
  const marks = shown.convergence.marks;
  const values = marks.map(measured);
  let best = null;
  const line = marks.map((mark) => {
    if (Number.isFinite(mark.measured) && (best === null || mark.measured > best)) best = mark.measured;
    return best;
  });
  const failed = marks.map((mark, index) => (measured(mark) === null ? Math.min(0, ...values.filter(Number.isFinite)) : null));
  const dots = (name, tint, width) => ({ label: name, stroke: tint, width: 1, paths: () => null, points: { show: true, size: width, fill: tint, width: 0 } });
  plot(into, {
    height: 260,
    label: `Gain of ${marks.length} candidates over the live settings, and the best so far`,
    x: { time: false },
    xs: marks.map((_, index) => index + 1),
    axis: (log) => percent(gain(log)),
    series: [
      { label: "best so far", stroke: colour("accent"), width: 2.5, paths: window.uPlot.paths.stepped({ align: 1 }), points: { show: false }, data: line },
      { ...dots("candidate", colour("ink-2"), 7), data: values },
      { ...dots("failed", colour("bad"), 7), data: failed },
    ],
  });
}

function importance(shown) {
  const { bars, unclear, explained } = shown.importance;
  if (!bars) return el("p", { class: "muted" }, unclear);
  return el("div", null,
    el("dl", { class: "bars" }, bars.map((bar) => [el("dt", null, bar.name),
      el("dd", null, el("span", { class: "bar", style: { "--total": bar.total, "--alone": bar.alone } }), el("span", { class: "num" }, `${Math.round(bar.total * 100)} %`))])),
    el("p", { class: "muted" }, `Share in what the settings change; the dark part is each one alone. The model foretells ${Math.round(explained * 100)} % of it.`));
}

function front(shown) {
  const names = Object.entries(shown.objective).filter(([, spec]) => spec.weight > 0).map(([name]) => name);
  const [x, y] = names.length > 1 ? names : Object.keys(shown.objective);
  const points = shown.trials.map((trial) => ({ metrics: trial.outcome?.measured?.metrics, params: trial.params })).filter((each) => each.metrics && Number.isFinite(each.metrics[x]) && Number.isFinite(each.metrics[y]));
  if (!y || points.length < 2) return empty("One metric counts, so there is nothing to weigh against another.");
  const key = (params) => settings(params);
  const on = new Set(shown.front.map((best) => key(best.params)));
  const range = (name) => [Math.min(...points.map((each) => each.metrics[name])), Math.max(...points.map((each) => each.metrics[name]))];
  const [[x0, x1], [y0, y1]] = [range(x), range(y)];
  const place = (each) => [54 + ((each.metrics[x] - x0) / (x1 - x0 || 1)) * 320, 214 - ((each.metrics[y] - y0) / (y1 - y0 || 1)) * 190];
  const arrow = (name) => (shown.objective[name].direction === "up" ? "more is better" : "less is better");
  return el("figure", { class: "figure" }, svg("svg", { class: "front", viewBox: "0 0 400 262", role: "img", "aria-label": `${points.length} candidates by ${x} and ${y}; ${on.size} of them on the Pareto front` },
    svg("path", { class: "axis", d: "M46 18V222H384" }),
    [[y0, 214], [y1, 24]].map(([each, at]) => svg("text", { class: "tick", x: 40, y: at + 4, "text-anchor": "end" }, number(each))),
    [[x0, 54], [x1, 374]].map(([each, at]) => svg("text", { class: "tick", x: at, y: 238, "text-anchor": "middle" }, number(each))),
    svg("text", { class: "tick", x: 214, y: 256, "text-anchor": "middle" }, `${x} (${arrow(x)})`),
    svg("text", { class: "tick", x: 50, y: 12 }, `${y} (${arrow(y)})`),
    points.map((each, index) => {
      const [cx, cy] = place(each);
      const kind = index === 0 ? "live" : on.has(key(each.params)) ? "on" : "off";
      return svg("circle", { class: `point ${kind}`, cx, cy, r: kind === "off" ? 4 : 6 }, svg("title", null, settings(each.params)));
    })), el("figcaption", { class: "legend" }, el("span", { class: "key on" }, "Pareto front"), el("span", { class: "key live" }, "live settings"), el("span", { class: "key off" }, "others")));
}

function bestTable(shown) {
  const columns = [shown.live ? ["live", shown.live] : null, ...shown.best.map((best, index) => [index === 0 && shown.state === "won" ? "winner" : `no. ${index + 1}`, best])].filter(Boolean);
  if (!columns.length) return null;
  const names = [...new Set(columns.flatMap(([, best]) => Object.keys(best.params)))];
  const metrics = [...new Set(columns.flatMap(([, best]) => Object.keys(best.metrics)))].filter((name) => shown.objective[name]);
  const text = (each) => (each === undefined ? "\u2013" : typeof each === "object" ? Object.values(each).join(" ") : String(each));
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Settings side by side" }, el("table", { class: "best" },
    el("thead", null, el("tr", null, el("th", { scope: "col" }, ""), columns.map(([name]) => el("th", { scope: "col", class: "num" }, name)))),
    el("tbody", null,
      el("tr", { class: "gain" }, el("th", { scope: "row" }, "gain"), columns.map(([, best]) => el("td", { class: "num" }, percent(gain(best.fitness))))),
      names.map((name) => el("tr", null, el("th", { scope: "row" }, name), columns.map(([, best]) => el("td", { class: text(best.params[name]) === text(columns[0][1].params[name]) ? "num muted" : "num" }, text(best.params[name]))))),
      metrics.map((name) => el("tr", { class: "metric" }, el("th", { scope: "row" }, name), columns.map(([, best]) => el("td", { class: "num" }, number(best.metrics[name]))))))));
}

function detail(shown, into) {
  const { experiment, spent, end } = shown;
  const graph = el("div");
  const why = end?.why;
  put(into,
    el("section", { class: "card" },
      el("header", { class: "row" }, el("h2", null, experiment.spec.domain), chip(shown.state.replace("_", " "), tone(shown.state)), el("span", { class: "push" }, storyLink(experiment.cycle, experiment.id))),
      el("p", { class: "muted" }, `${spent.trials} of at most ${spent.trials_max} trials in ${spent.generations} of ${spent.generations_max} generations, ${spent.confirmations} confirmations, ${span(spent.took_ms / 1000)}`),
      why ? el("p", null, why) : null,
      shown.gain ? el("p", { class: "claim" }, el("b", null, percent(shown.gain.ratio)), ` claimed (${percent(shown.gain.low)} to ${percent(shown.gain.high)})`) : null,
      el("h3", null, "Convergence"), graph),
    el("div", { class: "split even" },
      el("section", { class: "card" }, el("h3", null, "What matters"), importance(shown)),
      el("section", { class: "card" }, el("h3", null, "Pareto front"), front(shown))),
    el("section", { class: "card" }, el("h3", null, "The best beside the live settings"), bestTable(shown)));
  if (shown.convergence.marks.length) convergence(shown, graph);
  else put(graph, el("p", { class: "muted" }, "Nothing is measured yet."));
}

/** The view of experiments; `chosen` is the id of one. */
export function experimentsView(root, shared, chosen) {
  const [list, panel] = [el("ul", { class: "list" }), el("div", { class: "stack" })];
  const all = el("div", { class: "split side" }, el("section", { class: "card", "aria-label": "Experiments" }, el("h2", null, "Experiments"), list), panel);
  let drawn = "";
  return async (what) => {
    if (what === "room" || what === "tick") return;
    const rows = (await ask("/experiments?limit=40")).reverse();
    if (!rows.length) return put(root, el("section", { class: "card" }, empty("No experiment yet.", "One begins when a question is asked.")));
    // The first one takes the place of the word that there is none.
    if (!all.isConnected) put(root, all);
    const id = chosen ?? rows[0].id;
    put(list, rows.map((row) => item(row, id)));
    const shown = await ask(`/experiments/${encodeURIComponent(id)}`);
    const text = JSON.stringify(shown) + colour("ink");
    if (text !== drawn) detail(shown, panel);
    drawn = text;
  };
}
