"use strict";
const $ = (id) => document.getElementById(id);
const HUES = [174, 214, 271, 330, 24, 92, 48, 195];

// Builds an element; strings become text nodes, so nothing a model or a node says is ever markup.
function el(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children.filter((c) => c !== null && c !== undefined));
  return node;
}
const bytes = (n) => {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let u = 0;
  while (n >= 1000 && u < 4) { n /= 1000; u++; }
  return (u === 0 || n >= 100 ? n.toFixed(0) : n.toFixed(1)) + " " + units[u];
};
const count = (n) => Number(n || 0).toLocaleString("en");
const rate = (n) => (n >= 100 ? n.toFixed(0) : n.toFixed(1));
const layers = (a, b) => (b - a === 1 ? `layer ${a}` : `layers ${a}–${b - 1}`);
const layerSpan = (a, b) => (b - a === 1 ? `${a}` : `${a}–${b - 1}`);
// The mesh writes half-open ranges ("layers 3:6"); the page counts as its cards do.
const human = (text) => text.replace(/(layers )?\b(\d+):(\d+)\b/g, (_, word, a, b) => (word ? layers(+a, +b) : layerSpan(+a, +b)));

// --- API key ---
let key = "";
try { key = sessionStorage.getItem("mesh-key") || ""; } catch { /* storage is switched off */ }
const auth = () => (key ? { Authorization: "Bearer " + key } : {});
function askForKey() {
  if (!$("keyform").hidden) return;
  $("keyform").hidden = false;
  $("key").focus();
}
$("keyform").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value.trim();
  try { sessionStorage.setItem("mesh-key", key); } catch { /* kept for this page only */ }
  $("key").value = "";
  $("keyform").hidden = true;
  $("prompt").focus();
  poll();
});

// --- the mesh ---
const STATE_CLASS = { ready: "good", failed: "bad", lost: "bad", loading: "warn", waiting: "warn", joining: "warn" };
let lastStatus = "", failures = 0, timer = 0;

function setText(id, text) { if ($(id).textContent !== text) $(id).textContent = text; }

const isStage = (n) => n.layers[1] > n.layers[0] && n.state !== "lost";

function nodeCard(n, hue, total) {
  const [a, b] = n.layers, holds = isStage(n);
  const card = el("li", "node " + (holds ? "stage" : n.state === "lost" ? "spare lost" : "spare"));
  if (holds) { card.style.setProperty("--hue", hue); card.style.flexGrow = Math.max(1, (b - a) / total * 4); }
  const facts = el("dl", "");
  const fact = (name, value) => facts.append(el("dt", "", name), el("dd", "", value));
  const loading = n.bytes_expected > 0 && n.bytes_loaded < n.bytes_expected;
  fact("weights", loading ? `${bytes(n.bytes_loaded)} / ${bytes(n.bytes_expected)}` : bytes(n.bytes_loaded));
  fact("rows", count(n.rows_computed));
  if (n.pages_total) fact("KV pages", `${count(n.pages_used)} / ${count(n.pages_total)}`);
  if (n.tokens_per_s > 0) fact("tokens/s", rate(n.tokens_per_s));
  if (!n.self) fact("round trip", n.rtt_ms > 0 ? n.rtt_ms.toFixed(n.rtt_ms < 10 ? 2 : 0) + " ms" : "–");
  card.append(
    el("h3", "", n.name || n.id.slice(0, 8), n.self ? el("em", "", "this node") : null),
    el("div", "row", el("strong", "", holds ? layers(a, b) : "no layers"), el("span", "pill " + (STATE_CLASS[n.state] || ""), n.state)),
    el("div", "device", n.device || "unknown device"), facts);
  if (n.problem) card.append(el("p", "problem", human(n.problem)));
  if (loading) {
    const bar = el("progress", "");
    bar.max = n.bytes_expected;
    bar.value = n.bytes_loaded;
    bar.setAttribute("aria-label", "weights loaded");
    card.append(bar);
  }
  return card;
}

function segment(a, b, hue, place, className, title) {
  const span = el("span", className, layerSpan(a, b));
  span.style.flexGrow = b - a;
  span.style.setProperty("--hue", hue);
  span.style.setProperty("--place", place);
  span.title = title;
  return span;
}

function draw(status) {
  const { mesh, model, nodes } = status, total = Math.max(1, mesh.layers);
  setText("model", model.name || "no model yet");
  $("model").title = model.name ? `${model.layers} layers, context ${model.context}, fingerprint ${model.fingerprint}, class ${mesh.numeric_class}` : "";
  $("state").className = "pill " + (mesh.ready ? "good" : "warn");
  setText("state", mesh.ready ? "ready" : mesh.missing_layers.length ? "missing " + mesh.missing_layers.map((text) => human("layers " + text)).join(", ") : "not ready");
  setText("speed", mesh.tokens_per_s > 0 ? rate(mesh.tokens_per_s) : "0");
  setText("running", count(mesh.requests_running));
  setText("waiting", count(mesh.requests_waiting));
  setText("epoch", String(mesh.epoch));
  setText("summary", `${nodes.length} ${nodes.length === 1 ? "node" : "nodes"} · ${mesh.layers} layers · ${mesh.cluster ? "cluster " + mesh.cluster + " · " : ""}v${mesh.version}`);
  $("missing").hidden = mesh.ready || !mesh.waiting_for;
  setText("missing", "Not ready: " + human(mesh.waiting_for));
  document.title = (mesh.ready ? "" : "… ") + (model.name ? model.name + " · " : "") + "toolkit-mesh";

  const hue = new Map(nodes.map((n, i) => [n.id, HUES[i % HUES.length]]));
  const parts = nodes.filter(isStage).map((n) => ({ a: n.layers[0], b: n.layers[1], n }));
  for (const text of mesh.missing_layers) {
    const [a, b] = text.split(":").map(Number);
    parts.push({ a, b, n: null });
  }
  parts.sort((x, y) => x.a - y.a || x.b - y.b);
  const cards = parts.map(({ a, b, n }) => n ? nodeCard(n, hue.get(n.id), total)
    : el("li", "node gap stage", el("h3", "", "no node"), el("strong", "", layers(a, b)), el("div", "device", "a machine is missing here")));
  for (const n of nodes) if (!isStage(n)) cards.push(nodeCard(n, 0, total));
  $("ruler").replaceChildren(...parts.map(({ a, b, n }, i) => segment(a, b, n ? hue.get(n.id) : 0, i,
    n ? (n.state === "ready" ? "" : "off") : "gap", n ? `${n.name}: ${layers(a, b)}` : `${layers(a, b)}: no node`)));
  $("ruler").setAttribute("aria-label", parts.map(({ a, b, n }) => `${n ? n.name : "no node"}: ${layers(a, b)}`).join(", ") || "no layers yet");
  $("ruler").classList.toggle("busy", mesh.requests_running > 0);
  const left = $("nodes").scrollLeft;
  $("nodes").replaceChildren(...cards);
  $("nodes").scrollLeft = left;
}

async function poll() {
  clearTimeout(timer);
  let wait = 1000;
  try {
    const response = await fetch("/mesh/status", { headers: auth(), cache: "no-store", signal: AbortSignal.timeout(5000) });
    failures = 0;
    $("banner").hidden = true;
    $("mesh").classList.remove("stale");
    if (response.status === 401) {
      askForKey();
      setText("state", "key needed");
      wait = 5000;
    } else if (response.ok) {
      const text = await response.text();
      if (text !== lastStatus) draw(JSON.parse(text));
      lastStatus = text;
    }
  } catch {
    failures++;
    lastStatus = "";
    wait = Math.min(5000, 500 * 2 ** failures);
    if (failures > 1) {
      $("banner").hidden = false;
      $("mesh").classList.add("stale");
      setText("banner", "Connection to this node lost. Trying again…");
      $("state").className = "pill bad";
      setText("state", "unreachable");
    }
  }
  clearTimeout(timer);
  timer = setTimeout(poll, document.hidden ? 5000 : wait);
}
document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });

// --- chat ---
let dialogue = [], active = null;

function follow(change) {
  const log = $("log"), stick = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  change();
  if (stick) log.scrollTop = log.scrollHeight;
}

function addTurn(role, text) {
  const body = el("div", "text", text), stats = el("div", "stats");
  const turn = el("article", "turn " + role, el("span", "hidden", role === "user" ? "You: " : "Mesh: "), body, stats);
  $("empty").hidden = true;
  $("fresh").hidden = false;
  follow(() => $("log").append(turn));
  return { turn, body, stats };
}

// Yields the data of server-sent events as they arrive.
async function* events(response) {
  const reader = response.body.getReader(), decoder = new TextDecoder();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    held += decoder.decode(value, { stream: true });
    let end;
    while ((end = held.indexOf("\n\n")) >= 0) {
      const event = held.slice(0, end);
      held = held.slice(end + 2);
      if (event.startsWith("data: ")) yield event.slice(6);
    }
  }
}

function setActive(controller) {
  active = controller;
  $("send").textContent = controller ? "Stop" : "Send";
  $("send").classList.toggle("stop", Boolean(controller));
  $("log").setAttribute("aria-busy", String(Boolean(controller)));
}

function showStats(view, t, note) {
  const parts = [];
  if (t.first) parts.push(`first token ${Math.round(t.first - t.begin)} ms`);
  if (t.speed) parts.push(`${rate(t.speed)} tokens/s`);
  if (t.tokens) parts.push(`${t.tokens} tokens`);
  if (note) parts.push(note);
  view.stats.textContent = parts.join(" · ");
}

async function answer(view, controller, turns) {
  const t = { begin: performance.now(), first: 0, tokens: 0, speed: 0 };
  let note = "stream ended early", text = "";
  const response = await fetch("/v1/chat/completions", {
    method: "POST", signal: controller.signal, headers: { "Content-Type": "application/json", ...auth() },
    body: JSON.stringify({ messages: turns, stream: true, stream_options: { include_usage: true } }),
  });
  if (!response.ok) {
    if (response.status === 401) askForKey();
    const body = await response.json().catch(() => null);
    throw new Error(body?.error?.message || `The server answered ${response.status}.`);
  }
  try {
    for await (const data of events(response)) {
      if (data === "[DONE]") break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      const choice = chunk.choices[0], piece = choice?.delta.content;
      if (piece) {
        const now = performance.now();
        t.first ||= now;
        t.tokens++;
        if (now > t.first) t.speed = (t.tokens - 1) / (now - t.first) * 1000;
        text += piece;
        follow(() => { view.body.append(piece); showStats(view, t, ""); });
      }
      if (choice?.finish_reason) note = choice.finish_reason === "length" ? "stopped at the length limit" : "";
      if (chunk.timings?.predicted_per_second) t.speed = chunk.timings.predicted_per_second;
      if (chunk.usage) t.tokens = chunk.usage.completion_tokens;
    }
  } catch (error) {
    if (error.name !== "AbortError") throw error;
    note = "stopped";
  } finally {
    if (text && turns === dialogue) dialogue.push({ role: "assistant", content: text });
    follow(() => showStats(view, t, note));
  }
}

async function send(text) {
  addTurn("user", text);
  const turns = dialogue;
  turns.push({ role: "user", content: text });
  const view = addTurn("assistant", ""), controller = new AbortController();
  view.turn.classList.add("live");
  setActive(controller);
  try {
    await answer(view, controller, turns);
  } catch (error) {
    if (error.name === "AbortError") view.stats.textContent = "stopped";
    else follow(() => {
      view.turn.classList.add("failed");
      view.turn.insertBefore(el("div", "error", human(error.message || "The connection was lost.")), view.stats);
    });
  }
  // A question without an answer would leave two user turns in a row.
  if (turns.at(-1)?.role === "user") turns.pop();
  view.turn.classList.remove("live");
  if (active === controller) setActive(null);
}

function grow() {
  const box = $("prompt");
  box.style.height = "auto";
  box.style.height = box.scrollHeight + 2 + "px";
}
function submit() {
  const text = $("prompt").value.trim();
  if (!text || active) return;
  $("prompt").value = "";
  grow();
  send(text);
}
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (active) active.abort(); else submit();
});
$("prompt").addEventListener("input", grow);
$("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  submit();
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && active) active.abort(); });
$("ideas").addEventListener("click", (event) => {
  if (event.target.tagName === "BUTTON" && !active) send(event.target.textContent);
});
$("fresh").addEventListener("click", () => {
  if (active) active.abort();
  dialogue = [];
  for (const turn of document.querySelectorAll(".turn")) turn.remove();
  $("empty").hidden = false;
  $("fresh").hidden = true;
  $("prompt").focus();
});

// --- programs ---
const curl = `curl ${location.origin}/v1/chat/completions \\
  -H 'Content-Type: application/json' \\
  -d '{"messages":[{"role":"user","content":"What is 17 + 25?"}]}'`;
$("base").textContent = location.origin + "/v1";
$("curl").textContent = curl;
$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(curl);
    $("copy").textContent = "Copied";
  } catch {
    getSelection().selectAllChildren($("curl"));
    $("copy").textContent = "Press Ctrl+C";
  }
  setTimeout(() => { $("copy").textContent = "Copy"; }, 2000);
});
poll();
