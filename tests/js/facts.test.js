// The script of the demo's page /facts in a DOM without a browser: what it answers, and what its report tells.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { JSDOM } from "jsdom";

const SOURCE = readFileSync(new URL("../../examples/demo/assets/facts.js", import.meta.url), "utf8");
const HUB = "https://acme.releasedhub.com";

/** Runs the experiments with this embed: `embed(element, load)` calls `load(url, status)` for what the browser loads. */
async function facts(embed, { says = "cannot tell" } = {}) {
  const dom = new JSDOM(
    `<!doctype html><head><script src="https://embed.released.so/1/embed.js"></script></head><body>
    <button id="run"></button><button id="copy"></button><table id="answers"></table><textarea id="report"></textarea>
    <div id="asked"></div><div id="triggers"></div><div id="stage"></div>
    <div id="facts" data-channel="C" data-form="F" data-first="Ada Lovelace" data-second="Grace Hopper"></div></body>`,
    { url: "https://demo.example/facts?quiet=8", runScripts: "outside-only" },
  );
  const { window } = dom;
  const { document } = window;
  const observers = new Set();
  window.PerformanceObserver = class {
    constructor(callback) {
      this.callback = callback;
    }
    observe() {
      observers.add(this);
    }
    disconnect() {
      observers.delete(this);
    }
  };
  const load = (name, responseStatus = 200) => {
    const entry = { name, initiatorType: "fetch", responseStatus };
    for (const { callback } of observers) callback({ getEntries: () => [entry] });
  };
  let minted = 0;
  window.fetch = async (url) => {
    if (!url.startsWith("/facts/token")) return { ok: true, url, status: 200 };
    const person = new URL(url, "https://demo.example").searchParams.get("person");
    return { status: 200, json: async () => ({ token: `${person}-${++minted}` }) };
  };
  for (const kind of ["page", "form", "widget"]) {
    window.customElements.define(
      `released-${kind}`,
      class extends window.HTMLElement {
        static observedAttributes = ["auth-token"];
        connectedCallback() {
          embed(this, load);
        }
        attributeChangedCallback() {
          if (this.isConnected) embed(this, load);
        }
      },
    );
  }
  window.eval(SOURCE);
  document.querySelector("#run").click();
  for (let turn = 0; document.body.dataset.facts !== "done"; turn++) {
    assert.ok(turn < 2_000, "the experiments end");
    for (const button of document.querySelectorAll("#asked button")) if (button.textContent === says) button.click();
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  const answer = (id) => document.querySelector(`#fact-${id}`).dataset.answer;
  return { answer, report: document.querySelector("#report").value };
}

const isGood = (token) => /^(first|second)-/.test(token ?? "");

// Each token opens each kind of element, as often as it is used. A form loads its own things.
test("a form that loads other things than a page is no proof that it refuses the page's token", async () => {
  const { answer } = await facts((element, load) => {
    const token = element.getAttribute("auth-token");
    const state = isGood(token) ? "open" : token ? "denied" : "sign-in";
    load(`${HUB}/${element.localName.slice("released-".length)}/${state}`);
  });
  assert.notEqual(answer("two-embeds"), "no");
});

// With a session, an element need not exchange its token again: it shows the portal at once.
test("a portal that opens by the session that a token opened is open", async () => {
  let session = null;
  const { answer } = await facts((element, load) => {
    const token = element.getAttribute("auth-token");
    if (element.loaded) return; // It does not notice a late token.
    element.loaded = true;
    if (isGood(token) && !session) load(`${HUB}/exchange`);
    if (isGood(token)) session = token;
    load(`${HUB}/${token === "not-a-token" ? "denied" : session ? "portal" : "sign-in"}`);
  });
  assert.equal(answer("late-attribute"), "no");
  assert.notEqual(answer("twice"), "no");
});

test("the report names no token, no id and no e-mail address, wherever the embed puts them", async () => {
  const { report } = await facts((element, load) => {
    const token = element.getAttribute("auth-token");
    if (!isGood(token)) return load(`${HUB}/sign-in`);
    element.setAttribute("aria-label", "ada@example.com");
    element.setAttribute("data-user-id", "user-4711");
    load(`${HUB}/portal?${token}`);
    load(`${HUB}/people/ada@example.com/votes`);
  });
  assert.doesNotMatch(report, /(first|second)-\d|ada@example\.com|user-4711/);
});
