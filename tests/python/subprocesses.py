# SPDX-License-Identifier: Apache-2.0
"""Python in a second process: environment variables are read once, so each of their values needs one."""
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def python(*arguments, check=True, **environment):
    """Runs `python arguments` with the tests' folder importable; a value of None removes a variable."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}
    for name, value in environment.items():
        env.pop(name, None)
        if value is not None:
            env[name] = str(value)
    done = subprocess.run([sys.executable, *map(str, arguments)], env=env, capture_output=True, text=True, timeout=240)
    assert not check or done.returncode == 0, f"rc {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done
