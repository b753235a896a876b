// released-token.js: fetches auth tokens for Released's elements in the browser.
//
//   <released-page channel-id="…" data-released-auth="/api/released-token"></released-page>
//
// The endpoint answers POST with {"token", "expires_in"}. An embed exchanges a token, within two minutes, for a
// session. So each mount of an element gets a token of its own. The guide "Single-page apps" has the rules and the events.
(() => {
  "use strict";

  // Included twice, it runs once.
  const ONCE = Symbol.for("released-token");
  if (window[ONCE]) return;
  window[ONCE] = true;

  const SELECTOR = "released-page,released-widget,released-form,released-badge";
  const MARK = "data-released-auth";
  const TOKEN = "auth-token";
  const FETCHED = "data-released-fetched"; // stands beside a token of this script, and so tells copies of an element
  const IDS = ["channel-id", "form-id"];

  const SECOND = 1_000;
  const MINUTE = 60 * SECOND;
  const TIMEOUT = 8 * SECOND; // the endpoint's own deadline is shorter
  const DEFINITION = 30 * SECOND; // until Released's own script counts as blocked
  const MARGIN = 30 * SECOND; // what a token must have left when it is handed out
  const LIFE = 120; // what Released documents, in seconds, for endpoints that do not send expires_in
  const CALM = 2 * MINUTE; // longer than a pause and a timeout together
  const BURST = 10; // requests without a pause, whatever the page does
  const GAP = 6 * SECOND; // between requests after that
  const TRIES = 3; // for a 500, which is rarely gone by itself

  // The current mount of each element: its stay in the page, and its claim to one token.
  const mounts = new WeakMap();

  // Every endpoint that was ever asked. They outlive the elements, so pauses do, too.
  const endpoints = new Map();

  const isCurrent = (mount) => mounts.get(mount.element) === mount;

  class Endpoint {
    waiting = new Set(); // mounts, for the next request
    flight = null; // the request under way, and the mounts that it is for
    timer = null;
    setbacks = 0;
    lastSetback = -Infinity;
    notBefore = 0; // this script's own pause
    retryAfter = 0; // the server's pause
    isOffline = false;
    spent = 0; // when the burst is available again

    constructor(url) {
      this.url = url;
    }

    join(mount) {
      this.waiting.add(mount);
      this.next();
    }

    leave(mount) {
      this.waiting.delete(mount);
      this.flight?.mounts.delete(mount);
      if (this.flight?.mounts.size === 0) {
        this.flight.abort();
        this.flight = null;
      }
      this.next();
    }

    // Decides what happens next. Every change calls it.
    async next() {
      await null; // Elements that are mounted at the same moment share a request.
      clearTimeout(this.timer);
      if (this.flight || this.waiting.size === 0 || isUnseen()) return;
      const now = performance.now();
      const wait = Math.max(this.notBefore, this.retryAfter, this.spent - (BURST - 1) * GAP) - now;
      if (wait > 0) this.timer = setTimeout(() => this.next(), wait);
      else this.fly(now);
    }

    async fly(now) {
      // An element that is mounted from now on gets another request: the person may have changed in between.
      const flight = Object.assign(new AbortController(), { mounts: this.waiting });
      this.flight = flight;
      this.waiting = new Set();
      this.spent = Math.max(this.spent, now) + GAP;
      const answer = await ask(this.url, flight);
      if (this.flight !== flight) return; // Nobody waits for it any more.
      this.flight = null;
      this.isOffline = answer.status === null;
      if (answer.token) for (const mount of flight.mounts) deliver(mount, answer);
      else {
        const pause = this.setback(answer.retryAfter);
        for (const mount of flight.mounts) this.fail(mount, answer, pause);
      }
      this.next();
    }

    fail(mount, { status, isFinal, signedOut }, pause) {
      if (!isStillCurrent(mount)) return;
      mount.errors += status === 500;
      mount.isRefused = isFinal || mount.errors === TRIES;
      if (mount.isRefused) close(mount.element);
      else this.waiting.add(mount);
      tellError(mount, status, mount.isRefused, pause, signedOut);
    }

    // Starts a pause. It is random, so that a thousand browsers do not come back together.
    setback(retryAfter = 0) {
      const now = performance.now();
      if (now - this.lastSetback > CALM) this.setbacks = 0;
      this.lastSetback = now;
      const longest = Math.min(MINUTE, SECOND * 2 ** ++this.setbacks);
      this.notBefore = now + SECOND + Math.random() * (longest - SECOND);
      if (retryAfter > 0) this.retryAfter = now + retryAfter + Math.random() * SECOND;
      return Math.max(this.notBefore, this.retryAfter) - now;
    }

    // Called when an element lost its token, or was moved with it. Once, that is a morph; soon again, it may be a loop.
    lose() {
      if (this.waiting.size > 0) return; // It shares their request.
      const isFirst = performance.now() - this.lastSetback > CALM;
      this.setback();
      if (isFirst) this.notBefore = 0;
    }

    // Ends this script's own pause. The server's holds.
    forgive() {
      this.notBefore = this.setbacks = 0;
      this.next();
    }
  }

  let isLeft = false;

  // Nobody looks at the page, or Turbo is about to replace it.
  function isUnseen() {
    const isPreview = document.documentElement.hasAttribute("data-turbo-preview");
    return isLeft || document.visibilityState === "hidden" || document.prerendering || isPreview;
  }

  // Requests a token. Never throws, and always ends.
  async function ask(url, flight) {
    const timeout = setTimeout(() => flight.abort(), TIMEOUT);
    const aborted = new Promise((_, reject) => (flight.signal.onabort = reject));
    try {
      return await Promise.race([request(url, flight.signal), aborted]);
    } catch {
      return { status: null };
    } finally {
      clearTimeout(timeout);
    }
  }

  async function request(url, signal) {
    const hook = window.ReleasedToken ?? {};
    const extra = await (typeof hook.headers === "function" ? hook.headers(url) : hook.headers);
    const headers = new Headers(extra ?? {});
    headers.set("accept", "application/json");
    const times = [performance.now(), Date.now()];
    const response = await fetch(url, {
      method: "POST",
      headers,
      credentials: hook.credentials ?? "same-origin",
      cache: "no-store",
      redirect: "manual", // A sign-in page of another origin would look like a broken network.
      signal,
    });
    const status = response.status || null; // A redirect has none.
    const signedOut = status === 401 || response.type === "opaqueredirect" || !!response.redirected;
    if (!response.ok) {
      const isFinal = !(status >= 500 || [408, 425, 429].includes(status));
      return { status, isFinal, signedOut, retryAfter: milliseconds(response.headers.get("retry-after")) };
    }
    const { token, expires_in } = parsed(await response.text());
    if (typeof token !== "string" || !token) return { status, isFinal: true, signedOut };
    const expiresIn = typeof expires_in === "number" ? expires_in : LIFE;
    // While the computer sleeps, the first clock may stand still, and the second may be set at any time.
    const age = Math.max(performance.now() - times[0], Date.now() - times[1]);
    const left = expiresIn * SECOND - age;
    return left > 0 && left >= Math.min(MARGIN, (expiresIn * SECOND) / 2) ? { token, expiresIn } : { status };
  }

  // Text that is not JSON, such as a sign-in page, has no token.
  function parsed(text) {
    try {
      return JSON.parse(text) ?? {};
    } catch {
      return {};
    }
  }

  // Retry-After in seconds. A date needs the clock, which may be wrong, so it is ignored.
  function milliseconds(retryAfter) {
    return /^\d+$/.test(retryAfter ?? "") ? Math.min(retryAfter * SECOND, MINUTE) : 0;
  }

  function tell({ element }, type, detail) {
    element.dispatchEvent(new CustomEvent(type, { bubbles: true, composed: true, detail }));
  }

  function tellError(mount, status, final, pause, signedOut = false) {
    tell(mount, "released:error", { status, final, retryIn: final ? null : pause, signedOut });
  }

  // Nobody documents whether a connected embed notices a token. So the element is taken out, gets its token, and is put
  // back: as in a page that the server wrote, the embed finds the token when it is connected, and finds it once.
  function deliver(mount, { token, expiresIn }) {
    const { element } = mount;
    if (!isStillCurrent(mount) || !element.isConnected) return;
    mount.token = token;
    mount.isServed = true;
    reconnect(element, () => {
      element.setAttribute(FETCHED, "");
      element.setAttribute(TOKEN, token);
    });
    if (isCurrent(mount)) tell(mount, "released:token", { expiresIn });
  }

  // Takes an element out, changes it, and puts it back in its place.
  function reconnect(element, change) {
    const focused = focusIn(element);
    const place = document.createComment("");
    element.replaceWith(place);
    change();
    place.replaceWith(element);
    observe(observer.takeRecords(), element);
    focused?.focus({ preventScroll: true });
  }

  // Takes its token from an embed in the page, whichever kind it is.
  function close(element) {
    if (!element.hasAttribute(FETCHED)) return;
    const mount = mounts.get(element);
    if (mount) mount.token = null;
    if (element.isConnected) reconnect(element, () => withdraw(element));
    else withdraw(element);
  }

  // The focused element in an element, also in its shadow.
  function focusIn(element) {
    let active = document.activeElement;
    if (!element.contains(active)) return null;
    while (active.shadowRoot?.activeElement) active = active.shadowRoot.activeElement;
    return active;
  }

  // Removes a token that this script set.
  function withdraw(element) {
    if (!element.hasAttribute(FETCHED)) return;
    element.removeAttribute(TOKEN);
    element.removeAttribute(FETCHED);
  }

  // The same after what the page did in this turn, such as a listener that removed the element.
  function isStillCurrent(mount) {
    observe(observer.takeRecords());
    return isCurrent(mount);
  }

  // Brings the mount of an element up to date. Looking twice changes nothing.
  function look(element, isMoved = false) {
    const before = mounts.get(element);
    const isHere = element.isConnected && element.ownerDocument === document;
    const url = isHere ? element.getAttribute(MARK) : "";
    const token = element.getAttribute(TOKEN) || null;
    const claim = [url, ...IDS.map((name) => element.getAttribute(name))].join("\n");
    // A moved embed was connected again, with a token that it may have used already.
    if (before && url && claim === before.claim && token === before.token && !(isMoved && before.isServed)) {
      return before.endpoint.next(); // Turbo moves an element out of a preview.
    }
    if (before) forget(before);
    if (!isHere) withdraw(element);
    if (!url) return;
    const isOurs = before ? token === before.token : element.hasAttribute(FETCHED);
    if (token && !isOurs) return element.removeAttribute(FETCHED); // The page's own token is as good.
    if (!before) withdraw(element); // A copy contains the token of another element.
    if (!endpoints.has(url)) endpoints.set(url, new Endpoint(url));
    const endpoint = endpoints.get(url);
    if (before?.isServed && claim === before.claim) endpoint.lose();
    mount({ element, claim, endpoint, token: before ? token : null, errors: 0, isRefused: false, isServed: false });
  }

  function mount(mount) {
    const { element, endpoint } = mount;
    mounts.set(element, mount);
    if (customElements.get(element.localName)) return endpoint.join(mount);
    // A token is requested when Released's script is there to take it. Until then, nothing here keeps the element.
    const kept = new WeakRef(mount);
    const later = (act) => {
      const mount = kept.deref();
      if (mount && isCurrent(mount)) act(mount);
    };
    const timer = setTimeout(() => later((mount) => tellError(mount, null, true)), DEFINITION);
    customElements.whenDefined(element.localName).then(() => {
      clearTimeout(timer);
      later((mount) => endpoint.join(mount));
    });
  }

  function forget(mount) {
    mounts.delete(mount.element);
    mount.endpoint.leave(mount);
  }

  // Released's elements in a part of the document, itself included.
  function elementsIn(root) {
    const found = [...(root.querySelectorAll?.(SELECTOR) ?? [])];
    if (root.matches?.(SELECTOR)) found.unshift(root);
    return found;
  }

  // Looks at all elements that changed. `own` is one that this script put back.
  function observe(records, own) {
    const changed = new Map();
    const add = (element, isMoved) => changed.set(element, isMoved || changed.get(element));
    for (const { type, target, addedNodes, removedNodes } of records) {
      if (type === "attributes" && target.matches(SELECTOR)) add(target);
      for (const node of removedNodes) for (const element of elementsIn(node)) add(element, element !== own);
      for (const node of addedNodes) for (const element of elementsIn(node)) add(element);
    }
    for (const [element, isMoved] of changed) look(element, isMoved);
  }

  // Asks again for the elements with such a mount.
  function startOver(isMeant) {
    observe(observer.takeRecords());
    // Elements that wait may have been moved into a shadow.
    const waiting = [...endpoints.values()].flatMap(({ waiting, flight }) => [...waiting, ...(flight?.mounts ?? [])]);
    for (const element of new Set([...elementsIn(document), ...waiting.map((mount) => mount.element)])) {
      const mount = mounts.get(element);
      if (!mount || !isMeant(mount)) continue;
      forget(mount);
      look(element);
    }
    for (const endpoint of endpoints.values()) endpoint.forgive();
  }

  // Somebody signed in or out.
  function reset() {
    observe(observer.takeRecords());
    elementsIn(document).forEach(close);
    startOver(() => true);
  }

  const observer = new MutationObserver((records) => observe(records));
  observer.observe(document, {
    childList: true,
    subtree: true,
    attributes: true,
    attributeFilter: [MARK, TOKEN, ...IDS],
  });

  const nextAll = () => endpoints.forEach((endpoint) => endpoint.next());
  document.addEventListener("visibilitychange", nextAll);
  document.addEventListener("prerenderingchange", nextAll);
  window.addEventListener("online", () => endpoints.forEach((endpoint) => endpoint.isOffline && endpoint.forgive()));
  // While a page is in the back/forward cache, another person may sign in.
  const isUnserved = (mount) => !mount.isServed;
  window.addEventListener("pagehide", () => {
    isLeft = true;
    startOver(isUnserved);
  });
  window.addEventListener("pageshow", ({ persisted }) => {
    isLeft = false;
    if (persisted) startOver(isUnserved);
  });
  // Capturing, it hears the event wherever it is sent to.
  window.addEventListener("released:reset", () => reset(), true);
  // Turbo and htmx keep copies of pages. These must not show a token again; htmx's go into the storage of the browser.
  document.addEventListener("turbo:before-render", ({ detail }) => elementsIn(detail.newBody).forEach(withdraw));
  document.addEventListener("htmx:historyItemCreated", ({ detail: { item } }) => {
    const copy = document.createElement("template");
    copy.innerHTML = item.content;
    elementsIn(copy.content).forEach(withdraw);
    item.content = copy.innerHTML;
  });

  elementsIn(document).forEach((element) => look(element));
})();
