#!/usr/bin/env bash
# Make a virtual environment, install what the tests need at pinned versions, run the tests.
# Arguments go to pytest; VENV chooses the environment's folder.
set -euo pipefail
cd "$(dirname "$0")/.."
venv="${VENV:-.venv-test}"
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --constraint constraints.txt --editable ".[cpu,train,dev]"
# A worker a core, one thread each: two that take two each would wait for one another.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "$venv/bin/python" -m pytest --numprocesses auto --dist worksteal --durations 40 --durations-min 5 "$@"
