// Builds the page out of data. Text is only ever set as text, so nothing that a service prints becomes markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, each] of Object.entries(value)) node.style.setProperty(key, each);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Returns an element with these attributes and children; a text is a text. */
export const el = (tag, props, ...children) => fill(document.createElement(tag), props, children);

/** Returns the same for a drawing. */
export const svg = (tag, props, ...children) => fill(document.createElementNS(SVG, tag), props, children);

/** Puts `children` in the place of all that was there. */
export const put = (parent, ...children) => parent.replaceChildren(...children.flat(Infinity).filter(Boolean));

/** Returns a moment as a person says it, and the exact one to look at. */
export function when(ms) {
  if (!ms) return el("span", { class: "muted" }, "never");
  const date = new Date(ms);
  return el("time", { datetime: date.toISOString(), title: date.toLocaleString() }, ago(ms));
}

/** Returns how long ago that was, or how far ahead it is. */
export function ago(ms) {
  const seconds = (Date.now() - ms) / 1000;
  const words = span(Math.abs(seconds));
  if (Math.abs(seconds) < 3) return "now";
  return seconds > 0 ? `${words} ago` : `in ${words}`;
}

/** Returns a span of time, as long as it deserves. */
export function span(seconds) {
  if (seconds >= 172800) return `${Math.round(seconds / 86400)} d`;
  if (seconds >= 7200) return `${Math.round(seconds / 3600)} h`;
  if (seconds >= 120) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds)} s`;
}

/** Returns a number with as many digits as it deserves. */
export function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "\u2013";
  const size = Math.abs(value);
  if (size >= 1e6) return value.toExponential(2);
  if (size >= 100) return Math.round(value).toLocaleString("en");
  if (size >= 10) return value.toFixed(1);
  if (size === 0) return "0";
  return value.toFixed(3);
}

/** Returns a share as percent with its sign. */
export function percent(ratio) {
  const value = ratio * 100;
  const size = Math.abs(value);
  const text = size >= 1e5 ? size.toExponential(1) : size >= 20 ? size.toFixed(0) : size.toFixed(1);
  return `${value < 0 ? "\u2212" : "+"}${text} %`;
}

/** Returns a value of a setting. */
export function value(each) {
  if (each === null || each === undefined) return "unset";
  return typeof each === "object" ? Object.values(each).map(value).join(" ") : String(each);
}

/** Returns settings or parameters in one line. */
export const settings = (all) => Object.entries(all ?? {}).map(([name, each]) => `${name}=${value(each)}`).join("  ");

/** Returns a label of one word in a tone. */
export const chip = (text, tone) => el("span", { class: `chip ${tone ?? ""}` }, text);

/** Returns what is shown where there is nothing yet. */
export const empty = (text, more) => el("div", { class: "empty" }, el("p", null, text), more ? el("p", { class: "muted" }, more) : null);

/** Returns a link that opens the story of a cycle. */
export const storyLink = (id, text) => el("a", { class: "id", href: `#/story/${encodeURIComponent(id)}` }, text ?? id);

/** Returns the tone of how something ended. */
export function tone(state) {
  const words = { success: "good", won: "good", running: "live", kept: "good", neutral: "plain", no_better: "plain", rollback: "bad", "rolled_back": "bad", stuck: "bad", void: "plain", unmeasured: "plain", broke_off: "plain", failed: "bad" };
  return words[state] ?? "plain";
}

/** Returns a colour of the page's own palette. */
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
