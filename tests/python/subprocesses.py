# SPDX-License-Identifier: Apache-2.0
"""Python in a second process: environment variables may be read once, so each of their values needs one."""

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def python(*arguments, check=True, **environment):
    """Runs `python arguments` with the tests' folder importable; a value of None removes a variable."""
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
    }
    for name, value in environment.items():
        env.pop(name, None)
        if value is not None:
            env[name] = str(value)
    done = subprocess.run([sys.executable, *map(str, arguments)], env=env, capture_output=True, text=True, timeout=240)
    assert not check or done.returncode == 0, f"rc {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


FORKED = """
import json, os, sys
import torch
outputs = {}
for value in json.loads(sys.argv[2]):
    read, write = os.pipe()
    if os.fork() == 0:
        os.close(read)
        os.dup2(write, 1)
        os.environ[sys.argv[1]] = value
        exec(sys.argv[3])
        sys.stdout.flush()
        os._exit(0)
    os.close(write)
    outputs[value] = os.fdopen(read).read()
    os.wait()
print(json.dumps(outputs))
"""


def outputs_by_value(variable, values, code):
    """What `code` prints for each value of a variable: children forked after torch's slow import, before qgmm's."""
    return json.loads(python("-c", FORKED, variable, json.dumps(values), code).stdout)
