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

  // Words of a path, with what may be an id, a hash or a token left out.
  const pattern = (url) => {
    const { host, pathname, search } = new URL(url, location.href);
    const path = pathname.replace(/[^/]*\d[^/]{7,}|[^/]{24,}/g, ":id");
    const names = [...new URLSearchParams(search).keys()].sort().join("&");
    return `${host}${path}${names && `?${names}`}`;
  };

  const everythingIn = (root) =>
    [...root.querySelectorAll("*")].flatMap((inner) => [inner, ...(inner.shadowRoot ? everythingIn(inner.shadowRoot) : [])]);

  const within = (element) => [element, ...everythingIn(element), ...(element.shadowRoot ? everythingIn(element.shadowRoot) : [])];

  const textOf = (element) => within(element).map((inner) => inner.textContent).join(" ");

  const shortAttributes = (element) =>
    [...element.attributes]
      .filter(({ name }) => name.startsWith("data-") || name.startsWith("aria-"))
      .filter(({ value }) => value.length <= 20)
      .map(({ name, value }) => `attribute ${name}=${value}`);

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
    const before = new Set([...seen, ...elements.flatMap(shortAttributes)]);
    await afterMount();
    await quiet();
    observer.disconnect();
    removeEventListener("message", onMessage);
    for (const element of elements) {
      for (const frame of within(element).filter(({ localName }) => localName === "iframe")) {
        if (frame.src) seen.add(`frame ${pattern(frame.src)}`);
      }
      shortAttributes(element).forEach((line) => seen.add(line));
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

  // The lines that only a good token, or only a bad one, brings about.
  const lines = { opened: [], denied: [] };

  const isOpened = (seen) => lines.opened.length > 0 && lines.opened.every((line) => seen.has(line));
  const isDenied = (seen) => lines.denied.length > 0 && lines.denied.every((line) => seen.has(line));

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

  const opens = async ({ seen }) => {
    if (isDenied(seen)) return "no";
    if (isOpened(seen)) return "yes";
    return lines.opened.length > 0 ? "no" : ask("is the portal open, without a sign-in?");
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
        const seen = lines.opened.length > 0 ? lateSeen : await late();
        return { answer: await opens(seen), ...seen };
      },
    },
    "two-embeds": {
      question: "May a page and a form use one token?",
      run: async () => {
        const token = await tokenOf("first");
        await watch([element("page", { "auth-token": token })]);
        const both = await watch([element("form", { "auth-token": token })]);
        return { answer: await opens(both), ...both };
      },
    },
    "twice": {
      question: "May the same kind of element use one token twice?",
      run: async () => {
        const token = await tokenOf("first");
        await watch([element("page", { "auth-token": token })]);
        const again = await watch([element("page", { "auth-token": token })]);
        return { answer: await opens(again), ...again };
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
        const trigger = document.createElement("button");
        trigger.id = "facts-trigger";
        trigger.textContent = "Open the widget";
        document.querySelector("#triggers").replaceChildren(trigger);
        const widget = element("widget", { "auth-token": await tokenOf("first"), trigger: "#facts-trigger" });
        const seen = await watch([widget], () => trigger.click());
        if (isOpened(seen.before)) return { answer: "yes", ...seen };
        if (isOpened(seen.seen)) return { answer: "no", ...seen };
        return { answer: await ask("was the widget signed in before you could open it?"), ...seen };
      },
    },
  };

  const calibrate = async () => {
    const none = await watch([element("page", {})]);
    const bad = await watch([element("page", { "auth-token": "not-a-token" })]);
    const lateSeen = await late();
    const good = await watch([element("page", { "auth-token": await tokenOf("first") })]);
    lines.opened = minus(good.seen, none.seen, bad.seen);
    lines.denied = minus(bad.seen, none.seen, good.seen);
    return lateSeen;
  };

  // ---- the report ----

  const report = (answers) =>
    [
      `Released's facts, ${new Date().toISOString().slice(0, 10)}, ${navigator.userAgent}`,
      `A good token shows as: ${lines.opened.join("; ") || "nothing that differs"}`,
      `A bad token shows as: ${lines.denied.join("; ") || "nothing that differs"}`,
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
