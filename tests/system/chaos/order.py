"""order — order inversions against the queue key: somebody was granted while one with a smaller key waited.

Two jobs are compared when a worker could have taken either: same tenant, class and requirements (the
caller submits no others, but for the class). Known for sure are two kinds of waiting, in wall time,
which is Redis TIME on one machine:
  - a job granted once waited from its acknowledgement (the commit was before) to its start_ms;
  - a job whose record was seen QUEUED after its first lease, and whose second one was its last, waited from
    that sight to its start_ms. It may avoid the worker that had it: grants to that one do not count.
The grants compared with them are the last ones of all succeeded jobs, whose time is start_ms, written by
the leader by its estimate of Redis TIME: SLACK_MS is what this may be wrong. Earlier leases of a job
granted several times are not compared; their time is nowhere.
"""
import heapq
from array import array


class Order:
    """Five numbers a job; `history` translates its seconds to wall time."""
    SLACK_MS = 100

    def __init__(self):
        self.columns = {name: array("q") for name in ("from", "start", "class", "key", "sequence", "avoids", "worker")}
        self.ids = []

    def add(self, history, job, record):
        waited_from, avoids = 0, 0
        if record.grant == 1 and job.acked_s is not None:
            waited_from = int(history.wall_ms(job.acked_s))
        for wall_ms, grant, worker in job.waits:
            if grant == 1 and record.grant == 2:
                waited_from, avoids = int(wall_ms), worker
        row = {"from": waited_from, "start": record.start_ms, "class": record.class_, "key": record.key,
               "sequence": record.sequence, "avoids": signed(avoids), "worker": signed(record.worker)}
        for name, value in row.items():
            self.columns[name].append(value)
        self.ids.append(bytes(job.id, "ascii") if len(self.ids) < 2_000_000 else b"")

    def inversions(self, history):
        """Yields (job that was passed, text). A sweep over time: who waits stands in a heap by its key."""
        c = self.columns
        begins = sorted((c["from"][i] + self.SLACK_MS, i) for i in range(len(self.ids))
                        if c["from"][i] and c["from"][i] + self.SLACK_MS < c["start"][i])
        waiting, at = {}, 0
        for granted in sorted(range(len(self.ids)), key=lambda i: c["start"][i]):
            now = c["start"][granted]
            while at < len(begins) and begins[at][0] < now:
                i = begins[at][1]
                heapq.heappush(waiting.setdefault(c["class"][i], []), (c["key"][i], c["sequence"][i], i))
                at += 1
            heap = waiting.get(c["class"][granted], [])
            while heap and c["start"][heap[0][2]] <= now + self.SLACK_MS:
                heapq.heappop(heap) # granted by now
            place = (c["key"][granted], c["sequence"][granted])
            for key, sequence, i in heapq.nsmallest(16, heap) if heap and heap[0][:2] < place else ():
                if (key, sequence) < place and c["start"][i] > now + self.SLACK_MS and (
                        not c["avoids"][i] or c["avoids"][i] != c["worker"][granted]):
                    yield (self.ids[i].decode(), f"key {key}, sequence {sequence}, waited from "
                           f"{history.seconds(c['from'][i]):.3f} s to {history.seconds(c['start'][i]):.3f} s; job "
                           f"{self.ids[granted].decode()}, key {place[0]}, sequence {place[1]}, was granted at "
                           f"{history.seconds(now):.3f} s")


def signed(value):
    return value - 2**64 if value >= 2**63 else value
