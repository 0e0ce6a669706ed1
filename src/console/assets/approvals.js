// What waits for a person: what would change, line by line, and the two answers.
import { act, ask, token } from "./api.js";
import { ago, chip, el, number, put, storyLink, value } from "./dom.js";

/** The plans that were fetched, by what a yes is bound to: another plan has another binding. */
const plans = new Map();
const PLANS_MAX = 50;

async function plan(waiting, into) {
  const key = `${waiting.promotion.id}@${waiting.binding}`;
  if (!plans.has(key)) {
    if (plans.size >= PLANS_MAX) plans.clear();
    plans.set(key, ask(`/plans/${encodeURIComponent(waiting.promotion.id)}`));
  }
  try {
    put(into, diff(await plans.get(key)));
  } catch (error) {
    plans.delete(key);
    put(into, el("p", { class: "muted" }, error.message));
  }
}

function diff({ file, lines }) {
  const line = ({ sign, number: place, text }) => el("li", { class: sign === "+" ? "plus" : "minus" },
    el("span", { class: "place" }, String(place)), el("span", { class: "sign", "aria-label": sign === "+" ? "comes" : "goes" }, sign), el("code", null, text));
  return el("figure", { class: "diff" }, el("figcaption", null, el("code", null, file)), el("ol", null, lines.map(line)));
}

function changes(promotion) {
  const row = ([key, change]) => el("tr", null, el("th", { scope: "row" }, key), el("td", null, value(change.from)), el("td", null, "\u2192"), el("td", null, el("b", null, value(change.to))));
  return el("table", { class: "changes" }, el("tbody", null, Object.entries(promotion.changes).map(row)));
}

function card(waiting, shared) {
  const { promotion, risk, why, until_ms: until, binding } = waiting;
  const shown = el("div", { class: "plan" }, el("p", { class: "muted" }, "Reading the env file\u2026"));
  plan(waiting, shown);
  const said = el("p", { class: "said", role: "status" });
  const reason = el("input", { type: "text", "aria-label": "Reason", placeholder: "Reason, for the record", maxlength: 400 });
  const answer = async (approved) => {
    if (!token()) return shared.askForToken();
    buttons.forEach((button) => { button.disabled = true; });
    try {
      await act("/answer", { id: promotion.id, approved, why: reason.value || null, binding });
      shared.say(`${approved ? "Approved" : "Rejected"} ${promotion.id}`);
      await shared.refresh();
    } catch (error) {
      buttons.forEach((button) => { button.disabled = false; });
      put(said, error.message);
      if (error.status === 401) shared.askForToken();
    }
  };
  const buttons = [
    el("button", { class: "primary", type: "button", "data-approve": promotion.id, onclick: () => answer(true) }, "Approve"),
    el("button", { class: "quiet", type: "button", "data-reject": promotion.id, onclick: () => answer(false) }, "Reject"),
  ];
  return el("article", { class: "card approval", "aria-label": `${promotion.domain} waits for you` },
    el("header", null, el("h2", null, `${promotion.domain} waits for you`), chip(`${risk} risk`, risk === "low" ? "plain" : "warn"),
      el("span", { class: "muted push" }, `without an answer a no ${ago(until)}`)),
    el("p", null, why),
    el("div", { class: "plan-row" }, changes(promotion), shown),
    promotion.fitness !== null && promotion.fitness !== undefined ? el("p", { class: "muted" }, `The experiment claims ${number((Math.exp(promotion.fitness) - 1) * 100)} % for it; the verdict is measured.`) : null,
    el("footer", null, buttons, reason, storyLink(promotion.cycle, "its story")),
    said);
}

/** Returns a card for each thing that waits, and what is held back. */
export function approvals(shared) {
  const holding = shared.live?.holding;
  if (!holding) return [];
  const held = holding.held.map(({ promotion, why }) => el("article", { class: "card held" }, el("h2", null, `${promotion.domain} waits for its turn`), el("p", null, why), storyLink(promotion.cycle, promotion.id)));
  return [...holding.waiting.map((waiting) => card(waiting, shared)), ...held];
}
