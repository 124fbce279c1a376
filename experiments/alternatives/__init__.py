"""Hyperspherical energy beside other ways to diverse neurons."""
