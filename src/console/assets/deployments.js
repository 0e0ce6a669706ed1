// Deployments as a line of time: what was changed, what was measured, and whether it stayed.
import { ask } from "./api.js";
import { chip, el, empty, number, percent, put, storyLink, svg, tone, value, when } from "./dom.js";

/** Draws an interval with the thresholds of now, where they are known, on a scale that bends, so that five percent and five hundred both have room. */
function interval(estimate, thresholds) {
  const lines = thresholds ? [thresholds.undo_below, thresholds.keep_from] : [];
  const said = thresholds ? `; now kept from ${percent(thresholds.keep_from)}, taken back below ${percent(thresholds.undo_below)}` : "";
  const bend = (ratio) => Math.sign(ratio) * Math.log10(1 + Math.abs(ratio) * 20);
  const most = Math.max(...[estimate.low, estimate.high, ...lines].map((each) => Math.abs(bend(each)))) * 1.12 || 1;
  const x = (ratio) => 160 + (bend(ratio) / most) * 150;
  const kind = estimate.low > 0 ? "good" : estimate.high < 0 ? "bad" : "plain";
  return svg("svg", { class: "interval", viewBox: "0 0 320 40", role: "img", "aria-label": `${percent(estimate.ratio)}, between ${percent(estimate.low)} and ${percent(estimate.high)}${said}` },
    svg("path", { class: "base", d: "M6 22H314" }),
    svg("path", { class: "zero", d: "M160 10V34" }),
    lines.length ? svg("path", { class: "threshold", d: lines.map((line) => `M${x(line)} 15V29`).join("") }) : null,
    svg("path", { class: `whisker ${kind}`, d: `M${x(estimate.low)} 22H${x(estimate.high)}M${x(estimate.low)} 16V28M${x(estimate.high)} 16V28` }),
    svg("circle", { class: `mean ${kind}`, cx: x(estimate.ratio), cy: 22, r: 5 }),
    svg("text", { x: 160, y: 8, "text-anchor": "middle" }, "0"));
}

function metrics(verdict) {
  const names = Object.keys(verdict.before ?? {}).filter((name) => name in (verdict.after ?? {}));
  if (!names.length) return null;
  const row = (name) => {
    const [before, after] = [verdict.before[name], verdict.after[name]];
    const most = Math.max(Math.abs(before), Math.abs(after)) || 1;
    const bar = (each, kind) => el("span", { class: `meter ${kind}`, style: { "--share": Math.abs(each) / most } });
    return el("tr", null, el("th", { scope: "row" }, name), el("td", { class: "num" }, number(before), bar(before, "before")), el("td", { class: "num" }, number(after), bar(after, "after")));
  };
  return el("table", { class: "before-after" }, el("thead", null, el("tr", null, ["", "before", "after"].map((text) => el("th", { scope: "col", class: text ? "num" : "" }, text)))), el("tbody", null, names.map(row)));
}

function entry({ id, facts }, thresholds) {
  const { deployment, stage, verdict, why } = facts;
  const state = stage === "stuck" ? "stuck" : verdict ? verdict.outcome : typeof stage === "object" ? Object.keys(stage)[0] : stage;
  const change = ([key, each]) => el("li", null, el("code", null, key), " ", el("s", null, value(each.from)), " \u2192 ", el("b", null, value(each.to)));
  const reason = verdict ? `${why} (${verdict.blocks} blocks, ${verdict.samples} requests)` : "not judged yet";
  return el("li", { class: `event ${tone(state)}` },
    el("article", { class: "card" },
      el("header", { class: "row" }, el("h2", null, deployment.promotion.domain), chip(state, verdict || stage === "stuck" ? tone(state) : "live"), el("span", { class: "muted" }, when(deployment.at_ms)), el("span", { class: "push" }, storyLink(deployment.promotion.cycle, id))),
      el("div", { class: "split even flat" },
        el("div", null, el("ul", { class: "sets" }, Object.entries(deployment.promotion.changes).map(change))),
        el("div", null,
          verdict?.improvement ? [el("p", { class: "claim" }, el("b", null, percent(verdict.improvement.ratio)), ` measured (${percent(verdict.improvement.low)} to ${percent(verdict.improvement.high)})`), interval(verdict.improvement, thresholds)] : null,
          el("p", { class: "muted" }, reason))),
      verdict ? el("details", null, el("summary", null, "Before and after"), metrics(verdict) ?? el("p", { class: "muted" }, "Nothing was measured of both.")) : null));
}

/** The view of deployments. */
export function deploymentsView(root, shared) {
  let drawn = "";
  return async (what) => {
    if (what === "room" || what === "tick") return;
    const rows = (await ask("/deployments?limit=60")).reverse();
    const thresholds = shared.live?.thresholds;
    const text = JSON.stringify([rows, thresholds]);
    if (text === drawn) return;
    drawn = text;
    put(root, rows.length ? el("ol", { class: "timeline" }, rows.map((row) => entry(row, thresholds))) : el("section", { class: "card" }, empty("Nothing was deployed yet.", "What an experiment finds passes the gate first.")));
  };
}
