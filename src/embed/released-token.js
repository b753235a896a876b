// released-token.js: fetches auth tokens for Released's elements, in the browser, when they need one.
//
//   <released-page channel-id="…" data-released-auth="/api/released-token"></released-page>
//
// The endpoint answers POST with {"token", "expires_in"}. A token is a ticket: an embed exchanges it, within two
// minutes, for a session of its own. So each mount gets a ticket, asked for when Released's script is there to take it.
// None is kept for a later mount.
//
// Events, which bubble from the element: "released:token" with detail {expiresIn}, in seconds, and "released:error" with
// detail {status, final, retryIn}; status is null without an answer, retryIn is in milliseconds.
(() => {
  "use strict";

  const NAMES = ["released-page", "released-widget", "released-form", "released-badge"];
  const MARK = "data-released-auth";
  const FETCHED = "data-released-fetched"; // beside a ticket that this script put in
  const SELECTOR = NAMES.map((name) => `${name}[${MARK}]`).join(",");

  const TIMEOUT = 8_000; // the endpoint's own deadline is shorter
  const SHORTEST_PAUSE = 1_000;
  const LONGEST_PAUSE = 60_000;
  const MARGIN = 30_000; // what a ticket must have left when it is handed out

  // It runs once, however often it is included.
  const ONCE = Symbol.for("released-token");
  if (window[ONCE]) return;
  window[ONCE] = true;

  /** The elements that were refused a ticket. */
  const refused = new WeakSet();

  /** The elements that got their ticket. */
  const served = new WeakSet();

  /** Who waits for a ticket, by endpoint. */
  const counters = new Map();

  class Counter {
    constructor(endpoint) {
      this.endpoint = endpoint;
      this.waiting = new Set(); // those for the next flight
      this.flight = null; // the request under way, and the elements it is for
      this.timer = null;
      this.failures = 0;
      this.notBefore = 0;
    }

    join(element) {
      // A ticket goes to who asked for it: another person may have signed in since.
      if (this.flight?.elements.has(element)) return;
      this.waiting.add(element);
      this.start();
    }

    /** Starts a flight for all who wait, those mounted at this moment included. */
    async start() {
      await null;
      if (this.waiting.size > 0 && !this.flight && this.timer === null) this.open();
    }

    /** Forgets the elements that no longer want a ticket from this endpoint. */
    forget() {
      for (const elements of [this.waiting, this.flight?.elements ?? []]) {
        for (const element of elements) if (!wants(element, this.endpoint)) elements.delete(element);
      }
      if (this.flight?.elements.size === 0) {
        this.flight.abort();
        this.flight = null;
        this.start();
      }
      if (!this.flight && this.waiting.size === 0) this.reset();
    }

    reset() {
      clearTimeout(this.timer);
      this.timer = null;
      this.failures = 0;
    }

    async open() {
      clearTimeout(this.timer);
      this.timer = null;
      // Who prerenders a page may never look at it.
      if (document.prerendering) return;
      const flight = Object.assign(new AbortController(), { elements: this.waiting });
      this.flight = flight;
      this.waiting = new Set();
      const timeout = setTimeout(() => flight.abort(), TIMEOUT);
      const answer = await ask(this.endpoint, flight.signal);
      clearTimeout(timeout);
      if (this.flight !== flight) return; // everybody left
      this.flight = null;
      if (answer.token) this.serve(flight.elements, answer);
      else if (answer.isFinal) this.refuse(flight.elements, answer);
      else this.pause(flight.elements, answer);
      this.start(); // for those who came meanwhile
    }

    /** Tries again ahead of time, but never before the server wants it. */
    hurry() {
      if (this.waiting.size > 0 && !this.flight && performance.now() >= this.notBefore) this.open();
    }

    serve(elements, { token, expiresIn, asked }) {
      // A page that was frozen in the back/forward cache may get its answer too late.
      const left = expiresIn * 1_000 - (performance.now() - asked);
      if (left < Math.min(MARGIN, expiresIn * 500)) {
        for (const element of elements) this.waiting.add(element);
        return;
      }
      this.reset();
      for (const element of elements) {
        // Somebody else was faster.
        if (element.hasAttribute("auth-token")) continue;
        served.add(element);
        element.setAttribute(FETCHED, "");
        element.setAttribute("auth-token", token);
        tell(element, "released:token", { expiresIn });
      }
    }

    refuse(elements, { status }) {
      this.reset();
      for (const element of elements) {
        refused.add(element);
        tell(element, "released:error", { status, final: true, retryIn: null });
      }
    }

    pause(elements, { status, retryAfter }) {
      // Full jitter, also on what the server asks for, so that a thousand browsers do not come back together.
      const longest = Math.min(LONGEST_PAUSE, SHORTEST_PAUSE * 2 ** ++this.failures);
      const random = SHORTEST_PAUSE + Math.random() * (longest - SHORTEST_PAUSE);
      const asked = retryAfter > 0 ? retryAfter + Math.random() * SHORTEST_PAUSE : 0;
      const retryIn = Math.min(LONGEST_PAUSE, Math.max(random, asked));
      this.notBefore = performance.now() + Math.min(retryIn, retryAfter);
      this.timer = setTimeout(() => this.open(), retryIn);
      for (const element of elements) {
        this.waiting.add(element);
        tell(element, "released:error", { status, final: false, retryIn });
      }
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
      const { token, expires_in: expiresIn } = parsed(await response.text());
      if (typeof token !== "string" || typeof expiresIn !== "number") return { status, isFinal: true };
      // A ticket that is over already says something of the moment.
      return expiresIn > 0 ? { token, expiresIn, asked } : { status, isFinal: false, retryAfter: 0 };
    } catch {
      return { status: null, isFinal: false, retryAfter: 0 };
    }
  }

  /** What is no JSON, such as a sign-in page, makes no sense. */
  function parsed(text) {
    try {
      return JSON.parse(text) ?? {};
    } catch {
      return {};
    }
  }

  /** Retry-After in seconds. A date needs the clock, which may be wrong, so it is ignored. */
  function milliseconds(retryAfter) {
    const seconds = /^\d+$/.test(retryAfter ?? "") ? Number(retryAfter) : 0;
    return Math.min(seconds * 1_000, LONGEST_PAUSE);
  }

  function tell(element, type, detail) {
    element.dispatchEvent(new CustomEvent(type, { bubbles: true, composed: true, detail }));
  }

  function counterOf(endpoint) {
    if (!counters.has(endpoint)) counters.set(endpoint, new Counter(endpoint));
    return counters.get(endpoint);
  }

  /** The marked elements in a part of the document, itself included. */
  function marked(root) {
    const found = [...(root.querySelectorAll?.(SELECTOR) ?? [])];
    if (root.matches?.(SELECTOR)) found.unshift(root);
    return found;
  }

  function wants(element, endpoint) {
    return element.isConnected && element.getAttribute(MARK) === endpoint && !element.hasAttribute("auth-token");
  }

  async function mounted(element) {
    // A copy, such as Turbo keeps of a page, brings another element's ticket along.
    if (element.hasAttribute(FETCHED) && !served.has(element)) withdraw(element);
    await customElements.whenDefined(element.localName);
    // The server's own ticket is as good.
    const endpoint = element.getAttribute(MARK);
    if (endpoint !== null && wants(element, endpoint) && !refused.has(element)) counterOf(endpoint).join(element);
  }

  function unmounted(element) {
    // Should it be put back, that is another mount.
    served.delete(element);
    refused.delete(element);
    if (element.hasAttribute(FETCHED)) withdraw(element);
  }

  function withdraw(element) {
    element.removeAttribute("auth-token");
    element.removeAttribute(FETCHED);
  }

  new MutationObserver((records) => {
    const [changed, removed] = [new Set(), new Set()];
    for (const { type, target, addedNodes, removedNodes } of records) {
      if (type === "attributes" && target.matches(SELECTOR)) changed.add(target);
      for (const node of removedNodes) for (const element of marked(node)) removed.add(element);
      for (const node of addedNodes) for (const element of marked(node)) changed.add(element);
    }
    for (const element of removed) if (!element.isConnected) unmounted(element);
    for (const counter of counters.values()) counter.forget();
    // What was only moved keeps its ticket; what lost it, in a morph, gets another.
    for (const element of changed) if (element.isConnected) mounted(element);
  }).observe(document, {
    childList: true,
    subtree: true,
    attributes: true,
    attributeFilter: [MARK, "auth-token"],
  });

  const hurryAll = () => counters.forEach((counter) => counter.hurry());
  window.addEventListener("pageshow", (event) => event.persisted && hurryAll());
  window.addEventListener("online", hurryAll);
  document.addEventListener("prerenderingchange", hurryAll);
  // Turbo copies the page when it is left. The copy must not hold a ticket.
  document.addEventListener("turbo:before-cache", () => {
    for (const element of marked(document)) unmounted(element);
  });

  for (const element of marked(document)) mounted(element);
})();
