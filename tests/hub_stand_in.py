"""A small stand-in for the Hugging Face Hub, as far as uploading and downloading a repository goes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "x" * 34
PLACE = r"/api/(?P<kind>models|spaces)/(?P<name>[\w.-]+/[\w.-]+)"


@dataclass
class Hub:
    """Repositories by kind and name: their files; each commit's digest is that of its files."""

    repositories: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    address: str = ""

    def commit(self, kind: str, name: str) -> str:
        files = self.repositories[kind, name]
        return hashlib.sha1(
            repr(sorted((one, hashlib.sha1(files[one]).hexdigest()) for one in files)).encode()
        ).hexdigest()


@contextmanager
def serving_hub() -> Iterator[Hub]:
    """Serve an empty Hub until the block ends."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: Any, status: int = 200) -> None:
        self._answer(status, json.dumps(value).encode())

    def _unknown(self) -> None:
        self._answer(
            404, b'{"error": "Repository not found"}', X_Error_Code="RepoNotFound", X_Error_Message="not found"
        )

    def do_POST(self) -> None:
        path, _, _ = self.path.partition("?")
        self.hub.asked.append(f"POST {path}")
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            self._json({"error": "Invalid username or password."}, 401)
        elif path == "/api/repos/create":
            said = json.loads(body)
            name = f"{said['organization']}/{said['name']}" if said.get("organization") else said["name"]
            self.hub.repositories.setdefault((f"{said.get('type', 'model')}s", name), {".gitattributes": b"* -text\n"})
            self._json({"url": f"{self.hub.address}/{name}"})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif found := re.fullmatch(PLACE + r"/preupload/\w+", path):
            files = json.loads(body)["files"]
            self._json(
                {"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]}
            )
        elif found := re.fullmatch(PLACE + r"/commit/\w+", path):
            self._commit(found["kind"], found["name"], body)
        else:
            self._unknown()

    def _commit(self, kind: str, name: str, body: bytes) -> None:
        for line in body.splitlines():
            said = json.loads(line)
            if said["key"] == "file":
                self.hub.repositories[kind, name][said["value"]["path"]] = base64.b64decode(said["value"]["content"])
        sha = self.hub.commit(kind, name)
        self._json({"success": True, "commitOid": sha, "commitUrl": f"{self.hub.address}/{name}/commit/{sha}"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, _, _ = self.path.partition("?")
        self.hub.asked.append(f"{self.command} {path}")
        if path == "/api/whoami-v2":
            good = self.headers.get("authorization") == f"Bearer {TOKEN}"
            self._json({"name": "me", "type": "user", "orgs": []} if good else {"error": "no"}, 200 if good else 401)
            return
        if found := re.fullmatch(PLACE + r"(/revision/(?P<revision>\w+))?", path):
            self._info(found["kind"], found["name"])
        elif found := re.fullmatch(PLACE + r"/tree/\w+/?", path):
            files = self.hub.repositories.get((found["kind"], found["name"]), {})
            self._json([self._entry(name, content) for name, content in files.items()])
        elif found := re.fullmatch(r"/(?P<name>[\w.-]+/[\w.-]+)/resolve/(?P<revision>\w+)/(?P<file>.+)", path):
            self._file(found["name"], found["file"])
        else:
            self._unknown()

    @staticmethod
    def _entry(name: str, content: bytes) -> dict[str, Any]:
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def _info(self, kind: str, name: str) -> None:
        if (kind, name) not in self.hub.repositories:
            self._unknown()
            return
        files = self.hub.repositories[kind, name]
        siblings = [{"rfilename": one, "size": len(files[one])} for one in files]
        sha = self.hub.commit(kind, name)
        self._json(
            {
                "id": name,
                "modelId": name,
                "sha": sha,
                "siblings": siblings,
                "private": False,
                "tags": [],
                "downloads": 0,
            }
        )

    def _file(self, name: str, file: str) -> None:
        content = self.hub.repositories.get(("models", name), {}).get(file)
        if content is None:
            self._unknown()
            return
        etag = hashlib.sha1(content).hexdigest()
        self._answer(200, content, ETag=f'"{etag}"', X_Repo_Commit=self.hub.commit("models", name))
