// axe finds nothing, in light and dark, wide and narrow, single and diff; nothing scrolls sideways at 320 px.
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import type { AxeResults } from 'axe-core';
import type { Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { SPIKE } from '../mock/node';
import { type Stage, startStage } from './browser';

let stage: Stage;
let axe: string;

beforeAll(async () => {
  stage = await startStage();
  axe = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
});
afterAll(() => stage.close());

const SERVICE = '?v=1&q=%7Bservice_name%3D%22checkout%22%7D';
const QUERIES = {
  landing: '',
  searched: `${SERVICE}&search=regexp`,
  diff: `${SERVICE}&b=${SPIKE.from}-${SPIKE.until}&a=${SPIKE.from - 300_000}-${SPIKE.from - 120_000}`,
  empty: '?v=1&q=%7Bservice_name%3D%22cron.service%22%7D',
};

async function violations(page: Page): Promise<string[]> {
  // Evaluated rather than added as a script, which the page's CSP rightly refuses.
  await page.evaluate(axe);
  const results = await page.evaluate(() => {
    const { axe } = globalThis as unknown as { axe: { run: (options: object) => Promise<AxeResults> } };
    return axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] });
  });
  return results.violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.html.slice(0, 120)).join(' | ')}`);
}

describe.each(Object.entries(QUERIES))('%s', (name, query) => {
  test.each([
    ['light', 1440],
    ['dark', 1440],
    ['light', 320],
    ['dark', 320],
  ] as const)('%s at %d px', async (colorScheme, width) => {
    const page = await stage.open(query, { colorScheme, viewport: { width, height: 800 } });
    await page.getByTestId(name === 'empty' ? 'empty' : 'function').first().waitFor();
    expect(await violations(page)).toEqual([]);
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    expect(overflow).toBeLessThanOrEqual(0);
    await page.context().close();
  });
});

test('the help dialog and an error', async () => {
  stage.mock.faults.set('SelectMergeStacktraces', { status: 500 });
  const page = await stage.open();
  await page.getByTestId('error').waitFor();
  expect(await violations(page)).toEqual([]);
  await page.keyboard.press('?');
  await page.getByRole('dialog').waitFor();
  expect(await violations(page)).toEqual([]);
  await page.context().close();
  stage.mock.faults.clear();
});

test('forced colours and reduced motion still draw boxes with edges', async () => {
  const page = await stage.open(SERVICE, { forcedColors: 'active', reducedMotion: 'reduce' });
  await page.getByTestId('function').first().waitFor();
  const colours = await page.getByTestId('flame').evaluate((element) => {
    const canvas = element.querySelector('canvas')!;
    const { data } = canvas.getContext('2d')!.getImageData(0, 20, 200, 20);
    return new Set(Array.from({ length: data.length / 4 }, (_, i) => data.slice(i * 4, i * 4 + 3).join())).size;
  });
  expect(colours).toBeGreaterThan(1);
  await page.context().close();
});
