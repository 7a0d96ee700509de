// Pictures of the page for people to look at. Written only when PICTURES names a directory.
import { afterAll, beforeAll, describe, test } from 'vitest';
import { SPIKE } from '../mock/node';
import { type Stage, startStage } from './browser';

const directory = process.env['PICTURES'];
const WINDOWS = `b=${SPIKE.from}-${SPIKE.until}&a=${SPIKE.from - 300_000}-${SPIKE.from - 120_000}`;
const SHOTS = [
  { name: 'landing', query: '' },
  { name: 'landing-dark', query: '', options: { colorScheme: 'dark' as const } },
  { name: 'service', query: '?v=1&q={service_name="checkout"}&search=regexp' },
  { name: 'diff', query: `?v=1&q={service_name="checkout"}&${WINDOWS}&sort=delta.desc` },
  { name: 'diff-dark', query: `?v=1&q={service_name="checkout"}&${WINDOWS}`, options: { colorScheme: 'dark' as const } },
  { name: 'narrow', query: '', options: { viewport: { width: 360, height: 1400 } } },
  { name: 'forced', query: `?v=1&q={service_name="checkout"}`, options: { forcedColors: 'active' as const } },
];

describe.skipIf(directory === undefined)('pictures', () => {
  let stage: Stage;
  beforeAll(async () => {
    stage = await startStage();
  });
  afterAll(() => stage.close());

  test.each(SHOTS)('$name', async ({ name, query, options }) => {
    const page = await stage.open(query, options);
    await page.getByTestId('function').first().waitFor();
    await page.screenshot({ path: `${directory}/${name}.png`, fullPage: name === 'narrow' });
    await page.context().close();
  });
});
