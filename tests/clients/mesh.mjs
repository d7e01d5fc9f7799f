// Starts real nodes on loopback for the client tests: free ports, a scratch directory, killed by pid.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const binary = process.env.MESH_BINARY;
if (!binary) throw new Error('MESH_BINARY must name the toolkit-mesh binary');

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export async function eventually(what, check, ms = 30_000) {
  const end = Date.now() + ms;
  for (;;) {
    const value = await check();
    if (value) return value;
    if (Date.now() > end) throw new Error(`${what} did not happen within ${ms} ms`);
    await sleep(10);
  }
}

// One node; `verb` is run, join or serve.
class Node {
  constructor(scratch, name, verb, options) {
    this.dir = join(scratch, name);
    const common = ['--data-dir', this.dir, '--name', name, '--port', '0', '--threads', '1'];
    if (verb !== 'serve') common.push('--listen', '127.0.0.1:0');
    this.log = '';
    this.child = spawn(binary, [verb, ...common, ...options], { stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [this.child.stdout, this.child.stderr])
      stream.on('data', (data) => { this.log += data; });
    this.ended = new Promise((resolve) => this.child.on('exit', (code, signal) => resolve({ code, signal })));
  }

  async listening() {
    const file = join(this.dir, 'node.json');
    const text = await eventually(`${file}`, () => {
      if (this.child.exitCode !== null) throw new Error(`the node ended:\n${this.log}`);
      if (!existsSync(file)) return undefined;
      try { return JSON.parse(readFileSync(file, 'utf8')); } catch { return undefined; }
    });
    this.url = text.http;
    this.peer = text.peer;
  }

  async ready() {
    await eventually('a full pipeline', async () => (await fetch(`${this.url}/ready`)).status === 200);
  }
  async status() { return (await fetch(`${this.url}/mesh/status`)).json(); }

  async stop() {
    if (this.child.exitCode === null && this.child.signalCode === null) this.child.kill('SIGTERM');
    const timer = setTimeout(() => this.child.kill('SIGKILL'), 10_000);
    const end = await this.ended;
    clearTimeout(timer);
    return end;
  }
}

// `count` nodes with one model split over all of them; options[i] are further arguments of node i.
export async function startMesh(count, options = []) {
  const scratch = mkdtempSync(join(tmpdir(), 'mesh-clients-'));
  const nodes = [];
  for (let i = 0; i < count; ++i) {
    const extra = [...(options[i] ?? []), '--min-nodes', String(count)];
    if (i > 0) extra.push('--peer', nodes[0].peer, '--cluster-key-file', join(nodes[0].dir, 'cluster.key'));
    nodes.push(new Node(scratch, `node${i}`, i === 0 ? 'run' : 'join', extra));
    await nodes[i].listening();
  }
  for (const node of nodes) await node.ready();
  return { nodes, stop: () => stopAll(nodes, scratch) };
}

export async function startServer(options = []) {
  const scratch = mkdtempSync(join(tmpdir(), 'mesh-clients-'));
  const node = new Node(scratch, 'node0', 'serve', options);
  await node.listening();
  await node.ready();
  return { nodes: [node], scratch, stop: () => stopAll([node], scratch) };
}

async function stopAll(nodes, scratch) {
  const ends = await Promise.all(nodes.map((node) => node.stop()));
  rmSync(scratch, { recursive: true, force: true });
  for (const [i, end] of ends.entries())
    if (end.code !== 0) throw new Error(`node ${i} ended with ${JSON.stringify(end)}:\n${nodes[i].log}`);
}
