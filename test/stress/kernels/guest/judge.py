"""Runs one situation: judge.py SITUATION. Writes a line for each thing that has to hold."""

import importlib
import os
import sys
import traceback

import lab


def main():
    situation = sys.argv[1]
    lab.note("kernel", os.uname().release)
    decoys = lab.Decoys()
    try:
        importlib.import_module(f"situations.{situation}").run()
    except Exception:
        lab.check("the situation runs to its end", False, traceback.format_exc()[-800:])
    decoys.check()
    decoys.end()
    with open("/proc/uptime") as file:
        lab.note("seconds", file.read().split()[0])
    lab.say("done", situation)


main()
