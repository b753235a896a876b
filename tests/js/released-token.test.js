// The script in a DOM without a browser: when it asks, for whom, and when it stops. Time is the tests' own.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { JSDOM } from "jsdom";

const SOURCE = readFileSync(new URL("../../src/embed/released-token.js", import.meta.url), "utf8");
const ENDPOINT = "/api/released-token";
const PAGE = `<released-page data-released-auth="${ENDPOINT}"></released-page>`;

/** A page with the script in it, a server that answers as told, and a clock that moves when it is told to. */
class Page {
  constructor(body = "", { prerendering = false, answers = [], withElements = true } = {}) {
    this.dom = new JSDOM(`<!doctype html><body>${body}</body>`, {
      url: "https://app.example/",
      runScripts: "outside-only",
      pretendToBeVisual: true,
    });
    const { window } = this.dom;
    Object.assign(this, { window, document: window.document, requests: [], events: [], answers, now: 0, timers: new Map() });
    let lastTimer = 0;
    window.setTimeout = (callback, delay) => (this.timers.set(++lastTimer, { callback, at: this.now + delay }), lastTimer);
    window.clearTimeout = (timer) => void this.timers.delete(timer);
    window.performance.now = () => this.now;
    window.Math.random = () => 0.5;
    window.fetch = (url, options) => this.answer(url, options);
    this.prerendering = prerendering;
    this.hidden = false;
    Object.defineProperty(window.document, "prerendering", { get: () => this.prerendering });
    Object.defineProperty(window.document, "visibilityState", { get: () => (this.hidden ? "hidden" : "visible") });
    for (const type of ["released:token", "released:error"]) {
      window.document.addEventListener(type, ({ target, detail }) => this.events.push({ type, target, detail: { ...detail } }));
    }
    if (withElements) this.defineElements();
    this.run();
  }

  run() {
    this.window.eval(SOURCE);
  }

  async answer(url, options) {
    this.requests.push({ url, options });
    const answer = this.answers.shift() ?? { token: `token-${this.requests.length}`, expires_in: 119 };
    if (answer === "network") throw new TypeError("Failed to fetch");
    if (answer === "stall") {
      await new Promise((_, reject) => options.signal.addEventListener("abort", () => reject(options.signal.reason)));
    }
    const { status = 200, retryAfter = null, text, ...body } = await answer;
    return { status, ok: status < 300, headers: { get: () => retryAfter }, text: async () => text ?? JSON.stringify(body) };
  }

  /** Lets everything happen that is due, without time going by. */
  async settle() {
    for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
  }

  async pass(milliseconds) {
    await this.settle();
    const until = this.now + milliseconds;
    for (;;) {
      const [timer, due] = [...this.timers].sort(([, a], [, b]) => a.at - b.at)[0] ?? [];
      if (!due || due.at > until) break;
      this.now = Math.max(this.now, due.at);
      this.timers.delete(timer);
      due.callback();
      await this.settle();
    }
    this.now = until;
  }

  elements() {
    return [...this.document.querySelectorAll("[data-released-auth]")];
  }

  tokens() {
    return this.elements().map((element) => element.getAttribute("auth-token"));
  }

  async append(html) {
    this.document.body.insertAdjacentHTML("beforeend", html);
    await this.settle();
  }

  event(target, type, properties = {}) {
    target.dispatchEvent(Object.assign(new this.window.Event(type), properties));
    return this.settle();
  }

  /** As Released's script does. The elements write down every ticket that they see. */
  defineElements() {
    const seen = (this.seen = []);
    const { customElements, HTMLElement } = this.window;
    for (const name of ["page", "widget", "form", "badge"]) {
      customElements.define(
        `released-${name}`,
        class extends HTMLElement {
          static observedAttributes = ["auth-token"];
          attributeChangedCallback(_name, _old, token) {
            if (token) seen.push(token);
          }
        },
      );
    }
    return this.settle();
  }
}

test("an element in the page gets a token, by POST to the same origin", async () => {
  const page = new Page(PAGE);
  await page.settle();
  assert.deepEqual(page.tokens(), ["token-1"]);
  const [{ url, options }] = page.requests;
  assert.equal(url, ENDPOINT);
  assert.equal(options.method, "POST");
  assert.equal(options.credentials, "same-origin");
  assert.equal(options.body, undefined);
  const [{ type, detail }] = page.events;
  assert.deepEqual([type, detail], ["released:token", { expiresIn: 119 }]);
});

test("ten elements are one request", async () => {
  const names = ["page", "widget", "form", "badge"];
  const ten = Array.from({ length: 10 }, (_, n) => PAGE.replaceAll("released-page", `released-${names[n % 4]}`));
  const page = new Page(ten.join(""));
  await page.settle();
  assert.equal(page.requests.length, 1);
  assert.deepEqual(new Set(page.tokens()), new Set(["token-1"]));
});

test("elements without the mark, and other elements, are left alone", async () => {
  const page = new Page(`<released-page></released-page><div data-released-auth="${ENDPOINT}"></div>`);
  await page.append("<p>more</p>");
  assert.equal(page.requests.length, 0);
});

test("an element that is added later gets a token of its own", async () => {
  const page = new Page(PAGE);
  await page.settle();
  await page.append(`<main><section>${PAGE}</section></main>`);
  assert.deepEqual(page.tokens(), ["token-1", "token-2"]);
});

test("an element that is taken out and put back later gets another token", async () => {
  const page = new Page(PAGE);
  await page.settle();
  const [element] = page.elements();
  element.remove();
  await page.settle();
  assert.equal(element.hasAttribute("auth-token"), false);
  page.document.body.append(element);
  await page.settle();
  assert.deepEqual(page.tokens(), ["token-2"]);
});

test("an element that is moved keeps its token", async () => {
  const page = new Page(`${PAGE}<main></main>`);
  await page.settle();
  page.document.querySelector("main").append(page.elements()[0]);
  await page.settle();
  assert.deepEqual([page.tokens(), page.requests.length], [["token-1"], 1]);
});

test("a copy of a page, such as Turbo keeps, does not reuse the ticket in it", async () => {
  const page = new Page(PAGE);
  await page.settle();
  const copy = page.document.body.cloneNode(true);
  page.document.body.replaceWith(copy);
  await page.settle();
  assert.deepEqual(page.tokens(), ["token-2"]);
});

test("a token that the server put in is not asked for again", async () => {
  const page = new Page(PAGE.replace(">", ' auth-token="the-servers-own">'));
  await page.settle();
  assert.deepEqual([page.tokens(), page.requests.length], [["the-servers-own"], 0]);
});

test("included twice, it runs once", async () => {
  const page = new Page(PAGE);
  page.run();
  await page.settle();
  assert.equal(page.requests.length, 1);
});

test("401 and 403 stop it, until something else is mounted", async () => {
  for (const status of [401, 403, 404]) {
    const page = new Page(PAGE, { answers: [{ status }] });
    await page.pass(600_000);
    await page.event(page.window, "online");
    await page.event(page.document, "visibilitychange");
    assert.equal(page.requests.length, 1, `${status}`);
    assert.deepEqual(page.events[0].detail, { status, final: true, retryIn: null });
    assert.deepEqual(page.tokens(), [null]);
    await page.append(PAGE);
    assert.deepEqual(page.tokens(), [null, "token-2"]);
  }
});

test("an answer that makes no sense stops it", async () => {
  const login = "<!doctype html><title>Sign in</title>";
  for (const answer of [{}, { token: 1, expires_in: 9 }, { token: "t" }, { text: login }, { text: "null" }]) {
    const page = new Page(PAGE, { answers: [answer] });
    await page.pass(600_000);
    assert.equal(page.requests.length, 1);
    assert.equal(page.events[0].detail.final, true);
  }
});

test("5xx, 429 and a broken network are tried again after random pauses that double", async () => {
  const page = new Page(PAGE, { answers: [{ status: 503 }, { status: 429 }, "network", { status: 500 }] });
  await page.settle();
  const pauses = [];
  for (let requests = 1; requests < 5; requests++) {
    assert.equal(page.requests.length, requests);
    const { final, retryIn } = page.events.at(-1).detail;
    assert.equal(final, false);
    pauses.push(retryIn);
    await page.pass(retryIn - 1);
    assert.equal(page.requests.length, requests);
    await page.pass(1);
  }
  // Half way between a second and 2, 4, 8 and 16.
  assert.deepEqual(pauses, [1_500, 2_500, 4_500, 8_500]);
  assert.deepEqual(page.tokens(), ["token-5"]);
});

test("no pause is longer than a minute, whatever is asked for", async () => {
  const page = new Page(PAGE, { answers: Array.from({ length: 12 }, () => ({ status: 503, retryAfter: "86400" })) });
  await page.settle();
  for (let turn = 0; turn < 12; turn++) {
    assert.ok(page.events.at(-1).detail.retryIn <= 60_000);
    await page.pass(60_000);
  }
  assert.deepEqual(page.tokens(), ["token-13"]);
});

test("Retry-After is honoured, and nonsense in it is not", async () => {
  for (const [retryAfter, retryIn] of [["30", 30_500], ["120", 60_000], ["soon", 1_500], ["-5", 1_500]]) {
    const page = new Page(PAGE, { answers: [{ status: 503, retryAfter }] });
    await page.settle();
    assert.equal(page.events[0].detail.retryIn, retryIn, retryAfter);
  }
});

test("an answer that does not come is given up after eight seconds", async () => {
  const page = new Page(PAGE, { answers: ["stall"] });
  await page.pass(7_999);
  assert.equal(page.events.length, 0);
  await page.pass(1);
  assert.deepEqual(page.events[0].detail.status, null);
  await page.pass(2_000);
  assert.deepEqual(page.tokens(), ["token-2"]);
});

test("nothing ends a pause that the server asked for, and a tab that is looked at ends none", async () => {
  const page = new Page(PAGE, { answers: [{ status: 429, retryAfter: "30" }, { status: 503 }] });
  await page.settle();
  for (let turn = 0; turn < 10; turn++) {
    await page.event(page.window, "online");
    await page.event(page.document, "visibilitychange");
  }
  assert.equal(page.requests.length, 1);
  await page.pass(30_500);
  assert.equal(page.requests.length, 2);
  for (let turn = 0; turn < 10; turn++) await page.event(page.document, "visibilitychange");
  assert.equal(page.requests.length, 2);
});

test("coming back online ends the pause", async () => {
  const page = new Page(PAGE, { answers: ["network"] });
  await page.settle();
  await page.event(page.window, "online");
  assert.deepEqual(page.tokens(), ["token-2"]);
  await page.pass(600_000);
  assert.equal(page.requests.length, 2);
});

test("when the last element leaves, the request and the pause end", async () => {
  const stalled = new Page(PAGE, { answers: ["stall"] });
  await stalled.settle();
  stalled.elements()[0].remove();
  await stalled.settle();
  assert.equal(stalled.requests[0].options.signal.aborted, true);

  const pausing = new Page(PAGE, { answers: [{ status: 503 }] });
  await pausing.settle();
  pausing.elements()[0].remove();
  await pausing.pass(600_000);
  assert.equal(pausing.requests.length, 1);
  assert.equal(pausing.timers.size, 0);
});

test("a prerendered page asks when somebody looks at it", async () => {
  const page = new Page(PAGE, { prerendering: true });
  await page.pass(600_000);
  assert.equal(page.requests.length, 0);
  page.prerendering = false;
  await page.event(page.document, "prerenderingchange");
  assert.deepEqual(page.tokens(), ["token-1"]);
});

test("nothing is asked for before Released's own script is there to take it", async () => {
  const page = new Page(PAGE, { withElements: false });
  await page.pass(3_600_000);
  assert.equal(page.requests.length, 0);
  await page.defineElements();
  assert.deepEqual([page.tokens(), page.seen], [["token-1"], ["token-1"]]);
});

test("an answer that comes too late, because the page was frozen, is not handed out", async () => {
  let thaw;
  const frozen = new Promise((resolve) => (thaw = () => resolve({ token: "too-old", expires_in: 119 })));
  const page = new Page(PAGE, { answers: [frozen] });
  await page.settle();
  page.now += 100_000; // without the timers, which were frozen, too
  thaw();
  await page.settle();
  assert.deepEqual([page.seen, page.requests.length], [["token-2"], 2]);
});

test("a ticket that is over when it comes is asked for again", async () => {
  const page = new Page(PAGE, { answers: [{ token: "over", expires_in: 0 }] });
  await page.pass(2_000);
  assert.deepEqual(page.seen, ["token-2"]);
});

test("a ticket that was handed out is a session, and left alone", async () => {
  const page = new Page(PAGE);
  await page.pass(3_600_000);
  await page.event(page.window, "pageshow", { persisted: true });
  await page.event(page.document, "visibilitychange");
  assert.equal(page.requests.length, 1);
});

test("an element that is marked later, or at another endpoint, is served", async () => {
  const page = new Page("<released-page></released-page>");
  const element = page.document.querySelector("released-page");
  element.setAttribute("data-released-auth", ENDPOINT);
  await page.settle();
  assert.deepEqual(page.tokens(), ["token-1"]);

  const moved = new Page(PAGE, { answers: ["stall"] });
  await moved.settle();
  moved.elements()[0].setAttribute("data-released-auth", "/other");
  await moved.settle();
  assert.equal(moved.requests[0].options.signal.aborted, true);
  assert.deepEqual([moved.requests[1].url, moved.tokens()], ["/other", ["token-2"]]);
});

test("an element that loses its ticket in a morph gets another", async () => {
  const page = new Page(PAGE);
  await page.settle();
  const [element] = page.elements();
  element.removeAttribute("auth-token");
  element.removeAttribute("data-released-fetched");
  await page.settle();
  assert.deepEqual(page.seen, ["token-1", "token-2"]);
});

test("a page that Turbo copies when it is left has no ticket in it", async () => {
  const page = new Page(PAGE);
  await page.settle();
  await page.event(page.document, "turbo:before-cache");
  const copy = page.document.body.cloneNode(true);
  assert.equal(copy.innerHTML.includes("token-1"), false);
});

test("a token that somebody else put in meanwhile stays", async () => {
  let answer;
  const page = new Page(PAGE, { answers: [new Promise((resolve) => (answer = resolve))] });
  await page.settle();
  page.elements()[0].setAttribute("auth-token", "their-own");
  answer({ token: "late", expires_in: 119 });
  await page.settle();
  assert.deepEqual(page.tokens(), ["their-own"]);
});

test("nothing is polled", async () => {
  const page = new Page(PAGE);
  await page.pass(86_400_000);
  assert.deepEqual([page.requests.length, page.timers.size], [1, 0]);
});

/** An answer that comes when the test says so. */
function held() {
  let give;
  return { answer: new Promise((resolve) => (give = resolve)), give: (answer = {}) => give(answer) };
}

test("a ticket that was asked for before an element was mounted is not handed to it", async () => {
  const [ada, bob] = [held(), held()];
  const page = new Page(PAGE, { answers: [ada.answer, bob.answer] });
  await page.settle();
  // The person may have changed in between.
  await page.append(PAGE);
  assert.equal(page.requests.length, 1, "one flight at a time");
  ada.give({ token: "adas", expires_in: 119 });
  await page.settle();
  assert.deepEqual([page.tokens(), page.requests.length], [["adas", null], 2]);
  bob.give({ token: "bobs", expires_in: 119 });
  await page.settle();
  assert.deepEqual([page.tokens(), page.requests.length], [["adas", "bobs"], 2]);
});

test("when all who wait for a flight leave, those who came later get a flight of their own", async () => {
  const ada = held();
  const page = new Page(PAGE, { answers: [ada.answer] });
  await page.settle();
  const [first] = page.elements();
  await page.append(PAGE);
  first.remove();
  await page.settle();
  assert.equal(page.requests[0].options.signal.aborted, true);
  assert.deepEqual([page.tokens(), page.requests.length], [["token-2"], 2]);
  ada.give({ token: "adas", expires_in: 119 });
  await page.settle();
  assert.deepEqual(page.seen, ["token-2"]);
});

test("an element that is replaced by another while its flight is under way leaves it nothing", async () => {
  const ada = held();
  const page = new Page(PAGE, { answers: [ada.answer] });
  await page.settle();
  page.document.body.innerHTML = PAGE;
  await page.settle();
  ada.give({ token: "adas", expires_in: 119 });
  await page.settle();
  assert.deepEqual([page.tokens(), page.requests.length], [["token-2"], 2]);
});

test("when everybody leaves at once, nothing more is asked for", async () => {
  const page = new Page(PAGE, { answers: ["stall"] });
  await page.settle();
  await page.append(PAGE);
  page.document.body.innerHTML = "";
  await page.pass(600_000);
  assert.deepEqual([page.requests.length, page.requests[0].options.signal.aborted, page.timers.size], [1, true, 0]);
});

test("a refusal ends it for those who were refused, and not for who came later", async () => {
  const nobody = held();
  const page = new Page(PAGE, { answers: [nobody.answer] });
  await page.settle();
  await page.append(PAGE);
  nobody.give({ status: 401 });
  await page.settle();
  assert.deepEqual(page.tokens(), [null, "token-2"]);
  const errors = page.events.filter(({ type }) => type === "released:error");
  assert.deepEqual(errors.map(({ target }) => target), [page.elements()[0]]);
});

test("after a failure all who wait share the next flight, and none comes before the pause is over", async () => {
  const failing = held();
  const page = new Page(PAGE, { answers: [failing.answer] });
  await page.settle();
  await page.append(PAGE);
  failing.give({ status: 503, retryAfter: "30" });
  await page.settle();
  await page.append(PAGE);
  await page.pass(30_499);
  assert.equal(page.requests.length, 1);
  await page.pass(1);
  assert.deepEqual([page.tokens(), page.requests.length], [["token-2", "token-2", "token-2"], 2]);
});

test("endpoints are asked one by one", async () => {
  const page = new Page(PAGE + PAGE.replace(ENDPOINT, "/other"));
  await page.settle();
  assert.deepEqual(page.requests.map(({ url }) => url), [ENDPOINT, "/other"]);
  assert.deepEqual(page.tokens(), ["token-1", "token-2"]);
});

test("no token is in an event or kept in the page's storage", async () => {
  const page = new Page(PAGE);
  await page.settle();
  assert.equal(JSON.stringify(page.events.map(({ detail }) => detail)).includes("token-1"), false);
  assert.deepEqual([page.window.localStorage.length, page.window.sessionStorage.length, page.document.cookie], [0, 0, ""]);
});
