// A stand-in for Released's embed script: elements of the same names, which exchange their token as the portal does
// and show what came of it. It renders no portal.
(() => {
  // The server fills these in. `Unknowns` are what Released does not document.
  const UNKNOWNS = {/* unknowns */};
  const server = "/* server */";

  const NAMES = {
    "released-page": "Released portal",
    "released-widget": "Released widget",
    "released-form": "Released form",
    "released-badge": "Released badge",
  };

  const STYLE = `
    :host { display: block; color-scheme: light dark; }
    :host([hidden]) { display: none; }
    :host([color-scheme=light]) { color-scheme: light; }
    :host([color-scheme=dark]) { color-scheme: dark; }
    section {
      font: 16px/1.5 system-ui, sans-serif; padding: 1rem 1.25rem; border-radius: 12px;
      color: light-dark(#1c2024, #edeef0); background: light-dark(#fff, #18191b);
      border: 1px solid light-dark(#d9d9e0, #43484e);
    }
    p { margin: 0; }
    [part=kind] { font-size: .75rem; letter-spacing: .05em; text-transform: uppercase; opacity: .7; }
    [part=state]::before { content: "●"; margin-right: .5em; color: light-dark(#8b8d98, #777b84); }
    section[data-state=verified] [part=state]::before { color: #30a46c; }
    section[data-state=denied] [part=state]::before { color: #e5484d; }
  `;

  // Whose session the portal shows: that of the token, or the one that is live.
  const sessionOf = (person) => {
    if (UNKNOWNS.replaces_session) return person;
    const live = sessionStorage.getItem("released-session") ?? person;
    sessionStorage.setItem("released-session", live);
    return live;
  };

  class ReleasedElement extends HTMLElement {
    static observedAttributes = UNKNOWNS.notices_late_token ? ["auth-token"] : [];
    #token = null;
    #mount = null;

    connectedCallback() {
      if (!this.shadowRoot) {
        const style = document.createElement("style");
        style.textContent = STYLE;
        const section = document.createElement("section");
        for (const part of ["kind", "state"]) {
          const line = document.createElement("p");
          line.part = part;
          section.append(line);
        }
        this.attachShadow({ mode: "open" }).append(style, section);
        this.shadowRoot.querySelector("[part=kind]").textContent = NAMES[this.localName];
        // A form that is a dialog waits until it is shown.
        this.hidden = this.localName === "released-form" && this.getAttribute("dialog") === "true";
      }
      if (this.localName === "released-widget" && !UNKNOWNS.widget_exchanges_on_load) return this.#waitForTrigger();
      // Each mount is a new frame, which exchanges what it is given.
      this.#verify();
    }

    #waitForTrigger() {
      this.#show("closed", "Not opened yet.");
      const trigger = document.querySelector(this.getAttribute("trigger") ?? ":not(*)");
      this.#mount = new AbortController();
      trigger?.addEventListener("click", () => this.#verify(), { once: true, signal: this.#mount.signal });
    }

    disconnectedCallback() {
      this.#mount?.abort();
    }

    attributeChangedCallback(_name, before, token) {
      if (this.isConnected && this.shadowRoot && token !== before) this.#verify();
    }

    async #verify() {
      const token = this.getAttribute("auth-token");
      this.#token = token;
      if (!token) return this.#show("anonymous", "Not signed in: this embed has no auth-token.");
      this.#show("pending", "Verifying …");
      try {
        const response = await fetch(`${server}/session`, {
          method: "POST",
          headers: { "content-type": "application/json" },
          body: JSON.stringify({ token, embed: this.localName }),
        });
        const answer = await response.json();
        if (token !== this.#token) return; // a newer token is being verified
        if (response.ok) this.#show("verified", `Verified as ${sessionOf(answer.name ?? answer.email)}`);
        else this.#show("denied", `Access denied: ${answer.error}`);
      } catch {
        if (token === this.#token) this.#show("denied", "Access denied: Released cannot be reached.");
      }
    }

    #show(state, text) {
      this.shadowRoot.querySelector("section").dataset.state = state;
      this.shadowRoot.querySelector("[part=state]").textContent = text;
      this.dataset.state = state;
    }
  }

  const setHidden = (kind, id, hidden) => {
    for (const element of document.querySelectorAll(`released-${kind}`)) {
      if (element.getAttribute(`${kind}-id`) === id) element.hidden = hidden;
    }
  };
  window.Released = {
    show: (kind, id) => setHidden(kind, id, false),
    close: (kind, id) => setHidden(kind, id, true),
  };

  for (const name of Object.keys(NAMES)) {
    // A page may include the script twice.
    if (!customElements.get(name)) customElements.define(name, class extends ReleasedElement {});
  }
})();
