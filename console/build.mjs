// Bundles the console into `dist/`, beside a manifest: a path and a tag per line. With the argument `tests`, bundles
// the tests into `dist-tests/` instead, for Node.js.
import { build } from 'esbuild';
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { basename } from 'node:path';

const common = {
  bundle: true,
  format: 'esm',
  target: 'es2022',
  jsx: 'automatic',
  jsxImportSource: 'preact',
  logLevel: 'warning',
};

if (process.argv[2] === 'tests') {
  rmSync('dist-tests', { recursive: true, force: true });
  await build({
    ...common,
    entryPoints: readdirSync('test')
      .filter(name => name.endsWith('.ts'))
      .map(name => `test/${name}`),
    outdir: 'dist-tests',
    outExtension: { '.js': '.mjs' },
    platform: 'node',
    packages: 'external',
  });
} else {
  rmSync('dist', { recursive: true, force: true });
  mkdirSync('dist');
  const { metafile } = await build({
    ...common,
    entryPoints: ['src/main.tsx', 'style.css'],
    entryNames: '[name]-[hash]',
    outdir: 'dist',
    platform: 'browser',
    minify: true,
    metafile: true,
    legalComments: 'none',
  });
  const names = Object.keys(metafile.outputs).map(path => basename(path));
  const named = extension => names.find(name => name.endsWith(extension));
  const page = readFileSync('index.html', 'utf8')
    .replace('src/main.tsx', named('.js'))
    .replace('style.css', named('.css'));
  writeFileSync('dist/index.html', page);
  const tag = createHash('sha256').update(page).digest('hex').slice(0, 16);
  const lines = names.map(name => `${name}\t${/-([A-Z0-9]+)\./.exec(name)[1]}`);
  writeFileSync('dist/manifest.txt', [`index.html\t${tag}`, ...lines, ''].join('\n'));
}
