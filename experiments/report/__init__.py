"""What pages and figures of all tasks share: statistics, cells, tables, pages."""
