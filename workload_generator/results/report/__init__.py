"""`kn-bench report`: a database as an HTML page, as tables on a terminal, and as CSV files.

`sections` lists the page from top to bottom, with the modules of its tables and charts; `answers` reads the database
for all of them, `report` writes the files. The commands `report` and `compare` call it; `results.ingest` reads logs.
"""
