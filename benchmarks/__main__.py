"""`make bench`: what a person waits for, against what is promised. Absolute figures depend on the machine; ratios less.

`python -m benchmarks.cpu_engine` measures a real engine, which takes minutes.
"""

from benchmarks import gate, in_process, shell

if __name__ == "__main__":
    in_process.main()
    shell.main()
    gate.main()
