"""Chromium on a relay-only connection: a page makes a call between two peer connections with
iceTransportPolicy "relay", a data channel and video both ways, and posts what getStats said."""

import contextlib
import http.server
import json
import pathlib
import queue
import subprocess
import sys
import tempfile
import threading
import unittest
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from network import inside
from relay import PASSWORD, USER, RelayCase, bracketed, need_program

# A cold start of the browser on a busy two-core machine, then the call's own three waits of 30 s.
CALL_SECONDS = 150
MESSAGES = 200
MESSAGE_BYTES = 1000
FRAMES = 20

BROWSER_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
    "--allow-loopback-in-peer-connection", "--disable-features=WebRtcHideLocalIpsWithMdns",
    # Nothing but the call may touch the network.
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-quic", "--disable-default-apps", "--disable-extensions", "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
]


class PageServer:
    """Serves call.html on loopback (a secure context: getUserMedia asks) and takes the result."""

    def __init__(self):
        results = queue.Queue()
        page = (pathlib.Path(__file__).parent / "call.html").read_bytes()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                known = self.path == "/"
                body = page if known else b""
                self.send_response(200 if known else 404)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self):
                results.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.results = results
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class Caller(RelayCase):
    """How a call is made and judged."""

    # Runs the browser, and opens its page's port, elsewhere (a network namespace).
    browser_prefix = []
    page_place = contextlib.nullcontext

    def browse_from(self, namespace):
        self.browser_prefix = ["ip", "netns", "exec", namespace]
        self.page_place = lambda: inside(namespace)

    def call(self, urls, password=PASSWORD):
        browser = need_program("chromium", "chromium")
        settings = {"urls": urls, "user": USER, "password": password, "messages": MESSAGES,
                    "messageBytes": MESSAGE_BYTES, "frames": FRAMES}
        with self.page_place():
            server = PageServer()
        with server as page, tempfile.TemporaryDirectory(
                prefix="culvert-chromium-", ignore_cleanup_errors=True) as profile:
            url = f"http://127.0.0.1:{page.port}/#{urllib.parse.quote(json.dumps(settings))}"
            log = open(pathlib.Path(profile) / "log", "wb")
            process = subprocess.Popen(
                [*self.browser_prefix, browser, *BROWSER_FLAGS, f"--user-data-dir={profile}/data",
                 "--remote-debugging-port=0", url],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
            try:
                return page.results.get(timeout=CALL_SECONDS)
            except queue.Empty:
                output = (pathlib.Path(profile) / "log").read_text(errors="replace")[-2000:]
                self.fail_with_log(f"the page posted nothing in {CALL_SECONDS} s:\n{output}")
            finally:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                log.close()

    def check_call(self, address):
        result = self.call([f"turn:{bracketed(address)}:{self.relay.port}?transport=udp"])
        if "error" in result:
            self.fail_with_log(result["error"] + "\n" + "\n".join(result["events"]))
        self.assertEqual(result["echoed"], MESSAGES)
        for before, after in zip(result["before"], result["after"]):
            self.assertEqual(after["localType"], "relay", result)
            self.assertEqual(after["remoteType"], "relay", result)
            self.assertEqual(after["localProtocol"], "udp", result)
            self.assertGreaterEqual(after["framesDecoded"], before["framesDecoded"] + FRAMES)
            self.assertGreater(after["videoBytes"], before["videoBytes"])
            self.assertGreater(after["transportBytesSent"], before["transportBytesSent"])
            self.assertGreater(after["transportBytesReceived"], before["transportBytesReceived"])


class Chromium(Caller):
    def test_a_relay_only_call_carries_data_and_video_both_ways_over_ipv4(self):
        self.check_call("127.0.0.1")

    def test_a_relay_only_call_carries_data_and_video_both_ways_over_ipv6(self):
        self.check_call("::1")

    def test_a_wrong_password_makes_no_call(self):
        result = self.call([f"turn:127.0.0.1:{self.relay.port}?transport=udp"], password="wrong")
        self.assertIn("no relayed candidate", result.get("error", ""), result)
        self.assertTrue([line for line in result["events"] if "candidate error 401" in line
                         or "candidate error 701" in line], result)


if __name__ == "__main__":
    unittest.main()
