// States without (all) data name their cause and the next step, and nothing shown is ever older than it looks.
import type { Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { NOW } from '../mock/node';
import { type Stage, startStage } from './browser';

let stage: Stage;
let page: Page;

beforeAll(async () => {
  stage = await startStage();
});
afterAll(() => stage.close());
afterEach(async () => {
  stage.mock.faults.clear();
  await page.context().close();
});

const functions = () => page.getByTestId('function');

describe('errors', () => {
  test.each([
    ['a missing tenant', { status: 401, body: '{"code":"unauthenticated","message":"the header X-Scope-OrgID must name one"}' }, /not told whose data to show: the header X-Scope-OrgID must name one\. Open the page by way of the proxy/],
    ['a refusal', { status: 400, body: '{"code":"invalid_argument","message":"unknown label"}' }, /refused the question: unknown label\. Change the selector/],
    ['a failure', { status: 500, body: '<html>oops</html>' }, /could not answer\. Try again/],
    ['an answer that is not JSON', { body: 'nonsense' }, /could not be read: not a JSON object\. The page and the server may be of different versions/],
    ['a malformed graph', { body: '{"flamegraph":{"names":["total"],"levels":[{"values":["0","1"]}]}}' }, /does not hold whole frames/],
    ['a missing route', { status: 404, body: 'not found' }, /does not know this question/],
  ])('%s', async (_, fault, message) => {
    stage.mock.faults.set('SelectMergeStacktraces', fault);
    page = await stage.open();
    await expect.poll(() => page.getByTestId('error').first().innerText()).toMatch(message);
    expect(await page.getByTestId('service').count()).toBeGreaterThan(5);
    stage.mock.faults.clear();
    await page.getByRole('button', { name: 'Try again' }).first().click();
    await functions().first().waitFor();
    await expect.poll(() => page.getByTestId('error').count()).toBe(0);
  });

  test('a server that goes away: what was there stays, and the page recovers by itself', async () => {
    page = await stage.open();
    await functions().first().waitFor();
    await page.route('**/*', (route) => route.abort());
    await page.clock.runFor(6000);
    await expect.poll(() => page.getByTestId('error').first().innerText()).toMatch(/does not answer.*tries again by itself/);
    expect(await functions().count()).toBeGreaterThan(10);
    await page.unroute('**/*');
    await page.clock.runFor(6000);
    await expect.poll(() => page.getByTestId('error').count()).toBe(0);
  });

  test('services that fail leave the flame graph', async () => {
    stage.mock.faults.set('services', { status: 503, body: '{"code":"unavailable","message":"starting"}' });
    page = await stage.open();
    await functions().first().waitFor();
    expect(await page.getByTestId('error').innerText()).toMatch(/^Services: .*starting/);
  });
});

describe('completeness of stacks', () => {
  test('the header says the share, the dialog why', async () => {
    page = await stage.open();
    await page.getByTestId('stacks').click();
    await expect.poll(() => page.getByTestId('stacks-dialog').innerText()).toMatch(/libvendor\.so\s+28 of 40: no_unwind_info/);
    expect(await page.getByTestId('stacks-dialog').innerText()).toContain('1800 were captured and stand for those that were shed; 3 were lost');
    expect(await page.getByTestId('stacks').innerText()).toBe('99.7 % of stacks complete');
    await page.keyboard.press('Escape');
    await expect.poll(() => page.getByTestId('stacks-dialog').isVisible()).toBe(false);
  });

  test('a server that does not know says nothing and breaks nothing', async () => {
    stage.mock.faults.set('unwind', { status: 404, body: 'not found' });
    page = await stage.open();
    await functions().first().waitFor();
    expect(await page.getByTestId('stacks').count()).toBe(0);
    expect(await page.getByTestId('error').count()).toBe(0);
  });
});

describe('waiting', () => {
  test('the first answer is awaited with a skeleton', async () => {
    stage.mock.faults.set('SelectMergeStacktraces', { delayMs: 1500 });
    page = await stage.open();
    await page.getByText('Loading the flame graph').waitFor({ state: 'attached' });
    await functions().first().waitFor();
    expect(await page.getByText('Loading the flame graph').count()).toBe(0);
  });

  test('data of another service is dimmed until its successor is there', async () => {
    page = await stage.open();
    await functions().first().waitFor();
    stage.mock.faults.set('SelectMergeStacktraces', { delayMs: 1200 });
    await page.locator('[data-service="redis"]').click();
    await expect.poll(() => page.getByTestId('graph').getAttribute('data-stale')).toBe('true');
    await page.locator('[data-function="dictFind"]').waitFor();
    await expect.poll(() => page.getByTestId('graph').getAttribute('data-stale')).toBe('false');
  });

  test('an outrun answer never overwrites a later one', async () => {
    page = await stage.open();
    await functions().first().waitFor();
    stage.mock.faults.set('SelectMergeStacktraces', { delayMs: 800 });
    await page.locator('[data-service="postgres"]').click();
    await page.waitForTimeout(100);
    stage.mock.faults.clear();
    await page.locator('[data-service="redis"]').click();
    await page.locator('[data-function="dictFind"]').waitFor();
    await page.waitForTimeout(1200);
    expect(await page.locator('[data-function="heapgettup_pagemode"]').count()).toBe(0);
  });
});

describe('nothing there', () => {
  test('a time before recording', async () => {
    page = await stage.open(`?v=1&from=${NOW - 86_400_000}&until=${NOW - 82_800_000}`);
    await expect.poll(() => page.getByTestId('empty').last().innerText()).toMatch(/No samples here[^]*longer range/);
  });

  test('an idle service', async () => {
    page = await stage.open('?v=1&q=%7Bservice_name%3D%22cron.service%22%7D');
    await expect.poll(() => page.getByTestId('empty').last().innerText()).toMatch(/cron\.service used no CPU/);
  });

  test('a link to a frame that is not in the window shows all and says so', async () => {
    page = await stage.open('?v=1&focus=00000000deadbeef');
    await page.getByText('has no samples in this window').waitFor();
    expect(await functions().count()).toBeGreaterThan(10);
  });

  test('a service filter that finds none', async () => {
    page = await stage.open();
    await functions().first().waitFor();
    await page.getByLabel('Find a service').fill('zzz');
    expect(await page.getByText('No service matches').innerText()).toContain('“zzz”');
  });
});
