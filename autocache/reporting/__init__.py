"""What a run did, as one HTML page, as figures, or as data.

`document` makes the data, `page` and `figures` show it, `pictures` compares pictures and `watching`
does all of it for a program that only has the variable `AUTOCACHE_REPORT` set.
"""
