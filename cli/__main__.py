"""``python -m cli`` is the command ``coherent``."""

import sys

from cli.main import main

sys.exit(main())
