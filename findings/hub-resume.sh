#!/usr/bin/env bash
# GUESS: A download that is ended halfway leaves SUM.incomplete among the blobs, and the next call asks for the rest of it only.
# TRUE: Each call downloads to a file of a name of its own, SUM.RANDOM.incomplete, and begins anew. What a killed call has left is
#   neither used nor removed.
# Versions: huggingface_hub 2.4.0.
# Seen: 29 November 2026, Python 3.11, Linux x86-64. Earlier versions were not tried.
# Where: _download_to_tmp_and_move and http_get in file_download.py.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet huggingface_hub==2.4.0

venv/bin/python - <<'PY'
import hashlib, http.server, os, pathlib, subprocess, sys, threading, time

body = bytes(range(256)) * 160_000
half = len(body) // 2
tag = hashlib.sha256(body).hexdigest()
asked, may_end = [], threading.Event()

class Hub(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self):
        if "/resolve/" not in self.path:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        given = self.headers.get("Range")
        start = int(given.removeprefix("bytes=").split("-")[0]) if given else 0
        self.send_response(206 if given else 200)
        self.send_header("ETag", f'"{tag}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Accept-Ranges", "bytes")
        if given:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        asked.append(start)
        # The first one stops halfway until its client is gone.
        if len(asked) == 1:
            self.wfile.write(body[:half])
            self.wfile.flush()
            may_end.wait()
            self.close_connection = True
        else:
            self.wfile.write(body[start:])

    do_GET = do_HEAD = answer

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
home = pathlib.Path("home")
env = dict(os.environ, HF_HOME=str(home), HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}", HF_HUB_DISABLE_XET="1")
call = [sys.executable, "-c", "import huggingface_hub as h; h.hf_hub_download('org/name', 'file.bin')"]
blobs = home / "hub/models--org--name/blobs"

first = subprocess.Popen(call, env=env, stderr=subprocess.DEVNULL)
begin = time.monotonic()
size = lambda: sum(path.stat().st_size for path in blobs.glob("*")) if blobs.is_dir() else 0
while size() == 0 and time.monotonic() - begin < 60:
    time.sleep(0.1)
time.sleep(1)
first.kill()
first.wait()
may_end.set()
left = {path.name: path.stat().st_size for path in blobs.glob("*")}
print("left by the first call:", left)
subprocess.run(call, env=env, stderr=subprocess.DEVNULL, check=True)
there = {path.name: path.stat().st_size for path in blobs.glob("*")}
print("first bytes that were asked for:", asked)
print("there after the second call:", there)

[(name, kept)] = left.items()
assert name.startswith(f"{tag}.") and name.endswith(".incomplete") and name != f"{tag}.incomplete", "it has another name now"
assert 0 < kept <= half
assert asked == [0, 0], "it goes on where the first call ended"
assert there == {tag: len(body), name: kept}, "it removes what was left"
PY
