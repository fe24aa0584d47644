"""How long a process that is asked to end may take: training keeps to it, and whoever starts a
training waits for it."""

import signal

# From the signal to the end of the process. A person at a terminal waits 5 s; Kubernetes and
# torchrun kill 30 s after their SIGTERM.
GRACE_SECONDS = {signal.SIGINT: 4.0, signal.SIGTERM: 20.0}
# A terminal's Ctrl-C reaches a process twice if its parent forwards it: not a second request.
REPEAT_SECONDS = 0.5
