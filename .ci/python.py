"""Whether this Python can make the virtual environment; says what to install if not. Old syntax: an old Python must read it."""

import importlib.util
import sys

if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit("%s is Python %d.%d; 3.11 or newer is needed: make PYTHON=/path/to/python3.11" % (sys.executable, *sys.version_info[:2]))  # noqa: UP031
if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
    sys.exit("%s cannot make virtual environments: apt-get install python3-venv (as root), then make again" % sys.executable)  # noqa: UP031
