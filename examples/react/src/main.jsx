import { StrictMode, useEffect, useState } from "react";
import { createRoot } from "react-dom/client";

const ENDPOINT = "/api/released-token";

// With the token script: it finds the element and fetches its token.
function PortalWithScript({ channel }) {
  return <released-page channel-id={channel} data-released-auth={ENDPOINT} />;
}

// Without the token script: the component fetches the token, and mounts the element with it. Without a token, the
// element offers to sign in.
function PortalWithoutScript({ channel }) {
  const [answer, setAnswer] = useState(null);

  useEffect(() => {
    const unmounted = new AbortController();
    fetchToken(unmounted.signal).then(
      (token) => setAnswer({ token }),
      (error) => unmounted.signal.aborted || setAnswer({ error }),
    );
    return () => unmounted.abort();
  }, []);

  if (answer === null) {
    return <p>Loading…</p>;
  }
  return <released-page channel-id={channel} auth-token={answer.token} />;
}

async function fetchToken(signal) {
  const reply = await fetch(ENDPOINT, { method: "POST", signal });
  if (!reply.ok) {
    throw new Error(`no token: ${reply.status}`);
  }
  const { token } = await reply.json();
  return token;
}

const PORTALS = {
  script: PortalWithScript,
  endpoint: PortalWithoutScript,
};

function App() {
  const [shown, setShown] = useState(null);
  const Portal = PORTALS[shown];
  return (
    <>
      <nav>
        <button id="script" onClick={() => setShown("script")}>Roadmap, with the token script</button>
        <button id="endpoint" onClick={() => setShown("endpoint")}>Roadmap, with the endpoint alone</button>
        <button id="home" onClick={() => setShown(null)}>Home</button>
      </nav>
      <main>{Portal ? <Portal channel="demo-channel" /> : <h1>Home</h1>}</main>
    </>
  );
}

createRoot(document.getElementById("app")).render(
  <StrictMode>
    <App />
  </StrictMode>,
);
