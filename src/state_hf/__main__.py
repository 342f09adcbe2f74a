"""`python -m state_hf` is `state-hf`."""

from state_hf.cli import main

raise SystemExit(main())
