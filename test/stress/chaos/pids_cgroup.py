"""A pids cgroup for each VM: a limit that root cannot pass, and a second list of the VM's
processes."""

import os

from look import living

# Version 1, and version 2 where the controller is handed on.
ROOTS = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"]


class Cgroups:
    def __init__(self, name):
        self.base = None
        for root in ROOTS:
            path = os.path.join(root, name)
            try:
                os.mkdir(path)
            except OSError:
                continue
            if os.path.exists(os.path.join(path, "pids.max")):
                self._hand_on(path)
                self.base = path
                return
            os.rmdir(path)

    @staticmethod
    def _hand_on(path):
        try:
            with open(os.path.join(path, "cgroup.subtree_control"), "w") as file:
                file.write("+pids")
        except OSError:
            pass

    def make(self, name):
        """Returns the path of a new cgroup, or None where there are no pids cgroups."""
        if not self.base:
            return None
        path = os.path.join(self.base, name)
        os.mkdir(path)
        return path if os.path.exists(os.path.join(path, "pids.max")) else None

    @staticmethod
    def members(path):
        if not path:
            return []
        try:
            with open(os.path.join(path, "cgroup.procs")) as file:
                return living(map(int, file.read().split()))
        except OSError:
            return []

    @staticmethod
    def limit(path, spare):
        """Allows only so many further processes and threads; None removes the limit."""
        try:
            with open(os.path.join(path, "pids.current")) as file:
                current = int(file.read())
            with open(os.path.join(path, "pids.max"), "w") as file:
                file.write("max" if spare is None else str(current + spare))
        except OSError:
            pass

    @staticmethod
    def remove(path):
        try:
            os.rmdir(path)
        except OSError:
            pass

    def end(self):
        if self.base:
            for name in os.listdir(self.base):
                path = os.path.join(self.base, name)
                if os.path.isdir(path):
                    self.remove(path)
            self.remove(self.base)
