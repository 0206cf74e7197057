"""The run directory, and the faults that make it unusable for a while."""

import errno
import os
import shutil

ACTS = ["open", "closed", "moved"]
# A directory that another user owns takes root to make.
ACTS_OF_ROOT = ACTS + ["foreign"]
ANOTHER_USER = 65534


class RunDirectory:
    def __init__(self, path):
        self.path, self.away = path, path + ".away"
        self.spoiled = None

    @staticmethod
    def acts():
        return ACTS_OF_ROOT if os.geteuid() == 0 else ACTS

    def spoil(self, act):
        """Makes the directory unusable; returns False if it is so already or is missing."""
        if self.spoiled or not os.path.isdir(self.path):
            return False
        if act == "open":
            os.chmod(self.path, 0o777)
        elif act == "closed":
            os.chmod(self.path, 0)
        else:
            os.rename(self.path, self.away)
            if act == "foreign":
                os.mkdir(self.path, 0o700)
                os.chown(self.path, ANOTHER_USER, ANOTHER_USER)
        self.spoiled = act
        return True

    def mend(self, comes_back):
        """Makes it usable, and returns the ids of the runs whose records went with a directory.

        A directory that was moved comes back or is lost. If VMs made another one meanwhile, that
        one is lost or stays."""
        act, self.spoiled = self.spoiled, None
        if act in ("open", "closed"):
            os.chmod(self.path, 0o700)
        elif act == "moved" and not comes_back:
            return self.lose(self.away)
        elif act:
            return self.put_back()
        return set()

    def put_back(self):
        lost = set()
        while True:
            lost |= self.lose(self.path)
            try:
                os.rename(self.away, self.path)
                return lost
            except OSError as error:
                # A VM has made one in between, with a record in it.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise

    @staticmethod
    def lose(path):
        """Deletes a directory in one instant for programs that look for its name."""
        lost = path + ".lost"
        try:
            os.rename(path, lost)
        except FileNotFoundError:
            return set()
        runs = {name.split(".")[0] for name in os.listdir(lost) if name.endswith(".json")}
        shutil.rmtree(lost)
        return runs

    def holds(self, name):
        """Returns the path of a file in the directory, wherever it is now; None where there is no
        directory."""
        for directory in (self.path, self.away):
            path = os.path.join(directory, name)
            if os.path.isfile(path):
                return path
        return None
