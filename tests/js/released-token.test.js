// The script in a DOM without a browser: when it asks, for whom, and when it stops. Time is the tests' own.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import v8 from "node:v8";
import vm from "node:vm";
import { gzipSync } from "node:zlib";
import { JSDOM } from "jsdom";

// As it is served: without comments.
const SOURCE = readFileSync(new URL("../../src/embed/released-token.js", import.meta.url), "utf8").replace(/^ +/gm, "").replace(/^\/\/.*\n/gm, "");
const ENDPOINT = "/api/released-token";
const PAGE = `<released-page data-released-auth="${ENDPOINT}"></released-page>`;

/** When an embed reads its token. Which kind Released's is, nobody documents. */
const EMBEDS = ["notices a late token", "reads its token on connect", "notices a token even when it is not connected"];

/** A page with the script in it, a server that answers as told, and a clock that moves when it is told to. */
class Page {
  constructor(body = "", { prerendering = false, hidden = false, answers = [], withElements = true, embed = EMBEDS[0] } = {}) {
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
    Object.assign(this, { prerendering, hidden, embed, seen: [] });
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
    const { status = 200, type = "basic", retryAfter = null, text, ...body } = await answer;
    const ok = status >= 200 && status < 300;
    return { status, type, ok, headers: { get: () => retryAfter }, text: async () => text ?? JSON.stringify(body) };
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

  /** Hides the page, or shows it. */
  show(isShown) {
    this.hidden = !isShown;
    return this.event(this.document, "visibilitychange");
  }

  errors() {
    return this.events.filter(({ type }) => type === "released:error").map(({ detail }) => detail);
  }

  /** As Released's script does. The elements write down every token that they would exchange. */
  defineElements() {
    const { seen, embed } = this;
    const onChange = () => this.onChange?.();
    const { customElements, HTMLElement } = this.window;
    for (const name of ["page", "widget", "form", "badge"]) {
      customElements.define(
        `released-${name}`,
        class extends HTMLElement {
          static observedAttributes = embed === EMBEDS[1] ? [] : ["auth-token"];
          isMounted = false;
          connectedCallback() {
            this.isMounted = true;
            if (embed !== EMBEDS[2]) this.read();
          }
          disconnectedCallback() {
            this.isMounted = false;
          }
          attributeChangedCallback() {
            if (this.isMounted || embed === EMBEDS[2]) this.read();
          }
          read() {
            const token = this.getAttribute("auth-token");
            if (token) seen.push(token);
            if (token) onChange();
          }
        },
      );
    }
    return this.settle();
  }
}

/** A test with each kind of embed. */
function withEveryEmbed(name, body) {
  for (const embed of EMBEDS) test(`${name}, by an embed that ${embed}`, () => body(embed));
}

/** An answer that comes when the test says so. */
function held() {
  let give;
  return { answer: new Promise((resolve) => (give = resolve)), give: (answer = {}) => give(answer) };
}

/** Runs a page for an hour, and returns how many requests it made in each minute. */
async function requestsPerMinute(page) {
  const minutes = [];
  for (let minute = 0; minute < 60; minute++) {
    const before = page.requests.length;
    await page.pass(60_000);
    minutes.push(page.requests.length - before);
  }
  return minutes;
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

withEveryEmbed("an element that is moved gets another token, because it read its own again", async (embed) => {
  const page = new Page(`${PAGE}<main></main>`, { embed });
  await page.settle();
  page.document.querySelector("main").append(page.elements()[0]);
  await page.settle();
  assert.deepEqual([page.tokens(), page.requests.length, page.seen.at(-1)], [["token-2"], 2, "token-2"]);
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
    assert.deepEqual(page.errors(), [{ status, final: true, retryIn: null, signedOut: status === 401 }]);
    assert.deepEqual(page.tokens(), [null]);
    await page.append(PAGE);
    assert.deepEqual(page.tokens(), [null, "token-2"]);
  }
});

test("an answer without a token, such as a page of HTML, stops it", async () => {
  const login = "<!doctype html><title>Sign in</title>";
  const answers = [{}, { token: 1, expires_in: 9 }, { token: "" }, { text: login }, { text: "null" }, { text: '"t"' }, { status: 204, text: "" }];
  for (const answer of answers) {
    const page = new Page(PAGE, { answers: [answer] });
    await page.pass(600_000);
    assert.equal(page.requests.length, 1);
    const { status = 200 } = answer;
    assert.deepEqual(page.errors(), [{ status, final: true, retryIn: null, signedOut: false }]);
  }
});

test("5xx, 408, 425, 429 and a broken network are tried again after random pauses that double", async () => {
  const page = new Page(PAGE, { answers: [{ status: 503 }, { status: 429 }, "network", { status: 500 }, { status: 408 }, { status: 425 }] });
  await page.settle();
  const pauses = [];
  for (let requests = 1; requests < 7; requests++) {
    assert.equal(page.requests.length, requests);
    const { final, retryIn } = page.events.at(-1).detail;
    assert.equal(final, false);
    pauses.push(retryIn);
    await page.pass(retryIn - 1);
    assert.equal(page.requests.length, requests);
    await page.pass(1);
  }
  // Half way between a second and 2, 4, 8, 16, 32, and the longest pause.
  assert.deepEqual(pauses, [1_500, 2_500, 4_500, 8_500, 16_500, 30_500]);
  assert.deepEqual(page.tokens(), ["token-7"]);
});

test("no pause is longer than a minute, and a second of chance, whatever is asked for", async () => {
  const page = new Page(PAGE, { answers: Array.from({ length: 12 }, () => ({ status: 503, retryAfter: "86400" })) });
  await page.settle();
  for (let turn = 0; turn < 12; turn++) {
    assert.equal(page.errors().at(-1).retryIn, 60_500);
    await page.pass(60_500);
  }
  assert.deepEqual(page.tokens(), ["token-13"]);
});

test("Retry-After is honoured, and nonsense in it is not", async () => {
  for (const [retryAfter, retryIn] of [["30", 30_500], ["120", 60_500], ["soon", 1_500], ["-5", 1_500]]) {
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

test("a permanent 500 ends after three tries, with one final event", async () => {
  const page = new Page(PAGE, { answers: Array(200).fill({ status: 500 }) });
  await page.pass(3_600_000);
  assert.equal(page.requests.length, 3);
  assert.deepEqual(page.errors().map(({ final }) => final), [false, false, true]);
  assert.equal(page.timers.size, 0);
});

test("other 5xx go on for an hour, less than three times a minute", async () => {
  const page = new Page(PAGE, { answers: Array(999).fill({ status: 503 }) });
  const minutes = await requestsPerMinute(page);
  assert.ok(Math.max(...minutes.slice(1)) <= 3 && Math.min(...minutes) >= 1, minutes.join());
});

for (const replace of ["replaced", "taken out and put back"]) {
  test(`a pause that Retry-After asked for holds when the waiting element is ${replace}`, async () => {
    const page = new Page(PAGE, { answers: Array(99).fill({ status: 429, retryAfter: "60" }) });
    await page.settle();
    for (let turn = 0; turn < 10; turn++) {
      const [element] = page.elements();
      element.remove();
      await page.pass(10);
      if (replace === "replaced") await page.append(PAGE);
      else page.document.body.append(element);
      await page.pass(10);
    }
    assert.equal(page.requests.length, 1);
    await page.pass(60_000);
    assert.equal(page.requests.length, 1);
    await page.pass(500);
    assert.equal(page.requests.length, 2);
  });
}

test("this script's own pauses hold, and grow, across mounts", async () => {
  const page = new Page(PAGE, { answers: Array(99).fill({ status: 503 }) });
  const until = 60_000;
  while (page.now < until) {
    await page.pass(100);
    page.elements()[0].remove();
    await page.append(PAGE);
  }
  assert.ok(page.requests.length <= 6, `${page.requests.length}`);
});

test("an application that mounts again whenever it is refused is held back", async () => {
  const page = new Page(PAGE, { answers: Array(999).fill({ status: 401 }) });
  page.document.addEventListener("released:error", ({ target }) => target.replaceWith(target.cloneNode()));
  const minutes = await requestsPerMinute(page);
  assert.ok(minutes[0] <= 7 && Math.max(...minutes.slice(1)) <= 3, minutes.join());
});

test("an application that starts over whenever it is refused, or served, is held back", async () => {
  for (const answers of [Array(999).fill({ status: 401 }), []]) {
    const page = new Page(PAGE, { answers });
    const reset = ({ target }) => target.dispatchEvent(new page.window.Event("released:reset"));
    for (const type of ["released:error", "released:token"]) page.document.addEventListener(type, reset);
    const minutes = await requestsPerMinute(page);
    assert.ok(minutes[0] <= 20 && Math.max(...minutes.slice(1)) <= 10, minutes.join());
  }
});

test("elements that are replaced without end, before or after their answer, are ten requests a minute", async () => {
  for (const answers of [[], Array(999).fill("stall")]) {
    const page = new Page(PAGE, { answers });
    for (let turn = 0; turn < 1_200; turn++) {
      await page.pass(100);
      page.document.body.innerHTML = PAGE;
    }
    assert.ok(page.requests.length >= 20 && page.requests.length <= 31, `${page.requests.length}`);
  }
});

test("ten pages in ten seconds wait for nothing", async () => {
  const page = new Page(PAGE);
  for (let turn = 1; turn < 10; turn++) {
    await page.pass(1_000);
    page.document.body.innerHTML = PAGE;
    await page.settle();
    assert.deepEqual(page.tokens(), [`token-${turn + 1}`]);
  }
});

test("tokens that are too old on arrival are asked for again after growing pauses", async () => {
  for (const expires_in of [0, -1, 0.001]) {
    const page = new Page(PAGE);
    page.answer = async function (url, options) {
      this.requests.push({ url, options });
      this.now += 600;
      const text = async () => JSON.stringify({ token: "short", expires_in });
      return { status: 200, ok: true, type: "basic", headers: { get: () => null }, text };
    };
    const minutes = await requestsPerMinute(page);
    assert.ok(minutes[0] <= 7 && Math.max(...minutes.slice(1)) <= 3, minutes.join());
    assert.deepEqual(page.seen, []);
  }
});

test("an expires_in that is missing is two minutes, and one that is huge is no matter", async () => {
  for (const [answer, expiresIn] of [[{}, 120], [{ expires_in: null }, 120], [{ expires_in: 1e12 }, 1e12], [{ text: '{"token":"t","expires_in":1e999}' }, Infinity]]) {
    const page = new Page(PAGE, { answers: [{ token: "t", ...answer }] });
    await page.settle();
    assert.deepEqual([page.seen, page.events[0].detail.expiresIn], [["t"], expiresIn]);
  }
});

withEveryEmbed("a token that is removed at once is fetched again after growing pauses", async (embed) => {
  const page = new Page(PAGE, { embed });
  const [element] = page.elements();
  page.onChange = () => element.removeAttribute("auth-token");
  const minutes = await requestsPerMinute(page);
  assert.ok(minutes[0] <= 8 && Math.max(...minutes.slice(1)) <= 3, minutes.join());
  assert.deepEqual(page.events, [], "nobody is told of a token that is gone");
});

test("an embed that moves itself whenever it has a new token is held back", async () => {
  const page = new Page(PAGE);
  const moved = new Set();
  page.onChange = () => {
    const token = page.seen.at(-1);
    if (!moved.has(token)) page.window.queueMicrotask(() => page.document.body.append(page.elements()[0]));
    moved.add(token);
  };
  const minutes = await requestsPerMinute(page);
  assert.ok(minutes[0] <= 8 && Math.max(...minutes.slice(1)) <= 3, minutes.join());
});

test("two embeds that lose their tokens in one morph get the next at once, in one request", async () => {
  const page = new Page(PAGE + PAGE.replaceAll("page", "form"));
  await page.settle();
  for (const element of page.elements()) element.removeAttribute("auth-token");
  await page.settle();
  assert.deepEqual([page.tokens(), page.requests.length], [["token-2", "token-2"], 2]);
});

// --- nobody looks ---

test("nothing is asked for while the page is hidden", async () => {
  const page = new Page(PAGE, { hidden: true, answers: [{ status: 503 }] });
  await page.pass(600_000);
  assert.equal(page.requests.length, 0);
  await page.show(true);
  assert.equal(page.requests.length, 1);
  await page.show(false);
  await page.pass(600_000);
  assert.equal(page.requests.length, 1, "nor again");
  assert.equal(page.timers.size, 0);
  await page.show(true);
  assert.deepEqual(page.tokens(), ["token-2"]);
});

test("a preview of Turbo's asks for nothing, and the page after it once", async () => {
  const page = new Page();
  page.document.documentElement.setAttribute("data-turbo-preview", "");
  await page.append(PAGE);
  assert.equal(page.requests.length, 0);
  page.document.documentElement.removeAttribute("data-turbo-preview");
  page.document.body.innerHTML = PAGE;
  await page.settle();
  assert.deepEqual([page.tokens(), page.requests.length], [["token-1"], 1]);
});

test("a permanent element that Turbo keeps from a preview gets its token in the page itself", async () => {
  const portal = PAGE.replace(">", ' id="portal" data-turbo-permanent>');
  const page = new Page();
  const { document } = page;
  document.documentElement.setAttribute("data-turbo-preview", "");
  await page.append(portal);
  assert.equal(page.requests.length, 0);
  // As Turbo does it: first the preview's mark goes, then the body is replaced, and the permanent element moves into it.
  document.documentElement.removeAttribute("data-turbo-preview");
  const [permanent] = page.elements();
  const body = document.createElement("body");
  body.innerHTML = portal;
  document.body.replaceWith(body);
  page.elements()[0].replaceWith(permanent);
  await page.pass(600_000);
  assert.deepEqual([page.tokens(), page.requests.length], [["token-1"], 1]);
});

test("what was under way when the page went into the back/forward cache is not handed out after it", async () => {
  const ada = held();
  const page = new Page(PAGE, { answers: [ada.answer] });
  await page.settle();
  await page.event(page.window, "pagehide", { persisted: true });
  assert.equal(page.requests[0].options.signal.aborted, true);
  ada.give({ token: "adas", expires_in: 119 });
  await page.pass(60_000);
  assert.deepEqual([page.seen, page.requests.length], [[], 1]);
  await page.event(page.window, "pageshow", { persisted: true });
  assert.deepEqual(page.tokens(), ["token-2"]);
});

test("back from sign-in, the page asks again", async () => {
  const page = new Page(PAGE, { answers: [{ status: 401 }] });
  await page.settle();
  await page.event(page.window, "pagehide", { persisted: true });
  await page.event(page.window, "pageshow", { persisted: true });
  assert.deepEqual(page.tokens(), ["token-2"]);
});

test("the pageshow of a page that was loaded changes nothing", async () => {
  const page = new Page(PAGE, { answers: ["stall"] });
  await page.settle();
  await page.event(page.window, "pageshow", { persisted: false });
  assert.deepEqual([page.requests.length, page.requests[0].options.signal.aborted], [1, false]);
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

test("an answer that comes too late, because the page was frozen, is not handed out, and asked for again after a pause", async () => {
  const frozen = held();
  const page = new Page(PAGE, { answers: [frozen.answer] });
  await page.settle();
  page.now += 100_000; // without the timers, which were frozen, too
  frozen.give({ token: "too-old", expires_in: 119 });
  await page.settle();
  assert.deepEqual([page.seen, page.requests.length], [[], 1]);
  assert.deepEqual(page.errors(), [{ status: 200, final: false, retryIn: 1_500, signedOut: false }]);
  await page.pass(1_500);
  assert.deepEqual([page.seen, page.requests.length], [["token-2"], 2]);
});

test("an answer that slept with the computer, whose other clock stood still, is not handed out", async () => {
  const asleep = held();
  const page = new Page(PAGE, { answers: [asleep.answer] });
  await page.settle();
  const { now } = page.window.Date;
  page.window.Date.now = () => now() + 3_600_000;
  asleep.give({ token: "too-old", expires_in: 119 });
  await page.pass(1_500);
  assert.deepEqual(page.seen, ["token-2"]);
});

test("a clock that is set back spoils no token", async () => {
  const early = held();
  const page = new Page(PAGE, { answers: [early.answer] });
  await page.settle();
  const { now } = page.window.Date;
  page.window.Date.now = () => now() - 3_600_000;
  early.give({ token: "good", expires_in: 119 });
  await page.settle();
  assert.deepEqual(page.seen, ["good"]);
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

test("a copy that Turbo is about to show has no token, and the page that it leaves keeps its own", async () => {
  const page = new Page(PAGE);
  await page.settle();
  await page.event(page.document, "turbo:before-cache");
  const copy = page.document.body.cloneNode(true);
  await page.event(page.document, "turbo:before-render", { detail: { newBody: copy } });
  assert.equal(copy.innerHTML.includes("token-1"), false);
  assert.deepEqual([page.tokens(), page.requests.length], [["token-1"], 1]);
});

for (const name of ["channel-id", "form-id"]) {
  withEveryEmbed(`a changed ${name} asks again, and the same value does not`, async (embed) => {
    const page = new Page(PAGE.replace(">", ` ${name}="a">`), { embed });
    await page.settle();
    const [element] = page.elements();
    element.setAttribute(name, "a");
    await page.settle();
    assert.equal(page.requests.length, 1);
    element.setAttribute(name, "b");
    await page.settle();
    assert.deepEqual([page.tokens(), page.seen], [["token-2"], ["token-1", "token-2"]]);
  });
}

test("a channel that is changed while its token is under way gets another", async () => {
  const first = held();
  const page = new Page(PAGE, { answers: [first.answer] });
  await page.settle();
  page.elements()[0].setAttribute("channel-id", "b");
  await page.settle();
  first.give({ token: "first", expires_in: 119 });
  await page.settle();
  assert.deepEqual([page.seen, page.requests.length], [["token-2"], 2]);
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
  assert.equal(page.requests.length, 1, "it waits, like everybody after a failure");
  await page.pass(2_000);
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

// --- the token comes to the embed ---

withEveryEmbed("a token is exchanged once", async (embed) => {
  const page = new Page(PAGE + PAGE, { embed });
  await page.settle();
  assert.deepEqual([page.seen, page.tokens(), page.requests.length], [["token-1", "token-1"], ["token-1", "token-1"], 1]);
  await page.pass(3_600_000);
  assert.equal(page.requests.length, 1);
});

withEveryEmbed("a token of the server's own is exchanged once, and the element stays where it is", async (embed) => {
  const page = new Page(PAGE.replace(">", ' auth-token="the-servers-own">'), { embed });
  await page.settle();
  assert.deepEqual([page.seen, page.requests.length], [["the-servers-own"], 0]);
});

withEveryEmbed("an element that is put back later gets another token, and does not see the first again", async (embed) => {
  const page = new Page(PAGE, { embed });
  await page.settle();
  const [element] = page.elements();
  element.remove();
  await page.settle();
  page.document.body.append(element);
  await page.settle();
  assert.deepEqual(page.seen, ["token-1", "token-2"]);
});

test("the same node is at the same place, with its children, its listeners and nothing else beside it", async () => {
  const page = new Page(`<main>a${PAGE.replace("><", "><b>fallback</b><")}<i></i></main>`, { withElements: false });
  const [element] = page.elements();
  const before = page.document.querySelector("main").innerHTML;
  await page.defineElements();
  assert.equal(page.elements()[0], element);
  const after = page.document.querySelector("main").innerHTML;
  assert.equal(after, before.replace('token"', 'token" data-released-fetched="" auth-token="token-1"'));
});

test("the focus in an element stays, and the focus elsewhere, too", async () => {
  const answer = held();
  const page = new Page(`<input>${PAGE.replace("><", "><input id=inner><")}`, { answers: [answer.answer] });
  const [outer, inner] = page.document.querySelectorAll("input");
  await page.settle();
  inner.focus();
  answer.give({ token: "t", expires_in: 119 });
  await page.settle();
  assert.deepEqual([page.seen, page.document.activeElement.id], [["t"], "inner"]);
  outer.focus();
  await page.append(PAGE);
  assert.equal(page.document.activeElement, outer);
});

test("the focus in an element's shadow stays", async () => {
  const answer = held();
  const page = new Page(PAGE, { answers: [answer.answer] });
  await page.settle();
  const [element] = page.elements();
  element.attachShadow({ mode: "open" }).innerHTML = "<input>";
  const inner = element.shadowRoot.querySelector("input");
  inner.focus();
  answer.give({ token: "t", expires_in: 119 });
  await page.settle();
  assert.deepEqual([page.seen, element.shadowRoot.activeElement], [["t"], inner]);
});

test("an embed that takes its neighbour along when it is taken out does no harm", async () => {
  const page = new Page(`${PAGE}<aside></aside>`, { withElements: false });
  const taken = [];
  page.window.customElements.define(
    "released-page",
    class extends page.window.HTMLElement {
      disconnectedCallback() {
        taken.push(page.document.querySelector("aside")?.remove());
      }
    },
  );
  await page.settle();
  assert.deepEqual([page.tokens(), taken.length], [["token-1"], 1]);
});

test("an element that is removed, or moved into a frame, while its token is under way gets none", async () => {
  for (const leave of [
    (element) => element.remove(),
    (element, page) => page.document.querySelector("iframe").contentDocument.body.append(element),
  ]) {
    const answer = held();
    const page = new Page(`${PAGE}<iframe></iframe>`, { answers: [answer.answer] });
    await page.settle();
    const [element] = page.elements();
    // In one turn with the answer, before the page can have noticed.
    answer.give({ token: "t", expires_in: 119 });
    leave(element, page);
    await page.settle();
    assert.equal(element.hasAttribute("auth-token"), false);
    assert.deepEqual([page.seen, page.requests.length], [[], 1]);
  }
});

test("an element that a listener removes while the others are served gets nothing", async () => {
  const page = new Page(PAGE + PAGE);
  const last = page.elements()[1];
  page.document.addEventListener("released:token", () => last.remove());
  await page.settle();
  assert.deepEqual([page.seen, last.hasAttribute("auth-token")], [["token-1"], false]);
});

test("an element to which a listener gives a token of its own while the others are served keeps it", async () => {
  const page = new Page(PAGE + PAGE);
  const last = page.elements()[1];
  page.document.addEventListener("released:token", () => last.setAttribute("auth-token", "its-own"), { once: true });
  await page.settle();
  assert.deepEqual(page.tokens(), ["token-1", "its-own"]);
});

test("an element that a listener removes while the others are refused is told nothing", async () => {
  const page = new Page(PAGE + PAGE, { answers: [{ status: 503 }] });
  const last = page.elements()[1];
  const told = [];
  last.addEventListener("released:error", ({ detail }) => told.push(detail));
  page.document.addEventListener("released:error", () => page.document.body.replaceChildren());
  await page.pass(600_000);
  assert.deepEqual([told, page.requests.length, page.timers.size], [[], 1, 0]);
});

test("an element that is moved, and refused its next token, does not keep the one before", async () => {
  const page = new Page(`${PAGE}<main></main>`, { answers: [{ token: "first" }, { status: 401 }] });
  await page.settle();
  page.document.querySelector("main").append(page.elements()[0]);
  await page.settle();
  assert.deepEqual([page.tokens(), page.requests.length], [[null], 2]);
});

test("a token of the page's own, set in one turn with released:reset, stays", async () => {
  const page = new Page(PAGE);
  await page.settle();
  page.elements()[0].setAttribute("auth-token", "the-pages-own");
  await page.event(page.document, "released:reset");
  assert.deepEqual([page.tokens(), page.requests.length], [["the-pages-own"], 1]);
});

test("an element that is moved into a shadow while it waits gets its token there", async () => {
  const answer = held();
  const page = new Page(`${PAGE}<div></div>`, { answers: [answer.answer] });
  await page.settle();
  const [element] = page.elements();
  page.document.querySelector("div").attachShadow({ mode: "open" }).append(element);
  await page.settle();
  answer.give({ token: "t", expires_in: 119 });
  await page.settle();
  assert.deepEqual([page.seen, page.requests.length], [["t"], 1]);
});

test("an element that an application takes out of a shadow in silence gets nothing", async () => {
  const answer = held();
  const page = new Page(`${PAGE}<div></div>`, { answers: [answer.answer] });
  await page.settle();
  const [element] = page.elements();
  page.document.querySelector("div").attachShadow({ mode: "open" }).append(element);
  await page.settle();
  element.remove();
  answer.give({ token: "t", expires_in: 119 });
  await page.settle();
  assert.equal(element.hasAttribute("auth-token"), false);
});

test("an empty auth-token is none, and an empty endpoint is no endpoint", async () => {
  const page = new Page(PAGE.replace(">", ' auth-token="">') + PAGE.replace(ENDPOINT, ""));
  await page.settle();
  assert.deepEqual([page.tokens(), page.requests.length], [["token-1", null], 1]);

  const answer = held();
  const morphed = new Page(PAGE, { answers: [answer.answer] });
  await morphed.settle();
  morphed.elements()[0].setAttribute("auth-token", "");
  await morphed.settle();
  answer.give({ token: "t", expires_in: 119 });
  await morphed.settle();
  assert.deepEqual([morphed.tokens(), morphed.requests.length], [["t"], 1]);
});

test("a token of the page's own replaces the fetched one, and is the page's affair", async () => {
  const page = new Page(PAGE);
  await page.settle();
  const [element] = page.elements();
  element.setAttribute("auth-token", "the-pages-own");
  await page.settle();
  element.remove();
  await page.settle();
  page.document.body.append(element);
  await page.settle();
  assert.deepEqual([page.tokens(), page.requests.length], [["the-pages-own"], 1]);
});

test("an element without the mark loses nothing, and asks for nothing", async () => {
  const answer = held();
  const page = new Page(PAGE, { answers: [answer.answer] });
  await page.settle();
  const [element] = page.elements();
  element.removeAttribute("data-released-auth");
  await page.settle();
  assert.equal(page.requests[0].options.signal.aborted, true);
  await page.pass(600_000);
  assert.equal(page.requests.length, 1);
});

test("a copy has no token while it waits for its own", async () => {
  const answer = held();
  const page = new Page(PAGE, { answers: [{ token: "first" }, answer.answer] });
  await page.settle();
  page.document.body.append(page.elements()[0].cloneNode());
  await page.settle();
  assert.deepEqual(page.tokens(), ["first", null]);
});

test("an element that is gone is told nothing of Released's script", async () => {
  const page = new Page(PAGE, { withElements: false });
  const [element] = page.elements();
  const told = [];
  element.addEventListener("released:error", ({ detail }) => told.push(detail));
  await page.settle();
  element.remove();
  await page.pass(60_000);
  assert.deepEqual(told, []);
  await page.defineElements();
  assert.deepEqual([page.requests.length, page.timers.size], [0, 0]);
});

test("Released's script that never comes is one error, and one that comes after all is no matter", async () => {
  const page = new Page(PAGE, { withElements: false });
  await page.pass(29_999);
  assert.deepEqual(page.errors(), []);
  await page.pass(3_600_000);
  assert.deepEqual(page.errors(), [{ status: null, final: true, retryIn: null, signedOut: false }]);
  assert.equal(page.requests.length, 0);
  await page.defineElements();
  assert.deepEqual(page.tokens(), ["token-1"]);
});

// --- who is signed in ---

test("a redirect, such as one to a sign-in page, stops it and says so", async () => {
  const page = new Page(PAGE, { answers: [{ status: 0, type: "opaqueredirect" }] });
  await page.pass(600_000);
  assert.equal(page.requests[0].options.redirect, "manual");
  assert.deepEqual(page.errors(), [{ status: null, final: true, retryIn: null, signedOut: true }]);
  assert.equal(page.requests.length, 1);
});

/** The places that can send the event. */
const SENDERS = [(page) => page.window, (page) => page.document, (page) => page.elements()[0]];

for (const [number, sender] of SENDERS.entries()) {
  test(`released:reset drops what is under way, and starts over (${number})`, async () => {
    const ada = held();
    const page = new Page(PAGE, { answers: [ada.answer] });
    await page.settle();
    await page.event(sender(page), "released:reset");
    assert.equal(page.requests[0].options.signal.aborted, true);
    ada.give({ token: "adas", expires_in: 119 });
    await page.settle();
    assert.deepEqual(page.seen, ["token-2"]);
  });
}

test("released:reset starts over after a refusal, and after a pause of this script's own", async () => {
  for (const status of [401, 503]) {
    const page = new Page(PAGE, { answers: [{ status }] });
    await page.settle();
    await page.event(page.document, "released:reset");
    assert.deepEqual(page.tokens(), ["token-2"]);
    await page.pass(600_000);
    assert.equal(page.requests.length, 2);
  }
});

test("released:reset does not end a pause that the server asked for", async () => {
  const page = new Page(PAGE, { answers: [{ status: 429, retryAfter: "30" }] });
  await page.settle();
  await page.event(page.document, "released:reset");
  await page.event(page.window, "online");
  await page.event(page.window, "pageshow", { persisted: true });
  await page.pass(30_000);
  assert.equal(page.requests.length, 1);
  await page.pass(500);
  assert.deepEqual(page.tokens(), ["token-2"]);
});

withEveryEmbed("after released:reset nobody has the token of the person before", async (embed) => {
  const page = new Page(PAGE + PAGE.replace(">", ' auth-token="the-pages-own">'), { embed, answers: [{ token: "adas" }, { token: "bobs" }, { status: 401 }] });
  await page.settle();
  await page.event(page.document, "released:reset");
  assert.deepEqual(page.tokens(), ["bobs", "the-pages-own"]);
  await page.event(page.document, "released:reset");
  assert.deepEqual(page.tokens(), [null, "the-pages-own"]);
  assert.deepEqual(page.seen.filter((token) => token !== "the-pages-own"), ["adas", "bobs"]);
});

test("released:reset removes a fetched token also where the page took the mark away", async () => {
  const page = new Page(PAGE);
  await page.settle();
  const [element] = page.elements();
  // <released-page data-released-auth={user ? ENDPOINT : undefined} />, and the user signs out.
  element.removeAttribute("data-released-auth");
  await page.event(page.document, "released:reset");
  assert.equal(element.getAttribute("auth-token"), null);
});

withEveryEmbed("after released:reset and a 401, the embed shows nobody's portal", async (embed) => {
  const page = new Page(PAGE, { embed, answers: [{ token: "adas" }, { status: 401 }] });
  await page.settle();
  const [element] = page.elements();
  assert.deepEqual(page.seen, ["adas"]);
  let shown = "adas";
  element.read = () => (shown = element.getAttribute("auth-token"));
  await page.event(page.document, "released:reset");
  assert.deepEqual([page.tokens(), shown], [[null], null]);
});

for (const [name, happen] of [
  ["released:reset", (page) => page.event(page.document, "released:reset")],
  ["the back/forward cache", (page) => page.event(page.window, "pagehide", { persisted: true })],
]) {
  test(`what is under way for an element that was moved into a shadow is dropped by ${name}, too`, async () => {
    const ada = held();
    const page = new Page(`${PAGE}<div></div>`, { answers: [ada.answer] });
    await page.settle();
    const [element] = page.elements();
    page.document.querySelector("div").attachShadow({ mode: "open" }).append(element);
    await page.settle();
    await happen(page);
    ada.give({ token: "adas", expires_in: 119 });
    await page.settle();
    assert.equal(page.seen.includes("adas"), false);
  });
}

// --- what the page adds ---

test("an application can add headers, with an object or a function, and choose the credentials", async () => {
  const seen = [];
  for (const headers of [{ "x-csrf": "1" }, () => ({ "x-csrf": "1" }), async (url) => (seen.push(url), { "x-csrf": "1" })]) {
    const page = new Page();
    page.window.ReleasedToken = { headers, credentials: "include" };
    await page.append(PAGE);
    const [{ options }] = page.requests;
    assert.equal(options.headers.get("x-csrf"), "1");
    assert.equal(options.headers.get("accept"), "application/json");
    assert.equal(options.credentials, "include");
    assert.deepEqual(page.tokens(), ["token-1"]);
  }
  assert.deepEqual(seen, [ENDPOINT]);
});

test("headers are asked for anew for each request, as a method of their object", async () => {
  const page = new Page();
  let count = 0;
  page.window.ReleasedToken = {
    bearer: "b",
    headers() {
      return { authorization: `${this.bearer}${++count}` };
    },
  };
  await page.append(PAGE);
  await page.append(PAGE);
  assert.deepEqual(page.requests.map(({ options }) => options.headers.get("authorization")), ["b1", "b2"]);
});

test("headers that fail, or never come, are a failure like others", async () => {
  for (const headers of [() => Promise.reject(new Error("no session")), () => new Promise(() => {}), () => ({ "not a name": "1" })]) {
    const page = new Page();
    page.window.ReleasedToken = { headers };
    await page.append(PAGE);
    await page.pass(8_000);
    assert.equal(page.requests.length, 0);
    assert.deepEqual([page.errors()[0].status, page.errors()[0].final], [null, false]);
    page.window.ReleasedToken = undefined;
    await page.pass(60_000);
    assert.deepEqual(page.tokens(), ["token-1"]);
  }
});

test("two endpoints are two affairs", async () => {
  const page = new Page(PAGE, { answers: [{ status: 503, retryAfter: "30" }] });
  await page.settle();
  await page.append(PAGE.replace(ENDPOINT, "/other"));
  assert.deepEqual([page.tokens(), page.requests.map(({ url }) => url)], [[null, "token-2"], [ENDPOINT, "/other"]]);
});

test("coming back online ends no pause but that of a broken network", async () => {
  const page = new Page(PAGE, { answers: [{ status: 503 }] });
  await page.settle();
  await page.event(page.window, "online");
  assert.equal(page.requests.length, 1);
});

for (const isBlocked of [false, true]) {
  test(`elements that are gone are not kept in memory, where Released's script is ${isBlocked ? "blocked" : "there"}`, async () => {
    v8.setFlagsFromString("--expose-gc");
    const collectGarbage = vm.runInNewContext("gc");
    const page = new Page("", { withElements: !isBlocked });
    const gone = [];
    for (let visit = 0; visit < 50; visit++) {
      await page.append(PAGE);
      gone.push(new WeakRef(page.elements()[0]));
      page.document.body.replaceChildren();
      await page.pass(120_000);
      page.events.length = 0;
    }
    for (let turn = 0; turn < 5; turn++) {
      await new Promise((resolve) => setTimeout(resolve, 20));
      collectGarbage();
    }
    const kept = gone.filter((element) => element.deref()).length;
    assert.ok(kept < 10, `${kept} of ${gone.length}`);
  });
}

test("it is 4 KB at most, compressed", () => {
  const size = gzipSync(SOURCE, { level: 6 }).length;
  assert.ok(size + 64 <= 4_096, `${size}, and one line with its name`);
});
