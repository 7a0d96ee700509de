// What people do with the page, from landing to a comparison, by mouse, by key and by link.
import type { Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { cpuNanos, mockServices, NOW, SPIKE, stackNanos } from '../mock/node';
import { type Stage, startStage } from './browser';

let stage: Stage;
let page: Page;

beforeAll(async () => {
  stage = await startStage();
});
afterAll(() => stage.close());
beforeEach(() => {
  stage.problems.length = 0;
  stage.mock.calls.length = 0;
});
afterEach(async () => {
  await page.context().close();
  expect(stage.problems).toEqual([]);
});

const CHECKOUT = '?v=1&q=%7Bservice_name%3D%22checkout%22%7D';
const COMPARE = `&b=${SPIKE.from}-${SPIKE.until}&a=${SPIKE.from - 300_000}-${SPIKE.from - 120_000}`;

const row = (name: string) => page.locator(`[data-testid="function"][data-function="${name}"]`);
const flame = () => page.getByTestId('flame');
const parameter = (name: string): string | null => new URL(page.url()).searchParams.get(name);

async function ready(): Promise<void> {
  await page.getByTestId('function').first().waitFor();
}

/** Presses on the plot at one fraction of its width and lets go at another. */
async function drag(from: number, to: number): Promise<void> {
  const box = (await page.getByTestId('plot').boundingBox())!;
  await page.mouse.move(box.x + box.width * from, box.y + 40);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * to, box.y + 45, { steps: 4 });
  await page.mouse.up();
}

describe('landing', () => {
  test('shows the whole node, its services by CPU and the idle ones as idle', async () => {
    page = await stage.open();
    await ready();
    const names = await page.getByTestId('services').getByTestId('service').evaluateAll((rows) => rows.map((one) => (one as HTMLElement).dataset['service']));
    expect(names.slice(0, 4)).toEqual(['checkout', 'postgres', 'gateway', 'storefront']);
    const idle = page.getByTestId('idle-services');
    expect(await idle.innerText()).toMatch(/cron\.service\s+idle/);
    expect(await page.getByTestId('node').innerText()).toBe('node-7 · 97 Hz cpu-clock');
    expect(await page.title()).toBe('Whole node · node-7 · Pyrite');
    expect(Number(await flame().getAttribute('data-boxes'))).toBeGreaterThan(60);
  });

  test('the table carries the exact self and total nanoseconds of the answer', async () => {
    page = await stage.open(CHECKOUT);
    await ready();
    const asked = stage.mock.calls.findLast((call) => call.method === 'SelectMergeStacktraces')!.body;
    const service = mockServices().find((one) => one.name === 'checkout')!;
    const nanos = stackNanos(service, Number(asked['start']), Number(asked['end']));
    for (const name of ['regexp.(*Regexp).backtrack', 'shop/money.(*Amount).Add', 'runtime.scanobject']) {
      const of = (test: (stack: string) => boolean): number => [...nanos].filter(([stack]) => test(stack)).reduce((sum, [, value]) => sum + value, 0);
      expect(await row(name).locator('[data-self-ns]').getAttribute('data-self-ns')).toBe(String(of((stack) => stack.endsWith(`;${name}`))));
      expect(await row(name).locator('[data-total-ns]').getAttribute('data-total-ns')).toBe(String(of((stack) => `${stack};`.includes(`;${name};`))));
    }
  });

  test('one click on a service filters everything, Back takes it back', async () => {
    page = await stage.open();
    await ready();
    await page.locator('[data-service="postgres"]').click();
    await row('heapgettup_pagemode').waitFor();
    await expect.poll(() => row('runtime.scanobject').count()).toBe(0);
    expect(parameter('q')).toBe('{service_name="postgres"}');
    await page.goBack();
    await row('runtime.scanobject').waitFor();
    expect(parameter('q')).toBeNull();
  });

  test('rates divide by the recorded part of the range', async () => {
    page = await stage.open('?v=1&from=now-6h');
    await ready();
    const shown = Number.parseFloat(await page.locator('[data-service="postgres"] .value').innerText());
    expect(shown).toBeGreaterThan(0.3);
    expect(await page.getByText('recording since').count()).toBe(1);
  });
});

describe('filters', () => {
  test('every matcher is sent, and a wrong one is explained', async () => {
    page = await stage.open(CHECKOUT);
    await ready();
    const field = page.getByLabel('Add a label filter');
    await field.fill('namespace=shop');
    await field.press('Enter');
    await page.getByText('At character 11: expected a value in double quotes').waitFor();
    await field.fill('namespace=~"sh.*"');
    await field.press('Enter');
    await expect.poll(() => parameter('q')).toBe('{service_name="checkout", namespace=~"sh.*"}');
    await expect
      .poll(() => stage.mock.calls.findLast((call) => call.method === 'SelectMergeStacktraces')?.body['labelSelector'])
      .toBe('{service_name="checkout", namespace=~"sh.*"}');
    await page.getByLabel('Remove namespace').click();
    await expect.poll(() => parameter('q')).toBe('{service_name="checkout"}');
  });

  test('suggests values of the label being typed', async () => {
    page = await stage.open();
    await ready();
    await page.getByLabel('Add a label filter').fill('namespace=');
    await expect.poll(() => page.locator('#matchers option').first().getAttribute('value')).toBe('namespace="shop"');
  });
});

describe('flame graph', () => {
  test('pointing tells, clicking zooms, Esc and breadcrumbs lead out', async () => {
    page = await stage.open(`${CHECKOUT}&panel=graph`);
    await flame().waitFor();
    const box = (await flame().boundingBox())!;
    await page.mouse.move(box.x + 60, box.y + 30);
    expect(await page.getByTestId('tooltip').innerText()).toMatch(/net\/http\.\(\*conn\)\.serve[^]*cores[^]*%/);
    await page.mouse.click(box.x + 60, box.y + 30);
    await expect.poll(() => page.getByTestId('crumbs').innerText()).toContain('net/http.(*conn).serve');
    expect(parameter('focus')).toMatch(/^[0-9a-f]{16}$/);
    await page.keyboard.press('Escape');
    await expect.poll(() => page.getByTestId('crumbs').count()).toBe(0);
    await page.goBack();
    await expect.poll(() => page.getByTestId('crumbs').innerText()).toContain('net/http.(*conn).serve');
    await page.getByRole('button', { name: 'Reset zoom' }).click();
    expect(parameter('focus')).toBeNull();
  });

  test('a zoomed link shows the same frame in a fresh browser, later', async () => {
    page = await stage.open(`${CHECKOUT}&panel=graph`);
    await flame().waitFor();
    const box = (await flame().boundingBox())!;
    await page.mouse.click(box.x + 60, box.y + 30);
    await page.getByTestId('crumbs').waitFor();
    const link = new URL(page.url()).search;
    await page.context().close();
    page = await stage.open(link);
    expect(await page.getByTestId('crumbs').innerText()).toContain('net/http.(*conn).serve');
  });

  test('arrow keys walk the tree, a screen reader is told where, Enter zooms', async () => {
    page = await stage.open(`${CHECKOUT}&panel=graph`);
    await flame().waitFor();
    await flame().focus();
    for (const key of ['ArrowDown', 'ArrowDown', 'ArrowDown']) await page.keyboard.press(key);
    const active = async (): Promise<string> => page.locator(`[id="${await flame().getAttribute('aria-activedescendant')}"]`).innerText();
    expect(await active()).toMatch(/^net\/http\.\(\*ServeMux\)\.ServeHTTP, [\d.]+ cores, [\d.]+ %$/);
    await page.keyboard.press('ArrowUp');
    expect(await active()).toMatch(/^net\/http\.serverHandler/);
    await page.keyboard.press('Enter');
    await expect.poll(() => page.getByTestId('crumbs').innerText()).toContain('serverHandler');
    await page.keyboard.press('0');
    await expect.poll(() => page.getByTestId('crumbs').count()).toBe(0);
  });

  test('search by key: share found, wrong expressions explained, n goes to the next match', async () => {
    page = await stage.open(CHECKOUT);
    await ready();
    await page.keyboard.press('/');
    await page.keyboard.type('regexp.*(backtrack|push)');
    await expect.poll(() => page.getByTestId('matched').innerText()).toMatch(/^2 functions, \d+\.\d %$/);
    expect(await page.getByTestId('function').count()).toBe(2);
    await page.keyboard.press('Enter');
    expect(await page.locator('[aria-selected="true"]').textContent()).toMatch(/^regexp\./);
    await page.getByLabel('Search functions').fill('a(');
    await expect.poll(() => page.getByTestId('matched').innerText()).toMatch(/group/);
    await page.keyboard.press('Escape');
    expect(parameter('search')).toBeNull();
  });

  test('a stack of 4,000 frames is drawn to its end, on a canvas no taller than its window', async () => {
    stage.mock.stacks = new Map([[Array.from({ length: 4000 }, (_, i) => `deep${i}`).join(';'), 1e9]]);
    page = await stage.open('?v=1&panel=graph');
    await flame().waitFor();
    stage.mock.stacks = null;
    await flame().evaluate((element) => element.scrollTo(0, element.scrollHeight));
    await page.waitForTimeout(100);
    const bottom = await flame().evaluate((element) => {
      const canvas = element.querySelector('canvas')!;
      const data = canvas.getContext('2d')!.getImageData(20, canvas.height - 30, 1, 1).data;
      return { height: canvas.height, pixel: Array.from(data.slice(0, 3)) };
    });
    expect(bottom.height).toBeLessThan(1300);
    expect(bottom.pixel).not.toEqual([255, 255, 255]);
  });
});

describe('table', () => {
  test('sorts by each heading, both ways, and says so', async () => {
    page = await stage.open(CHECKOUT);
    await ready();
    const selfs = (): Promise<number[]> => page.locator('td[data-self-ns]').evaluateAll((cells) => cells.map((cell) => Number((cell as HTMLElement).dataset['selfNs'])));
    const down = await selfs();
    expect(down).toEqual(down.toSorted((a, b) => b - a));
    await page.getByRole('button', { name: /^Self/ }).click();
    expect(await selfs()).toEqual(down.toSorted((a, b) => a - b));
    expect(await page.locator('th[aria-sort="ascending"]').innerText()).toMatch(/^Self/);
    await page.getByRole('button', { name: 'Function', exact: true }).click();
    expect(parameter('sort')).toBe('name.asc');
  });
});

describe('timeline and comparison', () => {
  test('a drag selects a window, and the flame graph is of exactly that window', async () => {
    page = await stage.open(CHECKOUT);
    await ready();
    await drag(0.2, 0.4);
    await page.getByTestId('band-comparison').waitFor();
    const [from, until] = parameter('b')!.split('-').map(Number);
    await expect
      .poll(() => stage.mock.calls.findLast((call) => call.method === 'SelectMergeStacktraces')?.body)
      .toMatchObject({ start: from + 1, end: until });
    expect(until - from).toBeGreaterThan(2.8 * 60_000);
    expect(until - from).toBeLessThan(3.2 * 60_000);
    // A new window that shares an edge with the old one is a new window all the same.
    await drag(0.6, 0.2);
    await expect.poll(() => Number(parameter('b')!.split('-')[1])).toBeGreaterThan(until);
    await page.getByRole('button', { name: 'Clear' }).click();
    expect(parameter('b')).toBeNull();
  });

  test('Shift-drag sets the baseline and the diff names what grew, in cores', async () => {
    page = await stage.open(`${CHECKOUT}&b=${SPIKE.from}-${SPIKE.until}`);
    await ready();
    await page.keyboard.down('Shift');
    await drag(0.1, 0.3);
    await page.keyboard.up('Shift');
    await page.getByTestId('changes').waitFor();
    expect(await page.getByTestId('changes').getByRole('button').first().innerText()).toMatch(/^▲ \+0\.6\d\d cores regexp\.\(\*Regexp\)\.backtrack$/);
    expect(await page.getByTestId('function').first().getAttribute('data-function')).toBe('regexp.(*Regexp).backtrack');
    expect(await row('regexp/syntax.Parse').innerText()).toContain('new ▲');
    expect(await row('shop/cache.(*LRU).Add').innerText()).toContain('gone ▼');
  });

  test('the values of both sides are those of their windows', async () => {
    page = await stage.open(CHECKOUT + COMPARE);
    await page.getByTestId('changes').waitFor();
    const service = mockServices().find((one) => one.name === 'checkout')!;
    const a = cpuNanos(service, SPIKE.from - 299_999, SPIKE.from - 120_000) / 180e9;
    const b = cpuNanos(service, SPIKE.from + 1, SPIKE.until) / 120e9;
    const whole = await page.getByTestId('whole').innerText();
    const [shownA, shownB] = [...whole.matchAll(/([\d.]+) cores/g)].map((found) => Number(found[1]));
    expect(shownA).toBeCloseTo(a, 2);
    expect(shownB).toBeCloseTo(b, 2);
  });

  test('Compare finds the spike and a quiet baseline by itself; a second press leaves', async () => {
    page = await stage.open(CHECKOUT);
    await ready();
    await page.keyboard.press('d');
    await page.getByTestId('changes').waitFor();
    const [from, until] = parameter('b')!.split('-').map(Number);
    expect(from).toBeLessThan(SPIKE.until);
    expect(until).toBeGreaterThan(SPIKE.from);
    const [, baseUntil] = parameter('a')!.split('-').map(Number);
    expect(baseUntil <= from || Number(parameter('a')!.split('-')[0]) >= until).toBe(true);
    await page.getByTestId('compare').click();
    await expect.poll(() => page.getByTestId('changes').count()).toBe(0);
  });

  test('window edges move by key, x swaps the windows', async () => {
    page = await stage.open(CHECKOUT + COMPARE);
    await page.getByTestId('changes').waitFor();
    const edge = page.getByRole('slider', { name: 'Comparison start' });
    await edge.focus();
    await page.keyboard.press('ArrowLeft');
    await expect.poll(() => parameter('b')).toBe(`${SPIKE.from - 5000}-${SPIKE.until}`);
    await page.keyboard.press('Shift+ArrowRight');
    await expect.poll(() => parameter('b')).toBe(`${SPIKE.from}-${SPIKE.until + 5000}`);
    await page.keyboard.press('x');
    await expect.poll(() => parameter('a')).toBe(`${SPIKE.from}-${SPIKE.until + 5000}`);
  });

  test('touch drags a window edge', async () => {
    page = await stage.open(CHECKOUT + COMPARE, { hasTouch: true });
    await page.getByTestId('changes').waitFor();
    const edge = page.getByRole('slider', { name: 'Comparison end' });
    const box = (await edge.boundingBox())!;
    const touch = (type: string, x: number): Promise<void> =>
      edge.dispatchEvent(type, { pointerId: 7, pointerType: 'touch', isPrimary: true, button: 0, bubbles: true, clientX: x, clientY: box.y + 20 });
    await page.evaluate(() => {
      Element.prototype.setPointerCapture = () => {};
    });
    await touch('pointerdown', box.x + 12);
    await touch('pointermove', box.x + 82);
    await touch('pointerup', box.x + 82);
    await expect.poll(() => Number(parameter('b')!.split('-')[1])).toBeGreaterThan(SPIKE.until + 30_000);
  });
});

describe('keeps filling', () => {
  test('a relative range moves on by itself, unless paused', async () => {
    page = await stage.open();
    await ready();
    const ends = (): number[] => stage.mock.calls.filter((call) => call.method === 'SelectMergeStacktraces').map((call) => Number(call.body['end']));
    await page.clock.runFor(6000);
    await expect.poll(() => ends().at(-1)).toBeGreaterThan(NOW);
    await page.getByTestId('live').click();
    await expect.poll(() => page.locator('[aria-busy="true"]').count()).toBe(0);
    const count = ends().length;
    await page.clock.runFor(20_000);
    expect(ends().length).toBe(count);
  });

  test('a fixed range is not asked for again', async () => {
    page = await stage.open(`?v=1&from=${NOW - 600_000}&until=${NOW - 60_000}`);
    await ready();
    const count = stage.mock.calls.length;
    await page.clock.runFor(30_000);
    expect(stage.mock.calls.length).toBe(count);
  });
});

test('the theme is kept', async () => {
  page = await stage.open();
  await ready();
  await page.getByTestId('theme').click();
  await page.getByTestId('theme').click();
  expect(await page.locator('html').getAttribute('data-theme')).toBe('dark');
  await page.reload();
  await expect.poll(() => page.locator('html').getAttribute('data-theme')).toBe('dark');
});

test('? lists the keys, Esc closes the list', async () => {
  page = await stage.open();
  await ready();
  await page.keyboard.press('?');
  await page.getByRole('dialog').waitFor();
  await page.keyboard.press('Escape');
  await expect.poll(() => page.getByRole('dialog').count()).toBe(0);
});
