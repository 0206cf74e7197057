"""A worker that shares its work among processes, as model servers do. It ends by itself after two
minutes."""

import multiprocessing
import time


def work():
    time.sleep(120)


if __name__ == "__main__":
    children = [multiprocessing.Process(target=work) for _ in range(3)]
    for child in children:
        child.start()
    print("READY", flush=True)
    for child in children:
        child.join()
