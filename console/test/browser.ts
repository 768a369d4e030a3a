// The console in a browser, on four replicas: what it shows, calls, and what it refuses.
import assert from 'node:assert/strict';
import { chromium, type Page, type Route } from 'playwright-core';
import { installLedger, SUPPLY, type Setting } from './support.ts';

const PATIENCE_MS = 60_000;
const ANONYMOUS = '2vxsx-fae';
const OTHER = 'rrkah-fqaaa-aaaaa-aaaaq-cai';

// Bytes behind which an answer is changed: the signature, the reply, the time.
const PLACES: [string, string, string][] = [
  ['**/call', 'signature', 'update'],
  ['**/call', 'reply', 'update'],
  ['**/call', 'time', 'update'],
  ['**/query', 'arg', 'query'],
  ['**/query', 'signature', 'query'],
];

const setting = JSON.parse(process.argv[2]!) as Setting;
const [first, second] = setting.replicas as [string, string];
const ledger = await installLedger(first, setting.ledger);
const browser = await chromium.launch({ executablePath: setting.chromium, args: ['--no-sandbox'] });
// Whatever pages complain about: broken policies and scripts.
const complaints: string[] = [];

try {
  await step('four replicas move with equal roots', liveStatus);
  await step('blocks and canisters', tables);
  await step('queries and updates are verified', calls);
  await step('wrong entries', entries);
  await step('a key of the browser', identities);
  await step('tampering is refused', tampering);
  await step('another root key', otherRootKey);
  await step('trouble is seen', trouble);
  await step('a phone, the keyboard, names for inputs', access);
  if (setting.screenshot) await picture(setting.screenshot);
  assert.deepEqual(complaints, []);
} finally {
  await browser.close();
}
console.log('the console works');

async function step(name: string, run: () => Promise<void>): Promise<void> {
  const started = performance.now();
  try {
    await run();
  } catch (error) {
    console.error(`in "${name}"; complaints: ${complaints.join('\n')}`);
    for (const context of browser.contexts()) {
      for (const page of context.pages()) console.error(await page.locator('body').innerText().catch(String));
    }
    throw error;
  }
  for (const context of browser.contexts()) await context.close();
  console.log(`${name}: ${((performance.now() - started) / 1000).toFixed(1)} s`);
}

// A page of its own, which must not complain but where tampering makes it.
async function open(address: string, options: { width?: number; mayComplain?: boolean; dark?: boolean } = {}): Promise<Page> {
  const context = await browser.newContext({
    viewport: { width: options.width ?? 1100, height: 900 },
    colorScheme: options.dark ? 'dark' : 'light',
  });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  page.on('pageerror', error => complaints.push(String(error)));
  page.on('console', message => {
    if (message.type() === 'error' && !options.mayComplain) complaints.push(message.text());
  });
  await page.goto(address);
  return page;
}

function canisterPage(replica: string): string {
  return `${replica}/console/#/canister/${ledger}`;
}

async function liveStatus(): Promise<void> {
  const page = await open(`${first}/`);
  assert.equal(new URL(page.url()).pathname, '/console/');
  await page.locator('[data-state="running"]').nth(3).waitFor();
  assert.equal(await page.locator('[data-replica]').count(), 4);
  await page.locator('header [data-verdict="agreement"]').getByText('4 of 4 replicas agree').waitFor();
  await page.locator('[data-verdict="equal, certified"]').first().waitFor();
  // A row's roots are those of four replicas, and the same.
  const row = page.locator('[data-verdict="equal, certified"]').first();
  const roots = await row.locator('.root').evaluateAll(cells => cells.map(cell => cell.getAttribute('title')));
  assert.equal(roots.length, 4);
  assert.match(roots[0]!, /^[0-9a-f]{64}$/);
  assert.equal(new Set(roots).size, 1);
  for (let replica = 0; replica < 4; replica++) {
    const shown = page.locator(`[data-replica="${replica}"] [data-height]`);
    await grows(async () => Number(await shown.innerText()));
  }
  assert.equal(await page.locator('[data-alarm]').count(), 0);
  // Without an inline script or style, and with nothing from elsewhere.
  const response = await page.request.get(`${first}/console/`);
  const policy = response.headers()['content-security-policy']!;
  assert.ok(policy.includes("script-src 'self'") && !policy.includes('unsafe'), policy);
  for (const replica of setting.replicas) assert.ok(policy.includes(replica), policy);
}

async function tables(): Promise<void> {
  const page = await open(`${second}/console/#/blocks`);
  await page.getByRole('cell', { name: '✓ yes' }).first().waitFor();
  assert.ok((await page.locator('tbody tr').count()) > 3);
  await page.getByRole('link', { name: 'Canisters' }).click();
  await page.getByRole('link', { name: ledger }).click();
  await page.getByRole('heading', { name: ledger }).waitFor();
  assert.match(await page.locator('dl.facts').innerText(), /running[\s\S]*Controllers[\s\S]*2vxsx-fae/);
  assert.equal(await page.locator('.charts svg[role="img"]').count(), 3);
}

async function calls(): Promise<void> {
  const page = await open(canisterPage(first));
  await page.locator('[data-interface="replied"] [data-proof="certificate"]').waitFor();
  await balance(page, ANONYMOUS, SUPPLY);
  await page.locator('[data-proof="node"]').getByText('Verified').waitFor();

  await choose(page, 'icrc1_transfer');
  await fill(page, 'argument.to.owner', OTHER);
  await fill(page, 'argument.amount', '1_000');
  await page.getByRole('button', { name: 'Call', exact: true }).click();
  assert.equal(await reply(page), 'variant { Ok = 0 }');
  await page.locator('[data-result] [data-proof="certificate"]').getByText('Verified').waitFor();

  // A query, as an update: the subnet certifies it.
  await choose(page, 'icrc1_fee');
  await page.getByRole('button', { name: 'Call as an update, certified' }).click();
  assert.equal(await reply(page), '10');
  await page.locator('[data-result] [data-proof="certificate"]').waitFor();

  // Instructions were counted, and drawn. The other replicas have the same state.
  await page.locator('.charts .bar:not([height="0"])').first().waitFor();
  const others = await open(canisterPage(second));
  await balance(others, OTHER, 1000n);
  await balance(others, ANONYMOUS, SUPPLY - 1000n - 10n);
}

async function entries(): Promise<void> {
  const page = await open(canisterPage(first));
  await choose(page, 'icrc1_transfer');
  await fill(page, 'argument.to.owner', OTHER);
  await fill(page, 'argument.amount', '-1');
  await page.getByRole('button', { name: 'Call', exact: true }).click();
  await page.getByRole('alert').getByText('argument.amount: it takes a number that is not negative').waitFor();
  assert.equal(await page.evaluate(() => document.activeElement?.id), 'entry-argument.amount');
  assert.equal(await page.locator('[id="entry-argument.amount"]').getAttribute('aria-invalid'), 'true');
  assert.equal(await page.locator('[data-result]').getAttribute('data-result'), 'none');
  // Optional values and lists of bytes.
  await fill(page, 'argument.amount', '1');
  await page.getByLabel('Give memo').check();
  await fill(page, 'argument.memo', '"from the console"');
  await page.getByRole('button', { name: 'Call', exact: true }).click();
  assert.match(await reply(page), /^variant \{ Ok = \d+ \}$/);
}

async function identities(): Promise<void> {
  const page = await open(canisterPage(first));
  await page.getByLabel("with this browser's key (Ed25519)").check();
  const principal = await page.locator('[data-principal]').innerText();
  assert.match(principal, /^([a-z0-9]{5}-){10}[a-z0-9]{3}$/);
  await choose(page, 'icrc1_transfer');
  await fill(page, 'argument.to.owner', OTHER);
  await fill(page, 'argument.amount', '1');
  await page.getByRole('button', { name: 'Call', exact: true }).click();
  // It owns nothing: the ledger sees another caller than before.
  assert.match(await reply(page), /InsufficientFunds = record \{ balance = 0 \}/);
  await page.locator('[data-result] [data-proof="certificate"]').waitFor();
  await page.reload();
  await page.getByLabel("with this browser's key (Ed25519)").check();
  assert.equal(await page.locator('[data-principal]').innerText(), principal);
}

async function tampering(): Promise<void> {
  for (const [address, place, how] of PLACES) {
    const page = await open(canisterPage(first), { mayComplain: true });
    await choose(page, 'icrc1_total_supply');
    let changed = 0;
    await page.route(address, async route => void (changed += await flip(route, place)));
    const button = how === 'query' ? 'Query' : 'Call as an update, certified';
    await page.getByRole('button', { name: button, exact: true }).click();
    await page.locator('[data-result] [data-proof="refused"]').getByText('Refused').waitFor();
    assert.ok(changed > 0, `${address} ${place} was changed`);
    assert.equal(await page.getByLabel('Reply').count(), 0, 'nothing of it is shown');
    await page.context().close();
  }
  // The interface itself: there is no form for one that does not verify.
  const page = await open('about:blank', { mayComplain: true });
  await page.route('**/read_state', async route => void (await flip(route, 'candid:service')));
  await page.goto(canisterPage(first));
  await page.locator('[data-interface="refused"] [data-proof="refused"]').waitFor();
  assert.equal(await page.locator('.call').count(), 0);
}

// Passes an answer on with one bit changed, some bytes behind the last occurrence of a text.
async function flip(route: Route, place: string): Promise<number> {
  const response = await route.fetch();
  const body = await response.body();
  const at = body.lastIndexOf(place);
  if (at < 0) {
    await route.fulfill({ response });
    return 0;
  }
  body[at + place.length + 6]! ^= 1;
  await route.fulfill({ response, body });
  return 1;
}

async function otherRootKey(): Promise<void> {
  const page = await open(canisterPage(first), { mayComplain: true });
  await page.locator('[data-interface="replied"]').waitFor();
  await page.getByText('Root key', { exact: false }).first().click();
  const key = (await page.locator('details.trust code.whole').innerText()).trim();
  // The key of the Internet Computer's own root subnet begins as ours does; this one is no point of the curve.
  const other = key.slice(0, -2) + (key.endsWith('00') ? '01' : '00');
  await page.getByLabel('Key in hexadecimal').fill(other);
  await page.getByRole('button', { name: 'Set', exact: true }).click();
  await page.locator('[data-interface="refused"]').waitFor();
  await page.getByRole('button', { name: 'Forget' }).click();
  await page.locator('[data-interface="replied"]').waitFor();
}

async function trouble(): Promise<void> {
  const page = await open(`${first}/console/`, { mayComplain: true });
  await page.locator('[data-verdict="equal, certified"]').first().waitFor();
  const third = setting.replicas[2]!;
  // A replica that says another root.
  await page.route(`${third}/_/lockstep/blocks**`, async route => {
    const response = await route.fetch();
    const blocks = (await response.json()) as { root: string }[];
    const last = blocks.at(-1);
    if (last) last.root = last.root.replace(/^./, digit => (digit === '0' ? '1' : '0'));
    await route.fulfill({ response, json: blocks });
  });
  await page.locator('[data-alarm="disagreement"]').waitFor();
  await page.locator('tr.differs[data-verdict="differ"]').first().waitFor();
  await page.locator('header [data-verdict="trouble"]').waitFor();
  await page.unroute(`${third}/_/lockstep/blocks**`);
  // One that has halted.
  await page.route(`${third}/_/lockstep/status`, async route => {
    const response = await route.fetch();
    await route.fulfill({ response, json: { ...(await response.json()), halted: 'its disk is full' } });
  });
  await page.locator('[data-alarm="halted"]').getByText('Replica 2 has halted: its disk is full').waitFor();
  await page.locator('[data-replica="2"][data-state="halted"]').waitFor();
  await page.unroute(`${third}/_/lockstep/status`);
  // One that does not answer.
  await page.route(`${third}/**`, route => route.abort());
  await page.locator('[data-alarm="silent"]').getByText('Replica 2 does not answer').waitFor();
  await page.locator('[data-replica="2"][data-state="silent"]').waitFor();
}

async function access(): Promise<void> {
  const page = await open(`${first}/console/`, { width: 360 });
  await page.locator('[data-state="running"]').nth(3).waitFor();
  for (const address of ['#/', '#/blocks', '#/canisters', `#/canister/${ledger}`]) {
    await page.goto(`${first}/console/${address}`);
    if (address.includes(ledger)) await choose(page, 'icrc1_transfer');
    else await page.locator('main h2').first().waitFor();
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(width <= 360, `${address} is ${width} pixels wide`);
    const nameless = await page.locator('input, select, textarea, button').evaluateAll(inputs =>
      inputs
        .filter(input => !(input as HTMLInputElement).labels?.length && !input.ariaLabel && !input.textContent?.trim())
        .map(input => input.outerHTML),
    );
    assert.deepEqual(nameless, [], address);
  }
  await page.goto(`${first}/console/#/`);
  await page.reload();
  await page.locator('main h2').first().waitFor();
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate(() => document.activeElement?.className), 'skip');
  await page.keyboard.press('Enter');
  assert.equal(await page.evaluate(() => document.activeElement?.id), 'main');
}

async function picture(path: string): Promise<void> {
  const page = await open(canisterPage(first));
  await choose(page, 'icrc1_transfer');
  for (let amount = 1; amount <= 12; amount++) {
    await fill(page, 'argument.to.owner', OTHER);
    await fill(page, 'argument.amount', `${amount}`);
    await page.getByRole('button', { name: 'Call', exact: true }).click();
    await page.locator('[data-result="replied"]').waitFor();
  }
  await page.getByRole('link', { name: 'Replicas' }).click();
  await page.locator('[data-verdict="equal, certified"]').nth(6).waitFor();
  await page.screenshot({ path, fullPage: true });
  await page.goBack();
  await choose(page, 'icrc1_transfer');
  await page.screenshot({ path: path.replace(/\.png$/, '-canister.png'), fullPage: true });
  for (const address of ['#/', `#/canister/${ledger}`]) {
    const narrow = await open(`${first}/console/${address}`, { width: 360, dark: true });
    await narrow.locator('.charts').first().waitFor();
    await narrow.waitForTimeout(3000);
    const suffix = address === '#/' ? 'phone' : 'phone-canister';
    await narrow.screenshot({ path: path.replace(/\.png$/, `-${suffix}.png`), fullPage: true });
  }
}

async function choose(page: Page, method: string): Promise<void> {
  await page.locator('select[name="method"]').selectOption(method);
  await page.locator('.signature').getByText(`${method} :`).waitFor();
}

async function fill(page: Page, path: string, text: string): Promise<void> {
  await page.locator(`[id="entry-${path}"]`).fill(text);
}

async function reply(page: Page): Promise<string> {
  await page.locator('[data-result="replied"]').waitFor();
  return page.getByLabel('Reply').innerText();
}

async function balance(page: Page, owner: string, expected: bigint): Promise<void> {
  await choose(page, 'icrc1_fee');
  await choose(page, 'icrc1_balance_of');
  await fill(page, 'argument.owner', owner);
  await page.getByRole('button', { name: 'Query', exact: true }).click();
  assert.equal((await reply(page)).replaceAll('_', ''), String(expected));
}

async function grows(read: () => Promise<number>): Promise<void> {
  const before = await read();
  const deadline = performance.now() + PATIENCE_MS;
  while ((await read()) <= before) {
    assert.ok(performance.now() < deadline, `it stays at ${before}`);
    await new Promise(resolve => setTimeout(resolve, 100));
  }
}
