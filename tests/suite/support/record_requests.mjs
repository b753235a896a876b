// Records what headless Chromium sends for everything that a page can ask for, into recorded_requests.txt:
//
//   node tests/suite/support/record_requests.mjs > tests/suite/support/recorded_requests.txt
//
// Three times: over http://localhost, which counts as secure and has fetch metadata; the same behind a service worker that
// only passes requests on; and over plain HTTP under another name, where browsers send no fetch metadata.
import { spawn, execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const BROWSER = process.env.CHROMIUM ?? "chromium";

/** The headers that say what a request is for; the others are the connection's, or the machine's. */
const KEPT = new Set([
  "accept", "access-control-request-method", "content-type", "hx-boosted", "hx-request", "origin", "purpose", "range",
  "sec-fetch-dest", "sec-fetch-mode", "sec-purpose", "service-worker", "service-worker-navigation-preload", "turbo-frame",
  "upgrade", "x-grpc-web", "x-sec-purpose", "x-up-version",
]);

const TYPES = {
  css: "text/css", js: "text/javascript", json: "application/json", png: "image/png", svg: "image/svg+xml", ico: "image/png",
  woff2: "font/woff2", mp4: "video/mp4", wav: "audio/wav", vtt: "text/vtt", webmanifest: "application/manifest+json",
  xml: "application/xml", xsl: "text/xsl", txt: "text/plain",
};

const SCRIPT_OF_THE_PAGE = `
  const post = (headers, body) => ({ method: "POST", headers, body });
  const attempts = {
    fetches() {
      fetch("/fetch");
      fetch("/fetch-json", { headers: { accept: "application/json" } });
      fetch("/fetch-html", { headers: { accept: "text/html" } });
      fetch("/fetch-token", post({ accept: "application/json" }));
      fetch("/fetch-post", post({ "content-type": "application/json" }, "{}"));
      fetch("/fetch-form", { method: "POST", body: new FormData() });
      fetch("/fetch-no-cors", { mode: "no-cors" });
      fetch("/fetch-range", { headers: { range: "bytes=0-9" } });
      fetch("/fetch-keepalive", { method: "POST", keepalive: true });
      fetch("/grpc-web", post({ "content-type": "application/grpc-web+proto", "x-grpc-web": "1" }, "12345"));
    },
    libraries() {
      const turbo = "text/html, application/xhtml+xml";
      fetch("/turbo-visit", { headers: { accept: turbo } });
      fetch("/turbo-frame", { headers: { accept: turbo, "turbo-frame": "main" } });
      fetch("/turbo-stream", post({ accept: "text/vnd.turbo-stream.html, " + turbo }));
      fetch("/turbo-hover", { headers: { accept: turbo, "x-sec-purpose": "prefetch" } });
      for (const [url, headers] of Object.entries({
        "/htmx": { "HX-Request": "true" },
        "/htmx-boost": { "HX-Request": "true", "HX-Boosted": "true" },
        "/unpoly": { "X-Up-Version": "3.10.2" },
        "/xhr": {},
        "/xhr-html": { accept: "text/html" },
        "/jquery-load": { accept: "text/html, */*; q=0.01" },
      })) {
        const xhr = new XMLHttpRequest();
        xhr.open("GET", url);
        for (const [name, value] of Object.entries(headers)) xhr.setRequestHeader(name, value);
        xhr.send();
      }
    },
    beacons() {
      navigator.sendBeacon("/beacon", "text");
      navigator.sendBeacon("/beacon-json", new Blob(["{}"], { type: "application/json" }));
      if (window.fetchLater) fetchLater("/fetch-later", { activateAfter: 0 });
      new EventSource("/event-stream");
      new WebSocket("ws://" + location.host + "/web-socket");
      new Image().src = "/image-of-script.png";
    },
    ping() {
      const link = document.createElement("a");
      Object.assign(link, { href: "/frame-by-link", target: "pinged", ping: "/ping" });
      document.body.append(link);
      link.click();
    },
    forms() {
      for (const method of ["get", "post"]) {
        const form = document.createElement("form");
        Object.assign(form, { action: "/frame-form-" + method, method, target: "form-" + method });
        document.body.append(form);
        form.submit();
      }
    },
    download() {
      const link = document.createElement("a");
      Object.assign(link, { href: "/download.txt", download: "a.txt" });
      document.body.append(link);
      link.click();
    },
    workers() {
      new Worker("/worker.js");
      new Worker("/worker-module.js", { type: "module" });
      new SharedWorker("/shared-worker.js");
      new OfflineAudioContext(1, 1, 44100).audioWorklet?.addModule("/audio-worklet.js");
      CSS.paintWorklet?.addModule("/paint-worklet.js");
    },
    modules() {
      import("/module-data.json", { with: { type: "json" } }).catch(() => {});
      import("/module-style.css", { with: { type: "css" } }).catch(() => {});
      import("/module-text.txt", { with: { type: "text" } }).catch(() => {});
    },
    identity() {
      navigator.credentials?.get({
        identity: { providers: [{ configURL: location.origin + "/fedcm.json", clientId: "1" }] },
      }).catch(() => {});
    },
    speculation() {
      const rules = document.createElement("script");
      rules.type = "speculationrules";
      rules.textContent = JSON.stringify({
        prefetch: [{ urls: ["/speculative-prefetch"], eagerness: "immediate" }],
        prerender: [{ urls: ["/speculative-prerender"], eagerness: "immediate" }],
      });
      document.head.append(rules);
    },
  };
  for (const attempt of Object.values(attempts)) try { attempt(); } catch (error) { console.log(String(error)); }
`;

const PAGE = `<!doctype html><title>page</title>
<link rel="stylesheet" href="/style.css"><link rel="manifest" href="/app.webmanifest"><link rel="icon" href="/favicon.ico">
<link rel="prefetch" href="/prefetch"><link rel="prefetch" as="document" href="/prefetch-as-document">
<link rel="prefetch" as="style" href="/prefetch-as-style.css"><link rel="prefetch" as="image" href="/prefetch-as-image.png">
<link rel="prefetch" as="script" href="/prefetch-as-script.js">
<link rel="preload" as="script" href="/preload.js"><link rel="preload" as="image" href="/preload.png">
<link rel="preload" as="fetch" crossorigin href="/preload-fetch.json"><link rel="modulepreload" href="/preload-module.js">
<link rel="compression-dictionary" href="/dictionary.txt">
<script src="/script.js"></script><script type="module" src="/module.js"></script><script async crossorigin src="/script-cors.js"></script>
<img src="/image.png"><img src="/image.svg"><img crossorigin src="/image-cors.png">
<svg width="9" height="9"><use href="/sprite.svg#a"></use></svg><input type="image" src="/button.png">
<p class="font">text</p>
<video src="/video.mp4" poster="/poster.png" preload="auto" muted autoplay><track default kind="captions" src="/captions.vtt"></video>
<audio src="/audio.wav" preload="auto"></audio>
<iframe src="/frame"></iframe><iframe src="/frame.xml"></iframe>
<iframe name="pinged"></iframe><iframe name="form-get"></iframe><iframe name="form-post"></iframe>
<object data="/object" type="text/html"></object><object data="/object.svg" type="image/svg+xml"></object><embed src="/embed.svg">
<script>${SCRIPT_OF_THE_PAGE}</script>`;

const STYLE = `@import "/style-imported.css"; @font-face { font-family: f; src: url(/font.woff2); }
.font { font-family: f; } body { background: url(/background.png); }`;

function wav() {
  const data = Buffer.alloc(2_000_000);
  const head = Buffer.from("RIFF....WAVEfmt ....................data....", "latin1");
  head.writeUInt32LE(36 + data.length, 4);
  head.writeUInt32LE(16, 16);
  [1, 1].forEach((value, i) => head.writeUInt16LE(value, 20 + 2 * i));
  [44100, 88200].forEach((value, i) => head.writeUInt32LE(value, 24 + 4 * i));
  [2, 16].forEach((value, i) => head.writeUInt16LE(value, 32 + 2 * i));
  head.writeUInt32LE(data.length, 40);
  return Buffer.concat([head, data]);
}

const ASSETS = {
  "/style.css": STYLE,
  "/module.js": "import '/module-dependency.js';",
  "/worker.js": "importScripts('/worker-imported.js'); fetch('/worker-fetch');",
  "/worker-module.js": "import '/worker-dependency.js';",
  "/frame.xml": `<?xml version="1.0"?><?xml-stylesheet type="text/xsl" href="/style.xsl"?><a/>`,
  "/speculation-rules.json": `{"prefetch":[{"urls":["/speculative-prefetch-by-header"],"eagerness":"immediate"}]}`,
  "/service-worker.js": `self.addEventListener("install", () => self.skipWaiting());
    self.addEventListener("activate", (event) => event.waitUntil(clients.claim()));
    self.addEventListener("fetch", (event) => event.respondWith(fetch(event.request)));`,
  "/app.webmanifest": `{"name":"a","icons":[{"src":"/manifest-icon.png","sizes":"192x192"}]}`,
};

/** Answers everything, and notes what was asked. */
function serve(requests) {
  const sound = wav();
  const server = createServer((request, response) => {
    const path = request.url.split("?")[0];
    requests.push({ method: request.method, path, headers: request.rawHeaders });
    const extension = path.includes(".") ? path.split(".").pop() : "";
    const type = TYPES[extension] ?? "text/html";
    const headers = { "content-type": type, "cache-control": "no-cache" };
    if (path === "/page") {
      headers["content-security-policy-report-only"] = "img-src data:; report-uri /csp-report";
      headers["speculation-rules"] = '"/speculation-rules.json"';
    }
    if (path === "/event-stream") headers["content-type"] = "text/event-stream";
    if (path === "/worker-fetch" || request.method === "OPTIONS") {
      Object.assign(headers, { "access-control-allow-origin": "*", "access-control-allow-headers": "*" });
    }
    const body = path === "/audio.wav" ? sound : Buffer.from(ASSETS[path] ?? (path === "/page" ? PAGE : ""));
    const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "") ?? [];
    if (first !== undefined && body.length > 0) {
      const end = last ? Math.min(Number(last), body.length - 1) : body.length - 1;
      headers["content-range"] = `bytes ${first}-${end}/${body.length}`;
      response.writeHead(206, headers);
      response.end(body.subarray(Number(first), end + 1));
    } else {
      response.writeHead(200, headers);
      response.end(body);
    }
  });
  server.on("upgrade", (request, socket) => {
    requests.push({ method: request.method, path: request.url, headers: request.rawHeaders });
    socket.end("HTTP/1.1 400 Bad Request\r\n\r\n");
  });
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server)));
}

/** A browser, driven over a pipe. */
function open(port) {
  const profile = mkdtempSync(join(tmpdir(), "recorded-requests-"));
  const process = spawn(BROWSER, [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--autoplay-policy=no-user-gesture-required", `--host-resolver-rules=MAP shop.example 127.0.0.1:${port}`,
    "--remote-debugging-pipe", `--user-data-dir=${profile}`, "about:blank",
  ], { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
  const waiting = new Map();
  let [number, read] = [0, ""];
  process.stdio[4].on("data", (data) => {
    read += data;
    for (let end; (end = read.indexOf("\0")) >= 0; read = read.slice(end + 1)) {
      const { id, result, error } = JSON.parse(read.slice(0, end));
      waiting.get(id)?.(error ?? result);
    }
  });
  const call = (method, params = {}, sessionId) => new Promise((resolve) => {
    waiting.set(++number, resolve);
    process.stdio[3].write(`${JSON.stringify({ id: number, method, params, sessionId })}\0`);
  });
  const close = async () => {
    await call("Browser.close");
    await new Promise((resolve) => process.on("exit", resolve));
    await sleep(500);
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  };
  return { call, close };
}

async function record(variant) {
  const requests = [];
  const server = await serve(requests);
  const { port } = server.address();
  const { call, close } = open(port);
  const origin = variant === "plain" ? "http://shop.example" : `http://localhost:${port}`;
  const { targetId } = await call("Target.createTarget", { url: "about:blank" });
  const { sessionId } = await call("Target.attachToTarget", { targetId, flatten: true });
  const tell = (method, params) => call(method, params, sessionId);
  const evaluate = (expression) => tell("Runtime.evaluate", { expression, userGesture: true, awaitPromise: true });
  await tell("Page.enable");
  if (variant === "service-worker") {
    await tell("Page.navigate", { url: `${origin}/before` });
    await sleep(1000);
    await evaluate(`navigator.serviceWorker.register("/service-worker.js").then(() => navigator.serviceWorker.ready)`);
    await sleep(1000);
    requests.splice(0, requests.length, ...requests.filter(({ path }) => path === "/service-worker.js"));
  }
  await tell("Page.navigate", { url: `${origin}/page` });
  await sleep(6000);
  await tell("Page.getAppManifest");
  await sleep(1000);
  // The speculated pages are asked for again if they are not there.
  await evaluate(`Object.assign(document.body.appendChild(document.createElement("a")), { href: "/link" }).click()`);
  await sleep(1500);
  await tell("Page.reload");
  await sleep(1500);
  for (const method of ["get", "post"]) {
    await evaluate(`{ const form = Object.assign(document.createElement("form"),
      { action: "/form-${method}", method: "${method}" }); document.body.append(form); form.submit(); }`);
    await sleep(1500);
  }
  // Another origin, for a preflight.
  await tell("Page.navigate", { url: `${variant === "plain" ? "http://shop.example:81" : `http://127.0.0.1:${port}`}/other` });
  await sleep(1500);
  await evaluate(`fetch("${origin}/preflight", { method: "PUT", headers: { "x-a": "b" } }).catch(() => {}); 0`);
  await sleep(1500);
  await close();
  server.close();
  server.closeAllConnections();
  return requests.filter(({ path }) => path !== "/other");
}

const version = execFileSync(BROWSER, ["--version"], { stdio: ["ignore", "pipe", "ignore"] }).toString().split(" ").slice(0, 2);
const recordings = { secure: "", "service-worker": "", plain: "" };
for (const variant of Object.keys(recordings)) {
  const lines = new Set();
  for (const { method, path, headers } of await record(variant)) {
    const kept = [];
    for (let i = 0; i < headers.length; i += 2) {
      const name = headers[i].toLowerCase();
      // A multipart boundary is random, and so is a port.
      const value = headers[i + 1].replace(/; boundary=.*/, "").replace(/localhost:\d+|127\.0\.0\.1:\d+/, "localhost");
      if (KEPT.has(name)) kept.push(`${name}: ${value}`);
    }
    lines.add([`${method} ${path}`, ...kept.sort()].join(" | "));
  }
  recordings[variant] = [...lines].sort().join("\n");
}

// The long values are written once.
const all = Object.entries(recordings).map(([variant, lines]) => `\n== ${variant}\n${lines}\n`).join("");
const long = { document: /accept: (text\/html,[^|\n]*signed-exchange[^|\n]*)/, speculative: /accept: (text\/html,[^|\n]*apng,\*\/\*;q=0\.8)(?= |\n)/,
  image: /accept: (image\/[^|\n]*?)(?= \||\n)/ };
let text = all;
console.log(`# Recorded with ${version.join(" ")} by record_requests.mjs: the headers that say what each request is for.\n`);
for (const [name, pattern] of Object.entries(long)) {
  const value = pattern.exec(all)[1].trim();
  console.log(`{${name}} = ${value}`);
  text = text.replaceAll(`accept: ${value} |`, `accept: {${name}} |`).replaceAll(`accept: ${value}\n`, `accept: {${name}}\n`);
}
process.stdout.write(text);
