"""States are read by several threads at once, as partitions recover."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys, threading
from marketdata.recipes import read_recipes
from marketdata.state import pack_state, unpack_state
from stream_apps.operators import make_operators

sys.setswitchinterval(1e-6)
recipes = read_recipes({"recipes": {"a": {"time": "5s"}, "b": {"trades": 3}}})
operators = make_operators(recipes)
packed = [(pack_state(one.start("v:S")), one.state) for one in operators]
begin = threading.Barrier(8)
read = []

def work():
    begin.wait()
    for data, kind in packed:
        unpack_state(data, kind)
    read.append(1)

threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(read) == 8
"""


def test_states_are_read_first_by_several_threads_at_once() -> None:
    """A class that one thread is still reading is not used by another: the process would crash."""
    for _ in range(3):
        subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)
