// Fails the build when what a browser must download first grows past its budget (kB after gzip).
import { readdirSync, readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';

const BUDGET_KB = { js: 60, css: 12 };
const dir = new URL('../dist/assets/', import.meta.url);

for (const [extension, budget] of Object.entries(BUDGET_KB)) {
  const files = readdirSync(dir).filter((name) => name.endsWith(`.${extension}`));
  const bytes = files.reduce((sum, name) => sum + gzipSync(readFileSync(new URL(name, dir)), { level: 9 }).length, 0);
  const line = `${extension}: ${(bytes / 1000).toFixed(1)} kB gzipped of ${budget} kB`;
  if (bytes > budget * 1000) {
    console.error(`${line}: too large`);
    process.exitCode = 1;
  } else {
    console.log(line);
  }
}
