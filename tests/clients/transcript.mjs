// Transcripts of the documentation: commands with the answers that a reader is shown. Only texts and
// values here, no processes. docs/http_api.md says what the marks and placeholders mean.

const kinds = { '<string>': 'string', '<number>': 'number' };
const kindOf = (value) =>
  value === null ? 'null' : Array.isArray(value) ? 'array' : typeof value;
const isObject = (value) => kindOf(value) === 'object';
const show = (value) => (value === undefined ? 'nothing' : JSON.stringify(value));

// The blocks marked `sh run` of a Markdown text as {line, command, expected}; `expected` is undefined
// or {line, stream, value}. Throws an Error with FILE:LINE where a mark cannot be meant.
export function transcripts(file, text) {
  const found = [];
  let waits; // The command whose answer may come next.
  for (const { line, mark, body } of fencedBlocks(file, text)) {
    const fail = (what) => { throw new Error(`${file}:${line}: ${what}`); };
    if (mark === 'sh run') {
      waits = { file, line, command: body.trim(), expected: undefined };
      found.push(waits);
      continue;
    }
    if (mark === 'json expect' || mark === 'json expect stream') {
      if (!waits) fail('an expected answer without a command in the block before it');
      let value;
      try { value = JSON.parse(body); } catch (error) { fail(`no JSON: ${error.message}`); }
      const stream = mark.endsWith('stream');
      if (stream && !Array.isArray(value)) fail('the events of a stream are a list');
      checkPlaceholders(value, '$', fail);
      waits.expected = { line, stream, value };
    } else if (/\b(run|expect|stream)\b/.test(mark)) {
      fail(`unknown mark "${mark}"`);
    }
    waits = undefined;
  }
  return found;
}

// FILE:LINE of every curl or wget command that stands outside the blocks that are run.
export function unmarkedCommands(file, text) {
  const runs = fencedBlocks(file, text).filter(({ mark }) => mark === 'sh run');
  const inRun = (line) => runs.some((run) => line > run.line && line <= run.last);
  return text.split('\n')
    .map((content, i) => ({ content, line: i + 1 }))
    .filter(({ content, line }) => /\b(curl|wget)\s+(-|["']?https?:|\S+:\d)/.test(content) && !inRun(line))
    .map(({ line }) => `${file}:${line}`);
}

function fencedBlocks(file, text) {
  const blocks = [];
  let open;
  for (const [i, line] of text.split('\n').entries()) {
    const fence = /^ {0,3}(`{3,})\s*(.*?)\s*$/.exec(line);
    if (open && fence && fence[2] === '' && fence[1].length >= open.ticks) {
      blocks.push({ line: open.line, last: i, mark: open.mark, body: open.lines.join('\n') });
      open = undefined;
    } else if (open) {
      open.lines.push(line);
    } else if (fence) {
      open = { line: i + 1, ticks: fence[1].length, mark: fence[2].replace(/\s+/g, ' '), lines: [] };
    }
  }
  if (open) throw new Error(`${file}:${open.line}: the block has no end`);
  return blocks;
}

// A misspelt placeholder would be compared as text and never fit; it is called by its name instead.
function checkPlaceholders(value, path, fail) {
  if (typeof value === 'string') {
    if (value === '...') fail(`${path}: "..." stands only at the end of a list`);
    if (/^<\w+>$/.test(value) && value !== '<any>' && !Object.hasOwn(kinds, value))
      fail(`${path}: unknown placeholder "${value}"`);
  } else if (Array.isArray(value)) {
    const items = value.at(-1) === '...' ? value.slice(0, -1) : value;
    items.forEach((item, i) => checkPlaceholders(item, `${path}[${i}]`, fail));
  } else if (isObject(value)) {
    for (const [key, item] of Object.entries(value)) checkPlaceholders(item, `${path}.${key}`, fail);
  }
}

// All differences as {path, expected, actual}; `actual` is undefined where there is no value.
export function differences(expected, actual, path = '$') {
  const differs = [{ path, expected, actual }];
  if (actual === undefined) return differs;
  if (expected === '<any>') return [];
  if (typeof expected === 'string' && Object.hasOwn(kinds, expected))
    return typeof actual === kinds[expected] ? [] : differs;
  if (kindOf(expected) !== kindOf(actual)) return differs;
  if (isObject(expected))
    return Object.entries(expected).flatMap(([key, value]) =>
      differences(value, Object.hasOwn(actual, key) ? actual[key] : undefined, `${path}.${key}`));
  if (!Array.isArray(expected)) return expected === actual ? [] : differs;
  const more = expected.at(-1) === '...';
  const shown = more ? expected.slice(0, -1) : expected;
  const found = shown.flatMap((value, i) => differences(value, actual[i], `${path}[${i}]`));
  if (!more)
    for (let i = shown.length; i < actual.length; ++i)
      found.push({ path: `${path}[${i}]`, expected: undefined, actual: actual[i] });
  return found;
}

export const describeDifferences = (found) =>
  found.map(({ path, expected, actual }) =>
    `${path}: expected ${show(expected)}, got ${show(actual)}`).join('\n');

// The values of the `data:` events before the closing [DONE]; throws where the text is no such stream.
export function streamEvents(text) {
  const events = [];
  for (const line of text.split(/\r?\n/)) {
    if (line === '' || line.startsWith(':')) continue;
    if (!line.startsWith('data: ')) throw new Error(`no event of a stream: ${line}`);
    events.push(line.slice('data: '.length));
  }
  if (events.pop() !== '[DONE]') throw new Error(`the stream does not end with [DONE]:\n${text}`);
  return events.map((event) => JSON.parse(event));
}

// Throws an Error that names every difference between the answer's text and what the page shows.
// Without an expected answer it may be anything but nothing or an error.
export function checkAnswer({ file, line, expected }, text) {
  if (!expected) {
    if (text.trim() === '' || /"error"\s*:\s*\{/.test(text))
      throw new Error(`${file}:${line}: expected an answer, got ${show(text)}`);
    return;
  }
  const where = `${file}:${expected.line}`;
  let actual;
  try {
    actual = expected.stream ? streamEvents(text) : JSON.parse(text);
  } catch (error) {
    throw new Error(`${where}: ${error.message}\nthe answer is ${show(text)}`);
  }
  const found = differences(expected.value, actual);
  if (found.length > 0) throw new Error(`${where}:\n${describeDifferences(found)}`);
}
