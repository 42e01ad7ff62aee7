"""What people and programs read: text tables and JSON. The only package that formats numbers."""
