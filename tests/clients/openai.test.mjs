// The openai client against a mesh of three real nodes. Runs with every line of the client that
// package.json of its directory pins.
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { Agent } from 'node:http';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { eventually, sleep, startMesh, startServer } from './mesh.mjs';

const require = createRequire(join(process.env.MESH_CLIENT_DIR, 'package.json'));
const { default: OpenAI } = require('openai');
const golden = JSON.parse(readFileSync(join(process.env.MESH_POCKET, 'golden.json'), 'utf8'));
const plain = golden.filter((chat) => !chat.tools && !chat.enable_thinking);

// Since 18.20.4+dfsg-1~deb12u3 Debian's Node 18 puts a listener on every connection that it keeps for
// the next request. node-fetch 2, which openai 4.x uses, takes that for an answer cut short, whatever
// the server: every stream ends in "Premature close". With a connection for each request it works.
const major = Number(process.versions.node.split('.')[0]);
const oneRequestEach = major < 20 ? { httpAgent: new Agent({ keepAlive: false }) } : {};

const client = (node, more = {}) =>
  new OpenAI({ baseURL: `${node.url}/v1`, apiKey: 'none', maxRetries: 0, timeout: 60_000, ...oneRequestEach, ...more });
const user = (content) => [{ role: 'user', content }];
const sum = user('What is 17 + 25?');
const long = { model: 'pocket', messages: sum, ignore_eos: true, max_tokens: 400 };

async function idle(node) {
  await eventually('no page in use', async () => {
    const status = await node.status();
    return status.nodes.every((one) => one.pages_used === 0) && status.mesh.requests_running === 0;
  });
}

describe('three nodes', () => {
  let mesh, ask, any;
  before(async () => {
    mesh = await startMesh(3);
    ask = client(mesh.nodes[0]);
    any = mesh.nodes.map((node) => client(node));
  });
  after(async () => {
    for (const node of mesh.nodes) await idle(node);
    await mesh.stop();
  });

  test('lists and retrieves the model', async () => {
    const models = [];
    for await (const model of await ask.models.list()) models.push(model.id);
    assert.deepEqual(models, ['pocket']);
    assert.equal((await ask.models.retrieve('pocket')).object, 'model');
  });

  test('golden answers from every node, whole', async () => {
    for (const [i, chat] of plain.slice(0, 9).entries()) {
      const answer = await any[i % 3].chat.completions.create({
        model: 'pocket', messages: chat.messages, temperature: 0 });
      assert.equal(answer.choices[0].message.content, chat.answer);
      assert.equal(answer.choices[0].message.role, 'assistant');
      assert.equal(answer.choices[0].finish_reason, 'stop');
      assert.equal(answer.usage.prompt_tokens, chat.prompt_ids.length);
      assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
    }
  });

  test('streams the same text, with usage at the end', async () => {
    const chat = plain[0];
    const stream = await ask.chat.completions.create({
      model: 'pocket', messages: chat.messages, temperature: 0, stream: true, stream_options: { include_usage: true } });
    let text = '', roles = 0, finishes = 0, usage = null;
    const ids = new Set();
    for await (const chunk of stream) {
      ids.add(chunk.id);
      for (const choice of chunk.choices) {
        if (choice.delta.role) ++roles;
        if (choice.finish_reason) ++finishes;
        text += choice.delta.content ?? '';
      }
      if (chunk.usage) { assert.equal(chunk.choices.length, 0); usage = chunk.usage; }
    }
    assert.equal(text, chat.answer);
    assert.equal(ids.size, 1);
    assert.deepEqual([roles, finishes], [1, 1]);
    assert.equal(usage.prompt_tokens, chat.prompt_ids.length);
  });

  test('the stream helper assembles every choice', async () => {
    const stream = (ask.chat.completions.stream ?? ask.beta.chat.completions.stream).call(
      ask.chat.completions.stream ? ask.chat.completions : ask.beta.chat.completions,
      { model: 'pocket', messages: sum, n: 2, temperature: 0 });
    let deltas = '';
    stream.on('content', (delta) => { deltas += delta; });
    const final = await stream.finalChatCompletion();
    assert.equal(final.choices.length, 2);
    assert.equal(final.choices[0].message.content, final.choices[1].message.content);
    assert.ok(deltas.length > 0);
  });

  test('n = 2 with a seed: choices differ from each other, not from run to run', async () => {
    const body = { model: 'pocket', messages: user('Tell me something about the sea'), n: 2, seed: 7, temperature: 1.5,
      max_tokens: 40, ignore_eos: true };
    const first = await any[0].chat.completions.create(body);
    const again = await any[1].chat.completions.create(body);
    const streamed = ['', ''];
    for await (const chunk of await any[2].chat.completions.create({ ...body, stream: true }))
      for (const choice of chunk.choices) streamed[choice.index] += choice.delta.content ?? '';
    const texts = first.choices.map((choice) => choice.message.content);
    assert.equal(texts.length, 2);
    assert.notEqual(texts[0], texts[1]);
    assert.deepEqual(again.choices.map((choice) => choice.message.content), texts);
    assert.deepEqual(streamed, texts);
    assert.equal(first.usage.completion_tokens, 80);
    const other = await ask.chat.completions.create({ ...body, seed: 8 });
    assert.notDeepEqual(other.choices.map((choice) => choice.message.content), texts);
  });

  test('stop strings end the answer before they show', async () => {
    const whole = (await ask.chat.completions.create({ model: 'pocket', messages: sum, temperature: 0 }))
      .choices[0].message.content;
    assert.match(whole, /= 42/);
    const cut = await ask.chat.completions.create({ model: 'pocket', messages: sum, temperature: 0, stop: [' = 4', 'never'] });
    assert.equal(cut.choices[0].message.content, whole.slice(0, whole.indexOf(' = 4')));
    assert.equal(cut.choices[0].finish_reason, 'stop');
  });

  test('max_tokens ends with length', async () => {
    const answer = await ask.chat.completions.create({ ...long, max_tokens: 5 });
    assert.equal(answer.choices[0].finish_reason, 'length');
    assert.equal(answer.usage.completion_tokens, 5);
  });

  test('log-probabilities of a chat', async () => {
    for (const top of [0, 3]) {
      const answer = await ask.chat.completions.create({
        model: 'pocket', messages: sum, temperature: 0, logprobs: true, top_logprobs: top });
      const { content } = answer.choices[0].logprobs;
      assert.equal(content.map((token) => Buffer.from(token.bytes).toString()).join(''), answer.choices[0].message.content);
      for (const token of content) {
        assert.ok(token.logprob <= 0);
        assert.equal(token.top_logprobs.length, top);
        if (top > 0) assert.equal(token.top_logprobs[0].logprob, token.logprob);
      }
    }
  });

  test('completions: text, token ids, several prompts, echo with log-probabilities', async () => {
    const body = { model: 'pocket', temperature: 0, max_tokens: 8 };
    const text = await ask.completions.create({ ...body, prompt: 'What is' });
    assert.equal(text.object, 'text_completion');
    const { tokens } = await (await fetch(`${mesh.nodes[0].url}/tokenize`, { method: 'POST',
      headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ prompt: 'What is' }) })).json();
    const ids = await ask.completions.create({ ...body, prompt: tokens });
    assert.equal(ids.choices[0].text, text.choices[0].text);
    const several = await ask.completions.create({ ...body, prompt: [tokens, tokens], n: 2 });
    assert.deepEqual(several.choices.map((choice) => choice.index), [0, 1, 2, 3]);
    for (const choice of several.choices) assert.equal(choice.text, text.choices[0].text);
    const echo = await ask.completions.create({ ...body, prompt: 'What is', echo: true, logprobs: 2 });
    assert.equal(echo.choices[0].text, 'What is' + text.choices[0].text);
    const scores = echo.choices[0].logprobs;
    assert.equal(scores.tokens.join(''), echo.choices[0].text);
    assert.equal(scores.token_logprobs[0], null);
    assert.ok(scores.token_logprobs.slice(1).every((value) => value <= 0));
    assert.equal(scores.text_offset[0], 0);
    const streamed = await ask.completions.create({ ...body, prompt: 'What is', stream: true });
    let joined = '';
    for await (const chunk of streamed) joined += chunk.choices[0]?.text ?? '';
    assert.equal(joined, text.choices[0].text);
    const best = await ask.completions.create({ ...body, temperature: 1, seed: 3, prompt: 'What is', best_of: 4, n: 1 });
    assert.equal(best.choices.length, 1);
  });

  test('an aborted stream is cancelled on every stage', async () => {
    const stream = await ask.chat.completions.create({ ...long, stream: true });
    let chunks = 0;
    for await (const chunk of stream) {
      if (chunk.choices.length && ++chunks === 3) stream.controller.abort();
      if (chunks > 3) break;
    }
    for (const node of mesh.nodes) await idle(node);
  });

  test('bad requests are BadRequestError with param and code', async () => {
    const cases = [
      [{ temperature: 9 }, 'temperature'], [{ top_p: 0 }, 'top_p'], [{ n: 99 }, 'n'], [{ max_tokens: 0 }, 'max_tokens'],
      [{ stop: [''] }, 'stop'], [{ logit_bias: { 99999999: 1 } }, 'logit_bias'], [{ logit_bias: { 5: 'x' } }, 'logit_bias'],
      [{ top_logprobs: 3 }, 'top_logprobs'], [{ logprobs: true, top_logprobs: 21 }, 'top_logprobs'],
      [{ stream_options: { include_usage: true } }, 'stream_options'], [{ messages: [] }, 'messages'],
      [{ response_format: { type: 'json_object' } }, 'response_format'],
      [{ tools: [{ type: 'function', function: { name: 'f', parameters: {} } }] }, 'tools'],
    ];
    for (const [fields, param] of cases) {
      const error = await ask.chat.completions.create({ model: 'pocket', messages: sum, ...fields }).catch((e) => e);
      assert.ok(error instanceof OpenAI.BadRequestError, `${JSON.stringify(fields)}: ${error}`);
      assert.equal(error.param, param, error.message);
      assert.equal(error.type, 'invalid_request_error');
    }
    const overflow = await ask.completions.create({ model: 'pocket', prompt: Array(3000).fill(5) }).catch((e) => e);
    assert.ok(overflow instanceof OpenAI.BadRequestError);
    assert.equal(overflow.code, 'context_length_exceeded');
  });

  test('an unknown model is NotFoundError, a wrong address too', async () => {
    const error = await ask.chat.completions.create({ model: 'nonesuch', messages: sum }).catch((e) => e);
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, 'model_not_found');
    assert.match(error.message, /pocket/);
    const route = await ask.embeddings.create({ model: 'pocket', input: 'x' }).catch((e) => e);
    assert.ok(route instanceof OpenAI.NotFoundError, `${route}`);
  });
});

test('a wrong key is AuthenticationError', async () => {
  const keyFile = join(process.env.MESH_SCRATCH, 'api.key');
  writeFileSync(keyFile, 'right-key\n', { mode: 0o600 });
  const server = await startServer(['--api-key-file', keyFile]);
  try {
    const wrong = await client(server.nodes[0], { apiKey: 'wrong' }).models.list().catch((e) => e);
    assert.ok(wrong instanceof OpenAI.AuthenticationError, `${wrong}`);
    assert.equal(wrong.code, 'invalid_api_key');
    const page = await client(server.nodes[0], { apiKey: 'right-key' }).models.list();
    assert.equal(page.data.length, 1);
  } finally { await server.stop(); }
});

test('a full waiting room is RateLimitError, and retries get through', async () => {
  // The pages hold two or three of these sequences, and one more may wait.
  const server = await startServer(['--max-queue', '1', '--kv-memory', '1536K']);
  try {
    const node = server.nodes[0];
    const once = await Promise.all(Array.from({ length: 12 }, () =>
      client(node).chat.completions.create({ ...long, max_tokens: 200 }).catch((e) => e)));
    const limited = once.filter((one) => one instanceof OpenAI.RateLimitError);
    assert.ok(limited.length > 0, `${once.map((one) => one.constructor.name)}`);
    assert.equal(once.length - limited.length, once.filter((one) => one.choices).length, `${once}`);
    for (const error of limited) {
      assert.equal(error.code, 'queue_full');
      const headers = error.headers.get ? error.headers.get('retry-after') : error.headers['retry-after'];
      assert.ok(Number(headers) >= 1);
    }
    const retried = await Promise.all(Array.from({ length: 4 }, () =>
      client(node, { maxRetries: 8 }).chat.completions.create({ ...long, max_tokens: 100 })));
    for (const answer of retried) assert.equal(answer.usage.completion_tokens, 100);
  } finally { await server.stop(); }
});

test('a lost stage is a server error of the stream within 3 s, and the mesh serves again', async () => {
  const mesh = await startMesh(3);
  try {
    const ask = client(mesh.nodes[0], { timeout: 20_000 });
    const victim = mesh.nodes[2];
    const stream = await ask.chat.completions.create({ ...long, max_tokens: 450, stream: true });
    let stopped = 0, error;
    try {
      for await (const _ of stream)
        if (stopped === 0) { stopped = Date.now(); victim.child.kill('SIGSTOP'); }
    } catch (caught) { error = caught; }
    if (error) {
      assert.ok(Date.now() - stopped < 3_500, `${Date.now() - stopped} ms`);
      assert.ok(error instanceof OpenAI.APIError, `${error}`);
    }
    victim.child.kill('SIGCONT');
    await eventually('an answer again', async () => {
      const answer = await ask.chat.completions.create({ model: 'pocket', messages: sum, temperature: 0 }).catch(() => null);
      return answer?.choices[0].message.content.includes('42');
    }, 45_000);
  } finally { await mesh.stop(); }
  await sleep(0);
});
