"""A stand-in for the Hugging Face Hub on 127.0.0.1: the part of its interface that the library huggingface_hub uses.

It keeps repositories in memory: each branch is a list of commits, each commit a table of files. Large files arrive by
the protocol of git LFS, as on the Hub. What it is asked is kept in `asked`, and it can be told to fail.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_a_token_of_this_test"  # noqa: S105 - nobody's
Files = dict[str, bytes]


@dataclass
class Repository:
    """One repository: its commits by hash, and the branches that lead to them."""

    private: bool = False
    gated: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: Files, branch: str = "main", message: str = "") -> str:
        """Add files to those of a branch; returns the commit."""
        whole = {**self.commits.get(self.branches.get(branch, ""), {}), **files}
        digest = hashlib.sha1(f"{len(self.commits)}{branch}".encode(), usedforsecurity=False).hexdigest()
        self.commits[digest], self.branches[branch] = whole, digest
        self.messages.append(message)
        return digest

    def resolved(self, revision: str) -> str | None:
        """The commit of a branch or of a commit's hash."""
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass
class Hub:
    """The stand-in's state, and how it misbehaves.

    fail      a path that matches is answered with this status
    promised  sizes that are told in place of the true ones
    sent      content that is sent in place of the true one, under the true hash
    """

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    uploaded: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    fail: list[tuple[str, int, str]] = field(default_factory=list)
    promised: dict[str, int] = field(default_factory=dict)
    sent: dict[str, bytes] = field(default_factory=dict)
    altered: Callable[[bytes], bytes] = bytes

    def holds(self, name: str, **files: bytes) -> str:
        """Make a repository with a file model.safetensors; returns the commit."""
        repository = self.repositories.setdefault(name, Repository())
        return repository.commit({"model.safetensors": files["model"]} if files else {"README.md": b"# Nothing\n"})


class Refusal(Exception):
    """An answer other than 200, with the code by which the library tells what is missing."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@contextmanager
def standing_in() -> Iterator[Hub]:
    """The stand-in, while the block runs."""
    hub = Hub()

    class Handler(_Handler):
        state = hub

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        hub.address = f"http://127.0.0.1:{server.server_port}"
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


def environment(hub: Hub, home: Path) -> dict[str, Any]:
    """The variables with which the library takes the stand-in for the Hub, and nothing of this machine's user."""
    return {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(home),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "*",
    }


@contextmanager
def using(hub: Hub, home: Path) -> Iterator[None]:
    """While the block runs, the library takes the stand-in for the Hub, and this folder for its home."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    try:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN"):
                patch.delenv(name, raising=False)
            for name, value in environment(hub, home).items():
                patch.setenv(name, value)
            importlib.reload(constants)  # the library reads its environment once
            close_session()
            yield
    finally:
        importlib.reload(constants)
        close_session()


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.state.asked.append(f"{self.command} {path}")
        try:
            for pattern, status, code in self.state.fail:
                if re.search(pattern, f"{self.command} {path}"):
                    raise Refusal(status, code, f"told to answer {status}")
            self._route(path, body)
        except Refusal as refusal:
            headers = {"X-Error-Code": refusal.code} if refusal.code else {}
            headers |= {"X-Error-Message": refusal.message} if refusal.message else {}
            self._send(json.dumps({"error": refusal.message}).encode(), refusal.status, headers)

    def _route(self, path: str, body: bytes) -> None:
        for pattern, handle in _ROUTES:
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                handle(self, body, **found.groupdict())
                return
        raise Refusal(404, "", f"the stand-in has no {self.command} {path}")

    def _send(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: object, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json"})

    @property
    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repository(self, name: str) -> Repository:
        found = self.state.repositories.get(name)
        if found is None or (found.private and not self._known):
            raise Refusal(404 if self._known else 401, "RepoNotFound", "Repository not found")
        return found

    def _commit_of(self, name: str, revision: str) -> tuple[Repository, str]:
        repository = self._repository(name)
        commit = repository.resolved(revision)
        if commit is None:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository, commit

    def _writer(self) -> None:
        if not self._known:
            raise Refusal(401, "", "Invalid username or password.")

    def resolve(self, _: bytes, name: str, revision: str, file: str) -> None:
        repository, commit = self._commit_of(name, revision)
        if repository.gated:
            raise Refusal(403, "GatedRepo", "Access is restricted")
        content = repository.commits[commit].get(file)
        headers = {"X-Repo-Commit": commit}
        if content is None:
            self._send(b"", 404, {**headers, "X-Error-Code": "EntryNotFound"})
            return
        headers["ETag"] = f'"{_etag(file, content)}"'
        sent = self.state.sent.get(file, content)
        size = self.state.promised.get(file, len(sent))
        start = int(found[1]) if (found := re.fullmatch(r"bytes=(\d+)-.*", self.headers.get("Range") or "")) else 0
        if start:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        self._send(sent[start:], 206 if start else 200, {**headers, "Content-Length": str(size - start)})
        if size > len(sent):
            self.close_connection = True

    def info(self, _: bytes, name: str, revision: str = "main") -> None:
        repository, commit = self._commit_of(name, revision)
        files = repository.commits[commit]
        card = files.get("README.md", b"").decode()
        library = re.search(r"\A---\n.*?^library_name: (\S+)$.*?^---$", card, re.MULTILINE | re.DOTALL)
        data = {"library_name": library[1].strip('"')} if library else {}
        siblings = [{"rfilename": file} for file in [".gitattributes", *files]]
        base = {
            "_id": "1",
            "id": name,
            "modelId": name,
            "sha": commit,
            "private": repository.private,
            "disabled": False,
        }
        self._json({**base, "gated": False, "downloads": 0, "likes": 0, "tags": [], "siblings": siblings,
                    "cardData": data, **data})  # fmt: skip

    def create(self, body: bytes) -> None:
        self._writer()
        asked = json.loads(body)
        name = f"{asked.get('organization') or 'ada'}/{asked['name']}"
        if name in self.state.repositories:
            raise Refusal(409, "", "You already created this model repo")
        made = Repository(private=bool(asked.get("private")) or asked.get("visibility") == "private")
        made.commit({})
        self.state.repositories[name] = made
        self._json({"url": f"{self.state.address}/{name}", "name": name, "id": "1"})

    def validate(self, _: bytes) -> None:
        self._json({"errors": [], "warnings": []})

    def branch(self, _: bytes, name: str, branch: str) -> None:
        self._writer()
        repository = self._repository(name)
        if branch in repository.branches:
            raise Refusal(409, "", "Reference already exists")
        repository.branches[branch] = repository.branches["main"]
        self._json({})

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        self._writer()
        self._commit_of(name, revision)
        files = [
            {"path": file["path"], "uploadMode": _mode(file["path"]), "shouldIgnore": False, "oid": None}
            for file in json.loads(body)["files"]
        ]
        self._json({"files": files})

    def batch(self, body: bytes, name: str) -> None:
        self._writer()
        self._repository(name)
        objects = [
            {
                "oid": entry["oid"],
                "size": entry["size"],
                "authenticated": True,
                "actions": {"upload": {"href": f"{self.state.address}/lfs/{entry['oid']}"}},
            }
            for entry in json.loads(body)["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def put(self, body: bytes, oid: str) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(self._chunks())
        self.state.uploaded[oid] = body
        self._send(b"")

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def commit(self, body: bytes, name: str, revision: str) -> None:
        self._writer()
        repository, _ = self._commit_of(name, revision)
        files: Files = {}
        message = ""
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value: Any = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.state.altered(self.state.uploaded[value["oid"]])
        commit = repository.commit(files, revision, message)
        self._json({"success": True, "commitOid": commit, "commitUrl": f"{self.state.address}/{name}/commit/{commit}",
                    "hookOutput": ""})  # fmt: skip

    def paths(self, body: bytes, name: str, revision: str) -> None:
        repository, commit = self._commit_of(name, revision)
        asked = json.loads(body)["paths"] if body.startswith(b"{") else re.findall(r"paths=([^&]+)", body.decode())
        files = repository.commits[commit]
        self._json([_entry(path, files[path]) for path in map(unquote, asked) if path in files])


def _mode(path: str) -> str:
    return "lfs" if path.endswith(".safetensors") else "regular"


def _etag(path: str, content: bytes) -> str:
    """As the Hub has it: SHA-256 of a large file, git's hash of a small one."""
    if _mode(path) == "lfs":
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _entry(path: str, content: bytes) -> dict[str, object]:
    oid = hashlib.sha1(content, usedforsecurity=False).hexdigest()
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": oid}
    if _mode(path) == "lfs":
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry


_NAME = r"(?P<name>[\w.-]+/[\w.-]+)"
_REV = r"(?P<revision>.+)"
_ROUTES: tuple[tuple[str, Callable[..., None]], ...] = (
    (rf"(?:HEAD|GET) /{_NAME}/resolve/(?P<revision>[^/]+(?:/pr/\d+)?)/(?P<file>.+)", _Handler.resolve),
    (rf"GET /api/models/{_NAME}", _Handler.info),
    (rf"GET /api/models/{_NAME}/revision/{_REV}", _Handler.info),
    (r"POST /api/repos/create", _Handler.create),
    (r"POST /api/validate-yaml", _Handler.validate),
    (rf"POST /api/models/{_NAME}/branch/(?P<branch>.+)", _Handler.branch),
    (rf"POST /api/models/{_NAME}/preupload/{_REV}", _Handler.preupload),
    (rf"POST /{_NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    (r"PUT /lfs/(?P<oid>[0-9a-f]+)", _Handler.put),
    (rf"POST /api/models/{_NAME}/commit/{_REV}", _Handler.commit),
    (rf"POST /api/models/{_NAME}/paths-info/{_REV}", _Handler.paths),
)
