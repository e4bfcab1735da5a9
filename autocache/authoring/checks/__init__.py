"""What is proven of a spec with its tiny model. One kind of fact per file.

A check is a function of a `Subject` that yields one line per problem, saying what differs; it
raises `NotApplicable` where the spec states nothing of the kind.
"""
