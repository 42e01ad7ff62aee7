"""A PAI-DLC of one machine: it keeps jobs, and refuses, throttles or fails as it is told."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

# What becomes of the next CreateJob: the status that answers, and whether there is a job then.
FATES = {
    "accept": (200, True),
    "refuse": (403, False),
    "throttle": (429, False),
    "fail": (503, False),
    "fail after accepting": (503, True),
    "hang up after accepting": (None, True),
}


@dataclass
class Service:
    """The jobs, what was asked, and what becomes of the next requests."""

    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    creates: list[str] = field(default_factory=list)  # fates of the next CreateJobs; then accept
    reads: list[int] = field(default_factory=list)  # statuses of the next reads; then 200
    hidden: int = 0  # lists that do not have the newest job yet
    logs: list[str] = field(default_factory=lambda: ["one", "two"])
    endpoint: str = ""
    accepted: threading.Event = field(default_factory=threading.Event)
    answers: threading.Event = field(default_factory=threading.Event)

    def create(self, body: dict[str, Any]) -> tuple[int | None, dict[str, Any]]:
        """Store a job, or not, and say how to answer."""
        status, is_kept = FATES[self.creates.pop(0) if self.creates else "accept"]
        job_id = f"dlc{len(self.jobs) + 1}"
        if is_kept:
            pods = [
                {"PodId": f"{job_id}-worker-{i}", "Status": "Running"}
                for i in reversed(range(body["JobSpecs"][0]["PodCount"]))
            ]
            self.jobs[job_id] = {**body, "JobId": job_id, "Status": "Running", "Pods": pods}
        self.accepted.set()
        self.answers.wait()
        if status == 200:
            return 200, {"JobId": job_id, "RequestId": "r"}
        return status, {"Code": "Throttling.User" if status == 429 else "No", "Message": "not now"}

    def get(self, path: str, query: dict[str, str]) -> dict[str, Any]:
        """Answer a read."""
        if path == "/api/v1/jobs":
            wanted = query.get("DisplayName", "")
            found = [job for job in self.jobs.values() if wanted in job["DisplayName"]]
            found = [job for job in found if query.get("Status", job["Status"]) == job["Status"]]
            if self.hidden:
                self.hidden -= 1
                found = []
            return {"Jobs": found, "TotalCount": len(found)}
        if path == "/api/v1/ecsspecs":
            specs = [{"InstanceType": "ml.big", "Gpu": 8, "GpuType": "X", "IsAvailable": True}]
            return {"EcsSpecs": specs if query.get("PageNumber") == "1" else [], "TotalCount": 1}
        match = re.fullmatch(r"/api/v1/jobs/([^/]+)(/events|/pods/[^/]+/logs)?", path)
        assert match, path
        if match[2] == "/events":
            return {"Events": ["the quota is full"]}
        return {"Logs": self.logs} if match[2] else self.jobs[match[1]]


def _handler(service: Service) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int | None, body: dict[str, Any]) -> None:
            if status is None:
                self.connection.close()
                return
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            url = urlsplit(self.path)
            service.asked.append(("POST", url.path))
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            if url.path == "/api/v1/jobs":
                self.answer(*service.create(json.loads(body)))
                return
            job = service.jobs[url.path.split("/")[4]]
            job["Status"] = "Stopped"
            self.answer(200, {"JobId": job["JobId"]})

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            service.asked.append(("GET", url.path))
            status = service.reads.pop(0) if service.reads else 200
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            failed = {"Code": "No", "Message": "not now"}
            try:
                self.answer(status, service.get(url.path, query) if status == 200 else failed)
            except KeyError:
                self.answer(404, {"Code": "JobNotExists", "Message": "no such job"})

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


@contextmanager
def dlc_service() -> Iterator[Service]:
    """Run a service on a port of its own."""
    service = Service()
    service.answers.set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(service))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    service.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield service
    finally:
        service.answers.set()
        server.shutdown()
        server.server_close()
        thread.join()
