"""Looks at all nodes of a run before it trains: what would fail is said by name, with a way out.

train.sh runs a copy of this package on every node, with the five variables of node_env.sh. It needs
nothing but Python and torch. Node 0 keeps a store at the port after MASTER_PORT, where every node
puts what it finds; node 0 judges it and prints one table; all nodes end with the same status: 0, or
68 where something would fail. What the run expects is in preflight.json.
"""
