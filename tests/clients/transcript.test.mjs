// The reader and the matcher of transcripts: that they find what is wrong, and say where.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  checkAnswer, describeDifferences, differences, streamEvents, transcripts, unmarkedCommands,
} from './transcript.mjs';

const fence = (mark, body) => `\`\`\`${mark}\n${body}\n\`\`\`\n`;
const said = (expected, actual) => describeDifferences(differences(expected, actual));

test('values are compared as they stand', () => {
  const value = { a: 1, b: 'x', c: null, d: true, e: [1, [2]], f: {} };
  assert.equal(said(value, value), '');
  assert.equal(said({ a: 1 }, { a: 2 }), '$.a: expected 1, got 2');
  assert.equal(said({ a: 1 }, { a: '1' }), '$.a: expected 1, got "1"');
  assert.equal(said({ a: null }, { a: false }), '$.a: expected null, got false');
  assert.equal(said({ a: {} }, { a: [] }), '$.a: expected {}, got []');
  assert.equal(said({ a: [] }, { a: null }), '$.a: expected [], got null');
});

test('members that are not shown may be there, those that are shown must be', () => {
  assert.equal(said({ a: { b: 1 } }, { a: { b: 1, c: 2 }, d: 3 }), '');
  assert.equal(said({ a: null }, {}), '$.a: expected null, got nothing');
  assert.equal(said({ a: '<any>' }, { b: 1 }), '$.a: expected "<any>", got nothing');
  assert.equal(said({ toString: '<any>' }, {}), '$.toString: expected "<any>", got nothing');
});

test('placeholders stand for any of their kind', () => {
  assert.equal(said(['<string>', '<number>', '<any>', '<any>'], ['', 0, null, {}]), '');
  assert.equal(said('<string>', 1), '$: expected "<string>", got 1');
  assert.equal(said('<number>', '1'), '$: expected "<number>", got "1"');
  assert.equal(said('<number>', null), '$: expected "<number>", got null');
});

test('a list has as many entries as are shown, or more where "..." says so', () => {
  assert.equal(said([1, 2], [1]), '$[1]: expected 2, got nothing');
  assert.equal(said([1], [1, 2]), '$[1]: expected nothing, got 2');
  assert.equal(said([1, '...'], [1]), '');
  assert.equal(said([1, '...'], [1, 2, 3]), '');
  assert.equal(said([1, '...'], [2, 2]), '$[0]: expected 1, got 2');
  assert.equal(said([1, '...'], []), '$[0]: expected 1, got nothing');
});

test('every difference is named with its path', () => {
  assert.equal(said({ a: [{ b: 1 }, { b: 2 }], c: '<string>' }, { a: [{ b: 3 }, {}], c: 4 }),
    '$.a[0].b: expected 1, got 3\n$.a[1].b: expected 2, got nothing\n$.c: expected "<string>", got 4');
});

test('the blocks of a page are commands with their answers', () => {
  const page = ['Text', fence('sh', 'ls'), fence('sh run', 'one \\\n  two'), 'Between',
    fence('json expect', '{"a":1}'), fence('sh run', 'three'), fence('json', '{}'),
    fence('sh run', 'four'), fence('json expect stream', '["..."]')].join('\n');
  assert.deepEqual(
    transcripts('p.md', page).map(({ line, command, expected }) => [line, command, expected]),
    [[6, 'one \\\n  two', { line: 12, stream: false, value: { a: 1 } }],
      [16, 'three', undefined],
      [24, 'four', { line: 28, stream: true, value: ['...'] }]]);
});

test('marks that cannot be meant are errors', () => {
  const page = (...blocks) => () => transcripts('p.md', blocks.join('\n'));
  const answer = (json) => page(fence('sh run', 'one'), fence('json expect', json));
  assert.throws(page(fence('json expect', '{}')), /p\.md:1: an expected answer without a command/);
  assert.throws(page(fence('sh run', 'one'), fence('json', '{}'), fence('json expect', '{}')), /p\.md:9: /);
  assert.throws(page(fence('sh runs run', 'one')), /p\.md:1: unknown mark "sh runs run"/);
  assert.throws(page(fence('json expects stream', '{}')), /p\.md:1: unknown mark/);
  assert.throws(page('```sh run', 'one'), /p\.md:1: the block has no end/);
  assert.throws(answer('{'), /p\.md:5: no JSON/);
  assert.throws(answer('{"a":["<strng>"]}'), /p\.md:5: \$\.a\[0\]: unknown placeholder "<strng>"/);
  assert.throws(answer('{"a":["...",1]}'), /p\.md:5: \$\.a\[0\]: "\.\.\." stands only at the end/);
  assert.throws(page(fence('sh run', 'one'), fence('json expect stream', '{}')), /a list/);
});

test('commands that are not run are found', () => {
  const page = ['    curl localhost:8642/a', fence('sh run', 'curl -s http://b'), 'Use `wget -q -O - c`.',
    fence('sh', 'curl http://d'), 'curl and wget, and the package libcurl -dev'].join('\n');
  assert.deepEqual(unmarkedCommands('p.md', page), ['p.md:1', 'p.md:6', 'p.md:8']);
});

test('a stream is its events and [DONE]', () => {
  assert.deepEqual(streamEvents('data: {"a":1}\n\n: ping\n\ndata: 2\r\n\r\ndata: [DONE]\n\n'), [{ a: 1 }, 2]);
  assert.deepEqual(streamEvents('data: [DONE]\n\n'), []);
  assert.throws(() => streamEvents(''), /does not end with \[DONE\]/);
  assert.throws(() => streamEvents('data: {}\n\n'), /does not end with \[DONE\]/);
  assert.throws(() => streamEvents('{"error":{}}'), /no event of a stream: \{"error":\{\}\}/);
});

test('a wrong answer is reported with the place in the page, the path and both values', () => {
  const [plain, stream, silent] = transcripts('p.md', [fence('sh run', 'a'), fence('json expect', '{"n":[1]}'),
    fence('sh run', 'b'), fence('json expect stream', '[{"n":1}]'), fence('sh run', 'c')].join('\n'));
  const message = (transcript, text) => {
    try { checkAnswer(transcript, text); return ''; } catch (error) { return error.message; }
  };
  assert.equal(message(plain, '{"n":[1]}'), '');
  assert.equal(message(plain, '{"n":[2]}'), 'p.md:5:\n$.n[0]: expected 1, got 2');
  assert.match(message(plain, 'oops'), /^p\.md:5: .*JSON[^]*the answer is "oops"$/);
  assert.equal(message(stream, 'data: {"n":1}\n\ndata: [DONE]\n\n'), '');
  assert.equal(message(stream, 'data: {"n":1}\n\ndata: 7\n\ndata: [DONE]\n\n'),
    'p.md:13:\n$[1]: expected nothing, got 7');
  assert.equal(message(silent, '{"n":1}'), '');
  assert.equal(message(silent, ''), 'p.md:17: expected an answer, got ""');
  assert.match(message(silent, 'data: {"error": {"code":1}}\n'), /^p\.md:17: expected an answer, got /);
});
