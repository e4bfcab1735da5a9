"""Tools for those who write model specs: drafts, tiny instances, proofs.

Nothing is imported before the module one needs.
"""
