import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// While you develop, `npm run dev` serves the page, and `cargo run --example react` what it fetches.
const server = "http://127.0.0.1:3000";

export default defineConfig({
  plugins: [react()],
  server: {
    proxy: {
      "/api": server,
      "/embed.js": server,
      "/released-token.js": server,
    },
  },
});
