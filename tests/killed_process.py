"""A process that ends itself as the kernel does for want of memory."""

import os
import signal

os.kill(os.getpid(), signal.SIGKILL)
