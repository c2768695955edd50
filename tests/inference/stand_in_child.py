"""A stand-in for ModelScope's child: the same protocol, no ModelScope, misbehaving on demand.

What it does is in the model folder's `script.json`: {"load": "ok" | "no-module" | "bad-model" | "die" |
"hang" | "held" | "odd-answers", "started": path of a file that gets the process id at each start}; held means
until the folder has a file "go". A judged text of "die", "hang", "raise", "memory", "context" or "babble"
does that; any other gets fixed scores.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

SCORES = {"no": 0.1, "yes": 0.7, "maybe": 0.2}


def judged(request: dict) -> dict:
    match request["text"]:
        case "die":
            os._exit(3)
        case "hang":
            time.sleep(600)
        case "raise":
            return {"ok": False, "error": "ValueError", "kind": "inference"}
        case "memory":
            return {"ok": False, "error": "MemoryError", "kind": "memory"}
        case "context":
            return {"ok": False, "error": "AcceleratorError", "kind": "device"}
        case "babble":
            print("not json", flush=True)
    pixels = len(request["rgb"]) * 3 // 4
    return {"ok": True, "label": "yes", "score": 0.7, "scores": SCORES, "pixels": pixels}


def loaded(request: dict) -> dict:
    script = json.loads((Path(request["folder"]) / "script.json").read_text())
    with open(script["started"], "a") as started:
        started.write(f"{os.getpid()}\n")
    match script["load"]:
        case "no-module":
            return {
                "ok": False,
                "error": "ModuleNotFoundError",
                "kind": "dependency",
                "message": "No module named 'modelscope'",
            }
        case "bad-model":
            return {"ok": False, "error": "KeyError", "kind": "load", "message": "'vocab'"}
        case "die":
            os._exit(3)
        case "hang":
            time.sleep(600)
        case "held":
            while not (Path(request["folder"]) / "go").exists():
                time.sleep(0.01)
    answers = ["left", "right", "up"] if script["load"] == "odd-answers" else list(SCORES)
    return {"ok": True, "answers": answers, "device": "cpu", "versions": {}}


def main() -> None:
    lines = []
    ready = threading.Semaphore(0)

    def read() -> None:
        for line in sys.stdin:
            lines.append(line)
            ready.release()
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        ready.acquire()
        request = json.loads(lines.pop(0))
        answer = loaded(request) if request["op"] == "load" else judged(request)
        print(json.dumps(answer), flush=True)


main()
