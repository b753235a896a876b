// Finds out what Released does where its documentation says nothing. Each experiment mounts Released's elements and
// compares what the browser loads for them with what it loads for an element with a good, a bad and no token.
(() => {
  const settings = new URLSearchParams(location.search);
  // An element is done when the browser has loaded nothing for this long, in milliseconds.
  const QUIET = Number(settings.get("quiet") ?? 2000);
  const LONGEST = 15_000;

  const { channel, form, first, second } = document.querySelector("#facts").dataset;
  const stage = document.querySelector("#stage");
  const asked = document.querySelector("#asked");
  const table = document.querySelector("#answers");
  const script = document.querySelector("script[src*='embed.js']").src;

  // ---- what can be seen of an element ----

  // Plain words of a URL. Anything else may be an id, an address, a hash or a token.
  const pattern = (url) => {
    const { host, pathname, search } = new URL(url, location.href);
    const isWord = (text) => /^([a-z][a-z._-]{0,23}|v?\d)?$/i.test(text);
    const path = pathname.split("/").map((part) => (isWord(part) ? part : ":id"));
    const names = [...new URLSearchParams(search).keys()].map((name) => (isWord(name) ? name : ":id"));
    return `${host}${path.join("/")}${names.length > 0 ? `?${names.sort().join("&")}` : ""}`;
  };

  const everythingIn = (root) =>
    [...root.querySelectorAll("*")].flatMap((inner) => [inner, ...(inner.shadowRoot ? everythingIn(inner.shadowRoot) : [])]);

  const within = (element) => [element, ...everythingIn(element), ...(element.shadowRoot ? everythingIn(element.shadowRoot) : [])];

  const textOf = (element) => within(element).map((inner) => inner.textContent).join(" ");

  // What an element may say about its state, and not about a person.
  const STATES = ["data-state", "data-status", "data-view", "aria-busy", "aria-expanded", "aria-hidden"];
  const statesOf = (element) =>
    STATES.filter((name) => element.hasAttribute(name)).map((name) => `attribute ${name}=${element.getAttribute(name)}`);

  // Mounts elements, waits until nothing more is loaded, and returns what was seen, as a set of lines.
  const watch = async (elements, afterMount = () => {}) => {
    const seen = new Set();
    let lastAt = performance.now();
    const note = (line) => {
      seen.add(line);
      lastAt = performance.now();
    };
    const observer = new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) {
        if (new URL(entry.name).origin === location.origin) continue;
        note(`${entry.initiatorType} ${pattern(entry.name)} ${entry.responseStatus || ""}`.trim());
      }
    });
    observer.observe({ type: "resource" });
    const onMessage = ({ origin, data }) => {
      const keys = data && typeof data === "object" ? Object.keys(data).sort().join(",") : typeof data;
      if (origin !== location.origin) note(`message ${new URL(origin).host} ${keys}`);
    };
    addEventListener("message", onMessage);
    const quiet = async () => {
      const start = performance.now();
      lastAt = start;
      do {
        await new Promise((resolve) => setTimeout(resolve, QUIET / 4));
      } while (performance.now() - lastAt < QUIET && performance.now() - start < LONGEST);
    };
    stage.replaceChildren(...elements);
    await quiet();
    const before = new Set([...seen, ...elements.flatMap(statesOf)]);
    await afterMount();
    await quiet();
    observer.disconnect();
    removeEventListener("message", onMessage);
    for (const element of elements) {
      for (const frame of within(element).filter(({ localName }) => localName === "iframe")) {
        if (frame.src) seen.add(`frame ${pattern(frame.src)}`);
      }
      statesOf(element).forEach((line) => seen.add(line));
    }
    return { seen, before, text: elements.map(textOf).join(" ") };
  };

  const element = (kind, attributes) => {
    const made = document.createElement(`released-${kind}`);
    made.setAttribute(kind === "form" ? "form-id" : "channel-id", kind === "form" ? form : channel);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };

  const mint = async (person) => {
    const reply = await fetch(`/facts/token?person=${person}`, { method: "POST" });
    const answer = await reply.json();
    return { status: reply.status, ...answer };
  };

  const tokenOf = async (person) => {
    const { token, error } = await mint(person);
    if (!token) throw new Error(`no token for the ${person} person: ${error}`);
    return token;
  };

  // ---- what it means ----

  const minus = (these, ...others) => [...these].filter((line) => !others.some((other) => other.has(line)));

  // For each kind of element: the lines that only a good token, or only a bad one, brings about.
  const lines = {};

  const isDenied = (kind, seen) => lines[kind].denied.length > 0 && lines[kind].denied.every((line) => seen.has(line));

  // All of the lines of a good token, some of them, or none.
  const opened = (kind, seen) => {
    const found = lines[kind].opened.filter((line) => seen.has(line)).length;
    if (found === 0) return lines[kind].opened.length > 0 ? "none" : "unknown";
    return found === lines[kind].opened.length ? "all" : "some";
  };

  // Asks the person in front of the screen, where a good and a bad token look the same from outside.
  const ask = (question) =>
    new Promise((resolve) => {
      const text = document.createElement("p");
      text.textContent = `Look below: ${question}`;
      const buttons = ["yes", "no", "cannot tell"].map((answer) => {
        const button = document.createElement("button");
        button.textContent = answer;
        button.addEventListener("click", () => {
          asked.replaceChildren();
          resolve(`${answer} (said by a person)`);
        });
        return button;
      });
      asked.replaceChildren(text, ...buttons);
    });

  // Some of the lines: perhaps a session opened the portal without the token, so a person looks.
  const opens = async (kind, { seen }) => {
    if (isDenied(kind, seen)) return "no";
    return { all: "yes", none: "no" }[opened(kind, seen)] ?? ask("is the portal open, without a sign-in?");
  };

  // ---- the experiments ----

  // In this order: before any token is used, Released has no session that an element could open by.
  const late = async () => {
    const page = element("page", {});
    const token = await tokenOf("first");
    return watch([page], () => page.setAttribute("auth-token", token));
  };

  const EXPERIMENTS = {
    "late-attribute": {
      question: "Does an element that is in the page notice an auth-token that is set later?",
      run: async (lateSeen) => {
        // Once more, if a person must look at it.
        const seen = ["all", "none"].includes(opened("page", lateSeen.seen)) ? lateSeen : await late();
        return { answer: await opens("page", seen), ...seen };
      },
    },
    "two-embeds": {
      question: "May a page and a form use one token?",
      run: async () => {
        const token = await tokenOf("first");
        await watch([element("page", { "auth-token": token })]);
        const both = await watch([element("form", { "auth-token": token })]);
        return { answer: await opens("form", both), ...both };
      },
    },
    "twice": {
      question: "May the same kind of element use one token twice?",
      run: async () => {
        const token = await tokenOf("first");
        await watch([element("page", { "auth-token": token })]);
        const again = await watch([element("page", { "auth-token": token })]);
        return { answer: await opens("page", again), ...again };
      },
    },
    "second-person": {
      question: `Does a token for ${second} replace the live session of ${first}?`,
      run: async () => {
        await watch([element("page", { "auth-token": await tokenOf("first") })]);
        const seen = await watch([element("page", { "auth-token": await tokenOf("second") })]);
        if (seen.text.includes(second)) return { answer: "yes", ...seen };
        if (seen.text.includes(first)) return { answer: "no", ...seen };
        return { answer: await ask(`is it the portal of ${second}?`), ...seen };
      },
    },
    "blank-name": {
      question: "Does the token API accept a blank name?",
      run: async () => {
        const { status, error } = await mint("blank");
        const answer = { 200: "yes", 400: "no" }[status] ?? "unknown";
        return { answer, seen: new Set([`token API: ${error ?? "a token"}`]) };
      },
    },
    "integrity": {
      question: "Does the embed's script answer with CORS headers, so that `integrity` works?",
      run: async () => {
        try {
          const reply = await fetch(script, { mode: "cors", cache: "no-store" });
          return { answer: reply.ok ? "yes" : "unknown", seen: new Set([`script ${pattern(reply.url)} ${reply.status}`]) };
        } catch {
          return { answer: "no", seen: new Set([`script ${pattern(script)} is blocked`]) };
        }
      },
    },
    "widget-on-load": {
      question: "Does a widget use its token when it is loaded, and not when it is opened?",
      run: async () => {
        const seen = await watch(...withTrigger({ "auth-token": await tokenOf("first") }));
        if (opened("widget", seen.before) === "all") return { answer: "yes", ...seen };
        if (opened("widget", seen.seen) === "all") return { answer: "no", ...seen };
        return { answer: await ask("was the widget signed in before you could open it?"), ...seen };
      },
    },
  };

  // A widget is opened, so that what it does then is in its lines, too.
  const withTrigger = (attributes) => {
    const trigger = document.createElement("button");
    trigger.id = "facts-trigger";
    trigger.textContent = "Open the widget";
    document.querySelector("#triggers").replaceChildren(trigger);
    return [[element("widget", { ...attributes, trigger: "#facts-trigger" })], () => trigger.click()];
  };

  const mounted = (kind, attributes) =>
    kind === "widget" ? watch(...withTrigger(attributes)) : watch([element(kind, attributes)]);

  // First without a token, then with a bad one: later, a session may open everything.
  const calibrate = async () => {
    const seen = {};
    for (const kind of ["page", "form", "widget"]) {
      seen[kind] = { none: await mounted(kind, {}), bad: await mounted(kind, { "auth-token": "not-a-token" }) };
    }
    const lateSeen = await late();
    for (const [kind, { none, bad }] of Object.entries(seen)) {
      const good = await mounted(kind, { "auth-token": await tokenOf("first") });
      lines[kind] = {
        opened: minus(good.seen, none.seen, bad.seen),
        denied: minus(bad.seen, none.seen, good.seen),
      };
    }
    return lateSeen;
  };

  // ---- the report ----

  const report = (answers) =>
    [
      `Released's facts, ${new Date().toISOString().slice(0, 10)}, ${navigator.userAgent}`,
      ...Object.entries(lines).flatMap(([kind, { opened, denied }]) => [
        `A ${kind} with a good token: ${opened.join("; ") || "nothing that differs"}`,
        `A ${kind} with a bad token: ${denied.join("; ") || "nothing that differs"}`,
      ]),
      ...Object.entries(answers).map(
        ([id, { question, answer, seen }]) => `- ${id}: ${question} ${answer}\n  saw: ${[...seen].sort().join("; ")}`,
      ),
    ].join("\n");

  const show = (id, question, answer) => {
    const row = table.insertRow();
    row.id = `fact-${id}`;
    row.dataset.answer = answer;
    row.insertCell().textContent = question;
    row.insertCell().textContent = answer;
  };

  const run = async () => {
    const button = document.querySelector("#run");
    button.disabled = true;
    table.replaceChildren();
    const answers = {};
    try {
      const lateSeen = await calibrate();
      for (const [id, { question, run }] of Object.entries(EXPERIMENTS)) {
        const found = await run(lateSeen).catch((error) => ({ answer: `failed: ${error.message}`, seen: [] }));
        answers[id] = { question, ...found };
        show(id, question, found.answer);
      }
    } catch (error) {
      show("calibration", "The experiments could not start.", `failed: ${error.message}`);
    }
    document.querySelector("#report").value = report(answers);
    button.disabled = false;
    document.body.dataset.facts = "done";
  };

  document.querySelector("#run").addEventListener("click", run);
  document.querySelector("#copy").addEventListener("click", () => navigator.clipboard.writeText(document.querySelector("#report").value));
})();
