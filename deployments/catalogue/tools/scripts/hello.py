"""Says hello, and leaves it in a file."""

import os
import sys
from pathlib import Path

words = f"{sys.argv[1]} from {os.environ['NODE_NAME']}"
print(words)
Path("greeting.txt").write_text(f"{words}\n")
