"""A Hub on loopback: the part of the protocol that downloads and uploads use, with faults to switch on."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

TOKEN = "hf_of_the_tests"


@dataclass
class Fault:
    """What goes wrong with a file.

    Attributes:
        cut_after: bytes after which the connection breaks, once.
        flip: index of the byte that arrives changed.
        keep: bytes that are left of the file; its ETag stays that of the whole.
        keep_in_get: bytes that a GET sends, where HEAD announces all of them.
        status: answered in place of the file.
        method: of the requests that get ``status``.
    """

    cut_after: int | None = None
    flip: int | None = None
    keep: int | None = None
    keep_in_get: int | None = None
    status: int | None = None
    method: str = "GET"


@dataclass
class Repo:
    """Files by commit, and where the branches are."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False


@dataclass(frozen=True)
class Request:
    """One line of the log."""

    method: str
    path: str
    range: str | None = None
    token: str | None = None


def git_id(content: bytes) -> str:
    """What the Hub gives as ETag of a small file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(name: str) -> bool:
    """True for files that the Hub keeps outside git, with their SHA-256 as ETag, behind a redirect."""
    return name.endswith((".safetensors", ".bin"))


class Hub:
    """The server; ``with Hub() as hub`` runs it on a free port of 127.0.0.1."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.faults: dict[str, Fault] = {}
        self.log: list[Request] = []
        self.can_write = True
        self.names_commits = True
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        # Another host by its name, as the Hub's storage is: the client sends no token there.
        self.storage = f"http://localhost:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Hub:
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def add(self, repo_id: str, files: Mapping[str, bytes], *, branch: str = "main") -> str:
        """Commit files on top of a branch; returns the commit."""
        repo = self.repos.setdefault(repo_id, Repo())
        before = repo.commits.get(repo.branches.get(branch, ""), {})
        commit = hashlib.sha1(f"{repo_id} {branch} {len(repo.commits)}".encode()).hexdigest()
        repo.commits[commit] = {**before, **files}
        repo.branches[branch] = commit
        return commit

    def asked(self, name: str, method: str = "GET") -> list[Request]:
        """Requests of a file, in order, whatever the revision; a GET of a large file arrives by its hash."""
        hashes = {
            f"/cdn/{hashlib.sha256(files[name]).hexdigest()}"
            for repo in self.repos.values()
            for files in repo.commits.values()
            if name in files
        }
        found = [r for r in self.log if r.method == method]
        return [r for r in found if r.path.endswith(f"/{name}") or r.path.split("?")[0] in hashes]


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_HEAD(self) -> None:
        self.look_up()

    def do_GET(self) -> None:
        self.look_up()

    def note(self) -> None:
        line = Request(self.command, unquote(self.path), self.headers["Range"], self.headers["Authorization"])
        with self.hub.lock:
            self.hub.log.append(line)

    def answer(self, status: int, headers: Mapping[str, str], content: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status: int, code: str, **headers: str) -> None:
        self.answer(status, {"X-Error-Code": code, "X-Error-Message": code, **headers})

    def look_up(self) -> None:
        self.note()
        path = unquote(self.path)
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/(.+)/([^/]+)", path):
            self.resolve(*match.groups())
        elif match := re.fullmatch(r"/cdn/([0-9a-f]{64})", path):
            self.send_large(match[1])
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/revision/(.+))?", path):
            self.tell(match[1], match[2] or "main")
        else:
            self.refuse(404, "NotFound")

    def tell(self, repo_id: str, revision: str) -> None:
        repo = self.hub.repos.get(repo_id)
        if repo is None:
            return self.refuse(401, "RepoNotFound")
        sha = repo.branches[revision]
        return self.answer_json({"_id": "1", "id": repo_id, "sha": sha, "private": repo.private, "siblings": []})

    def resolve(self, repo_id: str, revision: str, name: str) -> None:
        repo = self.hub.repos.get(repo_id)
        if repo is None:
            return self.refuse(401, "RepoNotFound")
        if repo.gated:
            return self.refuse(403, "GatedRepo")
        commit = repo.branches.get(revision, revision)
        if commit not in repo.commits:
            return self.refuse(404, "RevisionNotFound")
        if name not in repo.commits[commit]:
            return self.refuse(404, "EntryNotFound", **{"X-Repo-Commit": commit})
        content, fault = repo.commits[commit][name], self.hub.faults.get(name, Fault())
        if fault.status and fault.method == self.command:
            return self.answer(fault.status, {})
        size = len(content) if fault.keep is None else fault.keep
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"} if self.hub.names_commits else {}
        if is_large(name):
            digest = hashlib.sha256(content).hexdigest()
            headers |= {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(size)}
            return self.answer(302, {**headers, "Location": f"{self.hub.storage}/cdn/{digest}"})
        return self.send_file(name, content, {**headers, "ETag": f'"{git_id(content)}"'})

    def send_large(self, digest: str) -> None:
        commits = [files for repo in self.hub.repos.values() for files in repo.commits.values()]
        large = {hashlib.sha256(c).hexdigest(): (n, c) for files in commits for n, c in files.items() if is_large(n)}
        if digest not in large:
            return self.refuse(404, "EntryNotFound")
        return self.send_file(*large[digest], {"Accept-Ranges": "bytes"})

    def send_file(self, name: str, content: bytes, headers: dict[str, str]) -> None:
        fault = self.hub.faults.get(name, Fault())
        if fault.status and fault.method == self.command:
            return self.answer(fault.status, {})
        if fault.flip is not None:
            content = content[: fault.flip] + bytes([content[fault.flip] ^ 1]) + content[fault.flip + 1 :]
        content = content[: fault.keep]
        if self.command == "GET":
            content = content[: fault.keep_in_get]
        status, total = 200, len(content)
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or ""):
            start = int(match[1])
            status, content = 206, content[start:]
            headers |= {"Content-Range": f"bytes {start}-{total - 1}/{total}"}
        headers |= {"Content-Length": str(len(content))}
        if fault.cut_after is not None and self.command == "GET":
            content, fault.cut_after = content[: fault.cut_after], None
            self.close_connection = True
        return self.answer(status, headers, content)

    def answer_json(self, value: Any, status: int = 200, **headers: str) -> None:
        self.answer(status, {"Content-Type": "application/json", **headers}, json.dumps(value).encode())

    def do_POST(self) -> None:
        self.note()
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        path = unquote(self.path).split("?")[0]
        if path == "/api/validate-yaml":
            return self.answer_json({"errors": [], "warnings": []})
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self.refuse(401, "Unauthorized")
        if not self.hub.can_write:
            return self.refuse(403, "Forbidden")
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", path):
            return self.preupload(*match.groups(), json.loads(body)["files"])
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", path):
            return self.commit(*match.groups(), body)
        return self.refuse(404, "NotFound")

    def create(self, asked: Mapping[str, Any]) -> None:
        repo_id = f"{asked['organization']}/{asked['name']}"
        status = 409 if repo_id in self.hub.repos else 200
        if status == 200:
            private = asked.get("visibility") == "private"
            self.hub.repos[repo_id] = Repo(private=private)
            self.hub.add(repo_id, {".gitattributes": b""})
        self.answer_json({"url": f"{self.hub.endpoint}/{repo_id}"}, status)

    def preupload(self, repo_id: str, branch: str, files: list[Mapping[str, Any]]) -> None:
        repo = self.hub.repos[repo_id]
        there = repo.commits[repo.branches[branch]]
        rows = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
        rows = [row | {"oid": git_id(there[row["path"]])} if row["path"] in there else row for row in rows]
        self.answer_json({"files": rows})

    def commit(self, repo_id: str, branch: str, body: bytes) -> None:
        rows = [json.loads(line) for line in body.splitlines()]
        files = {r["value"]["path"]: base64.b64decode(r["value"]["content"]) for r in rows if r["key"] == "file"}
        oid = self.hub.add(repo_id, files, branch=branch)
        url = f"{self.hub.endpoint}/{repo_id}/commit/{oid}"
        self.answer_json({"success": True, "commitOid": oid, "commitUrl": url})
