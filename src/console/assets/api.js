// Asks the daemon. Reading takes nothing; what changes something carries the token, which this page keeps for this tab alone.

const BASE = "/api/v1";
const KEPT = "kloros.token";

/** What the daemon said no with. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function read(response) {
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, body.error ?? `the daemon answered ${response.status}`);
  return body;
}

/** Returns what is at `path`. */
export async function ask(path) {
  return read(await fetch(BASE + path, { cache: "no-store", credentials: "omit" }));
}

/** Has something done, with the token. */
export async function act(path, body) {
  const headers = { "content-type": "application/json", authorization: `Bearer ${token()}` };
  return read(await fetch(BASE + path, { method: "POST", headers, credentials: "omit", body: JSON.stringify(body ?? {}) }));
}

/** Returns the token of this tab, or an empty text. */
export const token = () => sessionStorage.getItem(KEPT) ?? "";

/** Keeps a token for this tab, if it is the right one; an empty text forgets it. */
export async function keepToken(text) {
  if (!text) return sessionStorage.removeItem(KEPT);
  const headers = { authorization: `Bearer ${text}` };
  await read(await fetch(`${BASE}/live`, { cache: "no-store", credentials: "omit", headers }));
  sessionStorage.setItem(KEPT, text);
}

/** Takes the token out of the address, where `kloros console` has put it, so that it stays in no history. */
export async function tokenFromAddress() {
  const found = location.hash.match(/^#token=([\x21-\x7e]+)$/);
  if (!found) return;
  history.replaceState(null, "", `${location.pathname}#/loop`);
  await keepToken(found[1]);
}

/** Hears what happens until the page is closed; the browser connects again by itself and goes on where it was. */
export function listen({ fact, room, state }, back = 40) {
  const source = new EventSource(`${BASE}/events?back=${back}`);
  source.addEventListener("open", () => state(true));
  source.addEventListener("error", () => {
    state(false);
    // A refusal is final to a browser; the daemon may only be busy or starting.
    if (source.readyState === EventSource.CLOSED) setTimeout(() => listen({ fact, room, state }, 0), 3000);
  });
  source.addEventListener("fact", (event) => fact(JSON.parse(event.data)));
  source.addEventListener("room", (event) => room(JSON.parse(event.data)));
  source.addEventListener("dropped", () => state(false));
}
