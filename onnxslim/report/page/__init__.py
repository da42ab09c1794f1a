"""Reports as pages: one HTML file that needs no network and runs nothing."""
