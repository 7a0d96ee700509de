// Builds dist/: one page, one script, one style sheet, hashed names, nothing inline (the server sends
// `Content-Security-Policy: default-src 'self'`). `npm run dev` serves the page and passes API calls to a running Pyrite.
import { defineConfig } from 'vite';

const backend = process.env['PYRITE_URL'] ?? 'http://127.0.0.1:4040';

export default defineConfig({
  oxc: { jsx: { runtime: 'automatic', importSource: 'preact' } },
  build: {
    target: 'es2022',
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
  server: { proxy: { '/api': backend, '/querier.v1.QuerierService': backend } },
});
