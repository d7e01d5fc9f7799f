// The commands that the documentation shows, run against a mesh of three real nodes with the curl and
// wget of this machine. A page's address is replaced by a node's, $KEY is set; all else is what a reader types.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { startMesh } from './mesh.mjs';
import { checkAnswer, transcripts, unmarkedCommands } from './transcript.mjs';

const root = fileURLToPath(new URL('../../', import.meta.url));
const pages = ['README.md',
  ...readdirSync(join(root, 'docs')).filter((name) => name.endsWith('.md')).map((name) => `docs/${name}`)];
const text = (page) => readFileSync(join(root, page), 'utf8');
const key = 'sk-transcripts-0123456789';
const open = /\b(localhost|127\.0\.0\.1):8642\b/g;
const keyed = /\bnode\.lan:8642\b/g;

describe('transcripts', () => {
  let scratch, mesh;
  before(async () => {
    scratch = mkdtempSync(join(tmpdir(), 'mesh-transcripts-'));
    writeFileSync(join(scratch, 'api.key'), `${key}\n`, { mode: 0o600 });
    mesh = await startMesh(3, [[], [], ['--api-key-file', join(scratch, 'api.key')]]);
  });
  after(async () => {
    await mesh?.stop();
    rmSync(scratch, { recursive: true, force: true });
  });

  // A reader's own settings of the programs and proxies are left out.
  const shell = (command, more = {}) => new Promise((resolve, reject) => {
    const env = { PATH: process.env.PATH, HOME: scratch, CURL_HOME: scratch, LC_ALL: 'C', ...more };
    const options = { env, cwd: scratch, timeout: 60_000, maxBuffer: 16 << 20 };
    execFile('bash', ['-euo', 'pipefail', '-c', command], options, (error, stdout, stderr) => {
      if (error) reject(new Error(`${command}\n${error.signal ?? `exit ${error.code}`}: ${stdout}${stderr}`));
      else resolve(stdout);
    });
  });
  const host = (node) => new URL(node.url).host;

  test('the API page has commands of curl and wget, whole answers and streams', () => {
    const found = transcripts('docs/http_api.md', text('docs/http_api.md'));
    for (const program of ['curl', 'wget'])
      assert.ok(found.some(({ command }) => command.startsWith(`${program} `)), program);
    for (const stream of [false, true])
      assert.ok(found.some(({ expected }) => expected?.stream === stream), `stream: ${stream}`);
  });

  test('every command of curl and wget is marked to be run', () => {
    assert.deepEqual(pages.flatMap((page) => unmarkedCommands(page, text(page))), []);
  });

  for (const page of pages) {
    for (const transcript of transcripts(page, text(page))) {
      const { line, command } = transcript;
      test(`${page}:${line}`, async () => {
        if (command.search(keyed) >= 0) {
          const asked = command.replace(keyed, host(mesh.nodes[2]));
          checkAnswer(transcript, await shell(asked, { KEY: key }));
          const refused = { file: page, line, expected: {
            line, stream: false, value: { error: { type: 'authentication_error', code: 'invalid_api_key' } } } };
          checkAnswer(refused, await shell(asked, { KEY: 'sk-another' }));
          return;
        }
        assert.ok(command.search(open) >= 0, `no address of a server in: ${command}`);
        for (const node of mesh.nodes.slice(0, 2)) {
          const port = new URL(node.url).port;
          checkAnswer(transcript, await shell(command.replace(open, `$1:${port}`)));
        }
      });
    }
  }
});
