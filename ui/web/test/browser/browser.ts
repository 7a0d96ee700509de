// One headless Chromium for all browser tests, one page per test, its clock set to the mock node's present.
import { type Browser, chromium, type BrowserContextOptions, type Page } from 'playwright-core';
import { type MockServer, startMock } from '../mock/server';
import { NOW } from '../mock/node';

const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

export interface Stage {
  readonly mock: MockServer;
  /** Opens the page at a query string; fails the test on any console error the test did not announce. */
  readonly open: (query?: string, options?: BrowserContextOptions) => Promise<Page>;
  readonly problems: string[];
  readonly close: () => Promise<void>;
}

export async function startStage(): Promise<Stage> {
  const browser: Browser = await chromium.launch({ executablePath: process.env['CHROMIUM'] ?? '/usr/bin/chromium', args: FLAGS });
  const mock = await startMock();
  const problems: string[] = [];
  const open = async (query = '', options: BrowserContextOptions = {}): Promise<Page> => {
    const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, timezoneId: 'UTC', ...options });
    const page = await context.newPage();
    await page.clock.install({ time: NOW });
    page.on('pageerror', (error) => problems.push(error.message));
    page.on('console', (message) => {
      if (message.type() === 'error') problems.push(message.text());
    });
    page.on('request', (request) => {
      if (!request.url().startsWith(mock.url)) problems.push(`request to ${request.url()}`);
    });
    await page.goto(mock.url + '/' + query);
    return page;
  };
  const close = async (): Promise<void> => {
    await browser.close();
    await mock.close();
  };
  return { mock, open, problems, close };
}
