"""``python -m snntorch_smixer``: the same as the command ``smixer``."""

import sys

from snntorch_smixer.cli.main import main

sys.exit(main())
