// Unit and property tests of the pure code; no browser, no network.
import { defineConfig } from 'vitest/config';

export default defineConfig({ test: { include: ['test/unit/**/*.test.ts'], environment: 'node' } });
