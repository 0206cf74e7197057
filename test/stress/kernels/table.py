"""Prints what script/kernels recorded: table.py LINES. The status is 1 if anything is red."""

import collections
import sys

KERNEL, SITUATION, KIND, NAME, DETAIL = range(5)


def read(path):
    with open(path, errors="replace") as file:
        lines = [line.rstrip("\n").split("\t", 4) for line in file]
    return [line + [""] * (5 - len(line)) for line in lines]


def cell(lines, times):
    kinds = collections.Counter(line[KIND] for line in lines)
    judged = kinds["ok"] + kinds["red"]
    text = f"{kinds['red']} of {judged} red" if kinds["red"] else f"{judged} ok" if judged else "-"
    if kinds["skip"]:
        text += f", {kinds['skip']} left out"
    return text + "".join(f" ({seconds} s)" for seconds in times)


def main(path):
    lines = read(path)
    kernels = list(dict.fromkeys(line[KERNEL] for line in lines))
    situations = list(dict.fromkeys(line[SITUATION] for line in lines if line[SITUATION] != "all"))
    print("| kernel | " + " | ".join(situations) + " |")
    print("|---|" + "---|" * len(situations))
    for kernel in kernels:
        of_kernel = [line for line in lines if line[KERNEL] == kernel]
        name = "".join(f" {line[DETAIL]}" for line in of_kernel if line[KIND] == "version")
        cells = []
        for situation in situations:
            own = [line for line in of_kernel if line[SITUATION] == situation]
            cells.append(cell(own, [line[DETAIL] for line in own if line[KIND] == "took"]))
        print(f"| {kernel}{name} | " + " | ".join(cells) + " |")
    for kind, title in (("skip", "left out"), ("red", "red")):
        for line in lines:
            if line[KIND] == kind:
                print(f"{title}: {line[KERNEL]} {line[SITUATION]}: {line[NAME]}: {line[DETAIL]}")
    return any(line[KIND] == "red" for line in lines)


sys.exit(main(sys.argv[1]))
