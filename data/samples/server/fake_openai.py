"""A server that speaks OpenAI's completions API and computes nothing: it sleeps as an engine would work.

At most `--max-num-seqs` requests are served at once, the others wait. A prompt takes its tokens by `--prefill-tps`, in
chunks of `--chunk` that each cost a step; a token takes `--step-ms`, and a little more with every other request that is
being served. For trying out what measures servers. Standard library only; binds to loopback.
"""

import argparse
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="0: any free one, which is printed")
    parser.add_argument("--max-num-seqs", type=int, default=8)
    parser.add_argument("--chunk", type=int, default=512, help="tokens of a prompt per step")
    parser.add_argument("--prefill-tps", type=float, default=50_000)
    parser.add_argument("--step-ms", type=float, default=2.0)
    return parser.parse_args()


class Engine:
    def __init__(self, args):
        self.args = args
        self.slots = threading.Semaphore(args.max_num_seqs)
        self.lock = threading.Lock()
        self.running = 0

    def step(self):
        with self.lock:
            others = self.running - 1
        time.sleep(self.args.step_ms * (1 + 0.1 * others) / 1000)

    def serve(self, prompt_tokens, max_tokens, emit):
        with self.slots:
            with self.lock:
                self.running += 1
            try:
                for done in range(0, prompt_tokens, self.args.chunk):
                    part = min(self.args.chunk, prompt_tokens - done)
                    time.sleep(part / self.args.prefill_tps)
                    self.step()
                for i in range(max_tokens):
                    if i > 0:
                        self.step()
                    emit(f" t{i}")
            finally:
                with self.lock:
                    self.running -= 1


def handler(engine):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def reply(self, status, body):
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            if self.path == "/health":
                self.reply(200, {})
            elif self.path == "/v1/models":
                self.reply(200, {"object": "list", "data": [{"id": "fake", "object": "model"}]})
            else:
                self.reply(404, {"error": {"message": "not found"}})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
            if self.path != "/v1/completions" or not body.get("stream"):
                self.reply(400, {"error": {"message": "only streamed POST /v1/completions"}})
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()

            def emit(text):
                event = {"object": "text_completion", "choices": [{"index": 0, "text": text}]}
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
                self.wfile.flush()

            engine.serve(len(str(body.get("prompt", "")).split()), int(body.get("max_tokens", 16)), emit)
            self.wfile.write(b"data: [DONE]\n\n")

    return Handler


def main():
    args = arguments()
    server = ThreadingHTTPServer(("127.0.0.1", args.port), handler(Engine(args)))
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
