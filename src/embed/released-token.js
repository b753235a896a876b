// released-token.js: fetches auth tokens for Released's elements, in the browser, when they need one.
//
//   <released-page channel-id="…" data-released-auth="/api/released-token"></released-page>
//
// The endpoint answers POST with {"token", "expires_in"}. A token is a ticket: an embed exchanges it once, within two
// minutes, for a session of its own. So there is one ticket a mount, none is kept for a later one, and nothing is polled.
//
// Events, on the element, and up from there: "released:token" with detail {expiresIn}, in seconds, and "released:error"
// with detail {status, final, retryIn}; status is null if nothing was answered, retryIn is in milliseconds.
(() => {
  "use strict";

  const NAMES = ["released-page", "released-widget", "released-form", "released-badge"];
  const MARK = "data-released-auth";
  const FETCHED = "data-released-fetched"; // stands beside a ticket that this script put in
  const SELECTOR = NAMES.map((name) => `${name}[${MARK}]`).join(",");

  const TIMEOUT = 8_000; // the endpoint's own deadline is shorter
  const SHORTEST_PAUSE = 1_000;
  const LONGEST_PAUSE = 60_000;
  const MARGIN = 30_000; // what a ticket must have left to be worth showing

  // However often the script is included, it runs once.
  const ONCE = Symbol.for("released-token");
  if (window[ONCE]) return;
  window[ONCE] = true;

  /** The tickets that were handed out, by element: when, for how long, and whether the embed took it. */
  const tickets = new WeakMap();

  /** What waits for a ticket, and the one request for it, by endpoint. */
  const counters = new Map();

  class Counter {
    constructor(endpoint) {
      this.endpoint = endpoint;
      this.waiting = new Set();
      this.flight = null;
      this.timer = null;
      this.failures = 0;
    }

    join(element) {
      this.waiting.add(element);
      // An answer that is under way was not minted for this mount, but not yet for any other either.
      if (!this.flight && this.timer === null) this.open();
    }

    leave(element) {
      if (this.waiting.delete(element) && this.waiting.size === 0) this.close();
    }

    /** Nobody waits any more. */
    close() {
      this.flight?.abort();
      this.flight = null;
      clearTimeout(this.timer);
      this.timer = null;
      this.failures = 0;
    }

    async open() {
      clearTimeout(this.timer);
      this.timer = null;
      // Who prerenders a page may never look at it.
      if (document.prerendering) return;
      const flight = new AbortController();
      this.flight = flight;
      const timeout = setTimeout(() => flight.abort(), TIMEOUT);
      const answer = await ask(this.endpoint, flight.signal);
      clearTimeout(timeout);
      if (this.flight !== flight) return; // everybody left in the meantime
      this.flight = null;
      if (answer.token) this.serve(answer);
      else if (answer.isFinal) this.refuse(answer);
      else this.pause(answer);
    }

    serve({ token, expiresIn, asked }) {
      const served = [...this.waiting];
      this.waiting.clear();
      this.close();
      for (const element of served) {
        const ticket = { asked, life: expiresIn * 1_000, taken: false };
        tickets.set(element, ticket);
        element.setAttribute(FETCHED, "");
        element.setAttribute("auth-token", token);
        // An embed takes its ticket as soon as its script has run.
        customElements.whenDefined(element.localName).then(() => (ticket.taken = true));
        tell(element, "released:token", { expiresIn });
      }
    }

    refuse({ status }) {
      const refused = [...this.waiting];
      this.waiting.clear();
      this.close();
      for (const element of refused) tell(element, "released:error", { status, final: true, retryIn: null });
    }

    pause({ status, retryAfter }) {
      // Full jitter, so that a thousand browsers do not come back together.
      const longest = Math.min(LONGEST_PAUSE, SHORTEST_PAUSE * 2 ** ++this.failures);
      const random = SHORTEST_PAUSE + Math.random() * (longest - SHORTEST_PAUSE);
      const retryIn = Math.min(LONGEST_PAUSE, Math.max(random, retryAfter));
      this.timer = setTimeout(() => this.open(), retryIn);
      for (const element of this.waiting) tell(element, "released:error", { status, final: false, retryIn });
    }
  }

  /** Asks once. Never throws. */
  async function ask(endpoint, signal) {
    const asked = performance.now();
    try {
      const response = await fetch(endpoint, {
        method: "POST",
        headers: { accept: "application/json" },
        credentials: "same-origin",
        cache: "no-store",
        signal,
      });
      const { status } = response;
      if (!response.ok) {
        const isFinal = status !== 429 && status < 500;
        return { status, isFinal, retryAfter: milliseconds(response.headers.get("retry-after")) };
      }
      const { token, expires_in: expiresIn } = await response.json();
      if (typeof token !== "string" || !(expiresIn > 0)) return { status, isFinal: true };
      return { token, expiresIn, asked };
    } catch {
      return { status: null, isFinal: false, retryAfter: 0 };
    }
  }

  /** Retry-After in seconds; a date needs the clock, which may be wrong, so it is left to chance. */
  function milliseconds(retryAfter) {
    const seconds = /^\d+$/.test(retryAfter ?? "") ? Number(retryAfter) : 0;
    return seconds * 1_000;
  }

  function tell(element, type, detail) {
    element.dispatchEvent(new CustomEvent(type, { bubbles: true, composed: true, detail }));
  }

  function counterOf(element) {
    const endpoint = element.getAttribute(MARK);
    if (!counters.has(endpoint)) counters.set(endpoint, new Counter(endpoint));
    return counters.get(endpoint);
  }

  /** The marked elements in a part of the document, itself included. */
  function marked(root) {
    const found = [...(root.querySelectorAll?.(SELECTOR) ?? [])];
    if (root.matches?.(SELECTOR)) found.unshift(root);
    return found;
  }

  function mounted(element) {
    // A copy, such as Turbo keeps of a page, brings a ticket along that was another element's.
    if (element.hasAttribute(FETCHED)) withdraw(element);
    // The server's own ticket is as good.
    if (!element.hasAttribute("auth-token")) counterOf(element).join(element);
  }

  function unmounted(element) {
    tickets.delete(element);
    for (const counter of counters.values()) counter.leave(element);
    // Should it be put back, that is another mount.
    if (element.hasAttribute(FETCHED)) withdraw(element);
  }

  function withdraw(element) {
    element.removeAttribute("auth-token");
    element.removeAttribute(FETCHED);
  }

  /** Looks after tickets that nobody took while the page was away. */
  function returned() {
    if (document.prerendering || document.visibilityState === "hidden") return;
    for (const element of marked(document)) {
      const ticket = tickets.get(element);
      const isStale = ticket && !ticket.taken && performance.now() - ticket.asked > ticket.life - MARGIN;
      if (isStale) counterOf(element).join(element);
    }
    // What was kept waiting, by a prerendering or by the network, is worth another try now.
    for (const counter of counters.values()) {
      if (counter.waiting.size > 0 && !counter.flight) counter.open();
    }
  }

  new MutationObserver((records) => {
    const [added, removed] = [new Set(), new Set()];
    for (const record of records) {
      for (const node of record.removedNodes) for (const element of marked(node)) removed.add(element);
      for (const node of record.addedNodes) for (const element of marked(node)) added.add(element);
    }
    for (const element of removed) if (!element.isConnected) unmounted(element);
    // What was only moved keeps its ticket.
    for (const element of added) if (element.isConnected && !tickets.has(element)) mounted(element);
  }).observe(document, { childList: true, subtree: true });

  window.addEventListener("pageshow", (event) => event.persisted && returned());
  window.addEventListener("online", returned);
  document.addEventListener("visibilitychange", returned);
  document.addEventListener("prerenderingchange", returned);

  for (const element of marked(document)) mounted(element);
})();
