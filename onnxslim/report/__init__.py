"""Reports: records as tables, JSON and HTML pages."""
