// Questions that were asked, and what was learned of their answers.
import { ask } from "./api.js";
import { chip, el, empty, put, storyLink, tone, when } from "./dom.js";

function question({ id, facts }) {
  const { question: asked, end, eligible_at_ms: again } = facts;
  const state = end ? end.how : "open";
  return el("li", null,
    el("p", { class: "row" }, el("b", null, asked.hypothesis), chip(state.replaceAll("_", " "), end ? tone(state) : "live"), el("span", { class: "muted push" }, when(asked.at_ms))),
    el("p", { class: "interest", role: "img", "aria-label": `interest ${asked.interest.toFixed(2)}` }, el("span", { style: { "--share": Math.min(1, Math.max(0, asked.interest)) } })),
    end?.why ? el("p", null, end.why) : null,
    el("p", { class: "muted" }, storyLink(asked.cycle, id), again ? [" \u00b7 asked again at the earliest ", when(again)] : null));
}

function lesson({ facts }) {
  const { says, outcome, deployment, changed, avoid, at_ms: at } = facts;
  return el("li", null,
    el("p", { class: "row" }, chip(outcome, tone(outcome)), el("span", { class: "muted push" }, when(at))),
    el("p", null, says),
    changed ? el("p", { class: "muted" }, `interest ${changed.interest_before.toFixed(2)} \u2192 ${changed.interest_after.toFixed(2)}`, changed.parked_until_ms ? [" \u00b7 parked until ", when(changed.parked_until_ms)] : null) : null,
    avoid ? el("p", { class: "muted" }, "Avoided from now on: a person is asked first.") : null,
    el("p", { class: "muted" }, storyLink(deployment)));
}

/** The view of questions and lessons. */
export function learningView(root) {
  const [asked, learned] = [el("div"), el("div")];
  root.append(el("div", { class: "split even" },
    el("section", { class: "card", "aria-labelledby": "asked" }, el("h2", { id: "asked" }, "Questions"), asked),
    el("section", { class: "card", "aria-labelledby": "learned" }, el("h2", { id: "learned" }, "Lessons"), learned)));
  return async (what) => {
    if (what === "room" || what === "tick") return;
    const [questions, lessons] = await Promise.all([ask("/questions?limit=40"), ask("/lessons?limit=40")]);
    put(asked, questions.length ? el("ul", { class: "entries" }, questions.reverse().map(question)) : empty("No question yet.", "One is asked when something is unlike its past, or in idle time."));
    put(learned, lessons.length ? el("ul", { class: "entries" }, lessons.reverse().map(lesson)) : empty("No lesson yet.", "Each verdict teaches one."));
  };
}

