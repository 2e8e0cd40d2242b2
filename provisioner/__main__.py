"""`python -m provisioner` is `provision`."""

import sys

from provisioner.cli import main

sys.exit(main())
