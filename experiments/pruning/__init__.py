"""Pruning: does the redundancy of neurons say which channels can go?"""
