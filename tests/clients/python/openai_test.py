"""The Python openai client against a mesh of three real nodes on loopback."""

import json
import os
import signal
import subprocess
import tempfile
import time
import unittest

import openai

BINARY = os.environ["MESH_BINARY"]
POCKET = os.environ["MESH_POCKET"]
SUM = [{"role": "user", "content": "What is 17 + 25?"}]


def eventually(what, check, seconds=30.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = check()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen within {seconds} s")


class Node:
    def __init__(self, scratch, name, verb, arguments):
        self.directory = os.path.join(scratch, name)
        self.log_path = self.directory + ".log"
        common = ["--data-dir", self.directory, "--name", name, "--port", "0",
                  "--listen", "127.0.0.1:0", "--threads", "1"]
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [BINARY, verb, *common, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        node = eventually(f"{name} listening", self.read_node)
        self.url, self.peer = node["http"], node["peer"]

    def read_node(self):
        if self.process.poll() is not None:
            with open(self.log_path, encoding="utf-8") as log:
                raise AssertionError(f"the node ended:\n{log.read()}")
        try:
            with open(os.path.join(self.directory, "node.json"), encoding="utf-8") as file:
                return json.load(file)
        except (OSError, ValueError):
            return None

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class OpenAIClient(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory(prefix="mesh-python-")
        cls.nodes = []
        for i in range(3):
            arguments = ["--min-nodes", "3"]
            if i > 0:
                key = os.path.join(cls.nodes[0].directory, "cluster.key")
                arguments += ["--peer", cls.nodes[0].peer, "--cluster-key-file", key]
            cls.nodes.append(Node(cls.scratch.name, f"node{i}", "join" if i else "run", arguments))
        cls.ask = openai.OpenAI(base_url=cls.nodes[0].url + "/v1", api_key="none", max_retries=0)

        def ready():
            try:
                return cls.ask.chat.completions.create(model="pocket", messages=SUM, max_tokens=1)
            except openai.APIStatusError:
                return None

        eventually("a full pipeline", ready)

    @classmethod
    def tearDownClass(cls):
        ends = [node.stop() for node in cls.nodes]
        cls.scratch.cleanup()
        assert ends == [0, 0, 0], ends

    def test_golden_answers(self):
        with open(os.path.join(POCKET, "golden.json"), encoding="utf-8") as file:
            golden = [c for c in json.load(file) if not c["tools"] and not c["enable_thinking"]]
        for chat in golden[:6]:
            answer = self.ask.chat.completions.create(
                model="pocket", messages=chat["messages"], temperature=0)
            self.assertEqual(answer.choices[0].message.content, chat["answer"])

    def test_stream_with_usage(self):
        stream = self.ask.chat.completions.create(
            model="pocket", messages=SUM, temperature=0, stream=True,
            stream_options={"include_usage": True})
        text, usage = "", None
        for chunk in stream:
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
            usage = chunk.usage or usage
        self.assertIn("42", text)
        self.assertGreater(usage.completion_tokens, 0)

    def test_stream_helper_n_and_logprobs(self):
        with self.ask.chat.completions.stream(
                model="pocket", messages=SUM, n=2, temperature=0, logprobs=True,
                top_logprobs=2) as stream:
            for _ in stream:
                pass
            final = stream.get_final_completion()
        self.assertEqual(len(final.choices), 2)
        for choice in final.choices:
            self.assertEqual(len(choice.logprobs.content[0].top_logprobs), 2)

    def test_seed_stop_and_completions(self):
        one, two = (self.ask.chat.completions.create(
            model="pocket", messages=SUM, temperature=1.5, seed=11, max_tokens=30,
            extra_body={"ignore_eos": True}).choices[0].message.content for _ in range(2))
        self.assertEqual(one, two)
        cut = self.ask.chat.completions.create(
            model="pocket", messages=SUM, temperature=0, stop=" = 4")
        self.assertNotIn("=", cut.choices[0].message.content)
        text = self.ask.completions.create(
            model="pocket", prompt="What is", max_tokens=6, temperature=0, echo=True, logprobs=1)
        self.assertTrue(text.choices[0].text.startswith("What is"))
        self.assertEqual("".join(text.choices[0].logprobs.tokens), text.choices[0].text)

    def test_errors_are_typed(self):
        with self.assertRaises(openai.BadRequestError) as bad:
            self.ask.chat.completions.create(model="pocket", messages=SUM, temperature=9)
        self.assertEqual(bad.exception.param, "temperature")
        with self.assertRaises(openai.NotFoundError) as missing:
            self.ask.chat.completions.create(model="nonesuch", messages=SUM)
        self.assertEqual(missing.exception.code, "model_not_found")
        with self.assertRaises(openai.BadRequestError) as long:
            self.ask.completions.create(model="pocket", prompt=[5] * 3000)
        self.assertEqual(long.exception.code, "context_length_exceeded")


if __name__ == "__main__":
    unittest.main(verbosity=2)
