"""A small Hub on the loopback: the part of its HTTP interface that huggingface_hub 2 uses to push and load."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

_KINDS = ("models", "spaces", "datasets")
# Larger files, and these, go the way of git-lfs: an upload to storage, and a commit of their digest.
_LFS_SUFFIXES = (".safetensors", ".bin", ".parquet")
_INLINE_BYTES = 2**16


class Repository:
    """Commits, oldest first, as {path: content}; and branches by name."""

    def __init__(self, *, private=False, gated=False):
        self.private, self.gated = private, gated
        self.commits = {"0" * 40: {}}
        self.branches = {"main": "0" * 40}

    def commit(self, branch, files, deleted=()):
        digest = hashlib.sha1(repr((self.branches[branch], sorted(files))).encode()).hexdigest()
        kept = {path: content for path, content in self.commits[self.branches[branch]].items() if path not in deleted}
        self.commits[digest] = {**kept, **files}
        self.branches[branch] = digest
        return digest

    def resolve(self, revision):
        """The commit that a branch or commit stands for; None if there is none."""
        digest = self.branches.get(revision, revision)
        return digest if digest in self.commits else None


class HubServer(ThreadingHTTPServer):
    """Repositories by (kind, id), stored large files by digest, and what was asked for.

    Attributes:
        token: Who sends it may read private and gated repositories, and push.
        requests: (method, path) of every request.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories, self.storage, self.requests, self.token = {}, {}, [], "hf_secret"
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def handle_any(self):
        self.body = self.read_body()
        self.path = unquote(urlsplit(self.path).path)
        with self.server.lock:
            self.server.requests.append((self.command, self.path))
            for pattern, method in _ROUTES:
                match = re.fullmatch(pattern, f"{self.command} {self.path}")
                if match:
                    method(self, **match.groupdict())
                    return
            self.fail(404, "NotFound")

    def read_body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    # Answers

    def answer(self, content=b"", *, status=200, **headers):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(data), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def fail(self, status, code, message=""):
        self.answer({"error": message or code}, status=status, X_Error_Code=code, X_Error_Message=message or code)

    @property
    def is_known(self):
        return self.headers.get("Authorization") == f"Bearer {self.server.token}"

    def repository(self, kind, name, *, writing=False):
        """A repository that the sender may see; None after an answer that says why not."""
        found = self.server.repositories.get((kind or "models", name))
        if found is None or (found.private and not self.is_known):
            self.fail(404 if self.is_known else 401, "RepoNotFound")
        elif writing and not self.is_known:
            self.fail(403, "Forbidden", "You need a token with write access")
        elif found.gated and not self.is_known:
            self.fail(401, "GatedRepo", "Access to this model is restricted. Accept the conditions to access it.")
        else:
            return found
        return None

    # Requests

    def create(self):
        asked = json.loads(self.body)
        kind = asked.get("type", "model") + "s"
        name = f"{asked.get('organization') or 'someone'}/{asked['name']}"
        url = f"{self.server.url}/{'' if kind == 'models' else kind + '/'}{name}"
        if not self.is_known:
            self.fail(401, "Unauthorized", "Invalid username or password.")
        elif (kind, name) in self.server.repositories:
            self.answer({"error": "You already created this repo", "url": url}, status=409)
        else:
            private = asked.get("visibility") == "private" or asked.get("private", False)
            self.server.repositories[kind, name] = Repository(private=private)
            self.answer({"url": url, "name": name, "id": name})

    def branch(self, kind, name, branch):
        found = self.repository(kind, name, writing=True)
        if found is None:
            return
        if branch in found.branches:
            self.answer({"error": "Reference already exists"}, status=409)
        else:
            found.branches[branch] = found.branches["main"]
            self.answer({})

    def validate(self):
        self.answer({"errors": [], "warnings": []})

    def preupload(self, kind, name, revision):
        found = self.repository(kind, name, writing=True)
        if found is None:
            return
        if found.resolve(revision) is None:
            self.fail(404, "RevisionNotFound")
            return
        files = []
        for file in json.loads(self.body)["files"]:
            large = file["path"].endswith(_LFS_SUFFIXES) or file["size"] > _INLINE_BYTES
            mode = "lfs" if large else "regular"
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False})
        self.answer({"files": files})

    def lfs_batch(self, kind, name):
        if self.repository(kind, name, writing=True) is None:
            return
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            action = {"upload": {"href": f"{self.server.url}/storage/{wanted['oid']}"}}
            there = wanted["oid"] in self.server.storage
            objects.append({"oid": wanted["oid"], "size": wanted["size"], **({} if there else {"actions": action})})
        self.answer({"transfer": "basic", "objects": objects})

    def store(self, digest):
        assert hashlib.sha256(self.body).hexdigest() == digest
        self.server.storage[digest] = self.body
        self.answer()

    def commit(self, kind, name, revision):
        found = self.repository(kind, name, writing=True)
        if found is None:
            return
        files, deleted = {}, []
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.storage[value["oid"]]
            elif entry["key"] == "deletedFile":
                deleted.append(value["path"])
        digest = found.commit(revision, files, deleted)
        self.answer({"success": True, "commitOid": digest, "commitUrl": f"{self.server.url}/{name}/commit/{digest}"})

    def info(self, kind, name, revision="main"):
        found = self.repository(kind, name)
        if found is None:
            return
        digest = found.resolve(revision)
        if digest is None:
            self.fail(404, "RevisionNotFound")
            return
        siblings = [{"rfilename": path} for path in found.commits[digest]]
        self.answer({"id": name, "sha": digest, "private": found.private, "siblings": siblings, "tags": []})

    def tree(self, kind, name, revision, folder):
        folder = folder or ""
        found = self.repository(kind, name)
        if found is None:
            return
        digest = found.resolve(revision)
        if digest is None:
            self.fail(404, "RevisionNotFound")
            return
        files = found.commits[digest].items()
        entries = [
            {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for path, content in files
            if path.startswith(folder)
        ]
        if entries or not folder:
            self.answer(entries)
        else:
            self.fail(404, "EntryNotFound")

    def download(self, kind, name, revision, path):
        found = self.repository(kind, name)
        if found is None:
            return
        digest = found.resolve(revision)
        if digest is None:
            self.fail(404, "RevisionNotFound")
        elif path not in found.commits[digest]:
            self.answer(status=404, X_Error_Code="EntryNotFound", X_Repo_Commit=digest)
        else:
            content = found.commits[digest][path]
            etag = hashlib.sha256(content).hexdigest()
            self.answer(content, ETag=f'"{etag}"', X_Repo_Commit=digest)


_REPO = r"(?P<name>[^/]+/[^/]+)"
_API = rf"/api/(?P<kind>{'|'.join(_KINDS)})/{_REPO}"
_GIT = rf"/(?:(?P<kind>spaces|datasets)/)?{_REPO}"
_ROUTES = (
    (r"POST /api/repos/create", _Handler.create),
    (r"POST /api/validate-yaml", _Handler.validate),
    (rf"POST {_API}/branch/(?P<branch>.+)", _Handler.branch),
    (rf"POST {_API}/preupload/(?P<revision>.+)", _Handler.preupload),
    (rf"POST {_API}/commit/(?P<revision>.+)", _Handler.commit),
    (rf"POST {_GIT}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    (r"PUT /storage/(?P<digest>\w+)", _Handler.store),
    (rf"(?:GET|HEAD) {_API}/revision/(?P<revision>.+)", _Handler.info),
    (rf"(?:GET|HEAD) {_API}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.*))?", _Handler.tree),
    (rf"(?:GET|HEAD) {_API}", _Handler.info),
    (rf"(?:GET|HEAD) {_GIT}/(?:resolve|raw)/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.download),
)


@contextmanager
def hub_server():
    """A running server."""
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
