"""An engine's driver (driver.h) as a process that answers commands. Standard library only."""

import json
import subprocess


class Failed(Exception):
    """A driver that cannot do what was asked, with its reason."""


class Driver:
    """One engine's process. Only one of them works at a time."""

    def __init__(self, command, log):
        self.log = log
        with open(log, "w") as errors:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=errors, text=True)
        self.ready = self._read()

    def _read(self):
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            with open(self.log) as log:
                told = [text for text in log.read().splitlines() if text.strip()]
            raise Failed(told[-1] if told else f"ended with {self.process.returncode}")
        return json.loads(line)

    def ask(self, command):
        try:
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # its last words are read below
        answer = self._read()
        if "error" in answer:
            raise Failed(f"{command}: {answer['error']}")
        return answer

    def close(self):
        try:
            self.process.stdin.write("quit\n")
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.wait()
