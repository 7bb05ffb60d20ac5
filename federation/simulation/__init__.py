"""Federated learning simulated: devices that are drawn, rounds whose time is counted and not waited for, training that is real.

`configuration` reads a file, `simulate` runs it, `export` writes what happened, `analysis` and `report` make something of it.
Every draw comes from one seed, so that a file gives the same result whatever the number of workers.
"""
