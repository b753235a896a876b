// What the pages of the demo do themselves. All of it works without Released.
document.querySelector("#ask")?.addEventListener("click", async () => {
  const response = await fetch("/api/released-token", { method: "POST" });
  const { token, expires_in, error } = await response.json();
  const what = token ? `a token of ${token.length} characters, good for ${expires_in} s` : error;
  document.querySelector("#answer").textContent = `${response.status}: ${what}`;
});

document.querySelector("#feedback")?.addEventListener("click", ({ currentTarget }) => {
  window.Released?.show("form", currentTarget.dataset.form);
});

document.addEventListener("released:error", ({ detail: { status, final, signedOut } }) => {
  const note = document.querySelector("#script-note");
  if (!note) return;
  if (signedOut) note.textContent = "Nobody is signed in, says the endpoint, so the script has stopped.";
  else note.textContent = `No token yet (${status ?? "no answer"}). ${final ? "The script has stopped." : "The script tries again."}`;
});

document.addEventListener("released:token", ({ detail: { expiresIn } }) => {
  const note = document.querySelector("#script-note");
  if (note) note.textContent = `The script fetched a token, good for ${expiresIn} s, when the embed was mounted.`;
});

const live = document.querySelector("#status");
if (live) setInterval(async () => {
  const response = await fetch("/status/now", { cache: "no-store" }).catch(() => null);
  if (response?.ok) live.innerHTML = await response.text();
}, 1000);
