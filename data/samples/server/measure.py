"""Measures a server that speaks OpenAI's completions API, and prints what came of it as JSON.

Without `--url` it starts the fake server beside it with the parameters that are tuned, and stops it at the end: where a
real one is meant, that command is `vllm serve` or `python -m sglang.launch_server`. Requests arrive as a Poisson process
whose seed is given, so that every configuration meets the same load. Standard library only.
"""

import argparse
import http.client
import json
import pathlib
import random
import statistics
import subprocess
import sys
import threading
import time
import urllib.parse


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="of a server that runs already")
    parser.add_argument("--max-num-seqs", default="8")
    parser.add_argument("--chunk", default="512")
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--rate", type=float, default=60, help="requests per second")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def one(host, port, prompt_tokens, max_tokens, result):
    """Time to first token and number of tokens of one request, in seconds."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection(host, port, timeout=60)
    body = {"model": "fake", "prompt": "w " * prompt_tokens, "max_tokens": max_tokens, "stream": True}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"the server answers {response.status}")
    for line in response:
        if line.startswith(b"data: {"):
            result.setdefault("ttft", time.perf_counter() - began)
            result["tokens"] = result.get("tokens", 0) + 1
    connection.close()


def load(host, port, args):
    chance = random.Random(args.seed)
    results, threads = [], []
    began = time.perf_counter()
    due = 0.0
    for _ in range(args.requests):
        due += chance.expovariate(args.rate)
        time.sleep(max(0.0, began + due - time.perf_counter()))
        result = {}
        results.append(result)
        sizes = (chance.randint(50, 1500), chance.randint(4, 20))
        threads.append(threading.Thread(target=one, args=(host, port, *sizes, result)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if any("ttft" not in result for result in results):
        raise RuntimeError("a request got no answer")
    return {
        "ttft_ms_mean": 1000 * statistics.fmean(result["ttft"] for result in results),
        "output_tps": sum(result["tokens"] for result in results) / seconds,
        "requests": len(results),
    }


def main():
    args = arguments()
    if args.url:
        url = urllib.parse.urlsplit(args.url)
        print(json.dumps(load(url.hostname, url.port or 80, args)))
        return
    fake = pathlib.Path(__file__).parent / "fake_openai.py"
    command = [sys.executable, fake, "--port", "0", "--max-num-seqs", args.max_num_seqs, "--chunk", args.chunk]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        port = int(server.stdout.readline())
        print(json.dumps(load("127.0.0.1", port, args)))
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
