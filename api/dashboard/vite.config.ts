import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const api = process.env["TICKSTREAM_API"] ?? "http://127.0.0.1:8080";
const client = new URL("../../clients/typescript/src/index.ts", import.meta.url);

const page = (name: string): string => fileURLToPath(new URL(name, import.meta.url));

export default defineConfig({
  base: "/static/",
  resolve: { alias: { "@tickstream/client": fileURLToPath(client) } },
  build: {
    outDir: "../static",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0, // a data: address would not pass the page's content security policy
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 2_000, // Swagger UI, which only the page of the reference loads
    rollupOptions: { input: { index: page("index.html"), docs: page("docs.html") } },
  },
  server: {
    proxy: { "/api": api, "/ws": { target: api, ws: true } },
  },
});
